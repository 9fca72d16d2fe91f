package cluster

import (
	"maps"
	"slices"
	"time"
)

// SilentAfter is how long a node may say nothing before it counts as gone. It says
// something every BeatEvery.
const (
	SilentAfter = 5 * time.Second
	BeatEvery   = time.Second
)

// deafAfter is how many beats of a node in a row may leave us out. It names all nodes that
// it hears, so it does not hear us any more.
const deafAfter = 3

// hintFor is how long an answer to a question counts that its node does not announce too.
const hintFor = 2 * time.Second

// resyncAgain is how long the answer to a Resync is waited for.
const resyncAgain = 2 * time.Second

// A Place is where a user can be addressed.
type Place struct{ App, User string }

// A Session is what is known of a listening session at another node.
type Session struct {
	Instance     string
	Epoch        uint64
	Busy         bool
	DoNotDisturb int32
}

// Newer reports whether a session of epoch at node stays and one of otherEpoch at other
// goes, if both are of one user: the higher epoch counts, then the node.
func Newer(epoch uint64, node NodeID, otherEpoch uint64, other NodeID) bool {
	if epoch != otherEpoch {
		return epoch > otherEpoch
	}
	return node > other
}

// lineBits is how many bits of a packet's number count the packets of one line. The
// others count the lines that its node has begun.
const lineBits = 40

// FirstNumber is the number before the first packet of a node's line'th line. A node
// begins a new line to another one that it has lost and found again; the first is 0.
func FirstNumber(line uint64) uint64 { return line << lineBits }

// A Numbers looks whether packets of one node on one subject are missing.
type Numbers struct{ last uint64 }

// Take takes in the next packet's number. gap means that something before it was lost,
// or that its node had lost us in between; an old one is a repetition, and is to be
// ignored.
func (n *Numbers) Take(number uint64) (gap, old bool) {
	if number <= n.last {
		return false, true
	}
	first := n.last == 0 && number&(1<<lineBits-1) == 1
	gap = !first && number != n.last+1
	n.last = number
	return gap, false
}

// missed reports whether a packet of that number was sent and has not come, and takes
// it for lost.
func (n *Numbers) missed(number uint64) bool {
	if number <= n.last {
		return false
	}
	n.last = number
	return true
}

// A Node is what is known of another node.
type Node struct {
	ID                 NodeID
	URL, Name, Version string

	heard time.Time
	toAll Numbers
	toUs  Numbers
	users users
	hints map[Place]time.Time // of users, those that were only answered, and since when

	proven  bool // it has answered us: nobody repeats what was recorded of it
	leftOut int  // beats in a row, since then, that do not name us
	stale   bool // something of what it told everybody was lost, or it is new
	asked   time.Time
	nonce   uint64 // of what it was asked
	page    uint32 // of the answer that is coming in; 0: none
	arrived users
}

// Proven reports whether the node has answered us: it lives, and it hears us.
func (n *Node) Proven() bool { return n.proven }

// Users returns how many users are at the node.
func (n *Node) Users() int {
	sum := 0
	for _, of := range n.users {
		sum += len(of)
	}
	return sum
}

// users are sessions by app and user.
type users map[string]map[string]Session

func (u users) get(p Place) (Session, bool) {
	s, ok := u[p.App][p.User]
	return s, ok
}

func (u users) put(p Place, s Session) {
	if u[p.App] == nil {
		u[p.App] = map[string]Session{}
	}
	u[p.App][p.User] = s
}

func (u users) drop(p Place) bool {
	of := u[p.App]
	if _, there := of[p.User]; !there {
		return false
	}
	if delete(of, p.User); len(of) == 0 {
		delete(u, p.App)
	}
	return true
}

func (u users) all(yield func(Place, Session) bool) {
	for app, of := range u {
		for user, s := range of {
			if !yield(Place{app, user}, s) {
				return
			}
		}
	}
}

// A View is what one node knows of the others. Whoever holds it guards it: Find and
// Nodes may be called by several at a time, the others by one alone.
type View struct {
	self  NodeID
	nodes map[NodeID]*Node
	order []*Node // of nodes, by id: what is found does not depend on chance
	now   time.Time

	// Nonce makes the nonces of Resync, which nobody may foresee. nil counts from 1: for
	// tests.
	Nonce  func() uint64
	nonces uint64
}

// NewView returns what a node knows that has heard nothing yet.
func NewView(self NodeID, now time.Time) *View {
	return &View{self: self, nodes: map[NodeID]*Node{}, now: now}
}

