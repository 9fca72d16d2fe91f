package dian_test

import (
	"os"
	"testing"
	"time"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/diantest"
)

// A file that changes while it is sent is never delivered (case 72).
func TestChangedSourceNeverArrives(t *testing.T) {
	const size = 6 << 20
	for how, change := range map[string]func(path string) error{
		"grown": func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteString("more")
			return err
		},
		"shrunk": func(path string) error { return os.Truncate(path, size/2) },
		"rewritten in place": func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteAt([]byte("other"), 100)
			return err
		},
		"replaced": func(path string) error {
			other := path + ".new"
			if err := os.WriteFile(other, noise(size), 0o600); err != nil {
				return err
			}
			return os.Rename(other, path)
		},
		"deleted": os.Remove,
	} {
		for _, when := range []string{"while it is sent", "while it waits for its turn"} {
			t.Run(how+" "+when, func(t *testing.T) {
				relay := diantest.New(t)
				in, dir := newInbound(), t.TempDir()
				offers := make(chan *dian.Offer, 10)
				h := in.handler()
				h.AcceptFile = func(o *dian.Offer) { offers <- o }
				bob := relay.Client("bob", dian.WithReceiveDir(dir), dian.WithHandler(h))
				gate := &gatedWrites{left: 1 << 20, reached: make(chan struct{}), open: make(chan struct{})}
				alice := relay.Client("alice", dian.WithParallel(1), dialing(gate.wrap))
				path := writeFile(t, noise(size))
				if err := os.Chtimes(path, time.Time{}, time.Now().Add(-time.Hour)); err != nil {
					t.Fatal(err)
				}
				var task, blocker *dian.Task
				if when == "while it is sent" {
					task = alice.SendFile("bob", path)
					wait(t, offers).Accept()
					wait(t, gate.reached)
				} else {
					blocker = alice.SendReader("bob", pattern{100 << 10}, 100<<10)
					wait(t, offers)
					task = alice.SendFile("bob", path)
				}
				if err := change(path); err != nil {
					t.Fatal(err)
				}
				if when != "while it is sent" {
					blocker.Cancel()
				}
				gate.release()
				r := mustEndOneOf(t, task, dian.ErrFileError, dian.ErrFileNotFound)
				if dian.CodeOf(r.Err) == dian.ErrFileNotFound && (how != "deleted" || when == "while it is sent") {
					t.Errorf("%v, want %v", r.Err, dian.ErrFileError)
				}
				if when == "while it is sent" {
					if n := wait(t, in.cancels); n.SendID != task.ID() || n.Source != "alice" {
						t.Errorf("the receiver was told %+v", n)
					}
				}
				bob.Close()
				if len(in.files) > 0 {
					t.Errorf("a file came: %+v", <-in.files)
				}
				nothingKept(t, dir)
			})
		}
	}
}
