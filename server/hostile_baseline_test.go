package server

import (
	"runtime"
	"testing"

	"github.com/dian-im/dian/internal/wire"
)

// A baseline is a relay with two sessions that know nothing of the hostile ones
// beside them, and what it holds with these two alone.
type baseline struct {
	r          *testRelay
	alice, bob *testPeer
	goroutines int
	panics     string
}

func newBaseline(r *testRelay) *baseline {
	b := &baseline{r: r, alice: r.sender("calm-alice"), bob: r.listen("calm-bob")}
	b.command(r.t, "before anything")
	r.web.CloseIdleConnections()
	b.goroutines = runtime.NumGoroutine()
	b.panics = "0"
	return b
}

// command sends a command from one session to the other.
func (b *baseline) command(t testing.TB, when string) {
	t.Helper()
	id := wire.NewSendID()
	b.alice.send(commandFrame(&wire.Command{Id: id, Target: "calm-bob"}))
	c := b.bob.command()
	if c.Id != id {
		t.Fatalf("%s: the calm session got %v", when, c)
	}
	b.bob.send(ackFrame(&wire.CommandAck{Ref: c.Ref, Id: id, Outcome: final}))
	if got := b.alice.result(); got.Id != id || got.Code != 0 {
		t.Fatalf("%s: the calm session's result is %v", when, got)
	}
}

// check wants nothing to be left of what happened beside, and the calm sessions to
// work.
func (b *baseline) check(t testing.TB, when string) {
	t.Helper()
	b.command(t, when)
	s := b.r.srv
	eventually(t, func() bool {
		return len(s.all()) == 2 && s.quota.all.used[countSessions].Load() == 2 && s.quota.all.used[countEntering].Load() == 0
	})
	if got := b.r.counter("dian_panics_total"); got != b.panics {
		t.Fatalf("%s: dian_panics_total = %s", when, got)
	}
	b.r.web.CloseIdleConnections()
	may := b.goroutines
	if t != b.r.t {
		may++ // of the subtest
	}
	eventually(t, func() bool { return runtime.NumGoroutine() <= may })
}
