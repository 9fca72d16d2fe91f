package command

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"google.golang.org/protobuf/proto"

	"github.com/dian-im/dian/internal/wire"
)

// relay is a model of what docs/protocol.md §6 asks of a server, with one sender
// and one receiver: queues in order, and LOST for what a broken line leaves.
type relay struct {
	box *Sender
	in  *Receiver
	now time.Time

	senderUp, receiverUp bool
	up                   []*wire.Command          // sender → server
	down                 []*wire.Command          // server → receiver
	acks                 []*wire.CommandAck       // receiver → server
	results              []*wire.CommandResult    // server → sender
	pending              map[uint64]*wire.Command // by ref
	lastRef, logins      uint64

	queue     []*Incoming          // at the receiving application
	life      int                  // of the receiver
	delivered []map[string]int     // by life: id → how often
	order     [][]string           // by life
	ended     map[string]wire.Code // results
	ids       []string             // in sending order
	fail      func(string, ...any) // reports a broken promise
}

func newRelay(ackHandled bool, fail func(string, ...any)) *relay {
	stream := uint64(0)
	return &relay{
		box:     NewSender(time.Minute, func() uint64 { stream++; return stream }),
		in:      NewReceiver(ackHandled),
		now:     time.Unix(1_000_000, 0),
		pending: map[uint64]*wire.Command{}, ended: map[string]wire.Code{}, fail: fail,
		delivered: []map[string]int{{}}, order: [][]string{nil},
	}
}

func take(s *Sender) ([]*wire.Command, []Outcome) {
	var w Work
	s.Take(&w)
	return w.Frames, w.Outcomes
}

func (r *relay) collect() {
	frames, outcomes := take(r.box)
	if len(frames) > 0 && !r.senderUp {
		r.fail("%d frames without a session", len(frames))
	}
	for _, f := range frames {
		if err := wire.CheckCommand(f); err != nil {
			r.fail("sent a bad command: %v", err)
		}
		r.up = append(r.up, f)
	}
	for _, o := range outcomes {
		if code, twice := r.ended[o.Command.ID]; twice {
			r.fail("%s has two results, %v and %v", o.Command.ID, code, o.Code)
		}
		r.ended[o.Command.ID] = o.Code
		times := 0
		for _, life := range r.delivered {
			times += life[o.Command.ID]
		}
		switch o.Code {
		case wire.OK:
			if times != 1 {
				r.fail("%s has result 0 and was delivered %d times", o.Command.ID, times)
			}
		case wire.PeerNoAnswer, wire.ConnectionLost:
		default:
			if times != 0 {
				r.fail("%s has result %v and was delivered", o.Command.ID, o.Code)
			}
		}
	}
}

func (r *relay) send(wait time.Duration) {
	id := fmt.Sprintf("00000000-0000-7000-8000-%012d", len(r.ids))
	r.ids = append(r.ids, id)
	if !r.box.Add(r.now, &Outgoing{ID: id, Target: "bob", Data: []byte{1}, Wait: wait}) {
		r.ended[id] = wire.OverLimit
	}
	r.collect()
}

