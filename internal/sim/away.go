package sim

import (
	"maps"
	"slices"
	"time"

	nodes "github.com/dian-im/dian/internal/cluster"
	"github.com/dian-im/dian/internal/transfer"
	"github.com/dian-im/dian/internal/wire"
)

// A senderFrame is a frame of alice's about a transfer: package server's is the wire's.
type senderFrame struct {
	what       senderWhat
	sendID, id string // id is that of the URL, or ""
	do         func(s *server, l *line)
}

type senderWhat uint8

const (
	sendOffer senderWhat = iota
	sendFinish
	sendAck
	sendCancel
)

// An awayTransfer is what a session has under way at another node
// (server/clustertransfer.go).
type awayTransfer struct {
	node      nodes.NodeID
	transfer  string
	cancelled bool
}

// farSender names a session of another node.
type farSender struct {
	node    nodes.NodeID
	session int
}

// A turn keeps a session's frames about transfers in order while the receiver of one is
// looked for.
type turn struct {
	taken  bool
	behind []senderFrame
}

// transfer takes in a frame of alice's session (session.transfer).
func (s *server) transfer(l *line, f senderFrame) {
	c := s.cluster
	if c == nil {
		f.do(s, l)
		return
	}
	if l.turn.taken {
		l.turn.behind = append(l.turn.behind, f)
		return
	}
	took, looks := c.route(l, f)
	switch {
	case took:
	case !looks:
		f.do(s, l)
	default:
		l.turn.taken, l.turn.behind = true, append([]senderFrame{f}, l.turn.behind...)
		if !c.seek(func() { c.takeTurns(l) }) {
			c.takeTurns(l)
		}
	}
}

// takeTurns takes in the frames that have waited (session.takeTurns).
func (c *cluster) takeTurns(l *line) {
	for l.upThere {
		if len(l.turn.behind) == 0 {
			l.turn.taken = false
			return
		}
		f := l.turn.behind[0]
		l.turn.behind = l.turn.behind[1:]
		if took, _ := c.route(l, f); !took {
			f.do(c.s, l)
		}
	}
}

// route says a frame to the node where its transfer lives (cluster.route).
func (c *cluster) route(l *line, f senderFrame) (took, looks bool) {
	switch f.what {
	case sendOffer:
		return c.routeOffer(l, f)
	case sendFinish:
		return c.routeByID(l, f), false
	case sendAck:
		took = c.routeByID(l, f)
		delete(l.away, f.sendID)
		return took, false
	}
	return c.routeCancel(l, f), false
}

func (c *cluster) routeOffer(l *line, f senderFrame) (took, looks bool) {
	if c.s.listener() != nil {
		return false, false
	}
	id, there := c.carrier()
	if !there {
		if x := l.away[f.sendID]; x != nil && c.view.Node(x.node) != nil {
			id, there = x.node, true // it waits there for its receiver
		} else if c.s.table[f.sendID] != nil {
			return false, false
		}
	}
	if !there {
		return false, true
	}
	l.note(f.sendID, &awayTransfer{node: id})
	c.say(l, id, f)
	return true, false
}

func (l *line) note(sendID string, x *awayTransfer) {
	if l.away == nil {
		l.away = map[string]*awayTransfer{}
	}
	l.away[sendID] = x
}

func (c *cluster) routeByID(l *line, f senderFrame) bool {
	if x := l.away[f.sendID]; x != nil {
		c.say(l, x.node, f)
		return true
	}
	if c.s.ids[f.id] != nil || c.s.listener() != nil {
		return false
	}
	id, there := c.carrier()
	switch {
	case !there:
	case f.what == sendFinish:
		// Its node would take it and not know whom to tell what comes of it.
		c.s.tell(l, told{toldStanding, f.sendID, f.id, func(a *sender) { a.unknown(f.sendID, f.id) }})
	default:
		if f.what == sendCancel { // what comes of it is for this session
			l.note(f.sendID, &awayTransfer{node: id, transfer: f.id, cancelled: true})
		}
		c.say(l, id, f)
	}
	return there
}

func (c *cluster) routeCancel(l *line, f senderFrame) bool {
	if x := l.away[f.sendID]; x != nil {
		x.cancelled = true
		c.say(l, x.node, f)
		return true
	}
	return f.id != "" && c.routeByID(l, f)
}

