package server

import (
	"sync"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// maxPresenceLists is how many answers may wait for a session that reads slowly.
const maxPresenceLists = 32

// A watcher sends one session what it wants to know of others: the answers to
// its questions and then the changes, when there is room in its queue. One that
// reads slowly gets fewer changes and always the last state, and what waits for
// it is bounded by the number of users.
type watcher struct {
	session *session // set by init

	mu      sync.Mutex // guards the rest up to sending
	all     bool
	users   map[string]struct{}
	watched int64               // bytes that users cost
	changed map[string]struct{} // whose state is to be sent
	lists   []presenceList
	timer   *time.Timer // nil before the first use
	armed   bool
	last    time.Time // of the last PresenceChange
	over    bool

	// sending is held from reading a state to queueing it, by the timer's function
	// alone, so that an older state never comes after a newer one. Queueing does
	// not block.
	sending sync.Mutex
}

// A presenceList is an answer that is not sent whole yet.
type presenceList struct {
	id    uint64
	users []string // still to be sent
	all   bool     // leave those out who are offline by now
}

func (w *watcher) init(s *session) { w.session = s }

// watchedOverhead is what a user who is watched by name costs beside the name.
const watchedOverhead = 160

// watch notes whom to watch; no users means everybody. It refuses too many.
func (w *watcher) watch(users []string) *wire.Error {
	w.mu.Lock()
	defer w.mu.Unlock()
	more, bytes := 0, int64(0)
	for _, user := range users { // a name that comes twice is counted twice
		if _, ok := w.users[user]; !ok {
			more++
			bytes += int64(len(user)) + watchedOverhead
		}
	}
	if w.over || len(w.users)+more > maxWatched {
		return &wire.Error{Code: wire.OverLimit, Detail: "too many subscriptions"}
	}
	if no := w.session.party.watch(bytes); no != nil {
		return no
	}
	before := w.watched
	if len(users) == 0 {
		w.all = true
	}
	for _, user := range users {
		if w.users == nil {
			w.users = map[string]struct{}{}
		}
		if _, ok := w.users[user]; !ok {
			w.users[user] = struct{}{}
			w.watched += int64(len(user)) + watchedOverhead
		}
	}
	w.session.party.watch(w.watched - before - bytes)
	return nil
}

// unwatch returns whom the session watched by name and does not watch any more;
// no users means everybody.
func (w *watcher) unwatch(users []string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(users) == 0 {
		w.all = false
		users = make([]string, 0, len(w.users))
		for user := range w.users {
			users = append(users, user)
		}
	}
	var gone []string
	for _, user := range users {
		if _, ok := w.users[user]; ok {
			delete(w.users, user)
			gone = append(gone, user)
			w.watched -= int64(len(user)) + watchedOverhead
			w.session.party.watch(-int64(len(user)) - watchedOverhead)
		}
	}
	return gone
}

// close ends it and returns whom the session watched.
func (w *watcher) close() (users map[string]struct{}, all bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	if w.timer != nil {
		w.timer.Stop()
	}
	w.session.party.watch(-w.watched)
	w.watched = 0
	users, all = w.users, w.all
	w.users, w.changed, w.lists, w.all = nil, nil, nil, false
	return users, all
}

// list queues an answer; false means that too many wait.
func (w *watcher) list(l presenceList) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over || len(w.lists) >= maxPresenceLists {
		return false
	}
	w.lists = append(w.lists, l)
	w.armLocked(0)
	return true
}

// userChanged notes that a user's state may have changed.
func (w *watcher) userChanged(user string) {
	// Whom the token does not show is not worth remembering. flush asks again,
	// with the operator's hook.
	if !w.session.claims.Load().See.match(user) {
		return
	}
	w.mu.Lock()
	if w.over {
		w.mu.Unlock()
		return
	}
	if w.changed == nil {
		w.changed = map[string]struct{}{}
	}
	w.changed[user] = struct{}{}
	tooSlow := len(w.changed) > maxPresenceChanged
	w.armLocked(presencePause - time.Since(w.last))
	w.mu.Unlock()
	if tooSlow {
		w.session.close(closeTooSlow)
	}
}

func (w *watcher) armLocked(in time.Duration) {
	in = max(in, 0)
	switch {
	case w.armed && in > 0:
		return
	case w.timer == nil:
		w.timer = time.AfterFunc(in, w.flush)
	default:
		w.timer.Reset(in)
	}
	w.armed = true
}

// flush is the timer's function. It sends what there is room for.
func (w *watcher) flush() {
	w.sending.Lock()
	defer w.sending.Unlock()
	for {
		f, ok := w.next()
		if !ok || f != nil && w.session.send(f) != nil {
			return
		}
	}
}

// next takes the next frame out; false means that there is none now. It may be
// nil if nothing of it is left to say.
func (w *watcher) next() (*wire.Frame, bool) {
	p := &w.session.party
	queued, most := p.user.used[countQueued].Load(), p.app.limits.Load().user.most[cellQueued]
	w.mu.Lock()
	w.armed = false
	if w.over {
		w.mu.Unlock()
		return nil, false
	}
	if queued > presenceShare(most) {
		if len(w.lists) > 0 || len(w.changed) > 0 {
			w.armLocked(presencePause)
		}
		w.mu.Unlock()
		return nil, false
	}
	if len(w.lists) > 0 {
		l := &w.lists[0]
		page := pageOf(l.users)
		l.users = l.users[len(page):]
		answer := &wire.PresenceList{Id: l.id, More: len(l.users) > 0}
		online := l.all
		if !answer.More {
			w.lists = w.lists[1:]
		}
		w.mu.Unlock()
		answer.Users = w.states(page, online, false)
		return &wire.Frame{Body: &wire.Frame_PresenceList{PresenceList: answer}}, true
	}
	if len(w.changed) == 0 {
		w.mu.Unlock()
		return nil, false
	}
	if wait := presencePause - time.Since(w.last); wait > 0 {
		w.armLocked(wait)
		w.mu.Unlock()
		return nil, false
	}
	var users []string
	for user := range w.changed {
		if _, named := w.users[user]; named || w.all {
			users = append(users, user)
		} else {
			delete(w.changed, user) // unsubscribed meanwhile
		}
		if len(users) == maxPresenceList {
			break
		}
	}
	page := pageOf(users)
	for _, user := range page {
		delete(w.changed, user)
	}
	if len(w.changed) == 0 {
		w.last = time.Now()
	}
	w.mu.Unlock()
	states := w.states(page, false, true)
	if len(states) == 0 {
		return nil, true
	}
	return &wire.Frame{Body: &wire.Frame_PresenceChange{PresenceChange: &wire.PresenceChange{Users: states}}}, true
}

// states reads how users are, without those offline if only online is asked for,
// and without those that the token does not show if check is set.
func (w *watcher) states(users []string, online, check bool) []*wire.Presence {
	s := w.session
	states := make([]*wire.Presence, 0, len(users))
	for _, user := range users {
		if check && s.srv.allow(s.ctx, s.token(), VerbSee, user, "") != nil {
			continue
		}
		p := s.srv.presenceOf(s.app, user)
		if !online || p.Status != statusOffline {
			states = append(states, p)
		}
	}
	return states
}

// pageOf returns the first users that fit one frame, in binary and in JSON.
func pageOf(users []string) []string {
	room := 96 << 10
	for i, user := range users {
		if room -= 2*len(user) + 64; room < 0 || i == maxPresenceList {
			return users[:i]
		}
	}
	return users
}
