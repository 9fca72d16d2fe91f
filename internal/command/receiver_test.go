package command

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dian-im/dian/internal/wire"
)

func command(stream, seq, floor uint64, resent bool) *wire.Command {
	return &wire.Command{
		Id: fmt.Sprintf("%d/%d", stream, seq), Source: &wire.Peer{User: "alice"}, Ref: 100*stream + seq,
		Stream: stream, Seq: seq, Floor: floor, Resent: resent, Data: []byte("data"),
	}
}

// answerOf arrives with a command and writes down what the receiver does.
func answerOf(r *Receiver, now time.Time, c *wire.Command) string {
	d, a := r.Arrive(now, c)
	s := ""
	if d != nil {
		s = "delivers"
	}
	switch {
	case a == nil:
	case a.Ref != c.Ref || a.Id != c.Id:
		s += " acks another command"
	case a.Outcome == wire.CommandOutcome_COMMAND_OUTCOME_GAP:
		s += fmt.Sprintf(" gap %d", a.Next)
	default:
		s += fmt.Sprintf(" final %d", a.Code)
	}
	return s
}

// The table of docs/protocol.md §6, line by line.
func TestReceiverFollowsTheTable(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	r := NewReceiver(false)
	for i, c := range []struct {
		command *wire.Command
		want    string
	}{
		{command(0, 0, 0, false), "delivers final 0"},
		{command(0, 0, 0, false), " final 0"},
		{command(1, 3, 3, true), " final 604"},
		{command(1, 4, 3, false), " gap 3"},
		{command(1, 3, 3, false), "delivers final 0"},
		{command(1, 3, 3, true), " final 0"},
		{command(1, 5, 3, false), " gap 4"},
		{command(1, 4, 3, true), "delivers final 0"},
		{command(1, 9, 8, false), " gap 8"}, // the floor rises above next
		{command(1, 7, 5, true), " final 604"},
		{command(1, 8, 8, false), "delivers final 0"},
		{command(2, 1, 1, false), "delivers final 0"}, // another stream
		{command(1, math.MaxUint64-1, math.MaxUint64-1, false), "delivers final 0"},
	} {
		if got := answerOf(r, now, c.command); got != c.want {
			t.Errorf("%d: %v: receiver %q, want %q", i, c.command, got, c.want)
		}
	}
	// Ten minutes later all of it is forgotten.
	now = now.Add(commandMemory + time.Second)
	if got, want := answerOf(r, now, command(0, 0, 0, false)), "delivers final 0"; got != want {
		t.Errorf("id after 10 minutes: %q, want %q", got, want)
	}
	if got, want := answerOf(r, now, command(2, 2, 2, true)), " final 604"; got != want {
		t.Errorf("stream after 10 minutes: %q, want %q", got, want)
	}
}

func TestReplyIsRepeatedUntilTheFloorPasses(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	r := NewReceiver(true)
	r.LineUp(nil)
	d, a := r.Arrive(now, command(1, 1, 1, false))
	if d == nil || a != nil {
		t.Fatalf("delivered %v, ack %v; want no ack before it is handled", d, a)
	}
	again := command(1, 1, 1, true)
	again.Ref = 77
	if d, a := r.Arrive(now, again); d != nil || a != nil {
		t.Fatalf("the same again: delivered %v, ack %v; want neither", d, a)
	}
	ack := r.Handled(d, wire.NoSpace, []byte("reply"), "detail")
	want := &wire.CommandAck{Ref: 77, Id: d.ID, Outcome: wire.CommandOutcome_COMMAND_OUTCOME_FINAL,
		Code: uint32(wire.NoSpace), Reply: []byte("reply"), Detail: "detail"}
	if diff := cmp.Diff(want.String(), ack.String()); diff != "" {
		t.Errorf("ack (-want +got):\n%s", diff)
	}
	if _, a := r.Arrive(now, again); a == nil || string(a.Reply) != "reply" || wire.Code(a.Code) != wire.NoSpace {
		t.Errorf("repeated ack %v, want the reply again", a)
	}
	r.Arrive(now, command(1, 2, 2, false))
	if _, a := r.Arrive(now, again); a == nil || wire.Code(a.Code) != wire.PeerNoAnswer || a.Reply != nil {
		t.Errorf("below the floor: ack %v, want 604 without reply", a)
	}
}

