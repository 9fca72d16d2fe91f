package server

import (
	"sync"

	"github.com/dian-im/dian/internal/wire"
)

// The statuses of docs/protocol.md §5.
const (
	statusOffline = 0
	statusOnline  = 1
	statusBusy    = 2
)

// packStatus keeps what a session says of itself in one word.
func packStatus(s *wire.Status) uint64 {
	v := uint64(uint32(s.GetDoNotDisturb()))
	if s.GetBusy() {
		v |= 1 << 32
	}
	return v
}

// presenceOf returns the state of a user whose listening session is s; nil or
// one that ends means offline.
func presenceOf(user string, s *session) *wire.Presence {
	p := &wire.Presence{User: user}
	if s == nil || !s.live() {
		return p
	}
	v := s.status.Load()
	p.Status, p.DoNotDisturb = statusOnline, int32(uint32(v))
	if v>>32 != 0 {
		p.Status = statusBusy
	}
	return p
}

// presenceOf returns the state of a user, wherever it is.
func (s *Server) presenceOf(app, user string) *wire.Presence {
	if here := s.listener(app, user); here != nil {
		return presenceOf(user, here)
	}
	return s.cluster.presence(app, user)
}

// presence knows which sessions want to hear of whom. It holds no states: those
// are read from the directory when they are sent, so the last one always arrives.
type presence struct {
	mu    sync.RWMutex
	named map[place]map[*session]struct{}  // guarded by mu
	all   map[string]map[*session]struct{} // guarded by mu; by app
}

func newPresence() *presence {
	return &presence{named: map[place]map[*session]struct{}{}, all: map[string]map[*session]struct{}{}}
}

func add[K comparable](m map[K]map[*session]struct{}, key K, s *session) {
	if m[key] == nil {
		m[key] = map[*session]struct{}{}
	}
	m[key][s] = struct{}{}
}

func remove[K comparable](m map[K]map[*session]struct{}, key K, s *session) {
	delete(m[key], s)
	if len(m[key]) == 0 {
		delete(m, key)
	}
}

// changed tells the watchers of a user that its state may have changed.
func (p *presence) changed(app, user string) {
	p.mu.RLock()
	named, all := p.named[place{app, user}], p.all[app]
	watchers := make([]*session, 0, len(named)+len(all))
	for s := range named {
		watchers = append(watchers, s)
	}
	for s := range all {
		watchers = append(watchers, s)
	}
	p.mu.RUnlock()
	for _, s := range watchers {
		s.watcher.userChanged(user)
	}
}

// forget ends all that a session wanted to hear.
func (p *presence) forget(s *session) {
	users, all := s.watcher.close()
	p.mu.Lock()
	defer p.mu.Unlock()
	if all {
		remove(p.all, s.app, s)
	}
	for user := range users {
		remove(p.named, place{s.app, user}, s)
	}
}

// setStatus takes what a session says of itself. Its reader calls it.
func (s *session) setStatus(status *wire.Status) {
	now := packStatus(status)
	if s.status.Swap(now) != now {
		s.tellCluster()
		s.srv.presence.changed(s.app, s.user)
	}
}

// presenceQuery answers who is online. Its reader calls it.
func (s *session) presenceQuery(q *wire.PresenceQuery) {
	if refusal := s.mayAsk(q.Users); refusal != nil {
		s.refuseList(q.Id, refusal)
		return
	}
	s.listPresence(q.Id, q.Users)
}

// presenceSubscribe starts or ends a subscription. Its reader calls it.
func (s *session) presenceSubscribe(q *wire.PresenceSubscribe) {
	if q.Stop {
		s.pace(1)
		s.unsubscribe(q.Users)
		s.refuseList(q.Id, &wire.Error{}) // nothing to tell, but the answer
		return
	}
	if refusal := s.mayAsk(q.Users); refusal != nil {
		s.refuseList(q.Id, refusal)
		return
	}
	if refusal := s.subscribe(q.Users); refusal != nil {
		s.refuseList(q.Id, refusal)
		return
	}
	s.listPresence(q.Id, q.Users) // after the subscription began: no change is missed
}

// mayAsk checks the names of a query; one that may not be seen refuses all.
func (s *session) mayAsk(users []string) *wire.Error {
	if refusal := s.party.command(question); refusal != nil {
		return refusal
	}
	if err := wire.CheckPresenceUsers(users); err != nil {
		return asRefusal(err)
	}
	for _, user := range users {
		if refusal := s.srv.allow(s.ctx, s.token(), VerbSee, user, ""); refusal != nil {
			return refusal
		}
	}
	return nil
}

func (s *session) refuseList(id uint64, refusal *wire.Error) {
	_ = s.send(&wire.Frame{Body: &wire.Frame_PresenceList{PresenceList: &wire.PresenceList{
		Id: id, Code: uint32(refusal.Code), Detail: refusal.Detail}}})
}

// subscribe notes whom the session watches; no users means everybody.
func (s *session) subscribe(users []string) *wire.Error {
	p := s.srv.presence
	p.mu.Lock()
	defer p.mu.Unlock()
	if refusal := s.watcher.watch(users); refusal != nil {
		return refusal
	}
	if len(users) == 0 {
		add(p.all, s.app, s)
	}
	for _, user := range users {
		add(p.named, place{s.app, user}, s)
	}
	return nil
}

// unsubscribe ends the watch of some users, or of everybody.
func (s *session) unsubscribe(users []string) {
	p := s.srv.presence
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(users) == 0 {
		remove(p.all, s.app, s)
	}
	for _, user := range s.watcher.unwatch(users) {
		remove(p.named, place{s.app, user}, s)
	}
}

// listPresence queues the states of some users, or of everybody online whom the
// token may see.
func (s *session) listPresence(id uint64, users []string) {
	list := presenceList{id: id, users: users}
	if len(users) == 0 {
		list.all = true
		list.users = s.srv.visible(s.ctx, s.token())
	}
	if !s.watcher.list(list) {
		s.refuseList(id, &wire.Error{Code: wire.OverLimit, Detail: "too many unanswered questions about presence"})
	}
}