// Effects are what a fact comes to. Its owner tells those it concerns.
type Effects struct {
	Changed []Place  // users whose session may be another now
	Came    []Place  // of these, those of whom a session was told; see View.Each
	Lost    []NodeID // nodes that have gone: what was under way with them is over
	Deaf    []NodeID // of these, those that are there, but do not hear us
	Broken  []NodeID // nodes of which a packet to us was lost
	Resync  []NodeID // nodes to ask for everybody there, with View.Asked
	New     []NodeID // nodes that were heard for the first time
}

// Nodes returns the other nodes, by their ids.
func (v *View) Nodes() []*Node { return v.order }

// Node returns a node, or nil.
func (v *View) Node(id NodeID) *Node { return v.nodes[id] }

// Find returns where a user is, and the session there. Of several, which is so for a
// moment only, it is the one that stays. The node is nil if there is none.
func (v *View) Find(p Place) (*Node, Session) {
	var at *Node
	var found Session
	for _, n := range v.order {
		if s, ok := n.users.get(p); ok && (at == nil || Newer(s.Epoch, n.ID, found.Epoch, at.ID)) {
			at, found = n, s
		}
	}
	return at, found
}

// Each calls fn for every user of an app at other nodes. A user may come twice.
func (v *View) Each(app string, fn func(user string)) {
	for _, n := range v.order {
		for user := range n.users[app] {
			fn(user)
		}
	}
}

// Proven reports whether a node has shown that it lives: what it sends to us alone does
// not count before.
func (v *View) Proven(id NodeID) bool {
	n := v.nodes[id]
	return n != nil && n.proven
}

// Asked returns the nonce of what a node is asked for everybody there.
func (v *View) Asked(id NodeID) uint64 {
	if n := v.nodes[id]; n != nil {
		return n.nonce
	}
	return 0
}

// Heard notes that a packet of a node has come, to everybody or to us alone, and reports
// whether it is to be taken in.
func (v *View) Heard(now time.Time, id NodeID, toAll bool, number uint64, e *Effects) bool {
	if id == v.self {
		return false
	}
	n := v.nodes[id]
	if n == nil {
		n = &Node{ID: id, users: users{}, stale: true}
		v.nodes[id] = n
		v.sort()
		e.New = append(e.New, id)
		if toAll {
			n.toAll.last = number - 1 // what it said before we were there is not missing
		}
	}
	n.heard = now
	numbers := &n.toUs
	if toAll {
		numbers = &n.toAll
	}
	gap, old := numbers.Take(number)
	switch {
	case old:
		return false
	case gap && toAll:
		n.stale, n.asked = true, time.Time{}
	case gap:
		e.Broken = append(e.Broken, id)
		n.page, n.arrived = 0, nil // a page may be among what is missing
	}
	v.ask(now, n, e)
	return true
}

// ask asks a node for its users, if what is known of them is not all, and not again
// before it has had its time to answer.
func (v *View) ask(now time.Time, n *Node, e *Effects) {
	if !n.stale || !n.asked.IsZero() && now.Sub(n.asked) < resyncAgain {
		return
	}
	n.asked, n.page, n.arrived = now, 0, nil
	if v.nonces++; v.Nonce != nil {
		n.nonce = v.Nonce()
	} else {
		n.nonce = v.nonces
	}
	e.Resync = append(e.Resync, n.ID)
}

// Beat takes in what a node says of itself to everybody or, if it is asked, to us, and of
// what it has said to us. One that does not hear us any more is gone: what we say to it
// would be lost. It counts again when it answers us again.
func (v *View) Beat(id NodeID, toAll bool, b *Beat, e *Effects) {
	n := v.nodes[id]
	if n == nil {
		return
	}
	n.URL, n.Name, n.Version = b.Url, b.Name, b.Version
	n.leftOut++
	for _, l := range b.Lines {
		if NodeID(l.Node) != v.self {
			continue
		}
		n.leftOut = 0
		if n.toUs.missed(l.Number) {
			e.Broken = append(e.Broken, id)
			n.page, n.arrived = 0, nil
		}
	}
	switch {
	case !toAll || !n.proven:
		n.leftOut = 0
	case n.leftOut >= deafAfter:
		v.Leave(id, e)
		e.Deaf = append(e.Deaf, id)
	}
}