// step moves one frame, if there is one, and reports whether it did.
func (r *relay) step(way int) bool {
	switch way {
	case 0:
		if len(r.up) == 0 {
			return false
		}
		c := r.up[0]
		r.up = r.up[1:]
		if !r.receiverUp {
			r.answer(&wire.CommandResult{Id: c.Id, Outcome: wire.CommandOutcome_COMMAND_OUTCOME_FINAL,
				Code: uint32(wire.PeerOffline), Origin: wire.Origin_ORIGIN_SERVER})
			return true
		}
		r.lastRef++
		c.Ref, c.Source = r.lastRef, &wire.Peer{User: "alice"}
		r.pending[c.Ref] = c
		r.down = append(r.down, c)
	case 1:
		if len(r.down) == 0 {
			return false
		}
		c := r.down[0]
		r.down = r.down[1:]
		d, ack := r.in.Arrive(r.now, c)
		if d != nil {
			life := r.delivered[r.life]
			if life[d.ID]++; life[d.ID] > 1 {
				r.fail("%s delivered twice in one life", d.ID)
			}
			for _, before := range r.delivered[:r.life] {
				if before[d.ID] > 0 {
					r.fail("%s delivered again after a restart", d.ID)
				}
			}
			r.order[r.life] = append(r.order[r.life], d.ID)
			if !slices.IsSorted(r.order[r.life]) {
				r.fail("out of order: %v", r.order[r.life])
			}
			r.queue = append(r.queue, d)
		}
		if ack != nil {
			r.acks = append(r.acks, proto.CloneOf(ack)) // good until the next Arrive
		}
	case 2:
		if len(r.acks) == 0 {
			return false
		}
		a := r.acks[0]
		r.acks = r.acks[1:]
		if r.pending[a.Ref] == nil {
			return true
		}
		delete(r.pending, a.Ref)
		r.answer(&wire.CommandResult{Id: a.Id, Outcome: a.Outcome, Code: a.Code, Next: a.Next,
			Reply: a.Reply, Origin: wire.Origin_ORIGIN_PEER})
	case 3:
		if len(r.results) == 0 {
			return false
		}
		result := r.results[0]
		r.results = r.results[1:]
		r.box.Result(r.now, result)
		r.collect()
	case 4: // the application handles one
		if len(r.queue) == 0 {
			return false
		}
		d := r.queue[0]
		r.queue = r.queue[1:]
		if ack := r.in.Handled(d, wire.OK, []byte("reply"), ""); ack != nil && r.receiverUp {
			r.acks = append(r.acks, ack)
		}
	}
	return true
}

func (r *relay) answer(result *wire.CommandResult) {
	if r.senderUp {
		r.results = append(r.results, result)
	}
}

func (r *relay) cutSender() {
	r.senderUp = false
	r.up, r.results = nil, nil
	r.box.LineDown()
	r.collect()
}

func (r *relay) cutReceiver() {
	r.receiverUp = false
	r.down, r.acks = nil, nil
	for _, ref := range slices.Sorted(maps.Keys(r.pending)) {
		r.answer(&wire.CommandResult{Id: r.pending[ref].Id, Outcome: wire.CommandOutcome_COMMAND_OUTCOME_LOST})
	}
	clear(r.pending)
}

func (r *relay) connect() {
	if !r.senderUp {
		r.senderUp = true
		r.box.LineUp(r.now, r.moment())
		r.collect()
	}
	if !r.receiverUp {
		r.receiverUp = true
		r.in.LineUp(r.moment())
	}
}

// moment is of the next login.
func (r *relay) moment() *wire.Moment {
	r.logins++
	return &wire.Moment{Server: 1, Count: r.logins}
}

// restart gives the receiver a new life, without memory.
func (r *relay) restart() {
	r.cutReceiver()
	r.in = NewReceiver(r.in.ackHandled)
	r.queue = nil
	r.life++
	r.delivered = append(r.delivered, map[string]int{})
	r.order = append(r.order, nil)
}

func (r *relay) pass(d time.Duration) {
	r.now = r.now.Add(d)
	r.box.Tick(r.now)
	r.collect()
}

// settle runs until nothing moves.
func (r *relay) settle() {
	for moved := true; moved; {
		moved = false
		for way := range 5 {
			for r.step(way) {
				moved = true
			}
		}
	}
}

