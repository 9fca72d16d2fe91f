package dian_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/diantest"
)

// A cancel that finds the receiver away is told to its next life, which knows the
// part by source and sendID alone: it keeps nothing, and takes it never again.
func TestCancelWhileTheReceiverIsAwayLeavesNothing(t *testing.T) {
	relay := diantest.New(t)
	dir := t.TempDir()
	in := newInbound()
	bob := relay.Client("bob", dian.WithHandler(in.handler()), dian.WithReceiveDir(dir))
	alice := relay.Client("alice")
	slow := &gate{pattern: pattern{64 << 20}, at: 10 << 20, reached: make(chan struct{}), open: make(chan struct{})}
	task := alice.SendReader("bob", slow, slow.size)
	wait(t, slow.reached)
	bob.Close()
	parts := func() int {
		left, err := filepath.Glob(filepath.Join(dir, "*.part"))
		if err != nil {
			t.Fatal(err)
		}
		return len(left)
	}
	if n := parts(); n != 1 {
		t.Fatalf("%d parts are here before the cancel, want the one to go on with", n)
	}
	task.Cancel()
	slow.release()
	mustEnd(t, task, dian.ErrCancelled)
	again := relay.Client("bob", dian.WithHandler(in.handler()), dian.WithReceiveDir(dir))
	mustEnd(t, alice.SendReader("bob", pattern{64 << 20}, 64<<20, dian.WithSendID(task.ID())), dian.ErrCancelled)
	// alice has the relay's word; its word to bob may still be on the way.
	for deadline := time.Now().Add(10 * time.Second); parts() > 0 && time.Now().Before(deadline); {
		<-time.After(10 * time.Millisecond)
	}
	again.Close()
	if n := parts(); n != 0 {
		t.Errorf("%d parts are here after the cancel", n)
	}
	if len(in.files) > 0 {
		t.Errorf("a file came: %+v", <-in.files)
	}
}
