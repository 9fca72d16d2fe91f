package natsbus

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dian-im/dian/internal/memnet"
)

// ends returns a conn, the connection below it and the far end.
func ends(t *testing.T) (c *conn, below, far *memnet.Conn) {
	t.Helper()
	below, far = memnet.Pipe()
	c = newConn(below)
	t.Cleanup(func() { c.Close(); far.Close() })
	return c, below, far
}

func TestWriteDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, below, far := ends(t)
		below.Stall()
		want := bytes.Repeat([]byte("0123456789abcdef"), 100_000) // many times the buffer
		for rest := want; len(rest) > 0; rest = rest[1000:] {
			if n, err := c.Write(rest[:1000]); n != 1000 || err != nil {
				t.Fatalf("Write = %d, %v", n, err)
			}
		}
		below.Resume()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(far, got); err != nil || !bytes.Equal(got, want) {
			t.Errorf("the far end reads something else, %v", err)
		}
		if n, err := c.Write([]byte("more")); n != 4 || err != nil {
			t.Errorf("Write = %d, %v", n, err)
		}
		if _, err := io.ReadFull(far, got[:4]); string(got[:4]) != "more" {
			t.Errorf("the far end reads %q, %v, want more", got[:4], err)
		}
	})
}

func TestTooMuchThatWaitsEndsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, below, far := ends(t)
		below.Stall()
		const half = maxWaiting/2 + 1
		for range 2 { // the first is taken out by the goroutine, and waits there
			if _, err := c.Write(make([]byte, half)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if n, err := c.Write(make([]byte, half)); n != 0 || err != errBehind {
			t.Errorf("Write = %d, %v, want errBehind", n, err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Read = %v, want net.ErrClosed", err)
		}
		if _, err := c.Write([]byte("x")); err != errBehind {
			t.Errorf("Write = %v, want errBehind", err)
		}
		below.Resume()
		far.Close()
	})
}

func TestBrokenConnectionRefusesWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, below, _ := ends(t)
		below.Cut()
		c.Write([]byte("lost"))
		synctest.Wait()
		if _, err := c.Write([]byte("x")); err == nil {
			t.Error("Write: no error")
		}
		c.Close()
		c.Close()
	})
}

func TestDeadlinesAreForReadsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, below, far := ends(t)
		below.Stall()
		c.SetDeadline(time.Now().Add(time.Second))
		c.SetWriteDeadline(time.Now().Add(time.Second))
		start := time.Now()
		var timeout net.Error
		if _, err := c.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() || time.Since(start) != time.Second {
			t.Errorf("Read = %v after %v, want a timeout after 1s", err, time.Since(start))
		}
		big := make([]byte, 1<<20)
		c.Write(big)
		time.Sleep(time.Minute)
		below.Resume()
		if _, err := io.ReadFull(far, big); err != nil {
			t.Errorf("the far end reads %v", err)
		}
	})
}

func TestDialerHasOneConnection(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dials := 0
	d := newDialer(func() { dials++ })
	first, err := d.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	second, err := d.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write = %v on the first connection, want net.ErrClosed", err)
	}
	if _, err := second.Write([]byte("x")); err != nil {
		t.Errorf("Write = %v on the second connection", err)
	}
	d.close()
	if _, err := second.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write = %v after close, want net.ErrClosed", err)
	}
	if c, err := d.Dial("tcp", l.Addr().String()); err == nil {
		c.Close()
		t.Error("Dial after close: no error")
	}
	if dials != 3 {
		t.Errorf("%d dials are told, want 3", dials)
	}
}
