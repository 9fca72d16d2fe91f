package server

import (
	"sync"
	"sync/atomic"

	"github.com/dian-im/dian/internal/wire"
)

// A share is what one user's commands hold of a session that they were passed to
// and that has not acked them. Nobody may hold more than what is still free: one
// sender fills half of what a slow receiver has for commands, and each further one
// finds room (case 49).
type share struct {
	of      *shares
	user    string
	held    atomic.Int64 // commands << shareBits | bytes
	senders atomic.Int32 // sessions that remember it; changed with the lock of shares
}

const (
	shareBits = 40
	shareOne  = 1 << shareBits
)

func (s *share) commands() int { return int(s.held.Load() >> shareBits) }
func (s *share) bytes() int64  { return s.held.Load() & (shareOne - 1) }

func (s *share) add(size int) { s.held.Add(shareOne + int64(size)) }

func (s *share) settle(size int) {
	if s.held.Add(-shareOne-int64(size)) == 0 && s.senders.Load() == 0 {
		s.of.tidy(s)
	}
}

// shares are those of a session, by sender. The zero value works.
type shares struct {
	mu sync.Mutex
	by map[string]*share // guarded by mu: those that hold something or are remembered
}

// get returns a user's share, which whoever got it leaves.
func (s *shares) get(user string) *share {
	s.mu.Lock()
	defer s.mu.Unlock()
	sh := s.by[user]
	if sh == nil {
		if s.by == nil {
			s.by = map[string]*share{}
		}
		sh = &share{of: s, user: user}
		s.by[user] = sh
	}
	sh.senders.Add(1)
	return sh
}

// none reports whether nobody holds or remembers anything.
func (s *shares) none() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.by) == 0
}

func (s *share) leave() {
	if s.senders.Add(-1) == 0 {
		s.of.tidy(s)
	}
}

// tidy forgets a share that nobody needs.
func (s *shares) tidy(sh *share) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sh.senders.Load() == 0 && sh.held.Load() == 0 && s.by[sh.user] == sh {
		delete(s.by, sh.user)
	}
}

// room says whether a command of this size may wait for the session.
func (s *session) room(sh *share, size int) *wire.Error {
	if no := s.party.mayKeep(int64(size), wire.PeerBusy); no != nil {
		return no
	}
	own := s.party.app.limits.Load()
	free := commandShare(own.user.most[cellQueued]) - s.party.user.used[countQueued].Load()
	if int64(size) > free || int64(size)+sh.bytes() > free {
		return s.srv.quota.over(cellNames[cellQueued], scopeUser, wire.PeerBusy, "the peer reads too slowly")
	}
	return nil
}
