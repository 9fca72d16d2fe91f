package command

import (
	"bytes"
	"container/list"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// MaxQueued is how many commands may wait for the application; one more is answered
// 602.
const MaxQueued = 1024

// Bounds of what a receiver of commands keeps. Peers choose what they send, so
// each is held whatever they do.
const (
	maxDeliveryBytes = 4 << 20 // their data

	maxInStreams    = 4096     // the least recently used one is forgotten
	maxAnswers      = 4096     // remembered of one stream
	maxAnswerBytes  = 16 << 20 // replies remembered of one stream
	maxReplyBytes   = 64 << 20 // replies remembered of all
	maxKnownIDs     = 65536    // ids of unordered commands, the oldest are forgotten
	commandMemory   = 10 * time.Minute
	replyMemoryCost = 64   // what an empty reply counts
	maxServers      = 1024 // whose moments are remembered
	maxForgot       = 4096 // senders of forgotten streams; with more, all count as such
)

// A Receiver is the receiver's side of docs/protocol.md §6: which command is
// delivered and what is answered. It has no clock, goroutine or I/O. Its memory
// is that of one life of the receiver.
type Receiver struct {
	ackHandled bool

	line    uint64 // counts sessions: a ref counts only in its own
	streams map[streamKey]*inStream
	recent  list.List // of *inStream, the most recently used in front
	ids     map[idKey]*Incoming
	idOrder []*Incoming // by age
	cached  int         // cost of all remembered replies

	alive  map[uint64]uint64   // by server: the moment of this life's first login there
	forgot map[string]struct{} // senders a stream of whom was forgotten

	queued, queuedBytes int

	answer wire.CommandAck // what Arrive returns, used again
}

type streamKey struct {
	source string
	stream uint64
}

type idKey struct{ source, id string }

// An inStream is what is known of one sender's stream.
type inStream struct {
	key     streamKey
	next    uint64 // the seq that is delivered next
	floor   uint64 // the highest that the sender has told
	answers map[uint64]*Incoming
	cached  int // cost of their replies
	used    time.Time
	place   *list.Element
}

// An Incoming is a command that is delivered, and what was answered to it.
type Incoming struct {
	Source, ID string
	Data, Meta []byte // until it is handled
	size       int

	stream *inStream // nil for an unordered one
	seq    uint64
	at     time.Time

	ref, line uint64 // whom to answer
	handled   bool
	known     bool // still remembered
	code      wire.Code
	reply     []byte
	detail    string
}

func (c *Incoming) cost() int { return len(c.reply) + replyMemoryCost }

// NewReceiver returns a Receiver that acks a command when it is queued or, with
// ackHandled, when its handler has returned.
func NewReceiver(ackHandled bool) *Receiver {
	return &Receiver{
		ackHandled: ackHandled,
		streams:    map[streamKey]*inStream{},
		ids:        map[idKey]*Incoming{},
		alive:      map[uint64]uint64{},
		forgot:     map[string]struct{}{},
	}
}

// LineUp begins a session: refs of the one before are void, its sender will ask
// again.
func (r *Receiver) LineUp(moment *wire.Moment) {
	r.line++
	if _, known := r.alive[moment.GetServer()]; moment.GetCount() > 0 && !known && len(r.alive) < maxServers {
		r.alive[moment.GetServer()] = moment.GetCount()
	}
}

// never reports whether a resent command of an unknown stream was certainly never
// delivered here: it was first sent under a login that came after this life had
// taken its place at the same server, so no earlier life can have got it, and this
// one remembers whom it has heard.
func (r *Receiver) never(c *wire.Command) bool {
	here, known := r.alive[c.GetSince().GetServer()]
	_, forgot := r.forgot[c.GetSource().GetUser()]
	return known && c.GetSince().GetCount() > here && !forgot && len(r.forgot) < maxForgot
}

// Arrive takes a command that has been checked, and keeps nothing of it but strings.
// A command that is returned is to be delivered behind the ones before; an ack that
// is returned is to be sent, and is good until the next Arrive.
func (r *Receiver) Arrive(now time.Time, c *wire.Command) (*Incoming, *wire.CommandAck) {
	r.forget(now)
	if c.GetStream() == 0 {
		return r.unordered(now, c)
	}
	key := streamKey{c.GetSource().GetUser(), c.GetStream()}
	s := r.streams[key]
	if s == nil {
		switch {
		case c.GetResent() && !r.never(c):
			return nil, r.final(c, wire.PeerNoAnswer, nil, "the receiver has restarted, or forgotten")
		case c.GetSeq() > c.GetFloor():
			return nil, r.gap(c, c.GetFloor())
		}
		s = &inStream{key: key, next: c.GetFloor(), floor: c.GetFloor()}
		s.place = r.recent.PushFront(s)
		r.streams[key] = s
		for len(r.streams) > maxInStreams {
			r.drop(r.recent.Back().Value.(*inStream))
		}
	}
	s.used = now
	r.recent.MoveToFront(s.place)
	r.raise(s, c.GetFloor())
	switch seq := c.GetSeq(); {
	case seq > s.next:
		return nil, r.gap(c, s.next)
	case seq < s.next:
		return nil, r.again(s, c)
	}
	if r.full(c) || len(s.answers) >= maxAnswers || s.cached > maxAnswerBytes {
		return nil, r.final(c, wire.PeerBusy, nil, "")
	}
	s.next++
	d := r.deliver(now, c)
	d.stream, d.seq = s, c.GetSeq()
	if !r.ackHandled {
		return d, r.final(c, wire.OK, nil, "")
	}
	if s.answers == nil {
		s.answers = map[uint64]*Incoming{}
	}
	s.answers[d.seq] = d
	d.known = true
	r.charge(d, 1)
	return d, nil
}

// raise notes a floor. Replies below it will not be asked for again.
func (r *Receiver) raise(s *inStream, floor uint64) {
	if floor <= s.floor {
		return
	}
	if floor-s.floor < uint64(len(s.answers)) {
		for seq := s.floor; seq < floor; seq++ {
			r.unlearn(s, seq)
		}
	} else { // the peer chooses the step: do not count through it
		for seq := range s.answers {
			if seq < floor {
				r.unlearn(s, seq)
			}
		}
	}
	s.floor = floor
	s.next = max(s.next, floor)
}

func (r *Receiver) unlearn(s *inStream, seq uint64) {
	if d := s.answers[seq]; d != nil {
		delete(s.answers, seq)
		r.charge(d, -1)
		d.known = false
	}
}

// charge counts what is remembered of a command, once with 1 and once with -1.
func (r *Receiver) charge(d *Incoming, sign int) {
	r.cached += sign * d.cost()
	if d.stream != nil {
		d.stream.cached += sign * d.cost()
	}
}

// again answers a command of a known stream that came before.
func (r *Receiver) again(s *inStream, c *wire.Command) *wire.CommandAck {
	if !r.ackHandled && c.GetSeq() >= s.floor {
		return r.final(c, wire.OK, nil, "")
	}
	d := s.answers[c.GetSeq()]
	if d == nil { // below the floor: the sender has its result and ignores this one
		return r.final(c, wire.PeerNoAnswer, nil, "")
	}
	return r.repeat(d, c)
}

// repeat answers as before, or notes whom to answer when the handler returns.
func (r *Receiver) repeat(d *Incoming, c *wire.Command) *wire.CommandAck {
	if !d.handled && r.ackHandled {
		d.ref, d.line = c.GetRef(), r.line
		return nil
	}
	return r.final(c, d.code, d.reply, d.detail)
}

// unordered delivers a command of stream 0 unless its id is known.
func (r *Receiver) unordered(now time.Time, c *wire.Command) (*Incoming, *wire.CommandAck) {
	key := idKey{c.GetSource().GetUser(), c.GetId()}
	if d := r.ids[key]; d != nil {
		return nil, r.repeat(d, c)
	}
	if r.full(c) {
		return nil, r.final(c, wire.PeerBusy, nil, "")
	}
	d := r.deliver(now, c)
	d.known = true
	r.ids[key] = d
	r.idOrder = append(r.idOrder, d)
	r.charge(d, 1)
	if r.ackHandled {
		return d, nil
	}
	return d, r.final(c, wire.OK, nil, "")
}

func (r *Receiver) full(c *wire.Command) bool {
	return r.queued >= MaxQueued ||
		r.queued > 0 && r.queuedBytes+len(c.GetData())+len(c.GetMeta()) > maxDeliveryBytes
}

func (r *Receiver) deliver(now time.Time, c *wire.Command) *Incoming {
	d := &Incoming{
		Source: c.GetSource().GetUser(), ID: c.GetId(), Data: bytes.Clone(c.GetData()), Meta: bytes.Clone(c.GetMeta()),
		size: len(c.GetData()) + len(c.GetMeta()), at: now, ref: c.GetRef(), line: r.line,
	}
	r.queued++
	r.queuedBytes += d.size
	return d
}

// Handled notes that the application is done with a command. The ack is to be
// sent, if there is one.
func (r *Receiver) Handled(d *Incoming, code wire.Code, reply []byte, detail string) *wire.CommandAck {
	r.queued--
	r.queuedBytes -= d.size
	d.Data, d.Meta, d.handled = nil, nil, true
	if !r.ackHandled {
		return nil
	}
	if d.known {
		r.charge(d, -1)
	}
	d.code, d.reply, d.detail = code, reply, detail
	if d.known {
		r.charge(d, 1)
		r.shed(d.stream)
	}
	if d.line != r.line {
		return nil // its line broke: the sender asks again, or has given up
	}
	return &wire.CommandAck{
		Ref: d.ref, Id: d.ID, Outcome: wire.CommandOutcome_COMMAND_OUTCOME_FINAL,
		Code: uint32(code), Reply: reply, Detail: detail,
	}
}

// shed forgets streams and ids until the replies fit, but not the stream keep.
// What is forgotten is answered 604 when it is asked for again: never delivered twice.
func (r *Receiver) shed(keep *inStream) {
	for r.cached > maxReplyBytes {
		oldest := r.recent.Back()
		if oldest != nil && oldest.Value.(*inStream) == keep {
			oldest = oldest.Prev()
		}
		switch {
		case oldest != nil:
			r.drop(oldest.Value.(*inStream))
		case len(r.idOrder) > 0:
			r.dropID()
		default:
			return
		}
	}
}

// forget drops what is too old or too much.
func (r *Receiver) forget(now time.Time) {
	for e := r.recent.Back(); e != nil; e = r.recent.Back() {
		s := e.Value.(*inStream)
		if now.Sub(s.used) <= commandMemory {
			break
		}
		r.drop(s)
	}
	for len(r.idOrder) > 0 && (len(r.idOrder) >= maxKnownIDs || now.Sub(r.idOrder[0].at) > commandMemory) {
		r.dropID()
	}
}

func (r *Receiver) dropID() {
	d := r.idOrder[0]
	r.idOrder[0] = nil
	r.idOrder = r.idOrder[1:]
	delete(r.ids, idKey{d.Source, d.ID})
	r.charge(d, -1)
	d.known = false
}

func (r *Receiver) drop(s *inStream) {
	for seq := range s.answers {
		r.unlearn(s, seq)
	}
	r.recent.Remove(s.place)
	delete(r.streams, s.key)
	if len(r.forgot) < maxForgot {
		r.forgot[s.key.source] = struct{}{}
	}
}

// Final returns an ack that ends a command.
func Final(c *wire.Command, code wire.Code, detail string) *wire.CommandAck {
	return &wire.CommandAck{
		Ref: c.GetRef(), Id: c.GetId(), Outcome: wire.CommandOutcome_COMMAND_OUTCOME_FINAL,
		Code: uint32(code), Detail: detail,
	}
}

func (r *Receiver) final(c *wire.Command, code wire.Code, reply []byte, detail string) *wire.CommandAck {
	r.answer = wire.CommandAck{
		Ref: c.GetRef(), Id: c.GetId(), Outcome: wire.CommandOutcome_COMMAND_OUTCOME_FINAL,
		Code: uint32(code), Reply: reply, Detail: detail,
	}
	return &r.answer
}

func (r *Receiver) gap(c *wire.Command, next uint64) *wire.CommandAck {
	r.answer = wire.CommandAck{
		Ref: c.GetRef(), Id: c.GetId(), Outcome: wire.CommandOutcome_COMMAND_OUTCOME_GAP, Next: next,
	}
	return &r.answer
}
