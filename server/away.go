package server

import (
	"iter"
	"maps"
	"slices"
	"sync"

	nodes "github.com/dian-im/dian/internal/cluster"
	"github.com/dian-im/dian/internal/wire"
)

// An away is what a session has under way at other nodes.
type away struct {
	mu   sync.Mutex
	open map[awayKey]*awayTransfer // guarded by mu
	to   map[string]int            // guarded by mu: how many of them by target
	// told is guarded by mu: who has, or had, a stand-in of the session. Even one that says
	// that the line between us broke may have made it again before we hear that.
	told map[nodes.NodeID]struct{}
}

type awayKey struct{ target, sendID string }

type awayTransfer struct {
	node      nodes.NodeID
	transfer  string // its id, once it is known
	cancelled bool   // a cancel is on its way
}

// senderIndex knows which sessions here have something under way at other nodes, by
// their targets. The zero value works. Its lock is taken under that of an away.
type senderIndex struct {
	mu sync.Mutex
	by map[place]map[*session]struct{} // guarded by mu
}

func (x *senderIndex) add(p place, s *session) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.by == nil {
		x.by = map[place]map[*session]struct{}{}
	}
	add(x.by, p, s)
}

func (x *senderIndex) remove(p place, s *session) {
	x.mu.Lock()
	defer x.mu.Unlock()
	remove(x.by, p, s)
}

func (x *senderIndex) of(p place) []*session {
	x.mu.Lock()
	defer x.mu.Unlock()
	var all []*session
	for s := range x.by[p] {
		all = append(all, s)
	}
	return all
}

func (a *away) get(key awayKey) (awayTransfer, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if x := a.open[key]; x != nil {
		return *x, true
	}
	return awayTransfer{}, false
}

// note remembers where a transfer of s lives; false means that it is one too many.
func (a *away) note(s *session, key awayKey, node nodes.NodeID, most int64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.open[key] == nil {
		if int64(len(a.open)) >= most {
			return false
		}
		if a.open == nil {
			a.open, a.to = map[awayKey]*awayTransfer{}, map[string]int{}
		}
		if a.to[key.target]++; a.to[key.target] == 1 {
			s.srv.cluster.index.add(place{s.app, key.target}, s)
		}
	}
	a.open[key] = &awayTransfer{node: node}
	return true
}

// cancels remembers a transfer whose cancel goes to a node although nothing was known of
// it any more: so its answer counts.
func (a *away) cancels(s *session, key awayKey, node nodes.NodeID, transfer string) {
	if !a.note(s, key, node, s.party.app.limits.Load().user.most[cellTransfers]) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if x := a.open[key]; x != nil {
		x.transfer, x.cancelled = transfer, true
	}
}

func (a *away) forget(s *session, key awayKey) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.forgetLocked(s, key)
}

func (a *away) forgetLocked(s *session, key awayKey) {
	if a.open[key] == nil {
		return
	}
	delete(a.open, key)
	if a.to[key.target]--; a.to[key.target] == 0 {
		delete(a.to, key.target)
		s.srv.cluster.index.remove(place{s.app, key.target}, s)
	}
}

// tell notes that a node is told something of the session.
func (a *away) tell(id nodes.NodeID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.told == nil {
		a.told = map[nodes.NodeID]struct{}{}
	}
	a.told[id] = struct{}{}
}

// end forgets all of it and returns the nodes that have a stand-in of the session.
func (a *away) end(s *session) []nodes.NodeID {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key := range a.open {
		a.forgetLocked(s, key)
	}
	all := slices.Collect(maps.Keys(a.told))
	clear(a.told)
	return all
}

// cancel notes a cancel of what has a sendID, and returns the nodes that it goes to.
func (a *away) cancel(target, sendID string) []nodes.NodeID {
	a.mu.Lock()
	defer a.mu.Unlock()
	var all []nodes.NodeID
	for key, x := range a.open {
		if key.sendID == sendID && (target == "" || key.target == target) {
			x.cancelled = true
			all = append(all, x.node)
		}
	}
	return all
}

// nodes returns those that have a stand-in of the session.
func (a *away) nodes() []nodes.NodeID {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Collect(maps.Keys(a.told))
}

// broken tells the session that what it has at a node has to be asked for again: the
// transfer as such goes on, wherever its receiver is then.
func (a *away) broken(s *session, id nodes.NodeID) {
	a.again(s, func(_ awayKey, x *awayTransfer) bool { return x.node == id })
}

// moved is broken for what the session sends to somebody who is at a node now, or, with
// 0, here, and not where it was.
func (a *away) moved(s *session, target string, to nodes.NodeID) {
	a.again(s, func(key awayKey, x *awayTransfer) bool { return key.target == target && x.node != to })
}

func (a *away) again(s *session, which func(awayKey, *awayTransfer) bool) {
	a.mu.Lock()
	var frames []*wire.Frame
	for key, x := range a.open {
		if !which(key, x) {
			continue
		}
		a.forgetLocked(s, key)
		if x.cancelled { // one that cancels takes no notice of "unknown"
			frames = append(frames, &wire.Frame{Body: &wire.Frame_Verdict{Verdict: &wire.Verdict{
				SendId: key.sendID, Code: uint32(wire.ServiceFault), Origin: wire.Origin_ORIGIN_SERVER,
			}}})
			continue
		}
		frames = append(frames, unknownTo(x.transfer, key.sendID))
	}
	a.mu.Unlock()
	for _, f := range frames {
		_ = s.send(f)
	}
}

// unknownTo makes a sender offer a transfer again.
func unknownTo(transfer, sendID string) *wire.Frame {
	return &wire.Frame{Body: &wire.Frame_Standing{Standing: &wire.Standing{
		Transfer: transfer, SendId: sendID, State: wire.TransferState_TRANSFER_STATE_UNKNOWN,
	}}}
}

// heard reports whether the session has a transfer at a node, which the node names by
// its id or, before it has one, by its sendID. Unless it goes on it is forgotten: its
// sender offers it again, or is through with it.
func (a *away) heard(s *session, transfer, sendID string, from nodes.NodeID, goesOn bool) bool {
	what, err := decodeTransferID(transfer)
	a.mu.Lock()
	defer a.mu.Unlock()
	found := false
	for key, x := range a.namedLocked(what, err == nil, sendID) {
		if x.node != from {
			continue
		}
		found = true
		if !goesOn {
			a.forgetLocked(s, key)
		} else if err == nil {
			x.transfer = transfer
		}
	}
	return found
}

// namedLocked yields the transfers that what names, or, if there is no what, all of a
// sendID.
func (a *away) namedLocked(what *transferID, named bool, sendID string) iter.Seq2[awayKey, *awayTransfer] {
	return func(yield func(awayKey, *awayTransfer) bool) {
		if named {
			key := awayKey{what.Target, what.sendID()}
			if x := a.open[key]; x != nil {
				yield(key, x)
			}
			return
		}
		for key, x := range a.open {
			if key.sendID == sendID && !yield(key, x) {
				return
			}
		}
	}
}
