package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math/bits"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

var (
	// ErrFraming means that a binary message cannot be cut into frames: a length
	// is zero, too large, not minimal, or reaches behind the message's end.
	ErrFraming = errors.New("bad frame length")
	// ErrContent means that the bytes of a frame are not a Frame.
	ErrContent = errors.New("bad frame content")
	// ErrTooLarge means that a frame to be sent is over FrameBytes or MessageBytes.
	ErrTooLarge = errors.New("frame too large")
	// ErrEmpty means that a frame to be sent has no body.
	ErrEmpty = errors.New("frame without a body")
)

// AppendBinary appends f behind its length to dst, as one part of a binary
// message, and returns the longer slice; on an error it returns dst as it was.
// Errors: ErrTooLarge, ErrEmpty, ErrContent (a string that is not UTF-8).
func AppendBinary(dst []byte, f *Frame) ([]byte, error) {
	if out, ok := appendFast(dst, f); ok {
		return out, nil
	}
	size := proto.Size(f)
	switch {
	case size == 0:
		return dst, ErrEmpty
	case size > FrameBytes:
		return dst, fmt.Errorf("%w: %d bytes", ErrTooLarge, size)
	}
	out := binary.AppendUvarint(dst, uint64(size))
	out, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(out, f)
	if err != nil {
		return dst, fmt.Errorf("%w: %w", ErrContent, err)
	}
	return out, nil
}

// NextBinary decodes the first frame of a binary message and returns what is
// behind it. Nothing is allocated for a frame whose length is not right. The
// frame shares no memory with msg. Its Body is nil if it is of an unknown kind,
// which the caller ignores. An empty msg is ErrFraming.
func NextBinary(msg []byte) (f *Frame, rest []byte, err error) { return nextBinary(nil, msg) }

// Next is NextBinary into the Decoder's memory.
func (d *Decoder) Next(msg []byte) (f *Frame, rest []byte, err error) { return nextBinary(d, msg) }

func nextBinary(d *Decoder, msg []byte) (f *Frame, rest []byte, err error) {
	size, n := binary.Uvarint(msg)
	switch {
	case n <= 0:
		return nil, nil, fmt.Errorf("%w: truncated or over 64 bits", ErrFraming)
	case size == 0:
		return nil, nil, fmt.Errorf("%w: zero", ErrFraming)
	case n != (bits.Len64(size)+6)/7:
		return nil, nil, fmt.Errorf("%w: not minimal", ErrFraming)
	case size > FrameBytes:
		return nil, nil, fmt.Errorf("%w: %d bytes", ErrFraming, size)
	case size > uint64(len(msg)-n):
		return nil, nil, fmt.Errorf("%w: %d bytes of %d are there", ErrFraming, len(msg)-n, size)
	}
	end := n + int(size)
	if f, ok := decodeFast(d, msg[n:end]); ok {
		return f, msg[end:], nil
	}
	f = new(Frame)
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(msg[n:end], f); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrContent, err)
	}
	return f, msg[end:], nil
}

// Frames decodes the frames of a binary message one after the other. It ends
// behind the last one, or with the first error. An empty message is an error.
func Frames(msg []byte) iter.Seq2[*Frame, error] {
	return func(yield func(*Frame, error) bool) {
		for {
			f, rest, err := NextBinary(msg)
			if !yield(f, err) || err != nil || len(rest) == 0 {
				return
			}
			msg = rest
		}
	}
}

// AppendJSON appends f as a text message to dst; on an error it returns dst as
// it was. The bytes of two equal frames may differ in white space.
// Errors: ErrTooLarge, ErrEmpty, ErrContent.
func AppendJSON(dst []byte, f *Frame) ([]byte, error) {
	if f.GetBody() == nil {
		return dst, ErrEmpty
	}
	if size := proto.Size(f); size > FrameBytes {
		return dst, fmt.Errorf("%w: %d bytes", ErrTooLarge, size)
	}
	out, err := protojson.MarshalOptions{}.MarshalAppend(dst, f)
	if err != nil {
		return dst, fmt.Errorf("%w: %w", ErrContent, err)
	}
	if size := len(out) - len(dst); size > MessageBytes {
		return dst, fmt.Errorf("%w: %d bytes of JSON", ErrTooLarge, size)
	}
	return out, nil
}

// EncodeJSON is AppendJSON into a new slice.
func EncodeJSON(f *Frame) ([]byte, error) { return AppendJSON(nil, f) }

// DecodeJSON decodes a text message. Unknown fields are ignored; nesting over
// JSONDepth, a repeated key of a known field and anything behind the frame are
// ErrContent (case 18). As with NextBinary, Body is nil for an unknown kind.
func DecodeJSON(msg []byte) (*Frame, error) {
	switch {
	case len(msg) > MessageBytes:
		return nil, fmt.Errorf("%w: %d bytes of JSON", ErrContent, len(msg))
	case !utf8.Valid(msg):
		return nil, fmt.Errorf("%w: not UTF-8", ErrContent)
	case deeper(msg, JSONDepth):
		return nil, fmt.Errorf("%w: JSON nested over %d deep", ErrContent, JSONDepth)
	}
	f := new(Frame)
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(msg, f); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrContent, err)
	}
	return f, nil
}

// deeper reports whether JSON text nests over limit. It looks only at brackets
// outside of strings, and does not mind text that is not JSON: the decoder will.
func deeper(text []byte, limit int) bool {
	depth, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if depth++; depth > limit {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}
