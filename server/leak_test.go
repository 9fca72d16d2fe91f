package server

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dian-im/dian/internal/memnet"
	"github.com/dian-im/dian/internal/wire"
)

// A stage is two users at work, at addresses of their own, whose accounts are kept
// by the test, so that nothing that is left in them goes by being forgotten.
type stage struct {
	*crowd
	alice, bob *guest
	users      map[string]*holder[place]
	addresses  map[string]*holder[netip.Addr]
	offer      *wire.Offer   // as bob has got it
	command    *wire.Command // likewise
	stalled    bool          // bob does not read
	giveUp     func()        // ends an HTTP request from the client's side
	body       io.Closer     // of one that comes slowly
	stopped    bool          // the server has stopped, and with it all transfers
}

const aliceAt, bobAt = "198.51.100.1", "198.51.100.2"

// counted returns what is counted anywhere, except what sessions that live cost.
func (s *stage) counted() (found []string) {
	synctest.Wait()
	q := &s.srv.quota
	live, connections := int64(0), q.all.used[countConnections].Load()
	sessions, watched := map[string]int64{}, map[string]int64{}
	for _, sess := range s.srv.all() {
		sess.watcher.mu.Lock()
		for _, who := range []string{"all", "app", sess.user, sess.address} {
			sessions[who]++
			watched[who] += sess.watcher.watched
		}
		sess.watcher.mu.Unlock()
		live++
	}
	look := func(who string, a *account) {
		want := [counts]int64{countSessions: sessions[who], countWatched: watched[who]}
		for n := range counts {
			switch n {
			case countConnections: // compared with the listener's below
				continue
			case countTransfers, countTransfersIn, countOffers, countOffersIn, countKeptIn, countQueued:
				if s.stopped {
					continue
				}
			}
			if got := a.used[n].Load(); got != want[n] {
				found = append(found, fmt.Sprintf("%s: count %d is %d, want %d", who, n, got, want[n]))
			}
		}
	}
	look("all", &q.all)
	look("app", &(*q.apps.Load())["app"].account)
	for name, h := range s.users {
		look(name, &h.account)
	}
	sum := int64(0)
	for at, h := range s.addresses {
		look(at, &h.account)
		sum += h.used[countConnections].Load()
	}
	if sum != connections || connections < live {
		found = append(found, fmt.Sprintf("%d connections of addresses, %d in all, %d sessions", sum, connections, live))
	}
	if n := s.srv.commands.pending.Load(); n != 0 {
		found = append(found, fmt.Sprintf("%d commands are pending", n))
	}
	for name, h := range s.users {
		if n := len(h.from.by); n != 0 && !s.stopped {
			found = append(found, fmt.Sprintf("%d senders have something under way to %s", n, name))
		}
	}
	return found
}

// request makes an HTTP request of alice's that giveUp ends.
func (s *stage) request(method, path string, body io.Reader, length int64, headers ...string) {
	ctx, cancel := context.WithCancel(s.t.Context())
	req, err := http.NewRequestWithContext(ctx, method, "http://relay.example"+path, body)
	if err != nil {
		s.t.Fatal(err)
	}
	req.ContentLength = length
	req.Header.Set("Authorization", "Bearer "+relayToken(s.t, "app", "alice", s.life, nil, nil))
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	s.from(aliceAt)
	go func() {
		if resp, err := s.web.Do(req); err == nil {
			resp.Body.Close()
		}
	}()
	s.giveUp = cancel
	synctest.Wait()
}

// see notes what bob has got.
func (s *stage) see() {
	for _, f := range s.bob.take() {
		if o := f.GetOffer(); o != nil {
			s.offer = o
		}
		if c := f.GetCommand(); c != nil {
			s.command = c
		}
	}
}

func (s *stage) answers(d wire.Decision) {
	a := &wire.Answer{Transfer: s.offer.Transfer, Decision: d}
	if d == wire.Decision_DECISION_REFUSE {
		a.Code = uint32(wire.PeerRefused)
	}
	s.bob.send(&wire.Frame{Body: &wire.Frame_Answer{Answer: a}})
}

// What can be under way. Each takes something that some row counts.
var underWays = map[string]func(*stage){
	"nothing": func(*stage) {},
	"an offer": func(s *stage) {
		s.alice.send(offerFrame(offerTo("bob")))
	},
	"an offer with content": func(s *stage) {
		o := offerTo("bob")
		o.Inlined, o.Inline, o.Size = true, make([]byte, 1000), 1000
		o.Digest = &wire.Digest{Algorithm: wire.DigestX3B, Value: make([]byte, 16)}
		s.alice.send(offerFrame(o))
	},
	"a transfer": func(s *stage) {
		s.alice.send(offerFrame(offerTo("bob")))
		s.see()
		s.answers(wire.Decision_DECISION_ACCEPT)
	},
	"a command": func(s *stage) {
		s.alice.send(commandTo("bob", 1000))
	},
	"commands and offers to somebody who does not read": func(s *stage) {
		s.bob.conn.NetConn().(*memnet.Conn).StallReads()
		s.stalled = true
		for range 200 { // more than fits: some are refused
			s.alice.send(commandTo("bob", wire.CommandBytes), offerFrame(offerTo("bob")))
		}
	},
	"results to somebody who does not read": func(s *stage) {
		for range 300 {
			s.alice.send(commandTo("bob", 10))
		}
		s.alice.conn.NetConn().(*memnet.Conn).StallReads()
		s.bob.acksAll()
		s.alice.send(commandTo("bob", 10))
	},
	"subscriptions": func(s *stage) {
		s.alice.send(subscribe(1, false, "bob", "carol"), subscribe(2, false))
	},
	"a posted command": func(s *stage) {
		s.request("POST", "/v1/users/bob/commands", strings.NewReader("hello"), 5)
	},
	"a posted command that comes slowly": func(s *stage) {
		body, more := io.Pipe()
		s.body = more
		s.request("POST", "/v1/users/bob/commands", body, 5)
	},
	"a PUT that waits": func(s *stage) {
		s.request("PUT", "/v1/users/bob/files/x", strings.NewReader("hello"), 5)
	},
	"a PUT that was accepted": func(s *stage) {
		s.request("PUT", "/v1/users/bob/files/x", strings.NewReader("hello"), 5)
		s.see()
		s.answers(wire.Decision_DECISION_ACCEPT)
	},
	"a tus upload": func(s *stage) {
		s.request("POST", "/v1/users/bob/transfers", http.NoBody, 0, "Tus-Resumable", "1.0.0", "Upload-Length", "10")
	},
}

