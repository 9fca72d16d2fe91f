package dian_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/diantest"
)

func TestCommandsKeepOrderAndComeOnceOverRealCuts(t *testing.T) {
	const n, batch = 2000, 100
	relay := diantest.New(t)
	var mu sync.Mutex
	var got []string
	back := make(chan struct{}, 1000)
	bob := relay.Client("bob", dian.WithHandler(dian.Handler{
		NotifyCmdData:     func(m dian.CmdData) { mu.Lock(); got = append(got, string(m.Data)); mu.Unlock() },
		NotifyReconnected: func() { back <- struct{}{} },
	}))
	var told diary
	alice := relay.Client("alice", dian.WithHandler(told.sending()))
	var tasks []*dian.Task
	var want []string
	for i := range n {
		if i == 1 { // the first one has arrived: TestFirstCommandSurvivesACut is about the other case
			mustEnd(t, tasks[0], dian.OK)
		}
		if i%batch == batch/2 {
			relay.Cut() // with what is under way; the next ones are sent while the line is down
		}
		if i%batch == 0 && i > 0 {
			wait(t, back)
		}
		want = append(want, fmt.Sprintf("%05d", i))
		tasks = append(tasks, alice.SendCmd("bob", []byte(want[i]), dian.WithWaitForPeer(time.Minute)))
	}
	for _, task := range tasks {
		mustEnd(t, task, dian.OK)
	}
	alice.Close()
	bob.Close() // 0 says that they are queued for the callback
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(got, want) {
		t.Errorf("got %d commands, want %d in order and once", len(got), n)
	}
	if lines := told.read(); len(lines) != n {
		t.Errorf("%d results for %d commands", len(lines), n)
	}
}

// The receiver lives, so a command that never reached it is sent again and arrives.
func TestFirstCommandSurvivesACut(t *testing.T) {
	relays(t, func(t *testing.T, r *relay) {
		var got diary
		bob := r.connect("bob", dian.WithHandler(dian.Handler{NotifyCmdData: func(m dian.CmdData) { got.add("%s", m.Data) }}))
		defer bob.Close()
		lines := r.l.Conns()
		alice := r.connect("alice")
		defer alice.Close()
		for _, c := range lines { // bob's: what the server passes on is lost
			c.BlackholeWrites()
		}
		task := alice.SendCmd("bob", []byte("first"))
		synctest.Wait()
		r.l.CutAll()
		if err := task.Wait(t.Context()); err != nil {
			t.Errorf("%v, though the receiver was there all the time", err)
		}
		bob.Close()
		if lines := got.read(); !slices.Equal(lines, []string{"first"}) {
			t.Errorf("received %q", lines)
		}
	})
}

func TestUnknownFateIsNoSecondDelivery(t *testing.T) {
	relay := diantest.New(t)
	hold, entered := make(chan struct{}), make(chan string, 10)
	first := relay.Client("bob", dian.WithHandler(dian.Handler{HandleCmd: func(m dian.CmdData) ([]byte, error) {
		entered <- string(m.Data)
		<-hold
		return nil, nil
	}}))
	alice := relay.Client("alice")
	lost := alice.SendCmd("bob", []byte("once"))
	wait(t, entered)
	// Another life of the receiver, which cannot know what the first one has done.
	var got diary
	relay.Client("bob", dian.WithHandler(dian.Handler{NotifyCmdData: func(m dian.CmdData) { got.add("%s", m.Data) }}))
	r := mustEnd(t, lost, dian.ErrPeerNoAnswer)
	if r.Err.(*dian.Error).Origin != dian.Peer {
		t.Errorf("%+v", r.Err)
	}
	mustEnd(t, alice.SendCmd("bob", []byte("next")), dian.OK)
	close(hold)
	first.Close()
	if lines := got.read(); len(lines) > 1 || len(lines) == 1 && lines[0] != "next" {
		t.Errorf("the second life got %q", lines)
	}
}

func TestOneMaySendToOneself(t *testing.T) {
	relay := diantest.New(t)
	in := newInbound()
	h := in.handler()
	h.HandleCmd = func(m dian.CmdData) ([]byte, error) { return []byte(m.Source), nil }
	alice := relay.Client("alice", dian.WithHandler(h))
	if r := mustEnd(t, alice.SendCmd("alice", nil), dian.OK); string(r.Reply) != "alice" {
		t.Errorf("reply %q", r.Reply)
	}
	for _, n := range []int64{0, 10, 300 << 10} {
		mustEnd(t, alice.SendReader("alice", pattern{n}, n), dian.OK)
		if f := wait(t, in.files); f.Source != "alice" || f.Size != n {
			t.Errorf("%+v", f)
		}
		mustEnd(t, alice.SendReader("alice", pattern{n}, n, dian.AsBuffer()), dian.OK)
		if b := wait(t, in.buffers); b.Source != "alice" || int64(len(b.Data)) != n {
			t.Errorf("%d bytes from %s", len(b.Data), b.Source)
		}
	}
}
