package memnet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func ends(t *testing.T) (client, server *Conn) {
	t.Helper()
	l := Listen()
	defer l.Close()
	c, err := l.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return c.(*Conn), s.(*Conn)
}

func mustWrite(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if n, err := c.Write([]byte(s)); n != len(s) || err != nil {
		t.Fatalf("Write(%q) = %d, %v", s, n, err)
	}
}

func TestBytesArriveInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := ends(t)
		want := bytes.Repeat([]byte("0123456789abcdef"), 50_000) // many times the buffer
		var loops sync.WaitGroup
		loops.Go(func() {
			client.Write(want)
			client.CloseWrite()
		})
		got, err := io.ReadAll(server)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("ReadAll = %d bytes, %v, want %d", len(got), err, len(want))
		}
		loops.Wait()
		mustWrite(t, server, "the other half works on")
		server.Close()
		if got, err := io.ReadAll(client); string(got) != "the other half works on" || err != nil {
			t.Errorf("ReadAll = %q, %v", got, err)
		}
		client.Close()
	})
}

func TestErrorsAreThoseOfTCP(t *testing.T) {
	deadline := func(c *Conn) { c.SetDeadline(time.Now().Add(-time.Second)) }
	tests := []struct {
		name        string
		do          func(client, server *Conn)
		read, write error // of the client
	}{
		{"own close", func(c, s *Conn) { c.Close() }, net.ErrClosed, net.ErrClosed},
		{"peer's close", func(c, s *Conn) { s.Close() }, io.EOF, syscall.EPIPE},
		{"peer's half-close", func(c, s *Conn) { s.CloseWrite() }, io.EOF, nil},
		{"own half-close", func(c, s *Conn) { c.CloseWrite(); deadline(c) }, os.ErrDeadlineExceeded, syscall.EPIPE},
		{"cut here", func(c, s *Conn) { c.Cut() }, syscall.ECONNRESET, syscall.ECONNRESET},
		{"cut there", func(c, s *Conn) { s.Cut() }, syscall.ECONNRESET, syscall.ECONNRESET},
		{"deadline", func(c, s *Conn) { deadline(c) }, os.ErrDeadlineExceeded, os.ErrDeadlineExceeded},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			client, server := Pipe()
			tt.do(client, server)
			if _, err := client.Read(make([]byte, 1)); !errors.Is(err, tt.read) {
				t.Errorf("Read: %v, want %v", err, tt.read)
			}
			if _, err := client.Write([]byte("x")); !errors.Is(err, tt.write) {
				t.Errorf("Write: %v, want %v", err, tt.write)
			}
		})
	}
}

func TestDeadlineEndsRunningCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := ends(t)
		start := time.Now()
		client.SetReadDeadline(start.Add(time.Second))
		_, err := client.Read(make([]byte, 1))
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() || time.Since(start) != time.Second {
			t.Errorf("Read = %v after %v, want a timeout after 1s", err, time.Since(start))
		}
		client.SetReadDeadline(time.Time{})

		var loops sync.WaitGroup
		loops.Go(func() { // moved while the call runs
			time.Sleep(time.Second)
			client.SetWriteDeadline(time.Now())
		})
		n, err := client.Write(make([]byte, 2*DefaultBuffer))
		if n != DefaultBuffer || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Write = %d, %v, want %d and a timeout", n, err, DefaultBuffer)
		}
		loops.Wait()
		client.Close()
		server.Close()
	})
}

func TestCloseEndsRunningCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := ends(t)
		var loops sync.WaitGroup
		for _, call := range []func() error{
			func() error { _, err := client.Read(make([]byte, 1)); return err },
			func() error { _, err := client.Write(make([]byte, 2*DefaultBuffer)); return err },
		} {
			loops.Go(func() {
				if err := call(); !errors.Is(err, net.ErrClosed) {
					t.Errorf("got %v, want net.ErrClosed", err)
				}
			})
		}
		synctest.Wait()
		client.Close()
		loops.Wait()
		server.Close()
	})
}

func TestCutAfterKeepsWhatCameBefore(t *testing.T) {
	for n := range 8 {
		client, server := Pipe()
		client.CutAfter(int64(n))
		wrote, err := client.Write([]byte("12345678"))
		if wrote != n || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("Write = %d, %v, want %d and a reset", wrote, err, n)
		}
		got, err := io.ReadAll(server)
		if string(got) != "12345678"[:n] || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("ReadAll = %q, %v, want %d bytes and a reset", got, err, n)
		}
	}
}

func TestStallHoldsAndResumeDelivers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := ends(t)
		server.Stall()
		mustWrite(t, client, "later")
		client.Close()
		server.SetReadDeadline(time.Now().Add(time.Hour))
		if _, err := server.Read(make([]byte, 9)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Read of a stalled connection: %v, want a timeout", err)
		}
		server.SetReadDeadline(time.Time{})
		server.Resume()
		if got, err := io.ReadAll(server); string(got) != "later" || err != nil {
			t.Errorf("ReadAll = %q, %v", got, err)
		}
		server.Close()
	})
}

func TestBlackholeTellsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := ends(t)
		client.Blackhole()
		mustWrite(t, client, string(make([]byte, 10*DefaultBuffer)))
		client.Close()
		server.SetReadDeadline(time.Now().Add(time.Hour))
		if _, err := server.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Read behind a black hole: %v, want a timeout", err)
		}
		server.Close()
	})
}

func TestDelayDelaysAndKeepsOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := ends(t)
		start := time.Now()
		client.Delay(2 * time.Second)
		mustWrite(t, client, "slow ")
		client.Delay(0)
		mustWrite(t, client, "quick")
		client.Close()
		got, err := io.ReadAll(server)
		if string(got) != "slow quick" || err != nil || time.Since(start) != 2*time.Second {
			t.Errorf("ReadAll = %q, %v after %v, want both after 2s", got, err, time.Since(start))
		}
		server.Close()
	})
}

func TestListenerKnowsItsConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := Listen()
		refused := errors.New("not this one")
		dials := 0
		l.OnDial = func(client, server *Conn) error {
			if dials++; dials == 2 {
				return refused
			}
			return nil
		}
		first, err := l.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Dial(t.Context()); !errors.Is(err, refused) {
			t.Errorf("second Dial: %v, want %v", err, refused)
		}
		if n := len(l.Conns()); n != 1 {
			t.Errorf("%d connections, want 1", n)
		}
		if n := l.CutAll(); n != 1 || len(l.Conns()) != 0 {
			t.Errorf("CutAll = %d, then %d connections, want 1 and 0", n, len(l.Conns()))
		}
		if _, err := first.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("Read after CutAll: %v, want a reset", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := l.Dial(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Dial after cancel: %v", err)
		}
		waiting := make(chan error)
		l.Accept() // the cut one
		go func() { _, err := l.Accept(); waiting <- err }()
		synctest.Wait()
		l.Close()
		if err := <-waiting; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept after Close: %v, want net.ErrClosed", err)
		}
		if _, err := l.Dial(t.Context()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("Dial after Close: %v, want ECONNREFUSED", err)
		}
	})
}
