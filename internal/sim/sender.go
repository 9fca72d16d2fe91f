package sim

import (
	"fmt"
	"strings"
	"time"

	"github.com/dian-im/dian/internal/transfer"
	"github.com/dian-im/dian/internal/wire"
)

// A sender is alice's process: the SDK's part around the machines of her tasks, and
// a journal of unfinished sends that survives it, as the command line's does.
type sender struct {
	w      *world
	alive  bool
	life   int
	line   *line
	heard  time.Time // since when there is one
	buffer int64     // of lanes

	tasks    []*outTask
	commands *commandSide
}

// An outTask is one buffer or file to be sent.
type outTask struct {
	s       *sender
	id      string
	key     uint64 // of its content
	size    int64
	inlined bool
	content []byte
	digest  *wire.Digest

	http     *tusClient       // instead of a machine
	piece    int64            // of its PATCHes; 0: the rest
	lanes    int              // that it has opened
	m        *transfer.Sender // nil before its beginning and between two lives
	begun    bool
	lane     *upLane
	head     int
	wake     int // counts, so that only the last timer counts
	place    string
	transfer string

	journal string // the place, as the journal has it
	results []transfer.SenderResult
	told    int   // in this life
	shown   int64 // the last progress, of this life
	highest int64 // that was ever sent
	resent  int64
}

func (s *sender) name() string { return "alice" }
func (s *sender) living() bool { return s.alive }
func (s *sender) lives() int   { return s.life }

func (s *sender) boot() {
	s.alive = true
	s.life++
	s.w.note("alice begins life %d", s.life)
	s.commands.boot(s.life)
	for _, t := range s.tasks {
		if t.begun && len(t.results) == 0 {
			t.begin(true)
		}
	}
	s.connect(0)
}

func (s *sender) connect(goAway time.Duration) {
	life := s.life
	s.w.connectWithin(max(goAway, reconnectMin), s, 0, func() bool { return s.life == life && s.line == nil })
}

// kill ends the process. What it knew is gone, except for the journal.
func (s *sender) kill() {
	s.w.note("alice is killed")
	s.alive = false
	s.w.breakLines(s)
	s.line = nil
	for _, t := range s.tasks {
		if t.lane != nil {
			t.lane.breakOff()
			t.lane = nil
		}
		t.m = nil
		t.head = 0
	}
}

func (s *sender) lineUp(l *line) {
	s.line, s.heard = l, s.w.now
	s.commands.lineUp(l.moment)
	for _, t := range s.tasks {
		t.step(transfer.SenderLineUp{})
	}
}

func (s *sender) lineDown(l *line) {
	if s.line != l {
		return
	}
	s.line = nil
	s.commands.lineDown()
	for _, t := range s.tasks {
		t.step(transfer.SenderLineDown{})
	}
	s.connect(l.goAway)
}

// lineOff would be for good: nothing takes alice's place.
func (s *sender) lineOff(l *line) { s.w.fail("alice's line is off") }

func (s *sender) find(sendID, id string) *outTask {
	for _, t := range s.tasks {
		if t.m != nil && (id != "" && t.transfer == id || sendID != "" && t.id == sendID) {
			return t
		}
	}
	return nil
}

func (s *sender) accepted(sendID, id, place string, offset int64) {
	if t := s.find(sendID, ""); t != nil {
		t.transfer = id
		t.place = place
		t.step(transfer.SenderAccepted{Transfer: id, URL: id, Offset: offset, Instance: []byte(place)})
	}
}

func (s *sender) received(id string, offset int64) {
	if t := s.find("", id); t != nil {
		t.step(transfer.SenderReceived{Offset: offset})
	}
}

func (s *sender) verdict(sendID, id string, r transfer.SenderResult) {
	t := s.find(sendID, id)
	if t == nil {
		s.ack(id) // its task has its result, perhaps in another life
		return
	}
	t.step(transfer.SenderVerdict{Transfer: id, Result: r})
}

func (s *sender) unknown(sendID, id string) {
	if t := s.find(sendID, id); t != nil {
		t.step(transfer.SenderUnknown{})
	}
}

func (s *sender) ack(id string) {
	if id != "" {
		sendID, _, _ := strings.Cut(id, "@")
		s.send(senderFrame{sendAck, sendID, id, atServer(id, transfer.RelayAcked{})})
	}
}

// send sends a frame about a transfer.
func (s *sender) send(f senderFrame) {
	if l := s.line; l != nil {
		l.toServer(func(srv *server) { srv.transfer(l, f) })
	}
}

// begin makes the task's machine. Reused: it may have been sent by an earlier life.
func (t *outTask) begin(reused bool) {
	w := t.s.w
	t.begun, t.told, t.shown = true, 0, -1
	t.transfer, t.place = "", t.journal
	if t.http != nil {
		w.note("%s begins: %d bytes by tus", t.id, t.size)
		t.http = &tusClient{t: t}
		t.http.begin()
		return
	}
	t.m = transfer.NewSender(transfer.SenderConfig{
		Size: t.size, Inlined: t.inlined, Reused: reused, Window: resumeWindow, OfferWait: offerWait, PeerWait: w.plan(t.id).waits, Jitter: w.upTo,
	}, w.now)
	w.note("%s begins: %d bytes, inlined %v, reused %v", t.id, t.size, t.inlined, reused)
	if t.s.line != nil {
		t.step(transfer.SenderLineUp{})
	} else {
		t.step(transfer.SenderLineDown{})
	}
}

