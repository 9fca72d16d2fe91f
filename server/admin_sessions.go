package server

import (
	"cmp"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// SessionInfo is one session as GET /admin/v1/sessions tells of it.
type SessionInfo struct {
	Session      uint64    `json:"session"` // counts the logins of this server
	App          string    `json:"app"`
	User         string    `json:"user"`
	Role         string    `json:"role"`     // listen or send
	Protocol     string    `json:"protocol"` // proto or json
	Since        time.Time `json:"since"`
	Epoch        uint64    `json:"epoch"`
	Address      string    `json:"address,omitempty"`
	QueuedFrames int       `json:"queuedFrames"` // that the client has not read
	QueuedBytes  int       `json:"queuedBytes"`
	TokenExpires time.Time `json:"tokenExpires"`
}

// SessionList is one page of sessions, by their numbers. Next is what after is for
// the page that follows; absent on the last one.
type SessionList struct {
	Sessions []SessionInfo `json:"sessions"`
	Next     string        `json:"next,omitempty"`
}

func (s *session) info() SessionInfo {
	frames, bytes := s.link.Queued()
	labels := s.labels()
	return SessionInfo{
		Session: s.id, App: s.app, User: s.user, Role: labels[0], Protocol: labels[1],
		Since: millis(s.since), Epoch: s.epoch, Address: s.address,
		QueuedFrames: frames, QueuedBytes: bytes, TokenExpires: millis(s.token().Expires),
	}
}

// sessions is GET /admin/v1/sessions.
func (a *admin) sessions(w http.ResponseWriter, r *http.Request, act *actRecord) error {
	act.action = "sessions"
	q, err := readQuery(r)
	if err != nil {
		return err
	}
	after := uint64(0)
	if q.after != "" {
		if after, err = strconv.ParseUint(q.after, 10, 64); err != nil {
			return errors.New("after has to be the next of the page before")
		}
	}
	all := slices.DeleteFunc(a.srv.all(), func(s *session) bool {
		return s.id <= after || !s.live() || !q.covers(s.app, s.user)
	})
	page, more := firsts(all, q.limit, func(a, b *session) int { return cmp.Compare(a.id, b.id) })
	list := SessionList{Sessions: make([]SessionInfo, len(page))}
	for i, s := range page {
		list.Sessions[i] = s.info()
	}
	if more {
		list.Next = strconv.FormatUint(page[len(page)-1].id, 10)
	}
	act.count = int64(len(page))
	writeAdmin(w, http.StatusOK, list)
	return nil
}

// kickUser ends the sessions of a user, or the one of that number, by an operator's
// wish, and returns how many those were.
func (s *Server) kickUser(p place, number uint64) (kicked int) {
	for _, sess := range s.all() {
		if sess.app == p.app && sess.user == p.user && (number == 0 || number == sess.id) && sess.live() {
			sess.kick(adminOperator)
			kicked++
		}
	}
	return kicked
}

// kickRequest is the body of POST /admin/v1/kick.
type kickRequest struct {
	App     string `json:"app"`
	User    string `json:"user"`
	Session uint64 `json:"session,omitempty"` // 0: all of the user
}

// KickResult is how many sessions a kick has ended.
type KickResult struct {
	Kicked int `json:"kicked"`
}

// kick is POST /admin/v1/kick: it ends sessions of a user with code 10, and what
// they receive and send. The client does not come back by itself; its token counts
// as before.
func (a *admin) kick(w http.ResponseWriter, r *http.Request, act *actRecord) error {
	act.action = "kick"
	var k kickRequest
	if err := readAdmin(w, r, &k); err != nil {
		return err
	}
	if err := cmp.Or(wire.CheckApp(k.App), wire.CheckUser(k.User)); err != nil {
		return err
	}
	act.app, act.user, act.session = k.App, k.User, k.Session
	var result KickResult
	result.Kicked = a.srv.kickUser(place{k.App, k.User}, k.Session)
	if k.Session == 0 { // numbers are each node's own
		result.Kicked += a.srv.cluster.kick(place{k.App, k.User})
	}
	act.count = int64(result.Kicked)
	if result.Kicked == 0 {
		detail := "there is no such session"
		if a.srv.cluster != nil && k.Session == 0 {
			detail = "there is no such session here; the other nodes are told"
		}
		return &wire.Error{Code: wire.PeerOffline, Detail: detail}
	}
	writeAdmin(w, http.StatusOK, result)
	return nil
}
