package dian

import (
	"errors"
	"io"
	"path/filepath"
	"strings"

	"github.com/dian-im/dian/internal/wire"
)

// SendBuffer sends at most 100 MiB to a user, who gets it in memory. data is
// borrowed until the task has its result: it must not be changed before, and is
// not touched after. SendBuffer never waits for the network.
//
// Results (Task, Handler.SendBufferResult): nil when the peer has it whole and
// verified; 1101 too large, 1102 bad target, 5 a bad option, 603 the peer is
// offline, 606 or a code of its own it has refused, 604 it did not answer, 207 no
// progress within the resume window, 1105 cancelled, 1103 data was changed, 12
// the client was closed.
func (c *Client) SendBuffer(target string, data []byte, opts ...SendOption) *Task {
	return c.send(Buffer, target, newBufferSource(data), nil, newSendOptions(opts))
}

// SendFile sends a file of any size to a user, who gets it as a file. SendFile
// never waits for the network; it looks at the path and opens it when it is its
// turn. A link is followed: what it leads to is sent, under the link's own name, and
// if it leads elsewhere later the file counts as changed. Without WithName the
// file's own name is sent, with U+FFFD for what is not UTF-8.
//
// Beside the results of SendBuffer there are 1400 no such file, 1401 it cannot be
// read, 1103 it is no regular file or has changed while it was sent, 1405 larger
// than the server allows; and from the receiver 1112 no space and 1402 it cannot
// write.
func (c *Client) SendFile(target, path string, opts ...SendOption) *Task {
	o := newSendOptions(opts)
	src, err := newFileSource(path)
	o.path = src.path
	if !o.named {
		o.name = strings.ToValidUTF8(filepath.Base(src.path), "\uFFFD") // the wire takes no other
	}
	return c.send(File, target, src, err, o)
}

// SendReader sends size bytes of r as a file, or with AsBuffer as a buffer. r is
// read by one goroutine at a time, some parts perhaps more than once, which must
// give the same bytes, and not after the task has its result.
func (c *Client) SendReader(target string, r io.ReaderAt, size int64, opts ...SendOption) *Task {
	o := newSendOptions(opts)
	kind := File
	if o.asBuffer {
		kind = Buffer
	}
	var err error
	if size < 0 {
		err = &sourceError{ErrBadParameter, "the size is negative", nil}
	}
	return c.send(kind, target, newReaderSource(r, max(size, 0)), err, o)
}

func (c *Client) send(kind Kind, target string, src *source, err error, o sendOptions) *Task {
	t := newTask(c, kind, target, o)
	t.mu.Lock()
	t.total = src.size
	t.mu.Unlock()
	if t.ended() {
		return t
	}
	files := c.welcome().GetLimits().GetFileBytes()
	switch {
	case err != nil:
		t.finish(Result{Err: t.sourceFault(err)})
	case kind == Buffer && src.size > int64(c.limit((*wire.Limits).GetBufferBytes, wire.BufferBytes)):
		t.finish(Result{Err: localError(t.op(), target, ErrBufferTooLarge, "", nil)})
	case kind == File && files > 0 && src.size > files:
		t.finish(Result{Err: localError(t.op(), target, ErrFileTooLarge, "larger than the server allows", nil)})
	default:
		c.out.start(t, src)
	}
	return t
}

// sourceFault makes an error of what a source says.
func (t *Task) sourceFault(err error) *Error {
	if s, ok := errors.AsType[*sourceError](err); ok {
		return localError(t.op(), t.target, s.code, s.detail, s.cause)
	}
	return localError(t.op(), t.target, ErrInternal, "", err)
}
