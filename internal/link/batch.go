package link

import (
	"sync"

	"github.com/dian-im/dian/internal/wire"
)

// A batch is encoded frames in the order of Send, already cut into messages.
type batch struct {
	buf    *[]byte // from batchBuffers; nil while empty
	starts []int   // where each message begins in buf
	frames int
	gone   int  // bytes at the front that are written
	sealed bool // the last message takes no more frames
}

// A pool holds buffers, so that an idle link holds none.
type pool struct {
	sync.Pool
	keep int // the largest that is taken back
}

// Two of them, so that reading a short message does not tie up what a long queue
// has grown.
var (
	readBuffers  = pool{keep: wire.MessageBytes + 64<<10}
	batchBuffers = pool{keep: DefaultQueueBytes + DefaultQueueBytes/2}
)

// decoders are for who reads a binary message: an idle link holds none.
var decoders = sync.Pool{New: func() any { return new(wire.Decoder) }}

func (p *pool) get() *[]byte {
	if b, ok := p.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, 0, 4<<10)
	return &b
}

func (p *pool) put(b *[]byte) {
	if cap(*b) <= p.keep {
		*b = (*b)[:0]
		p.Put(b)
	}
}

// size returns the bytes that are not yet written.
func (b *batch) size() int {
	if b.buf == nil {
		return 0
	}
	return len(*b.buf) - b.gone
}

// messages returns the number of messages.
func (b *batch) messages() int { return len(b.starts) }

// message returns the i-th message.
func (b *batch) message(i int) []byte {
	end := len(*b.buf)
	if i+1 < len(b.starts) {
		end = b.starts[i+1]
	}
	return (*b.buf)[b.starts[i]:end]
}

// reset forgets all frames and gives the buffer back.
func (b *batch) reset() {
	if b.buf != nil {
		batchBuffers.put(b.buf)
	}
	starts := b.starts[:0]
	if cap(starts) > 16 {
		starts = nil
	}
	*b = batch{starts: starts}
}

// rewind takes the last frame out again: before is the batch without it, of that
// size.
func (b *batch) rewind(before batch, size int) {
	if before.frames == 0 {
		b.reset()
		return
	}
	*b.buf = (*b.buf)[:size+b.gone]
	b.starts, b.frames, b.sealed = b.starts[:len(before.starts)], before.frames, before.sealed
}

// addBinary encodes f behind the others. With limit > 0 it refuses to hold more
// than limit bytes, unless f is alone.
func (b *batch) addBinary(f *wire.Frame, limit int) error {
	if b.buf == nil {
		b.buf = batchBuffers.get()
	}
	was := len(*b.buf)
	out, err := wire.AppendBinary(*b.buf, f)
	if err == nil && was > 0 && len(out) > limit {
		err = ErrFull
	}
	*b.buf = out
	if err != nil {
		*b.buf = out[:was]
		if b.frames == 0 {
			b.reset()
		}
		return err
	}
	if n := len(b.starts); n == 0 || b.sealed || len(out)-b.starts[n-1] > batchBytes {
		b.starts, b.sealed = append(b.starts, was), false
	}
	b.frames++
	return nil
}

// addMessage copies one encoded text message behind the others.
func (b *batch) addMessage(text []byte, limit int) error {
	if b.frames > 0 && len(*b.buf)+len(text) > limit {
		return ErrFull
	}
	if b.buf == nil {
		b.buf = batchBuffers.get()
	}
	b.starts = append(b.starts, len(*b.buf))
	*b.buf = append(*b.buf, text...)
	b.frames++
	return nil
}
