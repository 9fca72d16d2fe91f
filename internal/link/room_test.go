package link

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/gorilla/websocket"

	"github.com/dian-im/dian/internal/wire"
)

// purse is a Room for several links.
type purse struct {
	mu         sync.Mutex
	most, used int
}

func (p *purse) Take(n int, must bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.used+n > p.most && !must {
		return false
	}
	p.used += n
	return true
}

func (p *purse) Give(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used -= n
}

func TestRoomIsSharedAndGivenBack(t *testing.T) {
	for _, json := range []bool{false, true} {
		for _, end := range []string{"written", "closed", "killed", "broken by the peer", "never run"} {
			t.Run(fmt.Sprintf("json %v, %s", json, end), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					room := &purse{most: 8000}
					near, far, below := memPair(t)
					other, _, _ := memPair(t)
					first := New(near, Config{Handle: ignore, Room: room, JSON: json})
					second := New(other, Config{Handle: ignore, Room: room, JSON: json})
					command := &wire.Frame{Body: &wire.Frame_Command{Command: &wire.Command{Data: make([]byte, 1000)}}}
					sent := 0
					for first.Send(command) == nil {
						sent++
					}
					_, bytes := first.Queued()
					if sent < 4 || bytes > room.most || bytes != room.used {
						t.Fatalf("%d frames of %d bytes were taken, %d are counted", sent, bytes, room.used)
					}
					// An empty queue takes one frame whatever others hold, and no more.
					if err := second.Send(command); err != nil {
						t.Errorf("the first frame of another link: %v", err)
					}
					if err := second.Send(command); err != ErrFull {
						t.Errorf("the second frame of another link: %v, want ErrFull", err)
					}
					second.Drop()
					if room.used != bytes {
						t.Errorf("%d bytes are counted after Drop, want %d", room.used, bytes)
					}
					if end == "never run" {
						first.Drop()
					} else {
						if end != "written" {
							below.Stall()
						}
						there := New(far, Config{Handle: ignore, JSON: json})
						firstEnd, thereEnd := run(t, first), run(t, there)
						synctest.Wait()
						switch end {
						case "written":
							if room.used != 0 {
								t.Errorf("%d bytes are counted after writing", room.used)
							}
							if err := first.Send(command); err != nil {
								t.Errorf("Send = %v after there is room again", err)
							}
							first.Close(nil, websocket.CloseNormalClosure)
						case "closed":
							first.Close(lineOff(1), websocket.CloseNormalClosure)
						case "killed":
							first.kill(ErrClosed)
						case "broken by the peer":
							below.Cut()
						}
						<-firstEnd
						below.Cut()
						<-thereEnd
					}
					if room.used != 0 {
						t.Errorf("%d bytes are still counted at the end", room.used)
					}
					if err := first.Send(command); err != ErrClosed {
						t.Errorf("Send = %v at the end, want ErrClosed", err)
					}
				})
			})
		}
	}
}

// What a refused frame has written over is put right, and the next one is encoded
// as if it had never been.
func TestRefusedFrameLeavesNoTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		room := &purse{most: 1 << 20}
		near, far, _ := memPair(t)
		l := New(near, Config{Handle: ignore, Room: room})
		big := &wire.Frame{Body: &wire.Frame_Command{Command: &wire.Command{Data: make([]byte, wire.CommandBytes)}}}
		if err := l.SendAlone(received(0)); err != nil {
			t.Fatal(err)
		}
		for i := range int64(3) {
			room.most = 0
			if err := l.Send(big); err != ErrFull {
				t.Fatalf("Send = %v, want ErrFull", err)
			}
			room.most = 1 << 20
			if err := l.Send(received(i + 1)); err != nil {
				t.Fatal(err)
			}
		}
		ended := run(t, l)
		var messages, frames int
		for frames < 4 {
			_, msg, err := far.ReadMessage()
			if err != nil {
				t.Fatal(err)
			}
			messages++
			for f, err := range wire.Frames(msg) {
				if err != nil || f.GetReceived().GetOffset() != int64(frames) {
					t.Fatalf("frame %d is %v, %v", frames, f, err)
				}
				frames++
			}
		}
		if messages != 2 { // the first alone, the others together
			t.Errorf("%d messages, want 2", messages)
		}
		far.Close()
		<-ended
	})
}
