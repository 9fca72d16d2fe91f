package server

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// TestShutdownWaitsForTransfersWithoutLanes: each of these is under way and has no
// lane open; it ends well although the server is stopping.
func TestShutdownWaitsForTransfersWithoutLanes(t *testing.T) { // case 101
	inline := func() *wire.Offer {
		o := fileOffer(5)
		o.Inlined, o.Inline = true, []byte("hello")
		return o
	}
	for name, c := range map[string]struct {
		offer    *wire.Offer
		hold     bool
		accepted bool
	}{
		"between two lanes":                 {fileOffer(100), false, true},
		"verifying":                         {fileOffer(0), false, true},
		"an inline offer, not yet answered": {inline(), true, false},
	} {
		t.Run(name, func(t *testing.T) {
			rt := newRelayTest(t, false, func(cfg *Config) { cfg.ShutdownGrace = time.Hour })
			bob := rt.receiver("bob", placeA)
			bob.noLanes, bob.silent, bob.hold = true, true, c.hold
			alice := rt.login("demo", "alice", wire.Role_ROLE_SEND, "")
			alice.offer(c.offer)
			if c.accepted {
				alice.accepted()
			}
			id := ""
			eventually(t, func() bool {
				bob.mu.Lock()
				defer bob.mu.Unlock()
				for id = range bob.parts {
				}
				return id != ""
			})
			stopped := make(chan error, 1)
			go func() { stopped <- rt.srv.Shutdown(context.Background()) }()
			alice.next(func(f *wire.Frame) bool { return f.GetGoAway() != nil })

			alice.offer(fileOffer(1))
			if v := alice.verdict(); wire.Code(v.Code) != wire.ServiceFault {
				t.Errorf("a new offer: %v, want 8", v)
			}
			put := rt.do(rt.request("PUT", "/v1/users/bob/files/x", "alice", strings.NewReader("x")))
			rt.want(put, 503)
			if c.accepted {
				alice.offer(c.offer) // the same again is answered
				alice.accepted()
			}
			bob.send(&wire.Frame{Body: &wire.Frame_Verdict{Verdict: &wire.Verdict{
				Transfer: id, Receipt: wire.Receipt_RECEIPT_STORED}}})
			if v := alice.verdict(); v.Code != 0 {
				t.Errorf("Verdict = %v, want 0", v)
			}
			if err := <-stopped; err != nil {
				t.Errorf("Shutdown = %v", err)
			}
		})
	}
}

func TestShutdownDoesNotWaitForWhatCannotEnd(t *testing.T) {
	rt := newRelayTest(t, false, func(cfg *Config) { cfg.ShutdownGrace = time.Hour })
	bob := rt.receiver("bob", placeA)
	bob.noLanes = true
	alice := rt.login("demo", "alice", wire.Role_ROLE_SEND, "")
	alice.offer(fileOffer(100))
	alice.accepted()
	bob.conn.Close()
	eventually(t, func() bool { return rt.srv.listener("demo", "bob") == nil })
	held := rt.receiver("carol", placeB)
	held.hold = true
	o := fileOffer(100) // an offer that somebody thinks about is not under way
	o.Target = "carol"
	alice.offer(o)
	if err := rt.srv.Shutdown(context.Background()); err != nil {
		t.Errorf("Shutdown = %v", err)
	}
}
