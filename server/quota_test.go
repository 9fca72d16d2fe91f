package server

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/dian-im/dian/internal/memnet"
	"github.com/dian-im/dian/internal/wire"
)

// bubble runs a test with a crowd in a bubble.
func bubble(t *testing.T, change func(*Config), test func(*testing.T, *crowd)) {
	synctest.Test(t, func(t *testing.T) {
		if change == nil {
			change = func(*Config) {}
		}
		test(t, newCrowd(t, change))
	})
}

func TestIPv6IsCountedByNetwork(t *testing.T) {
	bubble(t, func(c *Config) { c.Limits.Address.Sessions = 1 }, func(t *testing.T, c *crowd) {
		c.from("2001:db8:1:2::1").sends("a")
		if _, code := c.from("2001:db8:1:2:ffff::9").enter("app", "b", wire.Role_ROLE_SEND); code != wire.OverLimit {
			t.Errorf("another address of the /64: %d, want 1111", code)
		}
		c.from("2001:db8:1:3::1").sends("c")
	})
}

func TestSharedAddressesHaveNoRow(t *testing.T) {
	change := func(c *Config) {
		c.Limits.Address = Limit{Sessions: 2, LoginsPerSecond: 1, CommandsPerSecond: 1}
		c.Limits.SharedAddresses = []string{"198.51.100.0/24"}
	}
	bubble(t, change, func(t *testing.T, c *crowd) {
		c.from("198.51.100.7")
		sink := c.listens("sink")
		for i := range 40 {
			g := c.sends(fmt.Sprint("user-", i))
			if codes := g.says(commandTo("sink", 0)); len(codes) != 0 {
				t.Fatalf("command %d gets %v", i, codes)
			}
		}
		if n := sink.acksAll(); n != 40 {
			t.Errorf("%d commands arrived", n)
		}
		for range 2 {
			c.from("192.0.2.9").sends("elsewhere")
		}
		if _, code := c.enter("app", "elsewhere", wire.Role_ROLE_SEND); code != wire.OverLimit {
			t.Errorf("another address has no row either: %d", code)
		}
	})
}

// A session that comes back before its old line is missed needs no free place.
func TestReplacedSessionNeedsNoFreePlace(t *testing.T) {
	change := func(c *Config) {
		one := Limit{Sessions: 1}
		c.Limits = Limits{All: one, App: one, Address: one, User: one}
	}
	bubble(t, change, func(t *testing.T, c *crowd) {
		for range 5 {
			c.listens("alice")
		}
		if n := c.used(countSessions); n != 1 {
			t.Errorf("%d sessions are counted", n)
		}
		if _, code := c.enter("app", "alice", wire.Role_ROLE_SEND); code != wire.OverLimit {
			t.Errorf("one beside it: %d, want 1111", code)
		}
		if _, code := c.enter("app", "bob", wire.Role_ROLE_LISTEN); code != wire.OverLimit {
			t.Errorf("another user: %d, want 1111", code)
		}
	})
}

// A few addresses that flood do not shut out one that comes once.
func TestQuietAddressesLogInDuringAFlood(t *testing.T) { // cases 52 and 53
	bubble(t, func(c *Config) { c.Limits.All.LoginsPerSecond = 8 }, func(t *testing.T, c *crowd) {
		flood := func() (in int) {
			for i := range 100 {
				c.from(fmt.Sprintf("198.51.100.%d", i%4+1))
				if g, code := c.enter("app", fmt.Sprint("m", i), wire.Role_ROLE_SEND); code == wire.OK {
					g.leaves()
					in++
				}
			}
			return in
		}
		if in := flood(); in < 30 || in > 34 {
			t.Errorf("the flood gets %d of 40 logins in", in)
		}
		for i := range 5 {
			c.from(fmt.Sprintf("203.0.113.%d", i+1)).sends(fmt.Sprint("quiet-", i))
		}
		time.Sleep(time.Second)
		flood()
		c.from("203.0.113.9").sends("quiet")
	})
}

