package server

import (
	"context"
	"errors"
	"math"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/dian-im/dian/internal/filename"
	relay "github.com/dian-im/dian/internal/transfer"
	"github.com/dian-im/dian/internal/wire"
)

// A downLane is a request for content by the receiver. It is written to by the
// handler of the up-lane that runs into it, while its own handler only waits.
type downLane struct {
	lane
	w       http.ResponseWriter
	r       *http.Request
	control *http.ResponseController
	bounded bool
	// disposition makes a browser keep the content, under the safe form of the name
	// it was sent with (case 58): it is never shown as a page of our origin (case 120).
	disposition string
	splice      bool       // its connection may be taken
	taken       *takenConn // after a hijack; owned as w is

	// Guarded by the transfer's mu. While running they belong to the pair.
	from    int64 // where it began
	at, end int64 // stands at, goes to (exclusive)
	joined  bool  // no older one runs any more
	running bool  // an up-lane writes to it
	started bool  // the head of the response has gone out
}

func (d *downLane) whole() bool { return d.started && d.at == d.end }

// interrupt frees a goroutine that writes to the lane.
func (d *downLane) interrupt() {
	if d.taken != nil {
		_ = d.taken.conn.SetWriteDeadline(time.Unix(1, 0))
		return
	}
	_ = d.control.SetWriteDeadline(time.Unix(1, 0))
}

// Write passes content on.
func (d *downLane) Write(p []byte) (int, error) {
	if d.taken != nil {
		return d.taken.conn.Write(p)
	}
	return d.w.Write(p)
}

