package link

import (
	"testing"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// What is pushed is written at once by who pushes it, as long as the peer reads; for
// a peer that does not, it is queued, and nobody waits.
func TestPushWritesAtOnceAndNeverWaits(t *testing.T) {
	client, server := sockets(t, loopback(t))
	l := New(server, Config{Handle: ignore, QueueBytes: 64 << 10}) // no writer runs
	for i := range int64(100) {
		l.writing.Lock()
		l.sent = l.born.Add(-time.Second) // long ago
		l.writing.Unlock()
		if err := l.Push(received(i)); err != nil {
			t.Fatal(err)
		}
		_, msg, err := client.ReadMessage()
		if err != nil {
			t.Fatal(err)
		}
		if f, rest, err := wire.NextBinary(msg); err != nil || len(rest) > 0 || f.GetReceived().GetOffset() != i {
			t.Fatalf("push %d: %v, %v", i, f, err)
		}
	}
	if frames, _ := l.Queued(); frames != 0 {
		t.Errorf("%d frames are queued", frames)
	}
	l.writing.Lock()
	l.sent = time.Now().Add(time.Hour) // not long ago: the writer gathers
	l.writing.Unlock()
	if err := l.Push(received(1)); err != nil {
		t.Fatal(err)
	}
	if frames, _ := l.Queued(); frames != 1 {
		t.Errorf("%d frames are queued after a push that follows another, want it to wait for the writer", frames)
	}

	for _, size := range []int{3000, 15000} {
		_, server = sockets(t, loopback(t)) // whose client reads nothing
		l = New(server, Config{Handle: ignore, QueueBytes: 64 << 10})
		big := &wire.Frame{Body: &wire.Frame_Command{Command: &wire.Command{Data: make([]byte, size)}}}
		var err error
		pushed := 0
		for ; err == nil; pushed++ {
			l.writing.Lock()
			l.sent = l.born.Add(-time.Second)
			l.writing.Unlock()
			err = l.Push(big)
		}
		if err != ErrFull {
			t.Errorf("the %d-th push of %d bytes: %v, want ErrFull", pushed, size, err)
		}
		if pushed*size < 100<<10 { // more than the queue: some were written
			t.Errorf("%d pushes of %d bytes were taken: none was written at once", pushed, size)
		}
	}
}