// Whatever breaks, commands arrive in order and once per life of the
// receiver, and each has one result that does not lie.
func TestCommandsArriveInOrderAndOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRelay(rapid.Bool().Draw(t, "ackHandled"), t.Fatalf)
		r.connect()
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			switch what := rapid.IntRange(0, 19).Draw(t, "what"); what {
			case 0:
				r.cutSender()
			case 1:
				r.cutReceiver()
			case 2:
				r.restart()
			case 3, 4:
				r.connect()
			case 5:
				r.pass(time.Duration(rapid.IntRange(1, 2000).Draw(t, "ms")) * time.Millisecond)
			case 6, 7, 8, 9:
				r.send(time.Duration(rapid.SampledFrom([]int{0, 0, 0, 5}).Draw(t, "wait")) * time.Second)
			default:
				r.step(what % 5)
			}
		}
		// In the end the lines hold and everything is settled well before its time.
		for range 20 {
			r.connect()
			r.settle()
			r.pass(time.Second)
		}
		r.settle()
		for _, id := range r.ids {
			if _, ok := r.ended[id]; !ok {
				t.Fatalf("%s has no result", id)
			}
		}
		if len(r.box.byID) != 0 || r.box.flying != 0 || r.box.flyingBytes != 0 || r.box.bytes != 0 || len(r.box.due) != 0 {
			t.Fatalf("Sender not empty: %d commands, %d flying, %d bytes", len(r.box.byID), r.box.flying, r.box.bytes)
		}
		if r.in.queued != 0 || r.in.queuedBytes != 0 {
			t.Fatalf("delivery queue not empty: %d, %d bytes", r.in.queued, r.in.queuedBytes)
		}
	})
}

func TestManyCommandsPassTheBoundsInFlight(t *testing.T) {
	r := newRelay(false, t.Fatalf)
	r.connect()
	const n = 3 * maxFlying
	for range n {
		r.send(0)
		if r.box.flying > maxFlying || r.box.streams["bob"].flying > maxFlyingTo {
			t.Fatalf("%d in flight", r.box.flying)
		}
	}
	r.settle()
	if got := len(r.order[0]); got != n {
		t.Errorf("%d delivered, want %d", got, n)
	}
}

func TestFullDeliveryQueueAnswersBusy(t *testing.T) {
	r := newRelay(false, t.Fatalf)
	r.connect()
	for range MaxQueued + 3 {
		r.send(0)
		for way := range 4 { // the application takes nothing
			for r.step(way) {
			}
		}
	}
	if code := r.ended[r.ids[MaxQueued]]; code != wire.PeerBusy {
		t.Errorf("result %v, want %v", code, wire.PeerBusy)
	}
	r.settle()
	r.send(0)
	r.settle()
	if code := r.ended[r.ids[len(r.ids)-1]]; code != wire.OK {
		t.Errorf("after the queue is empty: %v, want wire.OK", code)
	}
}

func TestOneTargetLeavesRoomForOthers(t *testing.T) {
	box := NewSender(time.Minute, func() uint64 { return 7 })
	now := time.Unix(0, 0)
	box.LineUp(now, nil)
	for i := range 2 * maxFlying {
		box.Add(now, &Outgoing{ID: fmt.Sprint(i), Target: "slow"})
	}
	take(box)
	box.Add(now, &Outgoing{ID: "other", Target: "quick"})
	if frames, _ := take(box); len(frames) != 1 || frames[0].Target != "quick" {
		t.Errorf("%d frames for the other target, want 1", len(frames))
	}
}

func TestCommandRunsOutOfTime(t *testing.T) {
	for _, c := range []struct {
		name     string
		up, peer bool
		wait     time.Duration
		after    time.Duration
		want     wire.Code
	}{
		{"no answer", true, true, 0, time.Minute, wire.PeerNoAnswer},
		{"never sent", false, false, 0, time.Minute, wire.ConnectionLost},
		{"peer stays away", true, false, 10 * time.Minute, 10 * time.Minute, wire.PeerOffline},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRelay(false, t.Fatalf)
			if c.up {
				r.connect()
			}
			if !c.peer {
				r.cutReceiver()
			}
			r.send(c.wait)
			start := r.now
			for len(r.ended) == 0 {
				if !c.peer {
					r.settle()
				}
				at, ok := r.box.Wake()
				if !ok {
					t.Fatal("nothing to wait for")
				}
				r.pass(at.Sub(r.now))
			}
			if got := r.ended[r.ids[0]]; got != c.want || r.now.Sub(start) != c.after {
				t.Errorf("result %v after %v, want %v after %v", got, r.now.Sub(start), c.want, c.after)
			}
		})
	}
}

