package server

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/dian-im/dian/internal/memnet"
	relay "github.com/dian-im/dian/internal/transfer"
	"github.com/dian-im/dian/internal/wire"
)

// halfMiB makes queues that a test can fill.
func halfMiB(c *Config) { c.Limits.User.QueuedBytes = 512 << 10 }

// accepted lets mallory offer a file that bob accepts, and returns its id.
func accepted(t *testing.T, mallory, bob *guest, o *wire.Offer) string {
	t.Helper()
	mallory.send(offerFrame(o))
	id := ""
	for _, f := range bob.take() {
		id = f.GetOffer().GetTransfer()
	}
	bob.send(&wire.Frame{Body: &wire.Frame_Answer{Answer: &wire.Answer{Transfer: id, Decision: wire.Decision_DECISION_ACCEPT}}})
	for _, f := range mallory.take() {
		if f.GetAccepted() != nil {
			return id
		}
	}
	t.Fatal("not accepted")
	return ""
}

// A sender that repeats itself neither ends a slow receiver's session nor fills its
// queue, and what it said last arrives when there is room.
func TestRepeatedFramesDoNotEndASlowReceiver(t *testing.T) { // cases 45 and 49
	digest := func(n byte) *wire.Digest {
		return &wire.Digest{Algorithm: wire.DigestX3B, Value: append(make([]byte, 15), n)}
	}
	for name, frame := range map[string]func(id string, o *wire.Offer, n byte) *wire.Frame{
		"offer": func(_ string, o *wire.Offer, _ byte) *wire.Frame { return offerFrame(o) },
		"finish": func(id string, _ *wire.Offer, n byte) *wire.Frame {
			return &wire.Frame{Body: &wire.Frame_Finish{Finish: &wire.Finish{Transfer: id, Digest: digest(n)}}}
		},
		"cancel": func(id string, _ *wire.Offer, _ byte) *wire.Frame {
			return &wire.Frame{Body: &wire.Frame_Cancel{Cancel: &wire.Cancel{Transfer: id}}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, halfMiB, func(t *testing.T, c *crowd) {
				bob, mallory := c.listens("bob"), c.sends("mallory")
				o, id := offerTo("bob"), ""
				if name == "offer" {
					mallory.send(offerFrame(o))
					synctest.Wait()
				} else {
					id = accepted(t, mallory, bob, o)
				}
				if name == "cancel" { // the receiver's word decides from Finish on
					mallory.send(&wire.Frame{Body: &wire.Frame_Finish{Finish: &wire.Finish{Transfer: id, Digest: digest(0)}}})
				}
				bob.take()
				below := bob.conn.NetConn().(*memnet.Conn)
				below.StallReads()
				account := c.srv.listener("app", "bob").party.user
				most := int64(0)
				for n := range 6000 {
					mallory.send(frame(id, o, byte(n)))
					if n%50 == 0 {
						synctest.Wait()
						most = max(most, account.used[countQueued].Load())
					}
				}
				mallory.send(frame(id, o, 77))
				synctest.Wait()
				if bob.over() != nil || c.srv.listener("app", "bob") == nil {
					t.Fatalf("the slow receiver was ended: %v", bob.over())
				}
				if share := commandShare(512 << 10); most > share+1<<10 || most < share/2 {
					t.Errorf("%d bytes were queued, want about %d at most", most, share)
				}
				below.Resume()
				bob.take()
				time.Sleep(time.Second)
				late := bob.take()
				if len(late) != 1 {
					t.Fatalf("%d frames came when there was room again, want the last one", len(late))
				}
				if name == "finish" && late[0].GetFinish().GetDigest().GetValue()[15] != 77 {
					t.Errorf("%v came, want the last Finish", late[0])
				}
			})
		})
	}
}

// Nor does a receiver that repeats itself end a slow sender's.
func TestRepeatedFramesDoNotEndASlowSender(t *testing.T) {
	for name, frame := range map[string]func(id string, n int64) *wire.Frame{
		"verdict": func(id string, _ int64) *wire.Frame {
			return &wire.Frame{Body: &wire.Frame_Verdict{Verdict: &wire.Verdict{Transfer: id, Code: uint32(wire.PeerRefused)}}}
		},
		"received": func(id string, n int64) *wire.Frame {
			return &wire.Frame{Body: &wire.Frame_Received{Received: &wire.Received{Transfer: id, Offset: n}}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, halfMiB, func(t *testing.T, c *crowd) {
				mallory, alice := c.listens("mallory"), c.sends("alice")
				o := offerTo("mallory")
				o.Size = 1 << 40
				id := accepted(t, alice, mallory, o)
				if name == "received" { // everything was relayed, as far as the machine knows
					for tr := range c.srv.transfers.open {
						for _, e := range []relay.RelayEvent{relay.RelayUpJoined{}, relay.RelayDownJoined{}, relay.RelayCopied{N: o.Size - 1}} {
							if err := tr.step(e); err != nil {
								t.Fatal(err)
							}
						}
					}
				}
				below := alice.conn.NetConn().(*memnet.Conn)
				below.StallReads()
				const n = 8000
				for i := range int64(n) {
					mallory.send(frame(id, i+1))
				}
				synctest.Wait()
				sess := c.srv.all()
				for _, s := range sess {
					if s.user == "alice" && s.party.user.used[countQueued].Load() > commandShare(512<<10)+4<<10 {
						t.Errorf("%d bytes were queued", s.party.user.used[countQueued].Load())
					}
				}
				if len(sess) != 2 || alice.over() != nil {
					t.Fatalf("%d sessions live, alice's ended with %v", len(sess), alice.over())
				}
				below.Resume()
				time.Sleep(time.Second)
				got := alice.take()
				if len(got) == 0 || len(got) >= n {
					t.Fatalf("%d frames came", len(got))
				}
				if last := got[len(got)-1]; name == "received" && last.GetReceived().GetOffset() != n {
					t.Errorf("the last one says %v, want %d", last, n)
				}
			})
		})
	}
}
