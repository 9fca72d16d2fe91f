package server

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// limit returns the config's cell of a row, to be set.
func (l *Limits) cell(s scope, c cell) func(int) {
	row := map[scope]*Limit{scopeAll: &l.All, scopeApp: &l.App, scopeAddress: &l.Address, scopeUser: &l.User}[s]
	return func(n int) {
		switch c {
		case cellSessions:
			row.Sessions = n
		case cellLogins:
			row.LoginsPerSecond = n
		case cellCommands:
			row.CommandsPerSecond = n
		case cellTransfers:
			row.Transfers = n
		case cellOffers:
			row.Offers = n
		case cellQueued:
			row.QueuedBytes = int64(n)
		}
	}
}

// A who is somebody who uses something: the i-th of a row, or of another one.
type who struct{ app, user, address string }

// whoOf returns the i-th client that a row has in common with the others, and one
// that is of another row. Of all there is no other.
func whoOf(s scope, i int) (same, other who) {
	same = who{"app", fmt.Sprint("user-", i), fmt.Sprintf("198.51.100.%d", i+1)}
	other = who{"app", "other-user", "203.0.113.1"}
	switch s {
	case scopeUser:
		same.user = "user"
	case scopeAddress:
		same.address = "198.51.100.1"
	case scopeApp:
		other.app = "other"
	}
	return same, other
}

// A use takes one from a cell for a client, and returns the code of the refusal.
type use func(who) wire.Code

// checkCell uses a cell as often as it allows, once more, and after freed has freed
// one again.
func checkCell(t *testing.T, c *crowd, s scope, limit string, n int, code wire.Code, take use, free func()) {
	t.Helper()
	for i := range n {
		same, _ := whoOf(s, i)
		if got := take(same); got != wire.OK {
			t.Fatalf("%d of %d is refused with %d", i+1, n, got)
		}
	}
	same, other := whoOf(s, n)
	before := c.refusals(limit, s)
	if got := take(same); got != code {
		t.Fatalf("%d where %d are allowed: %d, want %d", n+1, n, got, code)
	}
	if got := c.refusals(limit, s); got != before+1 {
		t.Errorf("the refusal is counted %d times", got-before)
	}
	if s != scopeAll {
		if got := take(other); got != wire.OK {
			t.Errorf("somebody else is refused with %d", got)
		}
	}
	free()
	if got := take(same); got != wire.OK {
		t.Errorf("after one is free again: %d", got)
	}
	if got := take(same); got != code {
		t.Errorf("after that one: %d, want %d", got, code)
	}
}

// inCrowd runs a test in a bubble with one cell set.
func inCrowd(t *testing.T, s scope, c cell, n int, test func(*testing.T, *crowd)) {
	t.Run(scopeNames[s]+"."+cellNames[c], func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			test(t, newCrowd(t, func(cfg *Config) { cfg.Limits.cell(s, c)(n) }))
		})
	})
}

func TestSessionLimits(t *testing.T) { // cases 52 and 53
	for s := range scopes {
		inCrowd(t, s, cellSessions, 3, func(t *testing.T, c *crowd) {
			var there []*guest
			checkCell(t, c, s, "sessions", 3, wire.OverLimit, func(w who) wire.Code {
				g, code := c.from(w.address).enter(w.app, w.user, wire.Role_ROLE_SEND)
				if code == wire.OK {
					there = append(there, g)
				}
				return code
			}, func() { there[0].leaves() })
			for _, g := range there {
				g.leaves()
			}
			if n := c.used(countSessions); n != 0 {
				t.Errorf("%d sessions are counted at the end", n)
			}
		})
	}
}

