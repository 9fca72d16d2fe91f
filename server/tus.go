package server

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	relay "github.com/dian-im/dian/internal/transfer"
	"github.com/dian-im/dian/internal/wire"
)

// The tus 1.0 upload protocol (https://tus.io/protocols/resumable-upload), core,
// creation, creation-with-upload and termination, over transfers. What it does
// beside the letter of it is for what clients really do: see docs/protocol.md §8.1.

const (
	tusVersion     = "1.0.0"
	tusExtensions  = "creation,creation-with-upload,termination"
	tusContentType = "application/offset+octet-stream"

	maxUploadMetadata = 16 << 10 // bytes of the header
	maxUploadEntries  = 32
)

// routes adds the routes of transfers.
func (ts *transfers) routes(mux *http.ServeMux) {
	mux.HandleFunc("OPTIONS /v1/users/{user}/transfers", ts.serveOptions)
	mux.HandleFunc("OPTIONS /v1/transfers/{id}", ts.serveOptions)
	mux.HandleFunc("POST /v1/users/{user}/transfers", ts.serveCreate)
	mux.HandleFunc("HEAD /v1/transfers/{id}", ts.serveHead)
	mux.HandleFunc("PATCH /v1/transfers/{id}", ts.servePatch)
	mux.HandleFunc("DELETE /v1/transfers/{id}", ts.serveDelete)
	mux.HandleFunc("GET /v1/transfers/{id}", ts.serveDown)
	mux.HandleFunc("PUT /v1/users/{user}/files/{name}", ts.servePut)
}

// serveOptions tells what is spoken here.
func (ts *transfers) serveOptions(w http.ResponseWriter, _ *http.Request) {
	h := w.Header()
	h.Set("Tus-Resumable", tusVersion)
	h.Set("Tus-Version", tusVersion)
	h.Set("Tus-Extension", tusExtensions)
	if limit := ts.srv.cfg.MaxFileBytes; limit > 0 {
		h.Set("Tus-Max-Size", strconv.FormatInt(limit, 10))
	}
	w.WriteHeader(http.StatusNoContent)
}

// tus begins a tus request: version, and whose token it has, who has to leave. False
// means that it was answered.
func (ts *transfers) tus(w http.ResponseWriter, r *http.Request) (*caller, bool) {
	h := w.Header()
	h.Set("Tus-Resumable", tusVersion)
	h.Set("Cache-Control", "no-store")
	if r.Header.Get("Tus-Resumable") != tusVersion {
		h.Set("Tus-Version", tusVersion)
		writeProblemStatus(w, http.StatusPreconditionFailed, wire.VersionNotSupported, "Tus-Resumable has to be "+tusVersion)
		return nil, false
	}
	return ts.srv.caller(w, r, 1)
}

// lengthHeader reads a header that holds a size or offset.
func lengthHeader(h http.Header, name string) (int64, error) {
	text := h.Get(name)
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != text {
		return 0, &wire.Error{Code: wire.BadParameter, Detail: name + " has to be a number of bytes from 0 to 2^63-1"}
	}
	return n, nil
}

