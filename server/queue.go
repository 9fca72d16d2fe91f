package server

import (
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// What waits in the server for slow sessions is bounded twice. A user's queues are
// its own row: what can be refused (commands, offers, presence) fills a part of it
// alone, and a session whose queue is full for the rest is ended. The other rows are
// shared: when one is full the session with the longest queue is ended, because
// whoever sends the next frame need not be who reads too slowly.

// commandShare and presenceShare are how much of a user's queues commands and
// offers, and presence, may fill. The rest is for frames that cannot be refused.
func commandShare(queue int64) int64  { return queue / 4 * 3 }
func presenceShare(queue int64) int64 { return queue / 4 }

// Take is asked by the session's link before it queues n bytes, with its lock held;
// with must they are queued in any case.
func (s *session) Take(n int, must bool) bool {
	p := &s.party
	if p.user.used[countQueued].Add(int64(n)) > p.app.limits.Load().user.most[cellQueued] && !must {
		p.user.used[countQueued].Add(-int64(n))
		p.q.refused[refusedAt{cellNames[cellQueued], scopeNames[scopeUser]}].Inc()
		return false
	}
	if p.keep(int64(n)) || must {
		return true
	}
	s.Give(n)
	return false
}

// Give is told what has left the queue.
func (s *session) Give(n int) {
	s.party.user.used[countQueued].Add(-int64(n))
	s.party.keep(-int64(n))
}

// keep counts n bytes more that the server holds, in the rows that are shared. False
// means that one is over by so much that nothing more can be taken: usually shedding
// makes room long before.
func (p *party) keep(n int64) bool {
	accounts, most := p.rows()
	full, over := false, false
	for _, s := range nearest {
		if a := accounts[s]; a != nil && s != scopeUser {
			used, limit := a.used[countQueued].Add(n), most[s].most[cellQueued]
			full, over = full || used > limit, over || used > limit/4*5
		}
	}
	if n > 0 && full {
		p.q.shed()
	}
	return n <= 0 || !over
}

// mayKeep asks for something that can be refused whether the shared rows have room
// for n bytes more. code is for a full address: it depends on whose that is.
func (p *party) mayKeep(n int64, code wire.Code) *wire.Error {
	accounts, most := p.rows()
	for _, s := range nearest {
		if a := accounts[s]; a != nil && s != scopeUser && a.used[countQueued].Load()+n > most[s].most[cellQueued] {
			p.q.shed()
			if s != scopeAddress {
				code = wire.OverLimit
			}
			return p.q.over(cellNames[cellQueued], s, code, "the server holds too much for slow clients")
		}
	}
	return nil
}

// shed asks for an end of the longest queue.
func (q *quota) shed() {
	select {
	case q.full <- struct{}{}:
	default: // it is known
	}
}

// shedLoop ends the session with the longest queue, when somebody has asked for it,
// until each shared row has an eighth free. It is ended without a goodbye, which
// would have to wait behind the queue; its client comes again.
func (s *Server) shedLoop() {
	for {
		select {
		case <-s.quota.full:
		case <-s.quota.done:
			return
		}
		for {
			longest, full := s.longestQueue()
			if longest == nil {
				break
			}
			longest.state.Store(sessionGone)
			s.quota.over(cellNames[cellQueued], full, wire.OverLimit, "")
			s.log.Warn("too much waits for slow clients: the longest queue is ended", "epoch", longest.epoch)
			longest.stop()
			select {
			case <-longest.link.Done():
			case <-time.After(time.Second):
			}
		}
	}
}

// longestQueue returns the session with the longest queue of those that fill a row
// which is nearly full, or nil, and which row that is.
func (s *Server) longestQueue() (longest *session, full scope) {
	longestBytes := 0
	for _, sess := range s.all() {
		if !sess.live() {
			continue
		}
		accounts, most := sess.party.rows()
		for _, at := range nearest {
			a := accounts[at]
			if a == nil || at == scopeUser || a.used[countQueued].Load() <= most[at].most[cellQueued]/8*7 {
				continue
			}
			if _, bytes := sess.link.Queued(); bytes > longestBytes {
				longest, longestBytes, full = sess, bytes, at
			}
			break
		}
	}
	return longest, full
}