func TestLoginRates(t *testing.T) { // case 53
	for s := range scopes {
		inCrowd(t, s, cellLogins, 1, func(t *testing.T, c *crowd) {
			login := func(w who) wire.Code {
				g, code := c.from(w.address).enter(w.app, w.user, wire.Role_ROLE_SEND)
				if code == wire.OK {
					g.leaves()
				}
				return code
			}
			checkCell(t, c, s, "logins_per_second", 5, wire.OverLimit, login, func() { time.Sleep(time.Second) })
			time.Sleep(time.Minute)
			if n := c.srv.quota.users.size() + c.srv.quota.addresses.size(); n != 0 {
				t.Errorf("%d accounts are remembered for nothing", n)
			}
		})
	}
}

func TestCommandRates(t *testing.T) { // case 49
	for s := range scopes {
		inCrowd(t, s, cellCommands, 1, func(t *testing.T, c *crowd) {
			c.from("192.0.2.200")
			sinks := map[string]*guest{"app": c.comes("app", "sink", wire.Role_ROLE_LISTEN), "other": c.comes("other", "sink", wire.Role_ROLE_LISTEN)}
			senders := map[who]*guest{}
			checkCell(t, c, s, "commands_per_second", 5, wire.OverLimit, func(w who) wire.Code {
				if senders[w] == nil {
					senders[w] = c.from(w.address).comes(w.app, w.user, wire.Role_ROLE_SEND)
				}
				senders[w].send(commandTo("sink", 10))
				synctest.Wait()
				arrived := sinks[w.app].acksAll()
				codes := senders[w].codes()
				if len(codes) != 1 || (codes[0] == wire.OK) != (arrived == 1) {
					t.Fatalf("%d commands arrived, the results are %v", arrived, codes)
				}
				return codes[0]
			}, func() { time.Sleep(time.Second) })
		})
	}
}

// POSTs are charged like commands, and refused as problem documents.
func TestPostRates(t *testing.T) {
	for s := range scopes {
		inCrowd(t, s, cellCommands, 1, func(t *testing.T, c *crowd) {
			c.from("192.0.2.200")
			for _, app := range []string{"app", "other"} {
				sink := c.hello(listenHello(relayToken(t, app, "sink", time.Hour, nil, nil), 1))
				go func() {
					for f, err := sink.read(); err == nil; f, err = sink.read() {
						sink.send(ackFrame(&wire.CommandAck{Ref: f.GetCommand().GetRef(), Id: f.GetCommand().GetId(), Outcome: final}))
					}
				}()
			}
			checkCell(t, c, s, "commands_per_second", 5, wire.OverLimit, func(w who) wire.Code {
				resp, body := c.from(w.address).do("POST", "/v1/users/sink/commands", relayToken(t, w.app, w.user, time.Hour, nil, nil), nil)
				if resp.StatusCode == 200 {
					return wire.OK
				}
				wantProblem(t, resp, body, 503, wire.OverLimit)
				if resp.Header.Get("Retry-After") == "" {
					t.Error("no Retry-After")
				}
				return wire.OverLimit
			}, func() { time.Sleep(time.Second) })
		})
	}
}

// receivers are users that are sent offers, and take them if they have to.
type receivers struct {
	c      *crowd
	accept bool
	there  map[who]*guest
	offers []*wire.Offer // not answered, as the receivers have got them
	by     map[string]*guest
}

func (c *crowd) receivers(accept bool) *receivers {
	return &receivers{c: c, accept: accept, there: map[who]*guest{}, by: map[string]*guest{}}
}

// get returns a receiver of an app.
func (r *receivers) get(app, user string) *guest {
	at := who{app: app, user: user}
	if r.there[at] == nil {
		r.there[at] = r.c.from(fmt.Sprint("192.0.3.", len(r.there)%250+1)).comes(app, user, wire.Role_ROLE_LISTEN)
	}
	return r.there[at]
}

// settle lets the receivers see what has come.
func (r *receivers) settle() {
	for _, g := range r.there {
		for _, f := range g.take() {
			if o := f.GetOffer(); o != nil {
				r.by[o.Transfer] = g
				if r.offers = append(r.offers, o); r.accept {
					r.answer()
				}
			}
		}
	}
	synctest.Wait()
}