// flush sends what net/http still holds.
func (d *downLane) flush() error {
	if d.taken != nil {
		return nil
	}
	if err := d.control.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// head begins the response.
func (d *downLane) head(t *transfer, ranged bool) {
	h := d.w.Header()
	size := strconv.FormatInt(t.what.Size, 10)
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Disposition", d.disposition)
	h.Set("Accept-Ranges", "bytes")
	h.Set("ETag", t.etag)
	h.Set("X-Accel-Buffering", "no")
	h.Set("Cache-Control", "no-store, no-transform")
	h.Set("Content-Length", strconv.FormatInt(d.end-d.at, 10))
	if d.splice {
		h.Set("Connection", "close")
	}
	status := http.StatusOK
	if ranged {
		status = http.StatusPartialContent
		h.Set("Content-Range", "bytes "+strconv.FormatInt(d.at, 10)+"-"+strconv.FormatInt(d.end-1, 10)+"/"+size)
	}
	d.started = true
	d.w.WriteHeader(status)
}

// serveDown answers GET /v1/transfers/{id}, the down-lane.
func (ts *transfers) serveDown(w http.ResponseWriter, r *http.Request) {
	gone := func() {
		if ts.srv.cluster.mayBeElsewhere(r) {
			// That would be the end of it for the receiver, and is not this node's to say.
			w.Header().Set("Retry-After", "1")
			writeProblem(w, wire.ServiceFault, "the receiver's node is not known now")
			return
		}
		writeProblem(w, wire.BadSendID, "no such transfer, or the ticket does not count (any more)")
	}
	if ts.srv.cluster.carryDown(w, r, r.PathValue("id")) {
		return
	}
	t := ts.find(r.PathValue("id"))
	if t == nil {
		gone()
		return
	}
	if !ts.enter() {
		writeProblem(w, wire.ServiceFault, "the server is stopping")
		return
	}
	defer ts.leave()
	ticket := ticketOf(r)
	t.mu.Lock()
	fits, state, code, name := t.ticketFitsLocked(ticket), t.m.State(), t.m.Verdict().Code, t.name
	t.mu.Unlock()
	if !fits {
		gone()
		return
	}
	door := doorOf(r.Context())
	door.vouch()
	ts.srv.lines.own(door, t.what.App, t.what.Target)
	if state.Ended() {
		writeProblemStatus(w, http.StatusGone, code, "the transfer has ended")
		return
	}
	size := t.what.Size
	from, to, ranged, ok := parseRange(r.Header, t.etag, size)
	if !ok {
		w.Header().Set("Content-Range", "bytes */"+strconv.FormatInt(size, 10))
		writeProblemStatus(w, http.StatusRequestedRangeNotSatisfiable, wire.BadParameter, "the range is outside of the content")
		return
	}
	d := &downLane{
		lane: lane{stopped: make(chan struct{})}, w: w, r: r, control: http.NewResponseController(w),
		from: from, at: from, end: to, bounded: to < size,
	}
	if name == "" {
		d.disposition = "attachment"
	} else {
		d.disposition = mime.FormatMediaType("attachment", map[string]string{"filename": filename.Safe(name)})
	}
	_ = d.control.SetWriteDeadline(time.Time{})
	d.splice = !d.bounded && r.TLS == nil && r.ProtoMajor == 1 && r.ProtoAtLeast(1, 1) && to-from >= spliceMin
	if !d.bounded {
		d.head(t, ranged)
		if d.flush() != nil || from == to {
			return
		}
	}
	t.download(r.Context(), d, ticket)
}

// download runs a down-lane to its end.
func (t *transfer) download(ctx context.Context, d *downLane, ticket string) {
	begun := time.Now()
	defer func() { t.ts.srv.metrics.laneSeconds("down", time.Since(begun)) }()
	var wait patience
	if d.bounded {
		wait = newPatience(t.ts.patience)
		defer wait.stop()
	}
	late := false
	t.mu.Lock()
	if t.m.State().Ended() || t.stopping || !t.ticketFitsLocked(ticket) {
		d.endLocked(laneOver) // since it was looked at
	}
	older := t.down
	if d.why == laneLive {
		if older != nil {
			older.endLocked(laneDisplaced)
		}
		t.down = d
		t.wakeLocked()
	}
	for {
		if older != nil && !older.running && t.down == d && d.why == laneLive {
			older = nil
		}
		if older == nil && !d.joined && d.why == laneLive && t.down == d {
			d.joined = true
			if t.stepLocked(relay.RelayDownJoined{At: d.at}) != nil {
				d.endLocked(laneOver)
			}
		}
		broken := d.why != laneLive || ctx.Err() != nil
		if !d.running && (d.whole() || broken || late && !d.started) {
			break
		}
		changed := t.changeLocked()
		t.mu.Unlock()
		stopped, gone := (<-chan struct{})(d.stopped), ctx.Done()
		if broken { // a pair is about to notice
			stopped, gone = nil, nil
		}
		select {
		case <-changed:
		case <-stopped:
		case <-gone:
		case <-wait.c:
			late = true
		}
		t.mu.Lock()
	}
	whole, started := d.whole(), d.started
	if t.down == d {
		t.down = nil
		t.stepLocked(relay.RelayDownEnded{})
	}
	if !whole && t.up != nil && t.up.into == d {
		t.up.endLocked(laneBroken)
	}
	t.wakeLocked()
	why, ended, code := d.why, t.m.State().Ended(), t.m.Verdict().Code
	t.mu.Unlock()

	switch {
	case d.taken != nil:
		_ = d.taken.conn.Close()
	case whole:
	case started:
		if d.r.ProtoMajor > 1 { // HTTP/1.1 tells by closing, h2 has to be told
			panic(http.ErrAbortHandler)
		}
	case ended:
		writeProblemStatus(d.w, http.StatusGone, code, "the transfer has ended")
	case why == laneExpired:
		writeProblem(d.w, wire.BadSendID, "the ticket does not count any more")
	default:
		d.w.Header().Set("Retry-After", "0")
		writeProblemStatus(d.w, http.StatusServiceUnavailable, wire.TimedOut, "nothing to send yet")
	}
}

// ticketOf returns what a down-lane's request has for a ticket.
func ticketOf(r *http.Request) string {
	if scheme, ticket, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Ticket") {
		return ticket
	}
	return r.URL.Query().Get("ticket")
}

// parseRange returns the part [from, to) of the content that a request asks for.
// Only one range of bytes is known; a header of another form is ignored, as RFC
// 9110 section 14.2 allows. False means that it lies outside of the content.
func parseRange(h http.Header, etag string, size int64) (from, to int64, ranged, ok bool) {
	spec, is := strings.CutPrefix(h.Get("Range"), "bytes=")
	if condition := h.Get("If-Range"); condition != "" && condition != etag {
		is = false
	}
	first, last, two := strings.Cut(spec, "-")
	if !is || !two || strings.Contains(spec, ",") {
		return 0, size, false, true
	}
	if first == "" { // the last n bytes
		n, good := parseOffset(last)
		if !good {
			return 0, size, false, true
		}
		if n == 0 || size == 0 {
			return 0, 0, false, false
		}
		return max(0, size-n), size, true, true
	}
	from, good := parseOffset(first)
	if !good {
		return 0, size, false, true
	}
	to = size
	if last != "" {
		end, good := parseOffset(last)
		if !good || end < from {
			return 0, size, false, true
		}
		if end < size-1 {
			to = end + 1
		}
	}
	if from >= size {
		return 0, 0, false, false
	}
	return from, to, true, true
}

// parseOffset reads decimal digits; what is over 2^63-1 counts as that.
func parseOffset(text string) (int64, bool) {
	if text == "" || len(text) > 64 {
		return 0, false
	}
	for i := range len(text) {
		if text[i] < '0' || text[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return math.MaxInt64, true
	}
	return n, true
}