// badlySigned is a token with another signature.
func badlySigned(token string) string {
	end := "AAAAAA"
	if strings.HasSuffix(token, end) {
		end = "BBBBBB"
	}
	return token[:len(token)-len(end)] + end
}

// Bad tokens use up an address's logins, so that a flood of signatures to check is
// refused unchecked; good ones cost nothing.
func TestBadTokensUseUpTheAddress(t *testing.T) { // case 53
	bubble(t, func(c *Config) { c.Limits.Address.LoginsPerSecond = 1 }, func(t *testing.T, c *crowd) {
		get := func(token string) (*http.Response, string) {
			return c.do("GET", "/v1/users/bob", token, nil)
		}
		c.from("198.51.100.1")
		for range 20 {
			if resp, body := get(c.token("alice")); resp.StatusCode != 200 {
				t.Fatalf("a good token: %d %s", resp.StatusCode, body)
			}
		}
		for range 5 {
			resp, body := get(badlySigned(c.token("alice")))
			wantProblem(t, resp, body, http.StatusUnauthorized, wire.TokenRefused)
		}
		for _, token := range []string{badlySigned(c.token("alice")), c.token("alice")} {
			resp, body := get(token)
			wantProblem(t, resp, body, http.StatusServiceUnavailable, wire.OverLimit)
		}
		if resp, body := c.from("198.51.100.2").do("GET", "/v1/users/bob", c.token("alice"), nil); resp.StatusCode != 200 {
			t.Errorf("from another address: %d %s", resp.StatusCode, body)
		}
		time.Sleep(time.Second)
		if resp, _ := c.from("198.51.100.1").do("GET", "/v1/users/bob", c.token("alice"), nil); resp.StatusCode != 200 {
			t.Errorf("a second later: %d", resp.StatusCode)
		}
	})
}

// Who is there can be asked for ten times more slowly than commands can be sent,
// and when that is over commands to those who are there tell nothing either.
func TestProbesAreLimited(t *testing.T) { // case 38
	const rate = 20 // 100 at once: 10 questions
	ask := map[string]func(*guest, string) *wire.Frame{
		"command":  func(_ *guest, user string) *wire.Frame { return commandTo(user, 0) },
		"offer":    func(_ *guest, user string) *wire.Frame { return offerFrame(offerTo(user)) },
		"presence": func(_ *guest, user string) *wire.Frame { return query(1, user) },
	}
	for name, frame := range ask {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(c *Config) { c.Limits.User.CommandsPerSecond = rate }, func(t *testing.T, c *crowd) {
				there := c.listens("there")
				g := c.sends("prober")
				told := 0
				for i := range 1000 {
					codes := g.says(frame(g, fmt.Sprint("nobody-", i)))
					if name != "offer" && slices.Equal(codes, []wire.Code{wire.OverLimit}) {
						break
					}
					told++
					if time.Sleep(0); name == "offer" && told == 60 {
						break
					}
				}
				if name != "offer" && (told < 9 || told > 11) {
					t.Errorf("%d were told, want 10 of a burst", told)
				}
				if name == "command" {
					if codes := g.says(commandTo("there", 0)); !slices.Equal(codes, []wire.Code{wire.OverLimit}) || there.acksAll() != 0 {
						t.Errorf("a command to somebody who is there gets %v, want 1111", codes)
					}
				}
				if codes := c.sends("another").says(frame(nil, "nobody")); occurs(codes, wire.OverLimit) != 0 {
					t.Errorf("another user gets %v", codes)
				}
			})
		})
	}
}