// answer accepts the oldest offer that has no answer.
func (r *receivers) answer() {
	o := r.offers[0]
	r.offers = r.offers[1:]
	r.by[o.Transfer].send(&wire.Frame{Body: &wire.Frame_Answer{Answer: &wire.Answer{
		Transfer: o.Transfer, Decision: wire.Decision_DECISION_ACCEPT}}})
	synctest.Wait()
}

// offering is the use that offers a file to a receiver, another one each time.
func offering(t *testing.T, c *crowd, r *receivers, sent *[]*sentOffer) use {
	senders, n := map[who]*guest{}, 0
	return func(w who) wire.Code {
		n++
		target := fmt.Sprint("receiver-", n)
		r.get(w.app, target)
		if senders[w] == nil {
			senders[w] = c.from(w.address).comes(w.app, w.user, wire.Role_ROLE_SEND)
		}
		o := &sentOffer{senders[w], offerTo(target)}
		codes := o.by.says(offerFrame(o.Offer))
		r.settle()
		if len(codes) > 0 {
			return codes[0]
		}
		*sent = append(*sent, o)
		return wire.OK
	}
}

type sentOffer struct {
	by *guest
	*wire.Offer
}

func (o *sentOffer) cancel() {
	codes := o.by.says(&wire.Frame{Body: &wire.Frame_Cancel{Cancel: &wire.Cancel{SendId: o.SendId}}})
	if !slices.Contains(codes, wire.Cancelled) {
		o.by.t.Errorf("the cancel gets %v", codes)
	}
}

func TestTransferLimits(t *testing.T) { // case 51
	for s := range scopes {
		inCrowd(t, s, cellTransfers, 4, func(t *testing.T, c *crowd) {
			r := c.receivers(true)
			var sent []*sentOffer
			checkCell(t, c, s, "transfers", 4, wire.OverLimit, offering(t, c, r, &sent), func() { sent[0].cancel() })
			for _, o := range sent[1:] {
				o.cancel()
			}
			if n, m := c.used(countTransfers), c.used(countQueued); n != 0 || m != 0 {
				t.Errorf("%d transfers and %d bytes are counted at the end", n, m)
			}
		})
	}
}

func TestOfferLimits(t *testing.T) { // case 51
	for s := range scopes {
		inCrowd(t, s, cellOffers, 4, func(t *testing.T, c *crowd) {
			r := c.receivers(false)
			var sent []*sentOffer
			checkCell(t, c, s, "offers", 4, wire.OverLimit, offering(t, c, r, &sent), r.answer)
			if n, m := c.used(countOffers), c.used(countTransfers); m != n+1 {
				t.Errorf("%d offers and %d transfers are counted, want one that was answered", n, m)
			}
			for _, o := range sent {
				o.cancel()
			}
			if n, m := c.used(countOffers), c.used(countQueued); n != 0 || m != 0 {
				t.Errorf("%d offers and %d bytes are counted at the end", n, m)
			}
		})
	}
}

// The receiver's row bounds what it is sent, and of that a sender has a quarter.
func TestReceiverIsNotFilledByOneSender(t *testing.T) { // case 51
	for _, of := range []struct {
		c      cell
		accept bool
	}{{cellTransfers, true}, {cellOffers, false}} {
		inCrowd(t, scopeUser, of.c, 8, func(t *testing.T, c *crowd) {
			r := c.receivers(of.accept)
			r.get("app", "bob")
			r.get("app", "carol")
			var first *sentOffer
			offer := func(from *guest, to string) wire.Code {
				o := &sentOffer{from, offerTo(to)}
				codes := from.says(offerFrame(o.Offer))
				r.settle()
				if len(codes) > 0 {
					return codes[0]
				}
				if first == nil {
					first = o
				}
				return wire.OK
			}
			senders := make([]*guest, 5)
			for i := range senders {
				senders[i] = c.sends(fmt.Sprint("sender-", i))
			}
			for i, g := range senders[:4] {
				for range 2 {
					if got := offer(g, "bob"); got != wire.OK {
						t.Fatalf("sender %d is refused within its quarter: %d", i, got)
					}
				}
				if got := offer(g, "bob"); got != wire.PeerBusy {
					t.Errorf("sender %d over its quarter: %d, want 602", i, got)
				}
			}
			if got := offer(senders[4], "bob"); got != wire.PeerBusy {
				t.Errorf("over bob's row: %d, want 602", got)
			}
			if got := offer(senders[0], "carol"); got != wire.OK {
				t.Errorf("to another receiver: %d", got)
			}
			first.cancel()
			if got := offer(senders[4], "bob"); got != wire.OK {
				t.Errorf("after one has ended: %d", got)
			}
		})
	}
}