func TestAckOfABrokenLineIsNotSent(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	r := NewReceiver(true)
	r.LineUp(nil)
	d, _ := r.Arrive(now, command(1, 1, 1, false))
	r.LineUp(nil)
	if ack := r.Handled(d, wire.OK, nil, ""); ack != nil {
		t.Errorf("ack %v with a ref of the line before", ack)
	}
	if got, want := answerOf(r, now, command(1, 1, 1, true)), " final 0"; got != want {
		t.Errorf("sent again: %q, want %q", got, want)
	}
}

// What a peer can make us keep is bounded, whatever it sends.
func TestReceiverMemoryIsBounded(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	t.Run("streams", func(t *testing.T) {
		r := NewReceiver(true)
		for i := range uint64(2 * maxInStreams) {
			if d, _ := r.Arrive(now, command(i+1, 1, 1, false)); d != nil {
				r.Handled(d, wire.OK, make([]byte, 32<<10), "")
			}
			if len(r.streams) > maxInStreams || r.cached > maxReplyBytes {
				t.Fatalf("%d streams with %d bytes of replies", len(r.streams), r.cached)
			}
		}
		if r.queued != 0 {
			t.Errorf("%d queued, want 0", r.queued)
		}
	})
	t.Run("answers of one stream", func(t *testing.T) {
		r := NewReceiver(true)
		for i := range uint64(2 * maxAnswers) { // a floor that never rises
			if d, _ := r.Arrive(now, command(1, i+1, 1, false)); d != nil {
				r.Handled(d, wire.OK, make([]byte, wire.ReplyBytes), "")
			}
		}
		if r.cached > maxAnswerBytes+wire.ReplyBytes+maxAnswers*replyMemoryCost {
			t.Errorf("%d bytes of replies kept of one stream", r.cached)
		}
	})
	t.Run("ids", func(t *testing.T) {
		r := NewReceiver(false)
		for i := range 2 * maxKnownIDs {
			c := command(0, 0, 0, false)
			c.Id = fmt.Sprint(i)
			d, _ := r.Arrive(now, c)
			r.Handled(d, wire.OK, nil, "")
		}
		if len(r.ids) > maxKnownIDs || len(r.idOrder) > maxKnownIDs {
			t.Errorf("%d ids kept", len(r.ids))
		}
	})
}

// A resent command of an unknown stream is delivered only if no earlier life of
// the receiver, and nothing that this one has forgotten, can have got it.
func TestResentCommandThatWasNeverHere(t *testing.T) {
	now := time.Unix(0, 0)
	for _, c := range []struct {
		name  string
		since *wire.Moment
		drop  bool
		want  wire.Code
	}{
		{"first sent after this life began", &wire.Moment{Server: 7, Count: 11}, false, wire.OK},
		{"first sent before", &wire.Moment{Server: 7, Count: 9}, false, wire.PeerNoAnswer},
		{"at a server this life does not know", &wire.Moment{Server: 8, Count: 11}, false, wire.PeerNoAnswer},
		{"by a client that does not say", nil, false, wire.PeerNoAnswer},
		{"of a sender one of whose streams was forgotten", &wire.Moment{Server: 7, Count: 11}, true, wire.PeerNoAnswer},
	} {
		r := NewReceiver(false)
		r.LineUp(&wire.Moment{Server: 7, Count: 10})
		r.LineUp(&wire.Moment{Server: 7, Count: 20}) // the same life
		if c.drop {
			r.Arrive(now, &wire.Command{Id: "x", Source: &wire.Peer{User: "alice"}, Stream: 4, Seq: 1, Floor: 1})
			r.drop(r.streams[streamKey{"alice", 4}])
		}
		d, ack := r.Arrive(now, &wire.Command{Id: "y", Source: &wire.Peer{User: "alice"}, Stream: 5, Seq: 1, Floor: 1, Resent: true, Since: c.since})
		if wire.Code(ack.Code) != c.want || (d != nil) != (c.want == wire.OK) {
			t.Errorf("%s: code %d, delivered %v, want %d", c.name, ack.Code, d != nil, c.want)
		}
	}
}
