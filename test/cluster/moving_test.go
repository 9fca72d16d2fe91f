package cluster

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/dian-im/dian"
)

// A receiver whose line moves from node to node in the middle of a file goes on with
// what it has, whatever the sender's lanes are connected to; and so does a sender.
func TestFileGoesOnWhenItsEndsMove(t *testing.T) {
	for _, who := range []string{"receiver", "sender", "both"} {
		t.Run(who, func(t *testing.T) {
			t.Parallel()
			c, _ := onMem(t, 3)
			files := make(chan dian.FileData, 10)
			fb, fa := newFront(t, c.nodes[1]), newFront(t, c.nodes[0])
			connect(t, fb.url, "bob", dian.WithHandler(dian.Handler{NotifyFileData: func(m dian.FileData) { files <- m }}))
			alice := connect(t, fa.url, "alice")
			data := content(256 << 20)
			src := &slowReader{r: bytes.NewReader(data), pause: time.Millisecond}
			task := alice.SendReader("bob", src, int64(len(data)), dian.WithName("x.bin"))
			for i := range 4 {
				from := int64(len(data)) / 6 * int64(i+1)
				wait(t, fmt.Sprintf("%d bytes are there", from), func() bool {
					sent, _ := task.Progress()
					return sent >= from || task.State() == dian.TaskDone
				})
				if who != "sender" {
					fb.point(c.nodes[(i+2)%3])
					fb.cut()
				}
				if who != "receiver" {
					fa.point(c.nodes[(i+1)%3])
					fa.cut()
				}
			}
			if err := result(t, task); err != nil {
				t.Fatal(err)
			}
			f := <-files
			got, err := os.ReadFile(f.Path)
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("the file has %d bytes, %v", len(got), err)
			}
			select {
			case f := <-files:
				t.Errorf("%s was delivered twice", f.SendID)
			case <-time.After(200 * time.Millisecond):
			}
			if read := src.bytes(); read > int64(len(data))*2 {
				t.Errorf("%d bytes were read of %d: it has begun again", read, len(data))
			}
		})
	}
}

// A slowReader gives a bounded rate, so that a transfer can be met in its middle.
type slowReader struct {
	r     *bytes.Reader
	pause time.Duration

	mu   sync.Mutex
	read int64
}

func (s *slowReader) ReadAt(p []byte, off int64) (int, error) {
	time.Sleep(s.pause * time.Duration(len(p)) / (256 << 10))
	n, err := s.r.ReadAt(p, off)
	s.mu.Lock()
	s.read += int64(n)
	s.mu.Unlock()
	return n, err
}

func (s *slowReader) bytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.read
}

// Commands to a user who moves from node to node arrive in order and once.
func TestCommandsToAUserWhoMoves(t *testing.T) {
	t.Parallel()
	c, _ := onMem(t, 3)
	var mu sync.Mutex
	var got []string
	fb := newFront(t, c.nodes[1])
	connect(t, fb.url, "bob", dian.WithHandler(dian.Handler{NotifyCmdData: func(m dian.CmdData) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, string(m.Data))
	}}))
	alice := c.client(c.nodes[0], "alice")
	var tasks []*dian.Task
	for i := range 3000 {
		tasks = append(tasks, alice.SendCmd("bob", fmt.Append(nil, i), dian.WithWaitForPeer(patience)))
		if i%50 == 0 {
			time.Sleep(5 * time.Millisecond)
		}
		if i%500 == 250 {
			fb.point(c.nodes[(i/500)%3])
			fb.cut()
		}
	}
	for i, task := range tasks {
		if err := result(t, task); err != nil {
			t.Errorf("command %d: %v", i, err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(got) != len(tasks) {
		t.Fatalf("%d of %d commands", len(got), len(tasks))
	}
	for i, m := range got {
		if m != fmt.Sprint(i) {
			t.Fatalf("the %dth command is %s", i, m)
		}
	}
}
