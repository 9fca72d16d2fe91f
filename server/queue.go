package server

import (
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// What waits in the server for slow sessions is bounded twice. A user's queues are
// its own row: what can be refused (commands, offers, presence) fills a part of it
// alone, and a session whose queue is full for the rest is ended. The rows of all
// and of the app are shared: when one is full the session with the longest queue is
// ended, because whoever sends the next frame need not be who reads too slowly.

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
// means that they are over by so much that nothing more can be taken: usually
// shedding makes room long before.
func (p *party) keep(n int64) bool {
	q := p.q
	app, most := p.app.used[countQueued].Add(n), p.app.limits.Load().app.most[cellQueued]
	all, mostAll := q.all.used[countQueued].Add(n), q.policy.Load().rows[scopeAll].most[cellQueued]
	if n <= 0 || app <= most && all <= mostAll {
		return true
	}
	q.shed()
	return app <= most/4*5 && all <= mostAll/4*5
}

// mayKeep asks for something that can be refused whether the shared rows have room
// for n bytes more.
func (p *party) mayKeep(n int64) *wire.Error {
	q, over := p.q, scopeApp
	switch {
	case q.all.used[countQueued].Load()+n > q.policy.Load().rows[scopeAll].most[cellQueued]:
		over = scopeAll
	case p.app.used[countQueued].Load()+n <= p.app.limits.Load().app.most[cellQueued]:
		return nil
	}
	q.shed()
	return q.over(cellNames[cellQueued], over, wire.OverLimit, "the server holds too much for slow clients")
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
// which is full, or nil, and which row that is.
func (s *Server) longestQueue() (longest *session, full scope) {
	q := &s.quota
	fills := func(a *account, most int64) bool { return a.used[countQueued].Load() > most/8*7 }
	full = scopeApp
	if fills(&q.all, q.policy.Load().rows[scopeAll].most[cellQueued]) {
		full = scopeAll
	}
	most := 0
	for _, sess := range s.all() {
		app := sess.party.app
		if !sess.live() || full == scopeApp && !fills(&app.account, app.limits.Load().app.most[cellQueued]) {
			continue
		}
		if _, bytes := sess.link.Queued(); bytes > most {
			longest, most = sess, bytes
		}
	}
	return longest, full
}