// say says a session's frame to a node (cluster.say).
func (c *cluster) say(l *line, id nodes.NodeID, f senderFrame) {
	if !slices.Contains(c.away, l) {
		c.away = append(c.away, l)
	}
	if l.asked == nil {
		l.asked = map[string]time.Time{}
	}
	l.asked[f.sendID] = c.s.w.now
	if !slices.Contains(l.spoken, id) {
		l.spoken = append(l.spoken, id)
	}
	if c.out.say(id, sending{l.number, f}, true) != nil {
		c.awayBroken(l, id)
	}
	if !l.upThere { // its end may have looked before
		c.sessionDown(l)
	}
}

// awayBroken tells a session that what it has at a node has to be asked for again
// (away.broken).
func (c *cluster) awayBroken(l *line, id nodes.NodeID) {
	c.awayAgain(l, func(x *awayTransfer) bool { return x.node == id })
}

// awayMoved is awayBroken of all sessions for what is not at the node where bob is now;
// 0: here (away.moved).
func (c *cluster) awayMoved(to nodes.NodeID) {
	for _, l := range slices.Clone(c.away) {
		c.awayAgain(l, func(x *awayTransfer) bool { return x.node != to })
	}
}

func (c *cluster) awayAgain(l *line, which func(x *awayTransfer) bool) {
	for _, sendID := range slices.Sorted(maps.Keys(l.away)) {
		x := l.away[sendID]
		if !which(x) {
			continue
		}
		delete(l.away, sendID)
		if x.cancelled { // one that cancels takes no notice of "unknown"
			c.s.refuse(l, sendID, wire.ServiceFault)
			continue
		}
		id := x.transfer
		c.s.tell(l, told{toldStanding, sendID, id, func(a *sender) { a.unknown(sendID, id) }})
	}
}

// sessionDown tells the nodes where a session has something that it has ended
// (cluster.sessionDown).
func (c *cluster) sessionDown(l *line) {
	c.away = slices.DeleteFunc(c.away, func(o *line) bool { return o == l })
	at := l.spoken
	l.away, l.spoken = nil, nil
	for _, id := range at {
		c.out.say(id, senderGone{l.number, l.kicked}, true)
	}
}

// told passes a frame to the session here that it is for (cluster.told).
func (c *cluster) told(from nodes.NodeID, t toldTo) {
	at := slices.IndexFunc(c.away, func(l *line) bool { return l.number == t.session })
	if at < 0 || !c.away[at].upThere {
		return
	}
	l := c.away[at]
	goesOn := t.what == toldAccepted || t.what == toldReceived || t.what == toldVerdict && t.id != ""
	open := l.heard(t.told, from, goesOn)
	if !open { // said before the line between the nodes broke
		c.s.w.note("%v: %v is late", c.s, t.told)
		return
	}
	// What was said before a break is over: until alice asks again nothing of it is hers.
	if at := c.breaks[from]; t.said.Before(at) && l.asked[t.of()].Before(at) {
		c.s.w.fail("%v tells alice the %v of before the line between nodes broke", c.s, t.told)
	}
	c.s.tell(l, t.told)
}

// heard reports whether the session has a transfer at a node (away.heard).
func (l *line) heard(t told, from nodes.NodeID, goesOn bool) bool {
	sendID := t.of()
	x := l.away[sendID]
	if x == nil || x.node != from {
		return false
	}
	if !goesOn {
		delete(l.away, sendID)
	} else if t.id != "" {
		x.transfer = t.id
	}
	return true
}

// sending takes in what a session at another node says (cluster.sending).
func (c *cluster) sending(from nodes.NodeID, m sending) {
	key := farSender{from, m.session}
	l := c.senders[key]
	if l == nil {
		l = &line{w: c.s.w, srv: c.s, upThere: true, far: &far{c: c, node: from, there: m.session}}
		c.senders[key] = l
	}
	m.frame.do(c.s, l)
}

func (c *cluster) senderGone(from nodes.NodeID, m senderGone) {
	key := farSender{from, m.session}
	if l := c.senders[key]; l != nil {
		delete(c.senders, key)
		c.endSender(l, m.kicked)
	}
}

// endSender ends the stand-in of a sender's session.
func (c *cluster) endSender(l *line, kicked bool) {
	l.upThere = false
	c.s.outOfTransfers(l, kicked)
}

// atServer gives a sender's frame to the transfer of an id.
func atServer(id string, e transfer.RelayEvent) func(s *server, l *line) {
	return func(s *server, _ *line) {
		if r := s.ids[id]; r != nil {
			r.step(e)
		}
	}
}