// serveCreate answers POST /v1/users/{user}/transfers.
func (ts *transfers) serveCreate(w http.ResponseWriter, r *http.Request) {
	c, ok := ts.tus(w, r)
	if !ok {
		return
	}
	defer c.leave()
	if !ts.enter() {
		writeProblem(w, wire.ServiceFault, "the server is stopping")
		return
	}
	defer ts.leave()
	if ts.srv.cluster.carry(w, r, c.claims, r.PathValue("user"), kindName(wire.Kind_KIND_FILE)) {
		return
	}
	size, err := lengthHeader(r.Header, "Upload-Length")
	if err != nil {
		writeRefusal(w, err)
		return
	}
	o, err := offerOfMetadata(r.Header.Get("Upload-Metadata"))
	if err != nil {
		writeRefusal(w, err)
		return
	}
	o.Target, o.Size = r.PathValue("user"), size
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	content := kind == tusContentType && r.ContentLength != 0
	if content && r.ContentLength > size {
		writeProblem(w, wire.BadParameter, "the body is longer than Upload-Length")
		return
	}
	p := proposal{offer: o, claims: c.claims, party: &c.party}
	t, err := ts.propose(r.Context(), p)
	if err != nil {
		ts.srv.audit.refusedOffer(p, refused(err))
		writeRefusal(w, err)
		return
	}
	if no := t.awaitAnswer(r.Context(), c.claims, size == 0); no != nil {
		gone := r.Context().Err() != nil || refused(no).Code == wire.TokenRefused
		if gone && len(o.SendId) > 0 && !metadataHasID(r.Header.Get("Upload-Metadata")) {
			_ = t.step(relay.RelayCancel{}) // nobody will ever know its URL
		}
		writeRefusal(w, no)
		return
	}
	location := ts.srv.cfg.PublicURL + lanePathPrefix + t.id
	if !content {
		w.Header().Set("Location", location)
		w.WriteHeader(http.StatusCreated)
		return
	}
	u := newUpLane(w, r, c.claims, 0, ts.patience)
	outcome := t.upload(r.Context(), u)
	answer, send := u.answerer()
	defer send()
	t.mu.Lock()
	state, v, offset := t.m.State(), t.m.Verdict(), t.m.Upload(t.m.Synced())
	if outcome == upConfirmed {
		offset = t.m.Upload(u.p)
	}
	t.mu.Unlock()
	switch {
	case state.Ended() && state != relay.RelayDone && v.Code != wire.ConnectionLost:
		writeProblem(answer, v.Code, v.Detail)
		return
	case outcome == upExpired:
		writeProblem(answer, wire.TokenExpired, "")
		return
	case outcome == upRevoked:
		writeProblem(answer, wire.TokenRefused, "")
		return
	}
	// What did not come through goes on with HEAD and PATCH.
	h := answer.Header()
	h.Set("Location", location)
	h.Set("Upload-Offset", strconv.FormatInt(offset, 10))
	answer.WriteHeader(http.StatusCreated)
}

// awaitAnswer waits until an offer is answered or, if verdict is set, judged. The
// error is what the sender gets instead.
func (t *transfer) awaitAnswer(ctx context.Context, by claims, verdict bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		state := t.m.State()
		switch {
		case state == relay.RelayDone:
			return nil
		case state.Ended():
			v := t.m.Verdict()
			return &wire.Error{Code: v.Code, Detail: v.Detail}
		case t.stopping:
			return &wire.Error{Code: wire.ServiceFault, Detail: "the server is stopping"}
		case state != relay.RelayOffered && !t.m.Asking() && !verdict:
			return nil
		case ctx.Err() != nil:
			return &wire.Error{Code: wire.ConnectionClosed}
		case !t.ts.srv.keys.trusts(by):
			return &wire.Error{Code: wire.TokenRefused}
		}
		t.waitLocked(ctx, nil, nil)
	}
}

// serveHead answers HEAD /v1/transfers/{id} with the receiver's confirmed offset.
func (ts *transfers) serveHead(w http.ResponseWriter, r *http.Request) {
	c, ok := ts.tus(w, r)
	if !ok {
		return
	}
	defer c.leave()
	if ts.srv.cluster.carryUp(w, r, c.claims, r.PathValue("id")) {
		return
	}
	t, err := ts.rebuild(r.Context(), r.PathValue("id"), c.claims, &c.party, false)
	if err != nil {
		writeRefusal(w, err)
		return
	}
	if !ts.enter() {
		writeProblem(w, wire.ServiceFault, "the server is stopping")
		return
	}
	defer ts.leave()
	offset, err := t.standing(r.Context(), c.claims)
	if err != nil {
		writeRefusal(w, err)
		return
	}
	h := w.Header()
	h.Set("Upload-Offset", strconv.FormatInt(offset, 10))
	h.Set("Upload-Length", strconv.FormatInt(t.what.Size, 10))
	w.WriteHeader(http.StatusOK)
}

