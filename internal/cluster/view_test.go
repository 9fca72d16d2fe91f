package cluster

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var start = time.Unix(1_800_000_000, 0)

func user(name string, epoch uint64) *User {
	return &User{App: "app", User: name, Instance: []byte("0123456789abcdef"), Epoch: epoch}
}

// say has a node say something, in the next packet to everybody.
type speaker struct {
	t      *testing.T
	v      *View
	id     NodeID
	number uint64
	now    time.Time
}

func (s *speaker) all(u *Users) *Effects {
	s.t.Helper()
	s.number++
	var e Effects
	if s.v.Heard(s.now, s.id, true, s.number, &e) && u != nil {
		s.v.Users(s.id, u, &e)
	}
	return &e
}

// answer gives what a Resync asks for.
func (s *speaker) answer(users ...*User) *Effects {
	s.t.Helper()
	var e Effects
	s.v.Users(s.id, &Users{Page: 1, Last: true, Nonce: s.v.Asked(s.id), Users: users}, &e)
	return &e
}

func newSpeaker(t *testing.T, v *View, id NodeID) *speaker {
	return &speaker{t: t, v: v, id: id, number: 41, now: start} // it has been there before us
}

// A new node is asked for everybody, and again until it has answered; nothing of it counts
// before, because it may be a recording.
func TestNewNodeIsAsked(t *testing.T) {
	v := NewView(1, start)
	n := newSpeaker(t, v, 2)
	e := n.all(&Users{Users: []*User{user("bob", 5)}})
	if fmt.Sprint(e.New, e.Resync, e.Came) != "[0000000000000002] [0000000000000002] []" {
		t.Errorf("at first: %+v", e)
	}
	if v.Proven(2) {
		t.Error("it counts before it has answered")
	}
	n.now = n.now.Add(time.Second)
	if e = n.all(nil); len(e.Resync) != 0 {
		t.Error("it is asked again after a second")
	}
	n.now = n.now.Add(2 * time.Second)
	if e = n.all(nil); len(e.Resync) != 1 {
		t.Error("it is not asked again after 3 s")
	}
	var wrong Effects
	v.Users(2, &Users{Page: 1, Last: true, Nonce: 12345, Users: []*User{user("bob", 5)}}, &wrong)
	if v.Proven(2) || len(wrong.Changed) > 0 {
		t.Error("an answer with another nonce counts")
	}
	if e = n.answer(user("bob", 5)); len(e.Came) != 1 || !v.Proven(2) {
		t.Errorf("its answer: %+v", e)
	}
	if at, s := v.Find(Place{"app", "bob"}); at == nil || at.ID != 2 || s.Epoch != 5 {
		t.Errorf("bob is at %v, %+v", at, s)
	}
}

func TestLostPacketToAllAsksAgain(t *testing.T) {
	v := NewView(1, start)
	n := newSpeaker(t, v, 2)
	n.all(nil)
	n.answer(user("bob", 5), user("carol", 6))
	n.number++ // bob's logout, which is lost
	if e := n.all(nil); len(e.Resync) != 1 || len(e.Broken) != 0 {
		t.Fatalf("after a gap: %+v", e)
	}
	if e := n.answer(user("carol", 6)); fmt.Sprint(e.Changed) != "[{app bob}]" {
		t.Errorf("changed: %v", e.Changed)
	}
	if at, _ := v.Find(Place{"app", "bob"}); at != nil {
		t.Error("bob is still there")
	}
}

// Pages count together or not at all.
func TestAnswerWithAMissingPageIsNone(t *testing.T) {
	v := NewView(1, start)
	n := newSpeaker(t, v, 2)
	n.all(nil)
	nonce := v.Asked(2)
	var e Effects
	v.Users(2, &Users{Page: 1, Nonce: nonce, Users: []*User{user("a", 1)}}, &e)
	v.Users(2, &Users{Page: 3, Last: true, Nonce: nonce, Users: []*User{user("c", 1)}}, &e)
	if v.Proven(2) || len(e.Changed) > 0 {
		t.Fatalf("without page 2: %+v", e)
	}
	for page, name := range []string{"a", "b", "c"} {
		v.Users(2, &Users{Page: uint32(page + 1), Last: name == "c", Nonce: nonce, Users: []*User{user(name, 1)}}, &e)
	}
	if !v.Proven(2) || len(e.Came) != 3 {
		t.Errorf("with all: %+v", e)
	}
}