func (t *outTask) step(e transfer.SenderEvent) {
	if t.m == nil || !t.s.alive {
		return
	}
	w := t.s.w
	before := t.m.State()
	actions := append([]transfer.SenderAction(nil), t.m.Step(w.now, e)...)
	if _, tick := e.(transfer.SenderTick); w.tracing && (!tick || len(actions) > 0) {
		w.note("alice %s: %s in %v, now %v, confirmed %d of %d", t.id, describe(e), before, t.m.State(), t.m.Confirmed(), t.size)
	}
	if place := t.m.Instance(); place != nil {
		t.journal = string(place)
	}
	for _, a := range actions {
		if t.m == nil {
			return
		}
		t.do(a)
	}
	if t.m == nil {
		return
	}
	if t.m.Over() {
		t.m = nil
		return
	}
	if at, ok := t.m.Wake(); ok {
		t.wake++
		wake := t.wake
		w.at(maxTime(at, w.now), func() {
			if t.wake == wake {
				t.step(transfer.SenderTick{})
			}
		})
	}
}

func maxTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

func (t *outTask) do(a transfer.SenderAction) {
	w, id := t.s.w, t.transfer
	switch a.Do {
	case transfer.SenderSendOffer:
		o := &offer{sendID: t.id, size: t.size, inlined: t.inlined, instance: t.place, resent: a.Resent}
		if t.inlined {
			o.digest = t.digest
		}
		t.s.send(senderFrame{sendOffer, t.id, "", func(srv *server, l *line) { srv.propose(l, o) }})
	case transfer.SenderSendFinish:
		t.s.send(senderFrame{sendFinish, t.id, id, atServer(id, transfer.RelayFinish{Digest: t.digest})})
	case transfer.SenderSendAck:
		t.s.ack(a.Transfer)
	case transfer.SenderSendCancel:
		place := t.place
		t.s.send(senderFrame{sendCancel, t.id, id, func(srv *server, l *line) { srv.cancel(l, t.id, id, place, t.size) }})
	case transfer.SenderOpenLane:
		t.endLane()
		u := &upLane{w: w, t: t, lane: a.Lane, from: a.Offset, end: a.Offset + a.Length,
			handed: a.Offset, came: a.Offset, p: a.Offset}
		t.lane = u
		w.bob.history.opened(t, a.Offset)
		w.counts.Lanes++
		place := t.place
		w.after(w.delay(), func() { w.patch(u, id, place) })
		w.after(w.upTo(time.Millisecond), u.write)
	case transfer.SenderAskHead:
		t.endLane()
		t.head = a.Lane
		place := t.place
		w.after(w.delay(), func() { w.head(t, a.Lane, id, place) })
		w.after(time.Minute, func() { // a connection that hangs is given up
			if t.head == a.Lane {
				t.headEnded(transfer.SenderLaneEnded{Lane: a.Lane, End: transfer.LaneBroken})
			}
		})
	case transfer.SenderEndLane:
		t.endLane()
	case transfer.SenderDigest:
		w.after(w.upTo(5*time.Millisecond), func() { t.step(transfer.SenderDigested{}) })
	case transfer.SenderProgress:
		if a.Offset <= t.shown || a.Offset > t.size {
			w.fail("%s: progress %d of %d after %d", t.id, a.Offset, t.size, t.shown)
		}
		t.shown = a.Offset
	case transfer.SenderTell:
		t.tell(t.m.Result())
	}
}

// tell gives the application the result.
func (t *outTask) tell(r transfer.SenderResult) {
	w := t.s.w
	w.note("%s has its result: %+v", t.id, r)
	if t.told++; t.told > 1 {
		w.fail("%s has a second result, %+v", t.id, r)
	}
	t.results = append(t.results, r)
	// Within its time somebody should have said how it stands.
	late := r.Code == wire.ConnectionLost && w.plan(t.id).thinks < longThought || r.Code == wire.PeerNoAnswer
	if late && r.Origin == wire.Origin_ORIGIN_UNSPECIFIED && w.longWell() {
		w.fail("%s: result %d, and everybody was there for a minute", t.id, r.Code)
	}
	if r.Code == wire.OK {
		if t.size > 0 && t.shown != t.size {
			w.fail("%s: result 0 after a progress of %d of %d", t.id, t.shown, t.size)
		}
		w.resultOK(t, r)
	}
}

func (t *outTask) endLane() {
	t.head = 0
	if u := t.lane; u != nil {
		t.lane = nil
		u.breakOff()
	}
}

func (t *outTask) laneEnded(u *upLane, e transfer.SenderLaneEnded) {
	if t.lane != u {
		return
	}
	t.lane = nil
	if t.http != nil {
		t.http.laneEnded(e)
		return
	}
	t.step(e)
}

func (t *outTask) headEnded(e transfer.SenderLaneEnded) {
	if t.head != e.Lane || t.head == 0 {
		return
	}
	t.head = 0
	t.step(e)
}

// sent counts what is handed to a lane, and what of it for another time.
func (t *outTask) sent(from, to int64) {
	t.s.w.counts.Bytes += to - from
	if again := min(to, t.highest) - from; again > 0 {
		t.resent += again
		t.s.w.counts.Resent += again
	}
	t.highest = max(t.highest, to)
}

func taskID(n int) string { return fmt.Sprintf("task-%d", n) }
