package wire

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
)

// slowly encodes a frame as package proto does.
func slowly(t testing.TB, f *Frame) []byte {
	t.Helper()
	content, err := proto.MarshalOptions{Deterministic: true}.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.AppendUvarint(nil, uint64(len(content))), content...)
}

// someFrame is a frame of the fast kinds with some of its fields.
func someFrame(r *rand.Rand) *Frame {
	number := func() uint64 {
		if r.IntN(3) == 0 {
			return 0
		}
		return r.Uint64() >> r.IntN(64)
	}
	some := func() []byte {
		if r.IntN(3) == 0 {
			return nil
		}
		b := make([]byte, 1+r.IntN(1<<r.IntN(11)))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	text := func() string {
		if r.IntN(3) == 0 {
			return ""
		}
		return strings.Repeat([]string{"a", "é", "点", "\u0000"}[r.IntN(4)], 1+r.IntN(40))
	}
	switch r.IntN(3) {
	case 0:
		c := &Command{Id: text(), Target: text(), Ref: number(), Stream: number(), Seq: number(), Floor: number(),
			Resent: r.IntN(2) == 0, Data: some(), Meta: some(), Header: some()}
		if r.IntN(2) == 0 {
			c.Source = &Peer{User: text(), Instance: some()}
		}
		return &Frame{Body: &Frame_Command{Command: c}}
	case 1:
		return &Frame{Body: &Frame_CommandAck{CommandAck: &CommandAck{Ref: number(), Id: text(), Code: uint32(number()),
			Outcome: CommandOutcome(r.IntN(4)), Next: number(), Reply: some(), Detail: text(), Header: some()}}}
	}
	return &Frame{Body: &Frame_CommandResult{CommandResult: &CommandResult{Id: text(), Code: uint32(number()),
		Outcome: CommandOutcome(r.IntN(4)), Next: number(), Reply: some(), Detail: text(), Origin: Origin(r.IntN(4)), Header: some()}}}
}

// What this package writes itself is what package proto writes, byte for byte, and
// means the same to it.
func TestFastFramesAreTheSame(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var d Decoder
	for range 20000 {
		f := someFrame(r)
		want := slowly(t, f)
		got, ok := appendFast([]byte("before"), f)
		if !ok || !bytes.Equal(got, append([]byte("before"), want...)) {
			t.Fatalf("%v: %v\n%x\n%x", f, ok, got, want)
		}
		_, n := binary.Uvarint(want)
		back, ok := decodeFast(nil, want[n:])
		if !ok || !proto.Equal(back, f) {
			t.Fatalf("%v: %v, decoded %v", f, ok, back)
		}
		if again, ok := decodeFast(&d, want[n:]); !ok || !proto.Equal(again, f) {
			t.Fatalf("%v: %v, decoded %v into used memory", f, ok, again)
		}
		for i := range want {
			want[i] = 0xff
		}
		if !proto.Equal(back, f) {
			t.Fatal("the frame has memory of the message")
		}
	}
}

// Frames that are not for the fast way, each with what is against it.
func TestFastFramesLeaveTheRestAlone(t *testing.T) {
	for what, f := range map[string]*Frame{
		"nothing":             nil,
		"no body":             {},
		"no command":          {Body: &Frame_Command{}},
		"no ack":              {Body: &Frame_CommandAck{}},
		"no result":           {Body: &Frame_CommandResult{}},
		"another kind":        {Body: &Frame_Ping{Ping: &Ping{}}},
		"since":               {Body: &Frame_Command{Command: &Command{Since: &Moment{}}}},
		"an id not UTF-8":     {Body: &Frame_Command{Command: &Command{Id: "\xff"}}},
		"a user not UTF-8":    {Body: &Frame_Command{Command: &Command{Source: &Peer{User: "\xff"}}}},
		"a detail not UTF-8":  {Body: &Frame_CommandAck{CommandAck: &CommandAck{Detail: "\xff"}}},
		"a negative outcome":  {Body: &Frame_CommandResult{CommandResult: &CommandResult{Outcome: -1}}},
		"too large":           {Body: &Frame_Command{Command: &Command{Data: make([]byte, FrameBytes)}}},
		"fields of its later": {Body: &Frame_Command{Command: &Command{unknownFields: []byte{0x80, 0x7d, 1}}}},
	} {
		if out, ok := appendFast([]byte("x"), f); ok || string(out) != "x" {
			t.Errorf("%s: was encoded as %x", what, out)
		}
	}
	ack := func(fields ...byte) []byte { return append([]byte{tagAck, byte(len(fields))}, fields...) }
	for what, msg := range map[string][]byte{
		"nothing":                        {},
		"a tag alone":                    {tagAck},
		"a length behind the end":        {tagAck, 5, 8, 1},
		"something behind it":            append(ack(8, 1), 8, 1),
		"a field twice":                  ack(8, 1, 8, 2),
		"fields in another order":        ack(32, 1, 8, 2),
		"a field of a later version":     ack(8, 1, 0x78, 1),
		"a zero that is written":         ack(8, 0),
		"no bytes that are written":      ack(50, 0),
		"a number in too many bytes":     ack(8, 0x81, 0),
		"a number that is cut":           ack(8, 0x81),
		"a number over 64 bits":          ack(8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f),
		"a code over 32 bits":            ack(32, 0x80, 0x80, 0x80, 0x80, 0x10),
		"a string that is not UTF-8":     ack(18, 1, 0xff),
		"a string that is cut":           ack(18, 2, 'a'),
		"another wire type":              ack(9, 1, 2, 3, 4, 5, 6, 7, 8),
		"a command resent twice as much": {tagCommand, 2, 64, 2},
		"a source with a later field":    {tagCommand, 4, 26, 2, 0x78, 1},
		"a source that is cut":           {tagCommand, 3, 26, 5, 10},
	} {
		if f, ok := decodeFast(nil, msg); ok {
			t.Errorf("%s: was decoded to %v", what, f)
		}
	}
	if v := uint64(math.MaxUint64); varintSize(v) != 10 || varintSize(0) != 1 {
		t.Error("sizes of numbers")
	}
}

// FuzzFast looks for bytes that the fast way takes and package proto understands in
// another way, or would write in another way.
func FuzzFast(f *testing.F) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 20 {
		whole := slowly(f, someFrame(r))
		_, n := binary.Uvarint(whole)
		f.Add(whole[n:])
	}
	var d Decoder
	f.Fuzz(func(t *testing.T, msg []byte) {
		got, ok := decodeFast(nil, msg)
		if used, same := decodeFast(&d, msg); same != ok || ok && !proto.Equal(used, got) {
			t.Fatalf("%x: %v %v, but %v %v into used memory", msg, ok, got, same, used)
		}
		if !ok {
			return
		}
		var want Frame
		if err := proto.Unmarshal(msg, &want); err != nil || !proto.Equal(got, &want) {
			t.Fatalf("%x: %v, but to package proto %v (%v)", msg, got, &want, err)
		}
		if len(msg) > FrameBytes {
			return
		}
		out, ok := appendFast(nil, got)
		if _, n := binary.Uvarint(out); !ok || !bytes.Equal(out[n:], msg) {
			t.Fatalf("%x: encoded again as %x", msg, out)
		}
	})
}