// A packet to us that is missing breaks the line, whether another follows, a beat tells of
// it, or its node had given us up in between. A repeated one is ignored.
func TestLostPacketToUsBreaksTheLine(t *testing.T) {
	v := NewView(1, start)
	heard := func(number uint64) (bool, bool) {
		var e Effects
		counts := v.Heard(start, 2, false, number, &e)
		return counts, len(e.Broken) > 0
	}
	for _, c := range []struct {
		number         uint64
		counts, breaks bool
	}{
		{1, true, false}, {2, true, false}, {2, false, false}, {1, false, false}, {4, true, true}, {3, false, false}, {5, true, false},
		{FirstNumber(1) + 1, true, true}, {6, false, false}, {FirstNumber(1) + 2, true, false},
	} {
		if counts, breaks := heard(c.number); counts != c.counts || breaks != c.breaks {
			t.Errorf("%d: counts %v, breaks %v", c.number, counts, breaks)
		}
	}
	for _, c := range []struct {
		told   uint64
		breaks bool
	}{{FirstNumber(1) + 2, false}, {FirstNumber(1) + 3, true}, {FirstNumber(1) + 3, false}} {
		var e Effects
		v.Beat(2, true, &Beat{Lines: []*Line{{Node: 7, Number: 1 << 62}, {Node: 1, Number: c.told}}}, &e)
		if breaks := len(e.Broken) > 0; breaks != c.breaks {
			t.Errorf("a beat with %d: breaks %v", c.told, breaks)
		}
	}
}

func TestSilentNodeIsGone(t *testing.T) {
	v := NewView(1, start)
	a, b := newSpeaker(t, v, 2), newSpeaker(t, v, 3)
	a.all(nil)
	b.all(nil)
	a.answer(user("bob", 5), user("carol", 1))
	b.answer(user("bob", 4)) // an older one
	now := start
	for range 6 {
		now = now.Add(BeatEvery)
		b.now = now
		b.all(nil)
		var e Effects
		if v.Tick(now, &e) {
			t.Fatal("a pause, where none is")
		}
		if now.Sub(start) <= SilentAfter {
			if len(e.Lost) > 0 {
				t.Fatalf("lost after %v", now.Sub(start))
			}
			continue
		}
		if fmt.Sprint(e.Lost, e.Changed) != "[0000000000000002] [{app bob} {app carol}]" {
			t.Errorf("after %v: %+v", now.Sub(start), e)
		}
	}
	if at, _ := v.Find(Place{"app", "bob"}); at == nil || at.ID != 3 {
		t.Error("bob's other session is not found")
	}
	if at, _ := v.Find(Place{"app", "carol"}); at != nil {
		t.Error("carol is still there")
	}
}

// Who has stood still himself gives nobody up, and asks everybody.
func TestPauseIsNobodyElsesFault(t *testing.T) {
	v := NewView(1, start)
	n := newSpeaker(t, v, 2)
	n.all(nil)
	n.answer(user("bob", 5))
	var e Effects
	if !v.Tick(start.Add(time.Minute), &e) {
		t.Error("a minute is no pause")
	}
	if len(e.Lost) > 0 || len(e.Resync) != 1 {
		t.Errorf("after it: %+v", e)
	}
	var later Effects
	v.Tick(start.Add(time.Minute+SilentAfter), &later)
	if len(later.Lost) > 0 {
		t.Error("given up too early")
	}
}

// A node that hears us names us in its beats. One that has stopped to do so is gone, and
// comes back with its next answer; a new one, which may not have heard us yet, is not.
func TestNodeThatDoesNotHearUsIsGone(t *testing.T) {
	v := NewView(1, start)
	n := newSpeaker(t, v, 2)
	beat := func(toAll bool, lines ...*Line) *Effects {
		e := n.all(nil)
		v.Beat(2, toAll, &Beat{Lines: lines}, e)
		return e
	}
	us, other := &Line{Node: 1, Number: 0}, &Line{Node: 3, Number: 9}
	for range deafAfter + 1 {
		if e := beat(true, other); len(e.Lost) > 0 {
			t.Fatal("gone before it has answered")
		}
	}
	n.answer(user("bob", 5))
	for range 3 {
		for range deafAfter - 1 {
			if e := beat(true, other); len(e.Lost) > 0 {
				t.Fatal("gone too early")
			}
		}
		beat(true, other, us)
	}
	for range deafAfter {
		if e := beat(true, other); len(e.Lost) > 0 {
			t.Fatal("gone although it has answered")
		}
		beat(false) // where it is: said before an answer, and names nobody
	}
	n.answer(user("bob", 5))
	for range deafAfter - 1 {
		beat(true, other)
	}
	e := beat(true, other)
	if fmt.Sprint(e.Lost, e.Deaf, e.Changed) != "[0000000000000002] [0000000000000002] [{app bob}]" {
		t.Fatalf("a node that does not hear us: %+v", e)
	}
	if at, _ := v.Find(Place{"app", "bob"}); at != nil {
		t.Error("its user is still there")
	}
	if e := n.all(&Users{Users: []*User{user("bob", 6)}}); len(e.Resync) != 1 || len(e.Came) > 0 {
		t.Errorf("the next that is heard of it: %+v", e)
	}
	if e := n.answer(user("bob", 6)); len(e.Came) != 1 {
		t.Errorf("its answer: %+v", e)
	}
}