// Offers cannot be refused for their rate alone: their sender is read more slowly.
func TestOffersOverTheRateAreReadSlowly(t *testing.T) { // case 38
	bubble(t, func(c *Config) { c.Limits.User.CommandsPerSecond = 20 }, func(t *testing.T, c *crowd) {
		g := c.sends("prober")
		start := time.Now()
		const n = 30 // 300 questions' worth at 20 a second, of which 100 at once
		for i := range n {
			g.send(offerFrame(offerTo(fmt.Sprint("nobody-", i))))
		}
		told := 0
		for told < n && time.Since(start) < time.Minute {
			time.Sleep(10 * time.Millisecond)
			told += occurs(g.codes(), wire.PeerOffline)
		}
		// A wait is 250 ms at most, so that the line is not taken for dead.
		if took := time.Since(start); told != n || took < 4*time.Second || took > 15*time.Second {
			t.Errorf("%d of %d offers were answered within %v, want all, not before 4s", told, n, took)
		}
	})
}

func TestRequestsAtATimeAreBounded(t *testing.T) {
	bubble(t, func(c *Config) { c.Limits.User.Transfers = 2 }, func(t *testing.T, c *crowd) {
		c.listens("bob") // who answers nothing
		done := make(chan int, 10)
		post := func(user string) {
			go func() {
				resp, _ := c.do("POST", "/v1/users/bob/commands", c.token(user), nil)
				done <- resp.StatusCode
			}()
			synctest.Wait()
		}
		for range 4 {
			post("alice")
		}
		if len(done) != 0 {
			t.Fatalf("%d requests were answered", len(done))
		}
		resp, body := c.do("POST", "/v1/users/bob/commands", c.token("alice"), nil)
		wantProblem(t, resp, body, http.StatusServiceUnavailable, wire.OverLimit)
		if c.refusals("requests", scopeUser) != 1 {
			t.Error("the refusal is not counted")
		}
		post("carol")
		if len(done) != 0 {
			t.Error("another user is refused")
		}
		time.Sleep(time.Minute) // 604
		for range 5 {
			if status := <-done; status != 422 {
				t.Errorf("status %d, want 422", status)
			}
		}
		if n := c.used(countRequests); n != 0 {
			t.Errorf("%d requests are counted at the end", n)
		}
		if n := c.used(countQueued); n != 0 {
			t.Errorf("%d bytes are counted at the end", n)
		}
	})
}

// A body counts before it has come.
func TestPostedBodiesAreBounded(t *testing.T) {
	bubble(t, func(c *Config) { c.Limits.User.QueuedBytes = wire.MessageBytes }, func(t *testing.T, c *crowd) {
		c.listens("bob")
		done := make(chan int, 10)
		slow := func() {
			pr, pw := io.Pipe()
			t.Cleanup(func() { pw.Close() })
			go func() {
				resp, _ := c.do("POST", "/v1/users/bob/commands", c.token("alice"), pr) // of unknown length
				done <- resp.StatusCode
			}()
			synctest.Wait()
		}
		for range 4 { // 4 · 64.25 KiB of 288
			slow()
		}
		if len(done) != 0 {
			t.Fatalf("%d requests were answered", len(done))
		}
		resp, body := c.do("POST", "/v1/users/bob/commands", c.token("alice"), strings.NewReader(strings.Repeat("x", 40<<10)))
		wantProblem(t, resp, body, http.StatusServiceUnavailable, wire.OverLimit)
		time.Sleep(time.Minute)
		if n := c.used(countQueued); n != 0 {
			t.Errorf("%d bytes are counted at the end", n)
		}
	})
}