// How it can end. What is not ended by that is ended by time.
var endings = map[string]func(*stage){
	"time": func(*stage) {},
	"an answer": func(s *stage) {
		if s.command != nil {
			s.bob.send(ackFrame(&wire.CommandAck{Ref: s.command.Ref, Id: s.command.Id, Outcome: final}))
		}
		if s.offer != nil {
			s.bob.send(&wire.Frame{Body: &wire.Frame_Verdict{Verdict: &wire.Verdict{
				Transfer: s.offer.Transfer, Code: uint32(wire.PeerRefused)}}})
		}
	},
	"a refusal": func(s *stage) {
		if s.offer != nil {
			s.answers(wire.Decision_DECISION_REFUSE)
		}
	},
	"a cancel": func(s *stage) {
		if s.offer != nil {
			s.alice.send(&wire.Frame{Body: &wire.Frame_Cancel{Cancel: &wire.Cancel{Transfer: s.offer.Transfer}}})
		}
	},
	"an end of subscriptions": func(s *stage) { s.alice.send(subscribe(3, true, "bob"), subscribe(4, true)) },
	"the sender gives up": func(s *stage) {
		if s.giveUp != nil {
			s.giveUp()
		}
		s.alice.conn.Close()
	},
	"the receiver's line breaks": func(s *stage) { s.bob.conn.Close() },
	"all lines break":            func(s *stage) { s.ln.CutAll() },
	"the receiver comes again": func(s *stage) {
		s.from(bobAt).listens("bob")
	},
	"the receiver is kicked": func(s *stage) {
		s.place = 2
		s.from(bobAt).listens("bob")
	},
	"a fight": func(s *stage) { // the last ones are refused
		for i := range 2 * kicksAtOnce {
			s.place = byte(2 + i%2)
			if g, code := s.from(bobAt).enter("app", "bob", wire.Role_ROLE_LISTEN); code == wire.OK {
				g.take()
			}
		}
	},
	"tokens expire": func(*stage) { time.Sleep(2 * time.Hour) },
	"the key is removed": func(s *stage) {
		cfg := relayConfig()
		other := relayKey
		other.Secret = NewSecret([]byte(strings.Repeat("another", 8)))
		cfg.Apps[0].Keys = []Key{other}
		if err := s.srv.Reload(cfg); err != nil {
			s.t.Fatal(err)
		}
	},
	"smaller limits": func(s *stage) {
		cfg := relayConfig()
		cfg.Limits.User = Limit{Sessions: 1, Transfers: 1, Offers: 1, QueuedBytes: wire.MessageBytes}
		cfg.Limits.All = cfg.Limits.User
		if err := s.srv.Reload(cfg); err != nil {
			s.t.Fatal(err)
		}
	},
	"the server stops": func(s *stage) {
		s.stopped = true
		if err := s.srv.Shutdown(context.Background()); err != nil {
			s.t.Fatal(err)
		}
	},
}

// Whatever is under way and however it ends, all that was counted for it is given
// back, in every row.
func TestEverythingIsGivenBack(t *testing.T) { // cases 49 to 53
	for what, begin := range underWays {
		for how, end := range endings {
			t.Run(what+", "+how, func(t *testing.T) {
				bubble(t, func(c *Config) { c.ShutdownGrace = time.Second }, func(t *testing.T, c *crowd) {
					s := &stage{crowd: c, users: map[string]*holder[place]{}, addresses: map[string]*holder[netip.Addr]{}}
					q := &c.srv.quota
					for _, user := range []string{"alice", "bob"} {
						s.users[user] = q.users.hold(place{"app", user}, q.now())
					}
					for _, at := range []string{aliceAt, bobAt} {
						s.addresses[at] = q.address(netip.MustParseAddr(at))
					}
					c.life = time.Hour
					s.alice, s.bob = c.from(aliceAt).sends("alice"), c.from(bobAt).listens("bob")
					if found := s.counted(); len(found) != 0 {
						t.Fatalf("at the beginning: %v", found)
					}
					begin(s)
					if synctest.Wait(); what != "nothing" && what != "subscriptions" && len(s.counted()) == 0 {
						t.Fatal("nothing is counted")
					}
					if !s.stalled {
						s.see()
					}
					end(s)
					time.Sleep(10 * time.Minute) // offers, windows and requests are over
					if found := s.counted(); len(found) != 0 {
						t.Errorf("in the end: %s", strings.Join(found, "; "))
					}
					s.ln.CutAll()
					if s.body != nil {
						s.body.Close()
					}
					for _, h := range s.users {
						h.release(q.now())
					}
					for _, h := range s.addresses {
						q.releaseAddress(h)
					}
					time.Sleep(time.Minute)
					if n := q.users.size() + q.addresses.size(); n != 0 && !s.stopped { // it sweeps no more
						t.Errorf("%d accounts are remembered for nothing", n)
					}
				})
			})
		}
	}
}
