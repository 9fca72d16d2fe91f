package server

import (
	"cmp"
	"errors"
	"net/http"
	"time"

	relay "github.com/dian-im/dian/internal/transfer"
	"github.com/dian-im/dian/internal/wire"
)

// TransferInfo is one transfer as GET /admin/v1/transfers tells of it. Names, types
// and meta are not in it.
type TransferInfo struct {
	Transfer  string  `json:"transfer"` // its id
	SendID    string  `json:"sendId"`
	App       string  `json:"app"`
	From      string  `json:"from"`
	To        string  `json:"to"`
	Kind      string  `json:"kind"` // buffer or file
	Via       string  `json:"via"`  // session, tus or put
	Size      int64   `json:"size"`
	State     string  `json:"state"`    // offered, accepted, streaming, interrupted or verifying
	Offset    int64   `json:"offset"`   // that the receiver has confirmed
	Receiver  bool    `json:"receiver"` // its session is there
	AgeMillis int64   `json:"ageMs"`
	Rate      float64 `json:"rate"` // bytes a second, of the last seconds
}

// TransferList is one page of transfers, by their ids. Next is what after is for the
// page that follows; absent on the last one.
type TransferList struct {
	Transfers []TransferInfo `json:"transfers"`
	Next      string         `json:"next,omitempty"`
}

func (t *transfer) info(now time.Time) TransferInfo {
	t.mu.Lock()
	defer t.mu.Unlock()
	return TransferInfo{
		Transfer: t.id, SendID: t.key.sendID, App: t.key.app, From: t.key.source, To: t.key.target,
		Kind: t.kind, Via: t.trail.via, Size: t.what.Size, State: t.m.State().String(), Offset: t.m.Confirmed(),
		Receiver: t.m.ReceiverLive(), AgeMillis: now.Sub(t.trail.begun).Milliseconds(),
		Rate: float64(int64(t.trail.rate.value(now))),
	}
}

// running returns the transfers that have not ended and fit.
func (ts *transfers) running(fits func(*transfer) bool) []*transfer {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return members(ts.open, fits)
}

// transfers is GET /admin/v1/transfers: those that have not ended.
func (a *admin) transfers(w http.ResponseWriter, r *http.Request, act *actRecord) error {
	act.action = "transfers"
	q, err := readQuery(r)
	if err != nil {
		return err
	}
	all := a.srv.transfers.running(func(t *transfer) bool {
		return t.id > q.after && q.covers(t.key.app, t.key.source, t.key.target)
	})
	page, more := firsts(all, q.limit, func(a, b *transfer) int { return cmp.Compare(a.id, b.id) })
	list := TransferList{Transfers: make([]TransferInfo, len(page))}
	now := time.Now()
	for i, t := range page {
		list.Transfers[i] = t.info(now)
	}
	if more {
		list.Next = page[len(page)-1].id
	}
	act.count = int64(len(page))
	writeAdmin(w, http.StatusOK, list)
	return nil
}

// cancelRequest is the body of POST /admin/v1/cancel: a transfer by its id, or all
// of one task. App and From are needed if several users have used the sendID.
type cancelRequest struct {
	Transfer string `json:"transfer,omitempty"`
	SendID   string `json:"sendId,omitempty"`
	App      string `json:"app,omitempty"`
	From     string `json:"from,omitempty"`
}

// CancelResult tells how a cancel went: Cancelled transfers have ended, of Deciding
// ones the receiver has everything and decides.
type CancelResult struct {
	Cancelled int `json:"cancelled"`
	Deciding  int `json:"deciding"`
}

// cancel is POST /admin/v1/cancel. It does what the sender's cancel would.
func (a *admin) cancel(w http.ResponseWriter, r *http.Request, act *actRecord) error {
	act.action = "cancel"
	var c cancelRequest
	if err := readAdmin(w, r, &c); err != nil {
		return err
	}
	if (c.Transfer == "") == (c.SendID == "") {
		return errors.New("one of transfer and sendId is needed")
	}
	act.app, act.user, act.target = wellFormed(c.App, wire.CheckApp), wellFormed(c.From, wire.CheckUser), wellFormed(c.SendID, wire.CheckSendID)
	all := a.srv.transfers.running(func(t *transfer) bool {
		return (t.id == c.Transfer || t.key.sendID == c.SendID) &&
			(c.App == "" || c.App == t.key.app) && (c.From == "" || c.From == t.key.source)
	})
	if len(all) == 0 {
		return &wire.Error{Code: wire.BadSendID, Detail: "there is no such transfer under way"}
	}
	first := all[0]
	for _, t := range all {
		if t.key.app != first.key.app || t.key.source != first.key.source {
			return errors.New("several users have used this sendId; say app and from")
		}
	}
	act.app, act.user, act.target = first.key.app, first.key.source, first.key.sendID
	var result CancelResult
	for _, t := range all {
		t.mu.Lock()
		t.stepLocked(relay.RelayCancel{})
		if t.m.State().Ended() {
			result.Cancelled++
		} else {
			result.Deciding++
		}
		t.mu.Unlock()
	}
	act.count = int64(len(all))
	writeAdmin(w, http.StatusOK, result)
	return nil
}
