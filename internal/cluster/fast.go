package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/dian-im/dian/internal/wire"
)

// Commands and their results are most of what nodes say to each other. This file writes
// and reads their messages without package proto's reflection; for whoever reads the
// bytes they are messages like all others.

const (
	deliverField   = 12
	deliveredField = 13

	// Lengths that are not known before what they count are written as varints of three
	// bytes, whatever their values: MaxMessage fits.
	lengthBytes = 3
)

func hole(dst []byte) []byte { return append(dst, 0, 0, 0) }

// fill writes the length of what is behind a hole.
func fill(b []byte, at int) {
	n := len(b) - at - lengthBytes
	b[at], b[at+1], b[at+2] = byte(n)|0x80, byte(n>>7)|0x80, byte(n>>14)
}

// AppendDeliver is Append for a Deliver with the frame of a command.
func AppendDeliver(dst []byte, app string, epoch, route uint64, address string, f *wire.Frame) ([]byte, error) {
	out := hole(dst)
	out = hole(protowire.AppendTag(out, deliverField, protowire.BytesType))
	body := len(out)
	out = appendString(out, 1, app)
	out = appendFixed(out, 2, epoch)
	out = appendFixed(out, 3, route)
	out = appendString(out, 4, address)
	return appendFrame(dst, out, body, 5, f)
}

// AppendDelivered is Append for a Delivered with the frame of a command's result.
func AppendDelivered(dst []byte, route, ref uint64, f *wire.Frame) ([]byte, error) {
	out := hole(dst)
	out = hole(protowire.AppendTag(out, deliveredField, protowire.BytesType))
	body := len(out)
	out = appendFixed(out, 1, route)
	out = appendFixed(out, 2, ref)
	return appendFrame(dst, out, body, 3, f)
}

func appendString(b []byte, field protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}

func appendFixed(b []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendFixed64(protowire.AppendTag(b, field, protowire.Fixed64Type), v)
}

// appendFrame appends the frame, which is the last field of the body that begins at body,
// and fills in the lengths. On an error it returns dst.
func appendFrame(dst, out []byte, body int, field protowire.Number, f *wire.Frame) ([]byte, error) {
	out = hole(protowire.AppendTag(out, field, protowire.BytesType))
	at := len(out) - lengthBytes
	out, err := wire.AppendBinary(out, f)
	if err != nil {
		return dst, fmt.Errorf("cluster: %w", err)
	}
	if n := len(out) - len(dst); n > MaxMessage {
		return dst, fmt.Errorf("cluster: a message of %d bytes", n)
	}
	fill(out, at)
	fill(out, body-lengthBytes)
	fill(out, len(dst))
	return out, nil
}

// A Reader reads the messages of packets into memory that it uses again. It is used by
// one goroutine at a time.
type Reader struct {
	// Exactly one of these is set by Next, or none for a message of a kind that is not
	// known here. What they point to is good until the next call.
	Message   *Message
	Deliver   *Delivery
	Delivered *Result

	message   Message
	delivery  Delivery
	result    Result
	command   wire.Decoder
	answer    wire.Decoder
	app, addr string // the last ones: many in a row have the same
}

// A Delivery is a Deliver.
type Delivery struct {
	App          string
	Epoch, Route uint64
	Address      string
	Frame        *wire.Frame // of a Command
}

// A Result is a Delivered.
type Result struct {
	Route, Ref uint64
	Frame      *wire.Frame // of a CommandResult
}

var errFrame = errors.New("not the frame that belongs there")

// Next reads the first of the messages of a packet and returns the others. The error is
// ErrPacket.
func (r *Reader) Next(messages []byte) (rest []byte, err error) {
	r.Message, r.Deliver, r.Delivered = nil, nil, nil
	size, n := binary.Uvarint(messages)
	if n <= 0 || size > MaxMessage || size > uint64(len(messages)-n) {
		return nil, ErrPacket
	}
	m, rest := messages[n:n+int(size)], messages[n+int(size):]
	field, typ, k := protowire.ConsumeTag(m)
	if k > 0 && typ == protowire.BytesType && (field == deliverField || field == deliveredField) {
		body, k2 := protowire.ConsumeBytes(m[k:])
		if k2 < 0 || k+k2 != len(m) {
			return nil, ErrPacket
		}
		if field == deliverField {
			err = r.readDeliver(body)
		} else {
			err = r.readDelivered(body)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrPacket, err)
		}
		return rest, nil
	}
	r.message.Reset()
	if _, err := Next(messages, &r.message); err != nil {
		return nil, err
	}
	r.Message = &r.message
	return rest, nil
}

func (r *Reader) readDeliver(body []byte) error {
	d := &r.delivery
	*d = Delivery{}
	var frame []byte
	err := fields(body, func(field protowire.Number, number uint64, bytes []byte) {
		switch field {
		case 1:
			d.App = again(&r.app, bytes)
		case 2:
			d.Epoch = number
		case 3:
			d.Route = number
		case 4:
			d.Address = again(&r.addr, bytes)
		case 5:
			frame = bytes
		}
	})
	if err != nil {
		return err
	}
	f, rest, err := r.command.Next(frame)
	if err != nil || len(rest) > 0 || f.GetCommand() == nil {
		return errors.Join(errFrame, err)
	}
	d.Frame, r.Deliver = f, d
	return nil
}

func (r *Reader) readDelivered(body []byte) error {
	d := &r.result
	*d = Result{}
	var frame []byte
	err := fields(body, func(field protowire.Number, number uint64, bytes []byte) {
		switch field {
		case 1:
			d.Route = number
		case 2:
			d.Ref = number
		case 3:
			frame = bytes
		}
	})
	if err != nil {
		return err
	}
	f, rest, err := r.answer.Next(frame)
	if err != nil || len(rest) > 0 || f.GetCommandResult() == nil {
		return errors.Join(errFrame, err)
	}
	d.Frame, r.Delivered = f, d
	return nil
}

// again returns b as a string, which is often the same as the last one.
func again(last *string, b []byte) string {
	if string(b) != *last {
		*last = string(b)
	}
	return *last
}

// fields calls take for each field of a message that is a number of fixed width or bytes,
// and passes over the others.
func fields(m []byte, take func(field protowire.Number, number uint64, bytes []byte)) error {
	for len(m) > 0 {
		field, typ, n := protowire.ConsumeTag(m)
		if n < 0 {
			return protowire.ParseError(n)
		}
		m = m[n:]
		switch typ {
		case protowire.Fixed64Type:
			v, n := protowire.ConsumeFixed64(m)
			if n < 0 {
				return protowire.ParseError(n)
			}
			take(field, v, nil)
			m = m[n:]
		case protowire.BytesType:
			v, n := protowire.ConsumeBytes(m)
			if n < 0 {
				return protowire.ParseError(n)
			}
			take(field, 0, v)
			m = m[n:]
		default:
			n := protowire.ConsumeFieldValue(field, typ, m)
			if n < 0 {
				return protowire.ParseError(n)
			}
			m = m[n:]
		}
	}
	return nil
}