// Users takes in what a node says of its users.
func (v *View) Users(id NodeID, u *Users, e *Effects) {
	n := v.nodes[id]
	switch {
	case n == nil:
	case u.Page == 0 && !n.proven: // all of it comes with its answer
	case u.Page == 0:
		for _, user := range u.Users {
			p := Place{user.App, user.User}
			delete(n.hints, p)
			if user.Gone {
				if n.users.drop(p) {
					e.Changed = append(e.Changed, p)
				}
				continue
			}
			n.users.put(p, sessionOf(user))
			e.Changed = append(e.Changed, p)
			e.Came = append(e.Came, p)
		}
	default:
		v.take(n, u, e)
	}
}

// Learn takes in that a node has answered that a user is there, before it was announced.
// The answer may come after news that he has gone, so it does not count for long unless
// its node says so by itself.
func (v *View) Learn(now time.Time, id NodeID, u *User, e *Effects) {
	n := v.nodes[id]
	if n == nil || !n.proven {
		return
	}
	p := Place{u.App, u.User}
	if s, there := n.users.get(p); there && s.Epoch >= u.Epoch {
		return
	}
	n.users.put(p, sessionOf(u))
	if n.hints == nil {
		n.hints = map[Place]time.Time{}
	}
	n.hints[p] = now
	e.Changed = append(e.Changed, p)
	e.Came = append(e.Came, p)
}

// doubt takes out what a node has answered and not announced.
func (n *Node) doubt(now time.Time, e *Effects) {
	from := len(e.Changed)
	for p, since := range n.hints {
		if now.Sub(since) > hintFor {
			delete(n.hints, p)
			n.users.drop(p)
			e.Changed = append(e.Changed, p)
		}
	}
	sortPlaces(e.Changed[from:])
}

func sessionOf(u *User) Session {
	return Session{Instance: string(u.Instance), Epoch: u.Epoch, Busy: u.Busy, DoNotDisturb: u.DoNotDisturb}
}

// take takes in a page of everybody at a node.
func (v *View) take(n *Node, u *Users, e *Effects) {
	if u.Page == 1 {
		n.page, n.arrived = 0, users{}
	}
	if u.Nonce != n.nonce || n.arrived == nil || u.Page != n.page+1 {
		n.arrived = nil // the rest of an answer whose beginning is missing
		return
	}
	n.page = u.Page
	for _, user := range u.Users {
		n.arrived.put(Place{user.App, user.User}, sessionOf(user))
	}
	if !u.Last {
		return
	}
	before := n.users
	n.users, n.arrived, n.page, n.stale, n.proven = n.arrived, nil, 0, false, true
	n.hints = nil
	for p := range before.all {
		if _, there := n.users.get(p); !there {
			e.Changed = append(e.Changed, p)
		}
	}
	for p, s := range n.users.all {
		if old, there := before.get(p); !there || old != s {
			e.Changed = append(e.Changed, p)
		}
		e.Came = append(e.Came, p) // even if it was known: what was said of it may not have been heard
	}
	sortPlaces(e.Changed)
	sortPlaces(e.Came)
}

func sortPlaces(all []Place) {
	slices.SortFunc(all, func(a, b Place) int {
		switch {
		case a == b:
			return 0
		case a.App < b.App || a.App == b.App && a.User < b.User:
			return -1
		}
		return 1
	})
}

// Leave takes a node out that says it stops.
func (v *View) Leave(id NodeID, e *Effects) {
	n := v.nodes[id]
	if n == nil {
		return
	}
	delete(v.nodes, id)
	v.sort()
	from := len(e.Changed)
	for p := range n.users.all {
		e.Changed = append(e.Changed, p)
	}
	sortPlaces(e.Changed[from:])
	e.Lost = append(e.Lost, id)
}

func (v *View) sort() {
	v.order = slices.SortedFunc(maps.Values(v.nodes), func(a, b *Node) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
}

// Tick is the clock, at least every BeatEvery. Nodes that have been silent are gone. It
// reports whether this node itself has stood still, or had no bus, for so long that the
// others may have given it up: then it has to say again who is here. Nobody is given up
// for a time in which we would not have heard him.
func (v *View) Tick(now time.Time, e *Effects) (paused bool) {
	paused = now.Sub(v.now) > SilentAfter
	v.now = now
	for _, n := range slices.Clone(v.order) {
		n.doubt(now, e)
		switch {
		case paused:
			n.heard, n.stale, n.asked = now, true, time.Time{}
			v.ask(now, n, e)
		case now.Sub(n.heard) > SilentAfter:
			v.Leave(n.ID, e)
		default:
			v.ask(now, n, e)
		}
	}
	return paused
}
