package server

import (
	"encoding/base64"
	"encoding/json"
	"mime"
	"net/http"
	"strings"
	"unicode/utf8"

	relay "github.com/dian-im/dian/internal/transfer"
	"github.com/dian-im/dian/internal/wire"
)

// putResult is the answer to a PUT whose file has arrived.
type putResult struct {
	SendID  string `json:"sendId"`
	Code    int    `json:"code"`
	Receipt string `json:"receipt"`
	Checked string `json:"checked"` // "sha-256" or "length"
	Size    int64  `json:"size"`
}

// servePut answers PUT /v1/users/{user}/files/{name}: one request sends one file.
// It is refused before its content is asked for (Expect: 100-continue) whenever
// that is possible: the body is not touched before the receiver has accepted.
func (ts *transfers) servePut(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	c, ok := ts.srv.caller(w, r, 1)
	if !ok {
		return
	}
	defer c.leave()
	if ts.srv.cluster.carry(w, r, c.claims, r.PathValue("user"), kindName(wire.Kind_KIND_FILE)) {
		return
	}
	if r.ContentLength < 0 {
		writeProblemStatus(w, http.StatusLengthRequired, wire.BadParameter, "Content-Length is needed")
		return
	}
	o, named, err := offerOfPut(r)
	if err != nil {
		writeRefusal(w, err)
		return
	}
	if !ts.enter() {
		writeProblem(w, wire.ServiceFault, "the server is stopping")
		return
	}
	defer ts.leave()
	p := proposal{offer: o, claims: c.claims, party: &c.party, put: true}
	t, err := ts.propose(r.Context(), p)
	if err != nil {
		ts.srv.audit.refusedOffer(p, refused(err))
		writeRefusal(w, err)
		return
	}
	giveUp := func() {
		if !named { // nobody can go on with it
			_ = t.step(relay.RelayCancel{})
		}
	}
	if err := t.awaitAnswer(r.Context(), c.claims, o.Size == 0); err != nil {
		giveUp()
		writeRefusal(w, err)
		return
	}
	answer := w
	if o.Size > 0 {
		u := newUpLane(w, r, c.claims, 0, 0)
		outcome := t.upload(r.Context(), u)
		var send func()
		answer, send = u.answerer()
		defer send()
		switch outcome {
		case upExpired:
			giveUp()
			writeProblem(answer, wire.TokenExpired, "")
			return
		case upRevoked:
			giveUp()
			writeProblem(answer, wire.TokenRefused, "")
			return
		case upStopping:
			writeProblem(answer, wire.ServiceFault, "the server is stopping")
			return
		case upConflict, upAway, upBroken:
			// One request cannot go back in its content.
			giveUp()
			writeProblemStatus(answer, http.StatusConflict, wire.ConnectionLost, "the receiver's lane broke: send it again")
			return
		}
	}
	t.mu.Lock()
	v := t.m.Verdict()
	t.mu.Unlock()
	if v.Code != wire.OK {
		writeProblem(answer, v.Code, v.Detail)
		return
	}
	res := putResult{SendID: o.SendId, Receipt: receiptName(v.Receipt), Checked: "length", Size: t.what.Size}
	if t.what.Digest != "" && !v.LengthOnly {
		res.Checked = wire.DigestSHA256
	}
	h := answer.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Dian-Send-Id", o.SendId)
	answer.WriteHeader(http.StatusOK)
	_ = json.NewEncoder(answer).Encode(res)
}

// offerOfPut makes the offer of a PUT, and reports whether the sender named it.
func offerOfPut(r *http.Request) (o *wire.Offer, named bool, err error) {
	bad := func(detail string) (*wire.Offer, bool, error) {
		return nil, false, &wire.Error{Code: wire.BadParameter, Detail: detail}
	}
	o = &wire.Offer{
		Kind: wire.Kind_KIND_FILE, Target: r.PathValue("user"), Name: r.PathValue("name"), Size: r.ContentLength,
		SendId: r.Header.Get("Dian-Send-Id"),
	}
	if !utf8.ValidString(o.Name) {
		return bad("the name is not UTF-8")
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err == nil && utf8.ValidString(kind) {
		o.Type = kind
	}
	if meta := r.Header.Get("Dian-Meta"); meta != "" {
		if o.Meta, err = base64.StdEncoding.DecodeString(meta); err != nil {
			return bad("Dian-Meta is not base64")
		}
	}
	if o.Digest, err = reprDigest(r.Header.Values("Repr-Digest")); err != nil {
		return bad(err.Error())
	}
	named = o.SendId != ""
	o.Resent = named // who names it may have done so before
	if !named {
		o.SendId = wire.NewSendID()
	}
	return o, named, nil
}

// reprDigest finds sha-256 in Repr-Digest (RFC 9530), a dictionary of byte
// sequences. Other algorithms are passed over.
func reprDigest(values []string) (*wire.Digest, error) {
	for entry := range strings.SplitSeq(strings.Join(values, ","), ",") {
		name, text, _ := strings.Cut(strings.TrimSpace(entry), "=")
		if !strings.EqualFold(name, wire.DigestSHA256) {
			continue
		}
		text, opened := strings.CutPrefix(text, ":")
		text, closed := strings.CutSuffix(text, ":")
		value, err := base64.StdEncoding.DecodeString(text)
		if !opened || !closed || err != nil || len(value) != 32 {
			return nil, &wire.Error{Code: wire.BadParameter, Detail: "Repr-Digest: sha-256 is not 32 bytes in base64 between colons"}
		}
		return &wire.Digest{Algorithm: wire.DigestSHA256, Value: value}, nil
	}
	return nil, nil
}