// standing returns the offset that a tus client goes on from. While bytes are under
// way the receiver is asked for its word on them.
func (t *transfer) standing(ctx context.Context, by claims) (int64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	wait := newPatience(t.ts.patience)
	defer wait.stop()
	asked := int64(-1) // the offset that the receiver was asked about
	for {
		state := t.m.State()
		if state.Ended() {
			v := t.m.Verdict()
			if state == relay.RelayDone {
				return t.what.Size, nil
			}
			return 0, &wire.Error{Code: v.Code, Detail: v.Detail}
		}
		if t.stopping {
			return 0, &wire.Error{Code: wire.ServiceFault, Detail: "the server is stopping"}
		}
		if !t.ts.srv.keys.trusts(by) {
			return 0, &wire.Error{Code: wire.TokenRefused}
		}
		if state != relay.RelayOffered && !t.m.Asking() && t.m.ReceiverLive() && !t.m.ReceiverBack() {
			if asked < 0 {
				t.stepLocked(relay.RelaySync{}) // counts what was copied, too
				asked = t.m.At()
			}
			// What a broken down-lane lost will never be confirmed.
			underWay := min(asked, t.m.At())
			if t.m.Synced() >= underWay || t.down == nil && state != relay.RelayVerifying && !t.m.Syncing() {
				return t.m.Upload(t.m.Synced()), nil
			}
			if !t.m.Syncing() {
				t.stepLocked(relay.RelaySync{})
			}
		}
		if t.waitLocked(ctx, nil, wait.c) || ctx.Err() != nil {
			return 0, &wire.Error{Code: wire.ConnectionLost, Detail: "the receiver is not there now"}
		}
	}
}

// servePatch answers PATCH /v1/transfers/{id}, the up-lane.
func (ts *transfers) servePatch(w http.ResponseWriter, r *http.Request) {
	c, ok := ts.tus(w, r)
	if !ok {
		return
	}
	defer c.leave()
	if ts.srv.cluster.carryUp(w, r, c.claims, r.PathValue("id")) {
		return
	}
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind != tusContentType {
		writeProblemStatus(w, http.StatusUnsupportedMediaType, wire.BadParameter, "Content-Type has to be "+tusContentType)
		return
	}
	p, err := lengthHeader(r.Header, "Upload-Offset")
	if err != nil {
		writeRefusal(w, err)
		return
	}
	t, err := ts.rebuild(r.Context(), r.PathValue("id"), c.claims, &c.party, false)
	if err != nil {
		writeRefusal(w, err)
		return
	}
	switch {
	case p > t.what.Size || r.ContentLength > t.what.Size-p:
		writeProblem(w, wire.BadParameter, "the content would be longer than Upload-Length")
		return
	case r.ContentLength == 0 && p < t.what.Size:
		writeProblem(w, wire.BadParameter, "the body is empty")
		return
	}
	if !ts.enter() {
		writeProblem(w, wire.ServiceFault, "the server is stopping")
		return
	}
	defer ts.leave()
	t.mu.Lock()
	if c.Expires.After(t.upUntil) {
		t.upUntil = c.Expires
	}
	t.mu.Unlock()
	u := newUpLane(w, r, c.claims, p, ts.patience)
	outcome := t.upload(r.Context(), u)
	answer, send := u.answerer()
	defer send()
	t.answerPatch(answer, outcome, u.p, p)
}

// answerPatch answers an up-lane that went from p to end.
func (t *transfer) answerPatch(w http.ResponseWriter, outcome upOutcome, end, p int64) {
	t.mu.Lock()
	state, v := t.m.State(), t.m.Verdict()
	offset := t.m.Upload(end)
	t.mu.Unlock()
	switch outcome {
	case upOver:
		if state != relay.RelayDone {
			writeProblem(w, v.Code, v.Detail)
			return
		}
		offset = t.what.Size
	case upConfirmed:
		if offset <= p { // no progress: a client would send the same again for ever
			writeProblem(w, wire.WrongLoginState, "no progress")
			return
		}
	case upConflict, upBroken: // a broken one will not read it
		writeProblem(w, wire.WrongLoginState, "the receiver goes on from another offset: ask with HEAD")
		return
	case upAway:
		writeProblem(w, wire.ConnectionLost, "the receiver is not there now")
		return
	case upExpired:
		writeProblem(w, wire.TokenExpired, "")
		return
	case upRevoked:
		writeProblem(w, wire.TokenRefused, "")
		return
	case upStopping:
		writeProblem(w, wire.ServiceFault, "the server is stopping")
		return
	}
	w.Header().Set("Upload-Offset", strconv.FormatInt(offset, 10))
	w.WriteHeader(http.StatusNoContent)
}