func TestNodeThatLeaves(t *testing.T) {
	v := NewView(1, start)
	n := newSpeaker(t, v, 2)
	n.all(nil)
	n.answer(user("bob", 5))
	var e Effects
	v.Leave(2, &e)
	v.Leave(2, &e)
	if len(e.Lost) != 1 || len(e.Changed) != 1 || len(v.Nodes()) != 0 {
		t.Errorf("%+v", e)
	}
	if e := n.all(nil); len(e.New) != 1 {
		t.Error("it cannot come back")
	}
}

// Whatever is lost, when nodes can talk again everybody knows the truth; and of two
// sessions of one user all choose the same.
func TestViewsConverge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := NewView(1, start)
		now := start
		truth := map[NodeID]map[string]uint64{2: {}, 3: {}}
		numbers := map[NodeID]uint64{}
		users := func(id NodeID) (all []*User) {
			for name, epoch := range truth[id] {
				all = append(all, user(name, epoch))
			}
			slices.SortFunc(all, func(a, b *User) int { return int(a.Epoch) - int(b.Epoch) })
			return all
		}
		hear := func(id NodeID, u *Users, lost bool) {
			numbers[id]++
			if lost {
				return
			}
			var e Effects
			if v.Heard(now, id, true, numbers[id], &e) && u != nil {
				v.Users(id, u, &e)
			}
			for _, asked := range e.Resync {
				if rapid.IntRange(0, 3).Draw(t, "answer is lost") > 0 {
					v.Users(asked, &Users{Page: 1, Last: true, Nonce: v.Asked(asked), Users: users(asked)}, &e)
				}
			}
		}
		for i := range rapid.IntRange(0, 60).Draw(t, "steps") {
			id := NodeID(rapid.IntRange(2, 3).Draw(t, "node"))
			name := fmt.Sprint("u", rapid.IntRange(0, 3).Draw(t, "user"))
			lost := rapid.Bool().Draw(t, "lost")
			if _, there := truth[id][name]; there && rapid.Bool().Draw(t, "leaves") {
				delete(truth[id], name)
				hear(id, &Users{Users: []*User{{App: "app", User: name, Gone: true}}}, lost)
			} else {
				truth[id][name] = uint64(i + 1)
				hear(id, &Users{Users: []*User{user(name, uint64(i+1))}}, lost)
			}
			now = now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "ms")) * time.Millisecond)
		}
		for range 30 { // nothing is lost any more, but answers now and then
			now = now.Add(BeatEvery)
			hear(2, nil, false)
			hear(3, nil, false)
			var e Effects
			v.Tick(now, &e)
			for _, asked := range e.Resync {
				v.Users(asked, &Users{Page: 1, Last: true, Nonce: v.Asked(asked), Users: users(asked)}, &e)
			}
		}
		for i := range 4 {
			name := fmt.Sprint("u", i)
			at, s := v.Find(Place{"app", name})
			want, epoch := NodeID(0), uint64(0)
			for id, of := range truth {
				if e, there := of[name]; there && (want == 0 || Newer(e, id, epoch, want)) {
					want, epoch = id, e
				}
			}
			switch {
			case at == nil && want != 0:
				t.Fatalf("%s is nowhere, and at %v", name, want)
			case at != nil && (at.ID != want || s.Epoch != epoch):
				t.Fatalf("%s is at %v with %d, and at %v with %d", name, at.ID, s.Epoch, want, epoch)
			}
		}
	})
}
