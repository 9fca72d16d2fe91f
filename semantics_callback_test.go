package dian_test

import (
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/diantest"
	"github.com/dian-im/dian/internal/memnet"
)

// Callbacks.

func TestCallbacksMayCallEverything(t *testing.T) {
	relay := diantest.New(t)
	in := newInbound()
	var bob *dian.Client
	ready, closed := make(chan struct{}), make(chan struct{})
	replies := make(chan error, 10)
	h := in.handler()
	h.NotifyCmdData = func(m dian.CmdData) {
		<-ready
		switch string(m.Data) {
		case "send and wait":
			for _, task := range []*dian.Task{
				bob.SendCmd("alice", m.Data), bob.SendBuffer("alice", noise(100)), bob.SendReader("alice", pattern{200 << 10}, 200<<10),
			} {
				replies <- task.Wait(t.Context())
			}
		case "cancel":
			task := bob.SendBuffer("nobody", noise(10), dian.WithWaitForPeer(time.Hour))
			task.Cancel()
			if err := task.Wait(t.Context()); !errors.Is(err, dian.ErrCancelled) {
				replies <- fmt.Errorf("cancelled: %w", err)
				return
			}
			_, err := bob.UserStatus(t.Context())
			replies <- errors.Join(err, bob.SetStatus(true, 1))
		case "close":
			err := bob.Close()
			bob.Close()
			replies <- err
			close(closed)
		}
	}
	bob = relay.Client("bob", dian.WithHandler(h))
	close(ready)
	other := newInbound().handler()
	other.NotifyCmdData = func(dian.CmdData) {}
	alice := relay.Client("alice", dian.WithHandler(other))
	for text, n := range map[string]int{"send and wait": 3, "cancel": 1} {
		mustEnd(t, alice.SendCmd("bob", []byte(text)), dian.OK)
		for range n {
			if err := wait(t, replies); err != nil {
				t.Errorf("%s: %v", text, err)
			}
		}
	}
	mustEnd(t, alice.SendCmd("bob", []byte("close")), dian.OK)
	wait(t, closed)
	wait(t, bob.Done())
	if err := wait(t, replies); err != nil || !errors.Is(bob.Err(), dian.ErrNotLoggedIn) {
		t.Errorf("closed inside a callback: %v, %v", err, bob.Err())
	}
}

// The bubble finds goroutines that are left at its end; the count finds those of a
// client while the server goes on.
func TestCloseLeavesNoGoroutine(t *testing.T) {
	relays(t, func(t *testing.T, r *relay) {
		r.l.OnDial = func(client, _ *memnet.Conn) error { // long transfers are under way when all is closed
			client.Delay(20 * time.Millisecond)
			return nil
		}
		settle := func() int {
			time.Sleep(5 * time.Minute) // the server holds lanes for as long as a transfer may be resumed
			synctest.Wait()
			return runtime.NumGoroutine()
		}
		once := func() {
			in := newInbound()
			h := in.handler()
			h.NotifyCmdData = func(dian.CmdData) {}
			hang := make(chan *dian.Offer, 10)
			h.AcceptBuffer = func(o *dian.Offer) {
				if o.Name == "hang" {
					hang <- o
					return
				}
				o.Accept()
			}
			bob := r.connect("bob", dian.WithHandler(h))
			alice := r.connect("alice", dian.WithHandler((&diary{}).sending()))
			idle := r.connect("carol", dian.WithSendOnly())
			if err := alice.StartUserStatusNotify(t.Context()); err != nil {
				t.Error(err)
			}
			for _, task := range []*dian.Task{
				alice.SendCmd("bob", nil), alice.SendBuffer("bob", noise(10)), alice.SendReader("bob", pattern{3 << 20}, 3<<20),
			} {
				if err := task.Wait(t.Context()); err != nil {
					t.Error(err)
				}
			}
			alice.SendBuffer("bob", noise(10), dian.WithName("hang"))
			wait(t, hang)
			alice.SendReader("bob", pattern{1 << 30}, 1<<30)
			alice.SendBuffer("nobody", nil, dian.WithWaitForPeer(time.Hour))
			gone := alice.SendReader("bob", pattern{1 << 30}, 1<<30)
			time.Sleep(time.Second)
			r.l.CutAll()
			time.Sleep(time.Second)
			gone.Cancel()
			alice.Close()
			bob.Close()
			idle.Close()
		}
		once() // pools and the like come with the first use
		before := settle()
		for range 3 {
			once()
		}
		if after := settle(); after > before {
			stacks := make([]byte, 1<<20)
			t.Errorf("%d goroutines, %d before\n%s", after, before, stacks[:runtime.Stack(stacks, true)])
		}
	})
}