// serveDelete answers DELETE /v1/transfers/{id}: cancel.
func (ts *transfers) serveDelete(w http.ResponseWriter, r *http.Request) {
	c, ok := ts.tus(w, r)
	if !ok {
		return
	}
	defer c.leave()
	if ts.srv.cluster.carryUp(w, r, c.claims, r.PathValue("id")) {
		return
	}
	again := false
	if t := ts.find(r.PathValue("id")); t != nil {
		t.mu.Lock()
		again = t.m.State() == relay.RelayCancelled
		t.mu.Unlock()
	}
	t, err := ts.rebuild(r.Context(), r.PathValue("id"), c.claims, &c.party, true)
	if err != nil {
		writeRefusal(w, err)
		return
	}
	if !ts.enter() {
		writeProblem(w, wire.ServiceFault, "the server is stopping")
		return
	}
	defer ts.leave()
	t.mu.Lock()
	t.stepLocked(relay.RelayCancel{})
	wait := newPatience(t.ts.patience)
	defer wait.stop()
	late := false
	for !t.m.State().Ended() && !late && !t.stopping && r.Context().Err() == nil {
		late = t.waitLocked(r.Context(), nil, wait.c)
	}
	state, v := t.m.State(), t.m.Verdict()
	t.mu.Unlock()
	switch {
	case !state.Ended():
		writeProblem(w, wire.ConnectionLost, "the receiver decides, and is not there now")
	case state == relay.RelayCancelled && !again:
		w.WriteHeader(http.StatusNoContent)
	case state == relay.RelayDone:
		writeProblemStatus(w, http.StatusForbidden, wire.BadSendID, "too late: the receiver has it")
	default:
		writeProblem(w, v.Code, v.Detail)
	}
}

// offerOfMetadata reads Upload-Metadata (tus creation): pairs of a key and a value
// in base64, with commas between them. Unknown keys are passed over.
func offerOfMetadata(header string) (*wire.Offer, error) {
	bad := func(detail string) (*wire.Offer, error) {
		return nil, &wire.Error{Code: wire.BadParameter, Detail: "Upload-Metadata: " + detail}
	}
	if len(header) > maxUploadMetadata {
		return bad("too long")
	}
	values, err := uploadMetadata(header)
	if err != nil {
		return bad(err.Error())
	}
	o := &wire.Offer{Kind: wire.Kind_KIND_FILE, SendId: values["sendId"]}
	for _, key := range []string{"filename", "name"} {
		if o.Name == "" {
			o.Name = values[key]
		}
	}
	for _, key := range []string{"filetype", "type"} {
		if o.Type == "" {
			o.Type = values[key]
		}
	}
	if !utf8.ValidString(o.Name) || !utf8.ValidString(o.Type) {
		return bad("name or type is not UTF-8")
	}
	switch values["kind"] {
	case "", "file":
	case "buffer":
		o.Kind = wire.Kind_KIND_BUFFER
	default:
		return bad("kind has to be file or buffer")
	}
	if meta := values["meta"]; meta != "" {
		o.Meta = []byte(meta)
	}
	if digest, there := values["digest"]; there {
		text, is := strings.CutPrefix(digest, "sha-256:")
		value, err := hex.DecodeString(text)
		if !is || err != nil || len(value) != 32 {
			return bad("digest has to be sha-256: and 64 hexadecimal digits")
		}
		o.Digest = &wire.Digest{Algorithm: wire.DigestSHA256, Value: value}
	}
	if o.Resent = o.SendId != ""; !o.Resent { // who names it may have done so before
		o.SendId = wire.NewSendID()
	}
	return o, nil
}

func metadataHasID(header string) bool {
	values, err := uploadMetadata(header)
	return err == nil && values["sendId"] != ""
}

// uploadMetadata splits the header. A key may occur once.
func uploadMetadata(header string) (map[string]string, error) {
	values := map[string]string{}
	if strings.TrimSpace(header) == "" {
		return values, nil
	}
	for entry := range strings.SplitSeq(header, ",") {
		key, text, _ := strings.Cut(strings.TrimSpace(entry), " ")
		if key == "" {
			return nil, errors.New("an empty key")
		}
		if _, twice := values[key]; twice {
			return nil, errors.New("a key twice")
		}
		if len(values) == maxUploadEntries {
			return nil, errors.New("too many keys")
		}
		value, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
		if err != nil {
			return nil, errors.New("a value is not base64")
		}
		values[key] = string(value)
	}
	return values, nil
}