// When a shared row is full the longest queue is ended, whoever fills it.
func TestLongestQueueIsEndedWhenARowIsFull(t *testing.T) { // cases 45, 46 and 49
	for _, s := range []scope{scopeAll, scopeApp, scopeAddress} {
		inCrowd(t, s, cellQueued, 4<<20, func(t *testing.T, c *crowd) {
			var slow []*guest
			for i := range 6 {
				g := c.listens(fmt.Sprint("slow-", i))
				g.conn.NetConn().(*memnet.Conn).StallReads()
				slow = append(slow, g)
			}
			healthy, sender := c.listens("healthy"), c.sends("sender")
			var elsewhere *guest // has a longer queue, but fills another row
			switch s {
			case scopeApp:
				elsewhere = c.comes("other", "elsewhere", wire.Role_ROLE_LISTEN)
			case scopeAddress:
				elsewhere = c.from("203.0.113.1").listens("elsewhere")
			}
			most := int64(0)
			before := int64(0)
			flood := func(app, user string, n int) {
				from := c.comes(app, "to-"+user, wire.Role_ROLE_SEND)
				for range n {
					from.send(commandTo(user, wire.CommandBytes))
					synctest.Wait()
					most = max(most, c.srv.quota.all.used[countQueued].Load()-before)
				}
			}
			if elsewhere != nil {
				elsewhere.conn.NetConn().(*memnet.Conn).StallReads()
				flood(elsewhere.app, "elsewhere", 40) // 2.5 MB
				most, before = 0, c.used(countQueued)
				if before < 2<<20 {
					t.Errorf("%d bytes wait elsewhere", before)
				}
				c.from("192.0.2.1")
			}
			flood("app", "slow-0", 30) // 2 MB
			for i := range 5 {
				flood("app", fmt.Sprint("slow-", i+1), 10)
			}
			if limit := int64(4<<20) / 4 * 5; most > limit {
				t.Errorf("%d bytes were queued, want at most %d", most, limit)
			}
			if c.srv.listener("app", "slow-0") != nil {
				t.Error("the session with the longest queue lives")
			}
			if elsewhere != nil && c.srv.listener(elsewhere.app, "elsewhere") == nil {
				t.Error("a session that fills another row was ended")
			}
			lives := 0
			for i := range 6 {
				if c.srv.listener("app", fmt.Sprint("slow-", i)) != nil {
					lives++
				}
			}
			if lives < 4 {
				t.Errorf("%d of 6 slow sessions live, want those with short queues", lives)
			}
			if codes := sender.says(commandTo("healthy", wire.CommandBytes)); len(codes) != 0 || healthy.acksAll() != 1 {
				t.Errorf("a healthy pair beside them gets %v", codes)
			}
			if c.refusals("queued_bytes", s) == 0 {
				t.Error("it is not counted")
			}
			for _, g := range slow {
				g.leaves()
			}
			if elsewhere != nil {
				elsewhere.leaves()
			}
			time.Sleep(time.Minute)
			if n := c.used(countQueued); n != 0 {
				t.Errorf("%d bytes are counted at the end", n)
			}
		})
	}
}

func TestSubscriptionsOfAllAreBounded(t *testing.T) {
	bubble(t, func(c *Config) { c.Limits.User.QueuedBytes = 1 << 20 }, func(t *testing.T, c *crowd) {
		names := func(prefix string) (list []string) {
			for i := range 200 {
				list = append(list, fmt.Sprint(prefix, i, strings.Repeat("x", 90)))
			}
			return list
		}
		one, two := c.sends("alice"), c.sends("alice")
		taken := 0
		for ; taken < 50; taken++ {
			g := []*guest{one, two}[taken%2]
			if codes := g.says(subscribe(1, false, names(fmt.Sprint(taken, "-"))...)); occurs(codes, wire.OverLimit) > 0 {
				break
			}
		}
		if taken < 4 || taken > 6 { // 200 · 255 bytes, of 256 KiB
			t.Errorf("%d subscriptions were taken, want 5", taken)
		}
		if codes := c.sends("bob").says(subscribe(1, false, names("b")...)); occurs(codes, wire.OK) == 0 {
			t.Errorf("another user gets %v", codes)
		}
		one.send(subscribe(2, true, names("0-")...))
		synctest.Wait()
		if codes := two.says(subscribe(3, false, names("z")...)); occurs(codes, wire.OK) == 0 {
			t.Errorf("after one has ended: %v", codes)
		}
		one.leaves()
		two.leaves()
		c.ln.CutAll()
		time.Sleep(time.Minute)
		if n := c.used(countWatched); n != 0 {
			t.Errorf("%d bytes are counted at the end", n)
		}
	})
}