func BenchmarkCommandFrame(b *testing.B) {
	f := &Frame{Body: &Frame_Command{Command: &Command{Id: NewSendID(), Target: "bob", Source: &Peer{User: "alice"},
		Ref: 1 << 40, Stream: 1 << 60, Seq: 1000, Floor: 900, Data: make([]byte, 100)}}}
	whole := slowly(b, f)
	b.Run("append", func(b *testing.B) {
		buf := make([]byte, 0, 1024)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := AppendBinary(buf, f); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("next", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, _, err := NextBinary(whole); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// A Decoder takes one allocation for a frame, its id: so little that the collector
// seldom has to run for commands.
func TestDecoderAllocates(t *testing.T) {
	var msg []byte
	for _, f := range []*Frame{
		{Body: &Frame_Command{Command: &Command{Id: NewSendID(), Target: "bob", Source: &Peer{User: "alice"}, Ref: 1, Stream: 2, Seq: 3, Data: make([]byte, 100), Meta: []byte("m")}}},
		{Body: &Frame_CommandAck{CommandAck: &CommandAck{Id: NewSendID(), Ref: 1}}},
		{Body: &Frame_CommandResult{CommandResult: &CommandResult{Id: NewSendID(), Origin: 1}}},
	} {
		var err error
		if msg, err = AppendBinary(msg, f); err != nil {
			t.Fatal(err)
		}
	}
	var d Decoder
	n := testing.AllocsPerRun(100, func() {
		for rest := msg; len(rest) > 0; {
			var err error
			if _, rest, err = d.Next(rest); err != nil {
				t.Fatal(err)
			}
		}
	})
	if n != 3 {
		t.Errorf("%v allocations for 3 frames", n)
	}
}
