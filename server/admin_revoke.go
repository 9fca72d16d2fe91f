package server

import (
	"cmp"
	"encoding/hex"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// revokeRequest is the body of POST /admin/v1/revocations: a token itself, which is
// neither kept nor logged, or what names it, or a user.
type revokeRequest struct {
	Token string `json:"token,omitempty"`

	App          string    `json:"app,omitempty"`
	User         string    `json:"user,omitempty"`
	JTI          string    `json:"jti,omitempty"`
	SHA256       string    `json:"sha256,omitempty"`
	IssuedBefore time.Time `json:"issuedBefore,omitzero"`
	UpToNow      bool      `json:"upToNow,omitempty"` // IssuedBefore is now, and what clocks may differ
	Expires      time.Time `json:"expires,omitzero"`
	Reason       string    `json:"reason,omitempty"`
}

// RevokeResult is what a revocation has done. Kept is false if a restart of the
// server would forget it; then Problem says why.
type RevokeResult struct {
	Revocation
	Ended   int    `json:"ended"` // sessions
	Kept    bool   `json:"kept"`
	Problem string `json:"problem,omitempty"`
}

// revoke is POST /admin/v1/revocations.
func (a *admin) revoke(w http.ResponseWriter, r *http.Request, act *actRecord) error {
	act.action = "revoke"
	var q revokeRequest
	if err := readAdmin(w, r, &q); err != nil {
		return err
	}
	v, err := a.srv.revocationOf(q)
	if err != nil {
		return err
	}
	act.app, act.user = v.App, v.User
	result, fresh, err := a.srv.revokeNow(v)
	if err != nil {
		return err
	}
	act.target, act.count = result.ID, int64(result.Ended)
	status := http.StatusOK
	if fresh {
		status = http.StatusCreated
	}
	writeAdmin(w, status, result)
	return nil
}

// revocationOf makes a checked Revocation of a request.
func (s *Server) revocationOf(q revokeRequest) (Revocation, error) {
	now := time.Now()
	v := Revocation{
		App: q.App, User: q.User, JTI: q.JTI, SHA256: q.SHA256,
		IssuedBefore: q.IssuedBefore, Expires: q.Expires, Reason: q.Reason,
	}
	switch {
	case q.Token != "" && (q.App != "" || q.User != "" || q.JTI != "" || q.SHA256 != "" || !q.Expires.IsZero()):
		return v, errors.New("with token leave app, user, jti, sha256 and expires away; the token has them")
	case q.Token != "":
		// Only what its key has signed is believed: a forged text must not name
		// somebody else's token, or an end before the real one.
		c, no, _ := s.keys.prove(q.Token)
		if no != nil {
			return v, &wire.Error{Code: no.Code, Detail: "this token does not count here anyway"}
		}
		if !now.Before(c.Expires) {
			return v, &wire.Error{Code: wire.TokenExpired, Detail: "this token has expired already"}
		}
		v.App, v.JTI, v.Expires = c.App, c.jti, c.Expires
		if c.jti == "" || len(c.jti) > maxJTIBytes {
			v.JTI, v.SHA256 = "", hex.EncodeToString(c.marks[0][:])
		}
	case q.UpToNow && !q.IssuedBefore.IsZero():
		return v, errors.New("one of issuedBefore and upToNow is enough")
	case q.UpToNow:
		// The clock of who signs may be ahead: iat may be that much in the future.
		v.IssuedBefore = now.Add(tokenSkew)
	}
	v.IssuedBefore, v.Expires = millisUp(v.IssuedBefore), millisUp(v.Expires)
	if err := v.check(); err != nil {
		return v, err
	}
	if !v.counts(now) {
		return v, errors.New("expires is over already")
	}
	return v, nil
}

// millisUp rounds up to what the file shows.
func millisUp(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.UTC().Add(time.Millisecond - 1).Truncate(time.Millisecond)
}

// revokeNow puts a revocation into force, writes it down and ends what rests on what
// it names. What cannot be written is in force all the same: a full disk must not
// help a thief.
func (s *Server) revokeNow(v Revocation) (result RevokeResult, fresh bool, err error) {
	kept, fresh, err := s.revoked.add(v, time.Now())
	if errors.Is(err, errTooManyRevocations) {
		return result, false, &wire.Error{Code: wire.OverLimit, Detail: err.Error()}
	}
	s.cluster.revoked([]Revocation{kept})
	result = RevokeResult{Revocation: kept, Ended: s.distrust(), Kept: err == nil && s.revoked.path != ""}
	switch {
	case err != nil:
		result.Problem = err.Error()
		s.log.Error("revocation is in force and not written", "revocation", kept.ID, "err", err)
	case !result.Kept:
		result.Problem = "revocations_file is not set"
	}
	return result, fresh, nil
}

// RevocationList is one page of the revocations in force, by their ids. Next is what
// after is for the page that follows; absent on the last one.
type RevocationList struct {
	Revocations []Revocation `json:"revocations"`
	Next        string       `json:"next,omitempty"`
}

// revocations is GET /admin/v1/revocations.
func (a *admin) revocations(w http.ResponseWriter, r *http.Request, act *actRecord) error {
	act.action = "revocations"
	q, err := readQuery(r)
	if err != nil {
		return err
	}
	all := slices.DeleteFunc(a.srv.revoked.all(time.Now()), func(v Revocation) bool {
		return v.ID <= q.after || !q.covers(v.App, v.User)
	})
	page, more := firsts(all, q.limit, func(a, b Revocation) int { return cmp.Compare(a.ID, b.ID) })
	list := RevocationList{Revocations: page}
	if more {
		list.Next = page[len(page)-1].ID
	}
	if list.Revocations == nil {
		list.Revocations = []Revocation{}
	}
	act.count = int64(len(page))
	writeAdmin(w, http.StatusOK, list)
	return nil
}

// lift is DELETE /admin/v1/revocations/{id}.
func (a *admin) lift(w http.ResponseWriter, r *http.Request, act *actRecord) error {
	act.action = "unrevoke"
	id := r.PathValue("id")
	if !isHex(id, 8) {
		return errors.New("a revocation's id has 16 hexadecimal digits")
	}
	act.target = id
	lifted, found, err := a.srv.revoked.lift(id, time.Now())
	act.app, act.user = lifted.App, lifted.User
	switch {
	case err != nil:
		return &wire.Error{Code: wire.ServiceFault, Detail: "it stays in force: " + err.Error()}
	case !found:
		return &wire.Error{Code: wire.BadSendID, Detail: "there is no such revocation"}
	}
	a.srv.cluster.revoked(nil, id)
	writeAdmin(w, http.StatusOK, lifted)
	return nil
}