// Many who take what they can leave room for the others.
func TestSharedRowsAreShared(t *testing.T) {
	bubble(t, func(c *Config) {
		c.Limits.All.Offers, c.Limits.User.Offers = 800, 100
	}, func(t *testing.T, c *crowd) {
		r := c.receivers(false)
		var sent []*sentOffer
		offer := offering(t, c, r, &sent)
		for i := range 60 {
			taken := 0
			for offer(who{"app", fmt.Sprint("greedy-", i), "198.51.100.1"}) == wire.OK {
				taken++
			}
			if i < 6 && taken != 100 || i >= 6 && taken > 1+200/modest {
				t.Errorf("user %d gets %d", i, taken)
			}
		}
		if free := 800 - c.used(countOffers); free > 100 || free < 20 {
			t.Errorf("%d are free, want some of the last 200", free)
		}
		for i := range 20 {
			if got := offer(who{"app", fmt.Sprint("modest-", i), "198.51.100.1"}); got != wire.OK {
				t.Errorf("somebody who wants one gets %d", got)
			}
		}
	})
}

// Reload applies to sessions that are there, and cuts nothing.
func TestReloadAppliesLimitsToRunningSessions(t *testing.T) {
	bubble(t, nil, func(t *testing.T, c *crowd) {
		bob, alice := c.listens("bob"), c.sends("alice")
		r := c.receivers(true)
		var sent []*sentOffer
		offer := offering(t, c, r, &sent)
		for range 3 {
			if got := offer(who{"app", "carol", "198.51.100.1"}); got != wire.OK {
				t.Fatal(got)
			}
		}
		for range 20 {
			alice.says(commandTo("bob", 10))
		}
		bob.acksAll()
		next := relayConfig()
		next.Limits.User = Limit{CommandsPerSecond: 1, Sessions: 1, Transfers: 2, QueuedBytes: wire.MessageBytes}
		next.Limits.Address.Sessions = 2
		next.TrustedProxies = []string{"192.0.2.9"}
		if err := c.srv.Reload(next); err != nil {
			t.Fatal(err)
		}
		for _, g := range []*guest{alice, bob} {
			if g.over() != nil {
				t.Errorf("%s was cut: %v", g.user, g.over())
			}
		}
		alice.take()
		codes := []wire.Code{}
		for range 10 {
			codes = append(codes, alice.says(commandTo("bob", 10))...)
			bob.acksAll()
		}
		time.Sleep(time.Second)
		codes = append(codes, alice.codes()...)
		if ok := occurs(codes, wire.OK); ok > 6 || ok+occurs(codes, wire.OverLimit) != 10 {
			t.Errorf("the new rate gives %v", codes)
		}
		if got := offer(who{"app", "carol", "198.51.100.1"}); got != wire.OverLimit {
			t.Errorf("a transfer over the new limit: %d", got)
		}
		if n := c.used(countTransfers); n != 3 {
			t.Errorf("%d transfers are open, want the 3 from before", n)
		}
		sent[0].cancel()
		sent[1].cancel()
		if got := offer(who{"app", "carol", "198.51.100.1"}); got != wire.OK {
			t.Errorf("below the new limit: %d", got)
		}
		if _, code := c.from("192.0.2.1").enter("app", "dave", wire.Role_ROLE_SEND); code != wire.OverLimit {
			t.Errorf("a session over the new limit of the address: %d", code)
		}
		if err := c.srv.Reload(relayConfig()); err != nil {
			t.Fatal(err)
		}
		c.sends("dave")
		bad := relayConfig()
		bad.Limits.User.Sessions = -1
		if err := c.srv.Reload(bad); err == nil {
			t.Error("a bad limit was taken")
		}
		c.sends("dave")
	})
}

