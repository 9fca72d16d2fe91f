package cork

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
)

// counted is a connection that counts the calls below a Conn.
type counted struct {
	net.Conn
	written bytes.Buffer
	writes  int
	toRead  *bytes.Reader
	reads   int
	err     error
}

func (c *counted) Write(p []byte) (int, error) {
	c.writes++
	if c.err != nil {
		return 0, c.err
	}
	return c.written.Write(p)
}

func (c *counted) Read(p []byte) (int, error) {
	c.reads++
	return c.toRead.Read(p)
}

func TestCorkedRecordsShareAWrite(t *testing.T) {
	below := &counted{}
	c := New(below)
	record := bytes.Repeat([]byte("r"), 16<<10+22)
	c.Cork()
	for range 40 {
		if n, err := c.Write(record); n != len(record) || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
	}
	if err := c.Uncork(); err != nil {
		t.Fatal(err)
	}
	if below.writes != 3 { // fifteen records fit into 256 KiB
		t.Errorf("%d writes, want 3", below.writes)
	}
	if !bytes.Equal(below.written.Bytes(), bytes.Repeat(record, 40)) {
		t.Error("other bytes were written")
	}
	if c.out != nil {
		t.Error("an uncorked connection holds a buffer")
	}
	c.Write([]byte("x"))
	if below.writes != 4 {
		t.Error("an uncorked write did not go straight through")
	}
}

func TestLargeWritePassesWhatWasGathered(t *testing.T) {
	below := &counted{}
	c := New(below)
	c.Cork()
	c.Write([]byte("first "))
	large := bytes.Repeat([]byte("x"), gatherBytes+1)
	c.Write(large)
	if want := "first " + string(large); below.written.String() != want {
		t.Error("bytes were written out of order")
	}
}

func TestErrorOfGatheredBytesIsTold(t *testing.T) {
	broken := errors.New("broken")
	c := New(&counted{err: broken})
	c.Cork()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatalf("a gathered write: %v", err)
	}
	if err := c.Uncork(); !errors.Is(err, broken) {
		t.Errorf("Uncork = %v, want %v", err, broken)
	}
	if _, err := c.Write([]byte("y")); !errors.Is(err, broken) {
		t.Errorf("Write after it = %v, want %v", err, broken)
	}
}

func TestReadAheadTakesAllThatHasCome(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789"), 40000)
	below := &counted{toRead: bytes.NewReader(content)}
	c := New(below)
	c.ReadAhead(true)
	var got []byte
	p := make([]byte, 5000) // which 256 KiB are no multiple of
	for len(got) < len(content) {
		n, err := c.Read(p)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, p[:n]...)
		if len(got) >= 280000 {
			c.ReadAhead(false) // what was read ahead still comes
		}
	}
	if !bytes.Equal(got, content) {
		t.Error("other bytes were read")
	}
	if below.reads != 2 {
		t.Errorf("%d reads below, want 2", below.reads)
	}
	if _, err := c.Read(p); err != io.EOF {
		t.Errorf("at the end: %v, want EOF", err)
	}
	if c.in != nil {
		t.Error("a connection that does not read ahead holds a buffer")
	}
}
