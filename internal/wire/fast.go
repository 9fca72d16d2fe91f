package wire

import (
	"encoding/binary"
	"math"
	"math/bits"
	"unicode/utf8"
)

// Commands, their acks and their results are most of what sessions carry. This file
// encodes and decodes them in a third of the time that package proto takes. It only
// does what is exactly as it would write it itself, and leaves all else to package
// proto: fields of a later version, another order, what is wrong in any way. So
// there is one meaning, and one place that says what is wrong.

// The frames' tags, and the wire types of protocol buffers.
const (
	tagCommand = 10<<3 | typeBytes
	tagAck     = 11<<3 | typeBytes
	tagResult  = 12<<3 | typeBytes

	typeVarint = 0
	typeBytes  = 2
)

// A sizer adds up what fields take; those that are zero take nothing. All tags of
// these messages are one byte.
type sizer int

func (s *sizer) varint(v uint64) {
	if v != 0 {
		*s += sizer(1 + varintSize(v))
	}
}

func (s *sizer) bytes(n int) {
	if n != 0 {
		s.message(n)
	}
}

// message is a message of n bytes, which may be 0.
func (s *sizer) message(n int) { *s += sizer(1 + varintSize(uint64(n)) + n) }

func varintSize(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

func appendVarint(b []byte, field byte, v uint64) []byte {
	if v == 0 {
		return b
	}
	return binary.AppendUvarint(append(b, field<<3|typeVarint), v)
}

func appendBytes[T string | []byte](b []byte, field byte, v T) []byte {
	if len(v) == 0 {
		return b
	}
	return append(binary.AppendUvarint(append(b, field<<3|typeBytes), uint64(len(v))), v...)
}

func bit(v bool) uint64 {
	if v {
		return 1
	}
	return 0
}

// appendFast appends a frame behind its length, if it is one for this file.
func appendFast(dst []byte, f *Frame) (out []byte, ok bool) {
	if f == nil || len(f.unknownFields) > 0 {
		return dst, false
	}
	switch b := f.Body.(type) {
	case *Frame_Command:
		if c := b.Command; plainCommand(c) {
			return appendCommand(dst, c)
		}
	case *Frame_CommandAck:
		if a := b.CommandAck; a != nil && len(a.unknownFields) == 0 && a.Outcome >= 0 && utf8.ValidString(a.Id) && utf8.ValidString(a.Detail) {
			return appendAck(dst, a)
		}
	case *Frame_CommandResult:
		if r := b.CommandResult; r != nil && len(r.unknownFields) == 0 && r.Outcome >= 0 && r.Origin >= 0 &&
			utf8.ValidString(r.Id) && utf8.ValidString(r.Detail) {
			return appendResult(dst, r)
		}
	}
	return dst, false
}

// plainCommand reports whether a command has nothing that this file leaves alone.
func plainCommand(c *Command) bool {
	if c == nil || len(c.unknownFields) > 0 || c.Since != nil || !utf8.ValidString(c.Id) || !utf8.ValidString(c.Target) {
		return false
	}
	return c.Source == nil || len(c.Source.unknownFields) == 0 && utf8.ValidString(c.Source.User)
}

// appendHead appends the length of a frame and the head of its only field.
func appendHead(dst []byte, tag byte, size sizer) (out []byte, ok bool) {
	frame := 1 + varintSize(uint64(size)) + int(size)
	if frame > FrameBytes {
		return dst, false
	}
	dst = binary.AppendUvarint(dst, uint64(frame))
	return binary.AppendUvarint(append(dst, tag), uint64(size)), true
}

func appendCommand(dst []byte, c *Command) (out []byte, ok bool) {
	var size, source sizer
	size.bytes(len(c.Id))
	size.bytes(len(c.Target))
	if p := c.Source; p != nil {
		source.bytes(len(p.User))
		source.bytes(len(p.Instance))
		size.message(int(source))
	}
	size.varint(c.Ref)
	size.varint(c.Stream)
	size.varint(c.Seq)
	size.varint(c.Floor)
	size.varint(bit(c.Resent))
	size.bytes(len(c.Data))
	size.bytes(len(c.Meta))
	size.bytes(len(c.Header))
	if out, ok = appendHead(dst, tagCommand, size); !ok {
		return dst, false
	}
	out = appendBytes(out, 1, c.Id)
	out = appendBytes(out, 2, c.Target)
	if p := c.Source; p != nil {
		out = binary.AppendUvarint(append(out, 3<<3|typeBytes), uint64(source))
		out = appendBytes(out, 1, p.User)
		out = appendBytes(out, 2, p.Instance)
	}
	out = appendVarint(out, 4, c.Ref)
	out = appendVarint(out, 5, c.Stream)
	out = appendVarint(out, 6, c.Seq)
	out = appendVarint(out, 7, c.Floor)
	out = appendVarint(out, 8, bit(c.Resent))
	out = appendBytes(out, 9, c.Data)
	out = appendBytes(out, 10, c.Meta)
	return appendBytes(out, 11, c.Header), true
}

func appendAck(dst []byte, a *CommandAck) (out []byte, ok bool) {
	var size sizer
	size.varint(a.Ref)
	size.bytes(len(a.Id))
	size.varint(uint64(a.Outcome))
	size.varint(uint64(a.Code))
	size.varint(a.Next)
	size.bytes(len(a.Reply))
	size.bytes(len(a.Detail))
	size.bytes(len(a.Header))
	if out, ok = appendHead(dst, tagAck, size); !ok {
		return dst, false
	}
	out = appendVarint(out, 1, a.Ref)
	out = appendBytes(out, 2, a.Id)
	out = appendVarint(out, 3, uint64(a.Outcome))
	out = appendVarint(out, 4, uint64(a.Code))
	out = appendVarint(out, 5, a.Next)
	out = appendBytes(out, 6, a.Reply)
	out = appendBytes(out, 7, a.Detail)
	return appendBytes(out, 8, a.Header), true
}

func appendResult(dst []byte, r *CommandResult) (out []byte, ok bool) {
	var size sizer
	size.bytes(len(r.Id))
	size.varint(uint64(r.Outcome))
	size.varint(uint64(r.Code))
	size.varint(r.Next)
	size.bytes(len(r.Reply))
	size.bytes(len(r.Detail))
	size.varint(uint64(r.Origin))
	size.bytes(len(r.Header))
	if out, ok = appendHead(dst, tagResult, size); !ok {
		return dst, false
	}
	out = appendBytes(out, 1, r.Id)
	out = appendVarint(out, 2, uint64(r.Outcome))
	out = appendVarint(out, 3, uint64(r.Code))
	out = appendVarint(out, 4, r.Next)
	out = appendBytes(out, 5, r.Reply)
	out = appendBytes(out, 6, r.Detail)
	out = appendVarint(out, 7, uint64(r.Origin))
	return appendBytes(out, 8, r.Header), true
}

// A Decoder decodes frames into memory that it uses again. What it returns of a
// Command, a CommandAck or a CommandResult is good until its next frame, and bytes in
// it are those of the message; strings may be kept. It is used by one goroutine at a
// time.
type Decoder struct {
	command commandFrame
	ack     ackFrame
	result  resultFrame

	target, source string // the last ones: many commands in a row have the same
}

// The frames of this file, each in one piece of memory.
type (
	commandFrame struct {
		frame  Frame
		body   Frame_Command
		c      Command
		source Peer
	}
	ackFrame struct {
		frame Frame
		body  Frame_CommandAck
		a     CommandAck
	}
	resultFrame struct {
		frame Frame
		body  Frame_CommandResult
		r     CommandResult
	}
)

// Forget overwrites what Next has returned last, so that a test sees who keeps it.
func (d *Decoder) Forget() {
	const gone = "overwritten"
	c, a, r := &d.command.c, &d.ack.a, &d.result.r
	c.Id, c.Target, c.Source, c.Data, c.Meta, c.Seq = gone, gone, nil, []byte(gone), []byte(gone), math.MaxUint64
	a.Id, a.Reply, a.Detail = gone, []byte(gone), gone
	r.Id, r.Reply, r.Detail = gone, []byte(gone), gone
}

// A taker takes the fields of a message off its front, in the order of their numbers.
// After the first that is not as this file would write it, ok is false for good.
type taker struct {
	rest []byte
	ok   bool
	d    *Decoder // whose memory is used; nil: it is the frame's own
}

// has takes a tag, if it is the next.
func (t *taker) has(field, typ byte) bool {
	if len(t.rest) == 0 || t.rest[0] != field<<3|typ {
		return false
	}
	t.rest = t.rest[1:]
	return true
}

func (t *taker) number() uint64 {
	v, n := binary.Uvarint(t.rest)
	if n <= 0 || n != varintSize(v) {
		t.ok, t.rest = false, nil
		return 0
	}
	t.rest = t.rest[n:]
	return v
}

// varint takes a field of at most most; without it the value is 0.
func (t *taker) varint(field byte, most uint64) uint64 {
	if !t.has(field, typeVarint) {
		return 0
	}
	v := t.number()
	if v == 0 || v > most {
		t.ok = false
	}
	return v
}

// part takes what is behind a tag. It shares its memory with the message.
func (t *taker) part() []byte {
	n := t.number()
	if !t.ok || n > uint64(len(t.rest)) {
		t.ok, t.rest = false, nil
		return nil
	}
	part := t.rest[:n]
	t.rest = t.rest[n:]
	return part
}

func (t *taker) bytes(field byte) []byte {
	if !t.has(field, typeBytes) {
		return nil
	}
	part := t.part()
	if len(part) == 0 {
		t.ok = false
		return nil
	}
	if t.d != nil {
		return part[:len(part):len(part)]
	}
	return append(make([]byte, 0, len(part)), part...)
}

func (t *taker) string(field byte) string {
	if !t.has(field, typeBytes) {
		return ""
	}
	part := t.part()
	if len(part) == 0 || !utf8.Valid(part) {
		t.ok = false
		return ""
	}
	return string(part)
}

// known is string for a field that is often the same as last.
func (t *taker) known(field byte, last *string) string {
	if t.d == nil {
		return t.string(field)
	}
	if !t.has(field, typeBytes) {
		return ""
	}
	part := t.part()
	if len(part) == 0 || string(part) != *last {
		if len(part) == 0 || !utf8.Valid(part) {
			t.ok = false
			return ""
		}
		*last = string(part)
	}
	return *last
}

// decodeFast decodes a frame without its length, if it is one for this file: with a
// Decoder into that, otherwise into memory of its own, and shares none with msg then.
func decodeFast(d *Decoder, msg []byte) (f *Frame, ok bool) {
	if len(msg) == 0 {
		return nil, false
	}
	tag := msg[0]
	if tag != tagCommand && tag != tagAck && tag != tagResult {
		return nil, false
	}
	frame := taker{rest: msg[1:], ok: true}
	t := taker{rest: frame.part(), ok: true, d: d}
	if !frame.ok || len(frame.rest) > 0 {
		return nil, false
	}
	switch tag {
	case tagCommand:
		f = t.command()
	case tagAck:
		f = t.ack()
	default:
		f = t.result()
	}
	if !t.ok || len(t.rest) > 0 {
		return nil, false
	}
	return f, true
}

func (t *taker) command() *Frame {
	var whole *commandFrame
	var target, source *string
	if t.d != nil {
		whole, target, source = &t.d.command, &t.d.target, &t.d.source
		*whole = commandFrame{}
	} else {
		whole = new(commandFrame)
	}
	c := &whole.c
	whole.body.Command = c
	whole.frame.Body = &whole.body
	c.Id = t.string(1)
	c.Target = t.known(2, target)
	if t.has(3, typeBytes) {
		inner := taker{rest: t.part(), ok: t.ok, d: t.d}
		whole.source.User = inner.known(1, source)
		whole.source.Instance = inner.bytes(2)
		t.ok = t.ok && inner.ok && len(inner.rest) == 0
		c.Source = &whole.source
	}
	c.Ref = t.varint(4, math.MaxUint64)
	c.Stream = t.varint(5, math.MaxUint64)
	c.Seq = t.varint(6, math.MaxUint64)
	c.Floor = t.varint(7, math.MaxUint64)
	c.Resent = t.varint(8, 1) == 1
	c.Data = t.bytes(9)
	c.Meta = t.bytes(10)
	c.Header = t.bytes(11)
	return &whole.frame
}

func (t *taker) ack() *Frame {
	var whole *ackFrame
	if t.d != nil {
		whole = &t.d.ack
		*whole = ackFrame{}
	} else {
		whole = new(ackFrame)
	}
	a := &whole.a
	whole.body.CommandAck = a
	whole.frame.Body = &whole.body
	a.Ref = t.varint(1, math.MaxUint64)
	a.Id = t.string(2)
	a.Outcome = CommandOutcome(t.varint(3, math.MaxInt32))
	a.Code = uint32(t.varint(4, math.MaxUint32))
	a.Next = t.varint(5, math.MaxUint64)
	a.Reply = t.bytes(6)
	a.Detail = t.string(7)
	a.Header = t.bytes(8)
	return &whole.frame
}

func (t *taker) result() *Frame {
	var whole *resultFrame
	if t.d != nil {
		whole = &t.d.result
		*whole = resultFrame{}
	} else {
		whole = new(resultFrame)
	}
	r := &whole.r
	whole.body.CommandResult = r
	whole.frame.Body = &whole.body
	r.Id = t.string(1)
	r.Outcome = CommandOutcome(t.varint(2, math.MaxInt32))
	r.Code = uint32(t.varint(3, math.MaxUint32))
	r.Next = t.varint(4, math.MaxUint64)
	r.Reply = t.bytes(5)
	r.Detail = t.string(6)
	r.Origin = Origin(t.varint(7, math.MaxInt32))
	r.Header = t.bytes(8)
	return &whole.frame
}