// Behind a trusted proxy a client is counted for itself, whatever it says.
func TestProxiedClientsAreCountedForThemselves(t *testing.T) {
	change := func(c *Config) {
		c.Limits.Address.Sessions = 1
		c.TrustedProxies = []string{"10.0.0.1"}
	}
	bubble(t, change, func(t *testing.T, c *crowd) {
		enter := func(from, user string, header http.Header) wire.Code {
			c.from(from)
			d := websocket.Dialer{NetDialContext: c.ln.DialContext, Subprotocols: []string{wire.ProtoSubprotocol}}
			conn, _, err := d.Dial("ws://relay.example/v1/session", header)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			p := &testPeer{t: t, conn: conn}
			p.send(helloFrame(sendHello(c.token(user))))
			f := p.next()
			return wire.Code(f.GetLineOff().GetCode())
		}
		xff := func(text string) http.Header { return http.Header{"X-Forwarded-For": {text}} }
		if got := enter("10.0.0.1", "a", xff("203.0.113.1")); got != 0 {
			t.Errorf("the first client: %d", got)
		}
		if got := enter("10.0.0.1", "b", xff("198.51.100.9, 203.0.113.1")); got != wire.OverLimit {
			t.Errorf("the same client with another story: %d, want 1111", got)
		}
		if got := enter("10.0.0.1", "b", xff("203.0.113.2")); got != 0 {
			t.Errorf("another client: %d", got)
		}
		if got := enter("203.0.113.3", "c", xff("203.0.113.4")); got != 0 {
			t.Errorf("a client of its own: %d", got)
		}
		if got := enter("203.0.113.3", "d", xff("203.0.113.5")); got != wire.OverLimit {
			t.Errorf("a client that forges the header: %d, want 1111", got)
		}
		if got := c.srv.all(); len(got) != 3 {
			t.Fatalf("%d sessions", len(got))
		}
		for _, sess := range c.srv.all() {
			if want := map[string]string{"a": "203.0.113.1", "b": "203.0.113.2", "c": "203.0.113.3"}[sess.user]; sess.address != want {
				t.Errorf("%s comes from %v, want %s", sess.user, sess.address, want)
			}
		}
	})
}

// Ends are remembered for the resume window, but not more of them than there may be
// transfers.
func TestRememberedEndsAreBounded(t *testing.T) { // case 51
	bubble(t, func(c *Config) { c.Limits.All.Transfers = 8 }, func(t *testing.T, c *crowd) {
		r := c.receivers(true)
		var sent []*sentOffer
		offer := offering(t, c, r, &sent)
		ts := c.srv.transfers
		for i := range 40 {
			if got := offer(who{"app", fmt.Sprint("user-", i%10), "198.51.100.1"}); got != wire.OK {
				t.Fatal(got)
			}
			sent[i].cancel()
			ts.mu.Lock()
			counted := 0
			for _, e := range ts.ended {
				counted += len(e.list)
			}
			if ts.ends > 8 || counted != ts.ends || len(ts.table) != ts.ends || len(ts.ids) != ts.ends {
				t.Errorf("%d ends are counted, %d listed, %d in the table, %d by id", ts.ends, counted, len(ts.table), len(ts.ids))
			}
			ts.mu.Unlock()
			time.Sleep(time.Second)
		}
		ts.mu.Lock()
		if ts.ends < 3 {
			t.Errorf("%d ends are remembered", ts.ends)
		}
		ts.mu.Unlock()
		time.Sleep(3 * time.Minute)
		ts.mu.Lock()
		defer ts.mu.Unlock()
		if ts.ends != 0 || len(ts.table) != 0 {
			t.Errorf("%d ends are remembered for ever", ts.ends)
		}
	})
}
