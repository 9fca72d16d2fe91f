package link

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/dian-im/dian/internal/wire"
)

// What a Handle passes on with SendBy goes out when its reader has handled all that
// has come: many messages in one read, where the connection tells, otherwise the
// frames of one message.
func TestSendByGathers(t *testing.T) {
	const n = 20 // within what is read at first
	for _, tells := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			client, server, _ := memPair(t)
			from, reader := client, server // which has a gate
			if !tells {
				from, reader = server, client
			}
			near, far, _ := memPair(t)
			to := New(near, Config{Handle: ignore})
			toEnd := run(t, to)
			var by *Link
			by = New(reader, Config{Handle: func(f *wire.Frame) error {
				err := to.SendBy(by, f)
				time.Sleep(time.Millisecond) // in which a writer that was woken would write
				return err
			}})
			if by.asking != tells {
				t.Fatalf("asking = %v, want %v", by.asking, tells)
			}
			byEnd := run(t, by)
			synctest.Wait() // until both are in service
			var frames []*wire.Frame
			var bytes []byte
			for i := range int64(n) {
				frames = append(frames, received(i))
				bytes = append(bytes, raw(0x82, len(encoded(t, received(i))), encoded(t, received(i)))...)
			}
			if tells {
				if _, err := from.NetConn().Write(bytes); err != nil {
					t.Fatal(err)
				}
			} else if err := from.WriteMessage(websocket.BinaryMessage, encoded(t, frames...)); err != nil {
				t.Fatal(err)
			}
			_, msg, err := far.ReadMessage()
			if err != nil {
				t.Fatal(err)
			}
			got := int64(0)
			for f, err := range wire.Frames(msg) {
				if err != nil || f.GetReceived().GetOffset() != got {
					t.Fatalf("frame %d = %v, %v", got, f, err)
				}
				got++
			}
			if got != n {
				t.Errorf("tells %v: the first message has %d frames, want all %d", tells, got, n)
			}
			for _, l := range []*Link{by, to} {
				l.Close(nil, websocket.CloseNormalClosure)
			}
			from.Close()
			far.Close()
			<-byEnd
			<-toEnd
		})
	}
}

// A reader that is held up holds nobody up: what somebody else sends takes what waits
// along, and WakeOthers lets it go.
func TestSendByDoesNotHoldOthersUp(t *testing.T) {
	for _, what := range []string{"Send", "WakeOthers"} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				from, reader, _ := memPair(t)
				near, far, _ := memPair(t)
				to := New(near, Config{Handle: ignore})
				toEnd := run(t, to)
				hold, sent := make(chan struct{}), make(chan struct{})
				var by *Link
				by = New(reader, Config{Handle: func(f *wire.Frame) error {
					err := to.SendBy(by, f)
					if what == "WakeOthers" {
						by.WakeOthers()
					}
					close(sent)
					<-hold
					return err
				}})
				byEnd := run(t, by)
				if err := from.WriteMessage(websocket.BinaryMessage, encoded(t, received(1))); err != nil {
					t.Fatal(err)
				}
				<-sent
				synctest.Wait()
				if what == "Send" {
					if err := to.Send(received(2)); err != nil {
						t.Fatal(err)
					}
				}
				first(t, far)
				close(hold)
				by.kill(ErrClosed)
				far.Close()
				<-byEnd
				<-toEnd
			})
		})
	}
}

// What a reader has passed on goes out although the next message is broken.
func TestSendByGoesOutBeforeTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, reader, _ := memPair(t)
		near, far, _ := memPair(t)
		to := New(near, Config{Handle: ignore})
		toEnd := run(t, to)
		var by *Link
		by = New(reader, Config{Handle: func(f *wire.Frame) error { return to.SendBy(by, f) }})
		byEnd := run(t, by)
		good := encoded(t, received(1))
		broken := []byte{0xf2, 0x80, 0, 0, 0, 0} // reserved bits
		if _, err := from.NetConn().Write(append(raw(0x82, len(good), good), broken...)); err != nil {
			t.Fatal(err)
		}
		first(t, far)
		from.Close()
		far.Close()
		<-byEnd
		<-toEnd
	})
}

// first wants that the first frame that comes within a second is received(1).
func first(t *testing.T, far *websocket.Conn) {
	t.Helper()
	far.SetReadDeadline(time.Now().Add(time.Second)) // nothing else comes in that
	_, msg, err := far.ReadMessage()
	if err != nil {
		t.Fatalf("what was sent did not come: %v", err)
	}
	if f, _, err := wire.NextBinary(msg); err != nil || f.GetReceived().GetOffset() != 1 {
		t.Errorf("first comes %v, %v", f, err)
	}
}

// A link that is killed while its writer is at work ends, also if that finds nothing
// to write.
func TestKillWhileTheWriterIsAtWork(t *testing.T) {
	_, server := sockets(t, loopback(t))
	l := New(server, Config{Handle: ignore})
	ended := run(t, l)
	for running := false; !running; time.Sleep(time.Millisecond) {
		l.mu.Lock()
		running = l.running
		l.mu.Unlock()
	}
	l.writing.Lock() // the writer waits here
	l.wakeWriter()
	l.kill(ErrClosed)
	l.writing.Unlock()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Fatal("Run does not return")
	}
}

// Handled comes when all frames of a read are handled and what was sent with SendBy is
// on its way, and also when the link ends in the middle of them.
func TestHandledComesBehindWhatWasSent(t *testing.T) {
	for _, breaks := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			from, reader, _ := memPair(t)
			var by *Link
			handled, seen, want := 0, 0, 3
			if breaks {
				want = 2
			}
			by = New(reader, Config{
				Handle: func(f *wire.Frame) error {
					handled++
					if breaks && handled == 2 {
						return errors.New("broken")
					}
					return by.SendBy(by, f)
				},
				Handled: func() {
					if handled == 0 || seen > 0 {
						return
					}
					seen = handled
					by.mu.Lock()
					defer by.mu.Unlock()
					if by.out.frames > 0 && !by.atWork {
						t.Errorf("breaks %v: %d frames wait, and nobody writes", breaks, by.out.frames)
					}
				},
			})
			end := run(t, by)
			synctest.Wait()
			if err := from.WriteMessage(websocket.BinaryMessage, encoded(t, received(1), received(2), received(3))); err != nil {
				t.Fatal(err)
			}
			if !breaks {
				_, msg, err := from.ReadMessage()
				if err != nil {
					t.Fatal(err)
				}
				if want := encoded(t, received(1), received(2), received(3)); !bytes.Equal(msg, want) {
					t.Errorf("the first message is %x, want all three frames: %x", msg, want)
				}
			}
			from.Close()
			<-end
			if seen != want {
				t.Errorf("breaks %v: Handled came after %d frames, want %d", breaks, seen, want)
			}
		})
	}
}