// An offer counts for its receiver by what the server keeps of it, too: all of it
// goes out again when the receiver comes back.
func TestLargeOffersAreBounded(t *testing.T) {
	inCrowd(t, scopeUser, cellQueued, 1<<20, func(t *testing.T, c *crowd) {
		bob, mallory, alice := c.listens("bob"), c.sends("mallory"), c.sends("alice")
		offer := func(from *guest) []wire.Code {
			o := offerTo("bob")
			o.Meta, o.Header = make([]byte, wire.MetaBytes), make([]byte, wire.HeaderBytes)
			return from.says(offerFrame(o))
		}
		taken := 0
		for len(offer(mallory)) == 0 {
			taken++
		}
		if taken < 5 || taken > 8 {
			t.Errorf("%d offers of 8 KiB fit a quarter of a quarter of 1 MiB", taken)
		}
		if codes := offer(mallory); !slices.Equal(codes, []wire.Code{wire.PeerBusy}) {
			t.Errorf("the next one gets %v, want 602", codes)
		}
		if codes := offer(alice); len(codes) != 0 {
			t.Errorf("another sender gets %v", codes)
		}
		// All of them reach the receiver's next session, which lives.
		bob.leaves()
		again := c.listens("bob")
		time.Sleep(time.Second)
		if got := again.take(); len(got) != taken+1 || again.over() != nil {
			t.Errorf("%d offers reached the receiver that came back, want %d; %v", len(got), taken+1, again.over())
		}
	})
}

func TestCommandsWithoutResultAreBounded(t *testing.T) { // case 49
	const most = wire.MessageBytes / commandOverhead
	inCrowd(t, scopeUser, cellQueued, wire.MessageBytes, func(t *testing.T, c *crowd) {
		alice := c.sends("alice")
		var targets []*guest
		for i := range 8 {
			targets = append(targets, c.listens(fmt.Sprint("target-", i)))
		}
		for i := range most {
			alice.send(commandTo(fmt.Sprint("target-", i%8), 0))
		}
		if codes := alice.codes(); len(codes) != 0 {
			t.Fatalf("%d of %d were answered, the first with %d", len(codes), most, codes[0])
		}
		if codes := alice.says(commandTo("target-0", 0)); !slices.Equal(codes, []wire.Code{wire.OverLimit}) {
			t.Errorf("one more gets %v, want 1111", codes)
		}
		if n := c.refusals("queued_bytes", scopeUser); n != 1 {
			t.Errorf("counted %d times", n)
		}
		// The user's other sessions share it, others do not.
		if codes := c.sends("alice").says(commandTo("target-0", 0)); !slices.Equal(codes, []wire.Code{wire.OverLimit}) {
			t.Errorf("another session of the user gets %v, want 1111", codes)
		}
		if codes := c.sends("bob").says(commandTo("target-0", 0)); len(codes) != 0 {
			t.Errorf("another user gets %v", codes)
		}
		n := targets[0].acksAll()
		if codes := alice.codes(); occurs(codes, wire.OK) != n-1 {
			t.Errorf("%d results of %d", len(codes), n)
		}
		if codes := alice.says(commandTo("target-0", 0)); len(codes) != 0 {
			t.Errorf("after results it gets %v", codes)
		}
	})
}
