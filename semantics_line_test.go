package dian_test

import (
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/diantest"
	"github.com/dian-im/dian/internal/memnet"
)

func TestLogoutEndsTasksAndALostLineDoesNot(t *testing.T) {
	relay := diantest.New(t, hasty)
	asked := make(chan *dian.Offer, 10)
	bob := relay.Client("bob", dian.WithHandler(dian.Handler{
		NotifyCmdData: func(dian.CmdData) {}, NotifyBufferData: func(dian.BufferData) {},
		AcceptBuffer: func(o *dian.Offer) { asked <- o },
	}))
	var told diary
	back := make(chan struct{}, 10)
	h := told.sending()
	h.NotifyLineOff = func(err error) { told.add("line off %v", err) }
	h.NotifyReconnected = func() { back <- struct{}{} }
	alice := relay.Client("alice", dian.WithHandler(h))
	small, big := alice.SendBuffer("bob", noise(10)), alice.SendBuffer("bob", noise(200<<10))
	open := []*dian.Offer{wait(t, asked), wait(t, asked)}
	relay.Cut()
	wait(t, back)
	if lines := told.read(); len(lines) > 0 {
		t.Errorf("a lost line was told: %q", lines)
	}
	for _, o := range open {
		o.Accept()
	}
	mustEnd(t, small, dian.OK)
	mustEnd(t, big, dian.OK)

	left := []*dian.Task{
		alice.SendBuffer("bob", noise(10)), alice.SendBuffer("bob", noise(200<<10)),
		alice.SendCmd("nobody", nil, dian.WithWaitForPeer(time.Hour)),
	}
	wait(t, asked)
	wait(t, asked)
	alice.Close()
	for _, task := range left {
		if r := mustEnd(t, task, dian.ErrNotLoggedIn); r.Err.(*dian.Error).Origin != dian.Local {
			t.Errorf("%+v", r.Err)
		}
		if got := told.of(task.ID()); got != "result 12" {
			t.Errorf("%v was told %q", task.Kind(), got)
		}
	}
	for _, err := range []error{alice.SendCmd("bob", nil).Wait(t.Context()), alice.SendBuffer("bob", nil).Wait(t.Context()), alice.Err()} {
		if !errors.Is(err, dian.ErrNotLoggedIn) {
			t.Errorf("after Close: %v", err)
		}
	}
	if got := told.of("line off"); got != "" {
		t.Errorf("a logout was told: %q", got)
	}
	bob.Close()
}

func TestWindowOverEndsTasksAndTheIDGoesOn(t *testing.T) {
	relays(t, func(t *testing.T, r *relay) {
		const size, id = 8 << 20, "01890a5d-ac96-774b-bcce-b302099a8057"
		var down atomic.Bool
		r.l.OnDial = func(client, _ *memnet.Conn) error {
			if down.Load() {
				return errBroken
			}
			client.Delay(20 * time.Millisecond) // 64 KiB every 20 ms
			return nil
		}
		in := newInbound()
		bob := r.connect("bob", dian.WithHandler(in.handler()), dian.WithResumeWindow(time.Hour))
		defer bob.Close()
		var told diary
		h := told.sending()
		h.NotifyLineOff = func(err error) { told.add("line off %v", err) }
		first := make(chan dian.Progress, 1000)
		h.NotifySendProgress = func(p dian.Progress) { first <- p }
		alice := r.connect("alice", dian.WithHandler(h), dian.WithResumeWindow(10*time.Second))
		defer alice.Close()
		task := alice.SendReader("bob", pattern{size}, size, dian.WithSendID(id))
		var had int64
		for had < size/4 {
			had = wait(t, first).Sent
		}
		down.Store(true)
		r.l.CutAll()
		err := task.Wait(t.Context())
		if e, _ := errors.AsType[*dian.Error](err); dian.CodeOf(err) != dian.ErrConnectionLost || e.Origin != dian.Local {
			t.Errorf("%v, want %v", err, dian.ErrConnectionLost)
		}
		had, _ = task.Progress()
		down.Store(false)
		time.Sleep(time.Minute) // both are back
		for len(first) > 0 {
			<-first
		}
		again := alice.SendReader("bob", pattern{size}, size, dian.WithSendID(id))
		if p := wait(t, first); p.Sent < had {
			t.Errorf("began again at %d of %d bytes, though %d were confirmed", p.Sent, size, had)
		}
		if err := again.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if f := wait(t, in.files); f.SendID != id || f.Size != size {
			t.Errorf("%+v", f)
		}
		synctest.Wait() // Wait does not wait for callbacks
		if got := told.of(id); got != "result 207, result 0" {
			t.Errorf("told %q", got)
		}
		if got := told.of("line off"); got != "" {
			t.Errorf("told %q, though the client was reconnecting", got)
		}
		if len(in.files) > 0 {
			t.Errorf("a second file came: %+v", <-in.files)
		}
	})
}

func TestSecondLoginTakesThePlaceWithoutAFight(t *testing.T) {
	relays(t, func(t *testing.T, r *relay) {
		var told diary
		watch := func(name string) dian.Option {
			return dian.WithHandler(dian.Handler{
				NotifyCmdData:      func(m dian.CmdData) { told.add("%s got %s", name, m.Data) },
				NotifyLineOff:      func(err error) { told.add("%s off %d", name, dian.CodeOf(err)) },
				NotifyReconnecting: func(dian.Reconnecting) { told.add("%s lost", name) },
			})
		}
		first := r.connect("bob", watch("first"))
		defer first.Close()
		var senders []*dian.Client // these kick nobody, and are not kicked
		for range 3 {
			c := r.connect("bob", watch("sender"), dian.WithSendOnly())
			defer c.Close()
			senders = append(senders, c)
		}
		alice := r.connect("alice")
		defer alice.Close()
		send := func(text string) {
			t.Helper()
			if err := alice.SendCmd("bob", []byte(text)).Wait(t.Context()); err != nil {
				t.Errorf("%s: %v", text, err)
			}
			synctest.Wait()
		}
		send("one")
		second := r.connect("bob", watch("second"))
		defer second.Close()
		synctest.Wait() // the two tell independently of each other
		send("two")
		time.Sleep(time.Hour)
		send("three")
		if err := first.SendCmd("alice", nil).Wait(t.Context()); !errors.Is(err, dian.ErrKicked) {
			t.Errorf("sent by the kicked one: %v", err)
		}
		if !errors.Is(first.Err(), dian.ErrKicked) || second.Err() != nil {
			t.Errorf("first %v, second %v", first.Err(), second.Err())
		}
		for _, c := range senders {
			if err := c.SendCmd("bob", []byte("self")).Wait(t.Context()); err != nil {
				t.Errorf("a sender's command: %v", err)
			}
		}
		synctest.Wait()
		want := []string{"first got one", "first off 10", "second got two", "second got three",
			"second got self", "second got self", "second got self"}
		if got := told.read(); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}