func TestQueueOfCommandsIsBounded(t *testing.T) {
	box := NewSender(time.Minute, func() uint64 { return 7 })
	now := time.Unix(0, 0)
	big := make([]byte, 64<<10)
	taken := 0
	for i := 0; box.Add(now, &Outgoing{ID: fmt.Sprint(i), Target: "bob", Data: big}); i++ {
		taken++
	}
	if want := maxCommandBytes / len(big); taken != want {
		t.Errorf("%d taken, want %d", taken, want)
	}
	box.End(wire.Origin_ORIGIN_UNSPECIFIED, wire.NotLoggedIn, "")
	if _, outcomes := take(box); len(outcomes) != taken {
		t.Errorf("%d results, want %d", len(outcomes), taken)
	}
}

// A command whose fate is unknown and whose peer stays away gets its result, however
// often it is sent again.
func TestLostCommandToAPeerThatStaysAwayEnds(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	start := now
	box := NewSender(time.Minute, func() uint64 { return 7 })
	box.LineUp(now, nil)
	box.Add(now, &Outgoing{ID: "lost", Target: "bob", Wait: 10 * time.Minute})
	take(box)
	box.Result(now, &wire.CommandResult{Id: "lost", Outcome: wire.CommandOutcome_COMMAND_OUTCOME_LOST,
		Code: uint32(wire.PeerNoAnswer), Origin: wire.Origin_ORIGIN_SERVER})
	for range 1000 {
		frames, outcomes := take(box)
		if len(outcomes) == 1 {
			if took := now.Sub(start); outcomes[0].Code != wire.PeerNoAnswer || took > time.Minute {
				t.Errorf("result %v after %v, want %v after a minute at most", outcomes[0].Code, took, wire.PeerNoAnswer)
			}
			return
		}
		for range frames {
			box.Result(now, &wire.CommandResult{Id: "lost", Outcome: wire.CommandOutcome_COMMAND_OUTCOME_FINAL,
				Code: uint32(wire.PeerOffline), Origin: wire.Origin_ORIGIN_SERVER})
		}
		if at, ok := box.Wake(); ok {
			now = at
		}
		box.Tick(now)
	}
	t.Errorf("no result after %v", now.Sub(start))
}

// A frame in memory that is used again has nothing of the one before.
func TestFramesAreUsedAgain(t *testing.T) {
	now := time.Unix(0, 0)
	box := NewSender(time.Minute, func() uint64 { return 7 })
	var w Work
	next := func() *wire.Command {
		w.Clear()
		box.Take(&w)
		if len(w.Frames) != 1 {
			t.Fatalf("%d frames, want 1", len(w.Frames))
		}
		return w.Frames[0]
	}
	box.LineUp(now, &wire.Moment{Server: 1, Count: 1})
	box.Add(now, &Outgoing{ID: "first", Target: "bob", Data: []byte("x"), Meta: []byte("m")})
	next()
	for range 2 { // the two Works change places
		box.LineDown()
		box.LineUp(now, &wire.Moment{Server: 1, Count: 2})
		if f := next(); !f.Resent || f.Since == nil || string(f.Data) != "x" {
			t.Errorf("sent again as %v", f)
		}
	}
	box.Add(now, &Outgoing{ID: "second", Target: "carol"})
	if f := next(); f.Id != "second" || f.Resent || f.Since != nil || f.Data != nil || f.Meta != nil {
		t.Errorf("sent as %v", f)
	}
}
