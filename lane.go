package dian

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/dian-im/dian/internal/transfer"
	"github.com/dian-im/dian/internal/wire"
)

const (
	laneBuffer  = 1 << 20   // between a down-lane's network and its disk
	lanePiece   = 256 << 10 // one read from the network at most
	problemMost = 4 << 10   // of an error's body
)

// laneBuffers holds []byte of laneBuffer.
var laneBuffers = sync.Pool{New: func() any { b := make([]byte, laneBuffer); return &b }}

// upLane sends length bytes of a source from offset, in one PATCH, and returns how
// that ended (docs/protocol.md §8.1). The other error is the source's.
func (c *Client) upLane(ctx context.Context, path string, src *source, offset, length int64,
	progress func(int64)) (transfer.SenderLaneEnded, error) {
	body := src.reader(offset, length, progress)
	defer body.Close()
	request, err := c.laneRequest(ctx, http.MethodPatch, path, body)
	if err != nil {
		return transfer.SenderLaneEnded{End: transfer.LaneBroken}, nil
	}
	request.ContentLength = length
	request.Header.Set("Content-Type", "application/offset+octet-stream")
	request.Header.Set("Upload-Offset", strconv.FormatInt(offset, 10))
	end := c.laneAnswer(request)
	body.Close() // a late answer may leave the transport reading
	return end, body.failure()
}

// headLane asks where a transfer stands.
func (c *Client) headLane(ctx context.Context, path string) transfer.SenderLaneEnded {
	request, err := c.laneRequest(ctx, http.MethodHead, path, nil)
	if err != nil {
		return transfer.SenderLaneEnded{End: transfer.LaneBroken}
	}
	return c.laneAnswer(request)
}

func (c *Client) laneRequest(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.laneURL(path), body)
	if err != nil {
		return nil, fmt.Errorf("lane: %w", err)
	}
	token, err := c.bearer(ctx)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("Tus-Resumable", "1.0.0")
	request.Header.Set("User-Agent", "dian-go")
	return request, nil
}

// laneAnswer does a sender's request and reads what its answer means.
func (c *Client) laneAnswer(request *http.Request) transfer.SenderLaneEnded {
	response, err := c.http().Do(request)
	if err != nil {
		return transfer.SenderLaneEnded{End: transfer.LaneBroken}
	}
	defer response.Body.Close()
	e := transfer.SenderLaneEnded{End: transfer.LaneBroken}
	switch status := response.StatusCode; {
	case status >= 200 && status < 300:
		offset, err := strconv.ParseInt(response.Header.Get("Upload-Offset"), 10, 64)
		if err == nil && offset >= 0 {
			e.End, e.Offset = transfer.LaneConfirmed, offset
		}
		io.CopyN(io.Discard, response.Body, problemMost)
		c.net.ahead.keeps()
		return e
	case status == http.StatusConflict:
		e.End = transfer.LaneConflict
	case status == http.StatusLocked:
		e.End = transfer.LaneNotThere
	case status == http.StatusNotFound:
		e.End = transfer.LaneGone
	case status == http.StatusUnauthorized, status == http.StatusRequestTimeout, status == http.StatusTooManyRequests:
		// Another token, or another moment, may do.
	case status >= 400 && status < 500:
		code, detail := readProblem(response)
		e.End, e.Code, e.Detail = transfer.LaneFinal, code, detail
		if code == wire.OK {
			e.Code, e.Detail = wire.SendFailed, "HTTP "+strconv.Itoa(status)
			if status == http.StatusRequestEntityTooLarge {
				e.End = transfer.LaneTooLarge
			}
		}
		return e
	}
	io.CopyN(io.Discard, response.Body, problemMost)
	return e
}

// readProblem reads a problem document (docs/protocol.md §9); OK if it is none.
func readProblem(response *http.Response) (wire.Code, string) {
	var problem struct {
		Code   wire.Code `json:"code"`
		Detail string    `json:"detail"`
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, problemMost))
	if err != nil || json.Unmarshal(text, &problem) != nil {
		return wire.OK, ""
	}
	return problem.Code, problem.Detail[:min(len(problem.Detail), wire.DetailBytes)]
}

// A downRequest is one down-lane to be opened.
type downRequest struct {
	path, ticket string
	etag         string // of the lanes before, or ""
	offset, size int64
	length       int64 // 0: all there is
	write        func(p []byte, offset int64) error
}

// downLane receives bytes until the lane ends, and returns how (docs/protocol.md
// §8.2), the lane's ETag, and an error if write had one.
func (c *Client) downLane(ctx context.Context, d downRequest) (transfer.LaneEnd, string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.laneURL(d.path), nil)
	if err != nil {
		return transfer.LaneBroken, "", nil
	}
	last := ""
	if d.length > 0 {
		last = strconv.FormatInt(d.offset+d.length-1, 10)
	}
	request.Header.Set("Range", "bytes="+strconv.FormatInt(d.offset, 10)+"-"+last)
	request.Header.Set("Authorization", "Ticket "+d.ticket)
	request.Header.Set("User-Agent", "dian-go")
	response, err := c.http().Do(request)
	if err != nil {
		return transfer.LaneBroken, "", nil
	}
	defer response.Body.Close()
	etag := response.Header.Get("ETag")
	switch status := response.StatusCode; {
	case status == http.StatusPartialContent, status == http.StatusOK && d.offset == 0:
	case status == http.StatusGone:
		return transfer.LaneOver, "", nil
	case status == http.StatusServiceUnavailable:
		return transfer.LaneNothing, "", nil
	case status >= 400 && status < 500 && status != http.StatusRequestTimeout && status != http.StatusTooManyRequests:
		return transfer.LaneGone, "", nil
	default:
		return transfer.LaneBroken, "", nil
	}
	if d.etag != "" && etag != d.etag {
		return transfer.LaneGone, "", nil // another content has this address now
	}
	length := d.size - d.offset
	if response.StatusCode == http.StatusPartialContent {
		var ok bool
		if length, ok = rangeLength(response.Header.Get("Content-Range"), d.offset, d.size); !ok {
			return transfer.LaneBroken, etag, nil
		}
	}
	n, err := pour(io.LimitReader(response.Body, length), cancel, d.offset, d.write)
	switch {
	case err != nil:
		return transfer.LaneBroken, etag, err
	case n == length:
		c.net.ahead.keeps()
		return transfer.LaneWhole, etag, nil
	}
	return transfer.LaneBroken, etag, nil
}

// rangeLength reads "bytes N-M/size" and returns how long that is. N and size have
// to be what was asked for.
func rangeLength(text string, offset, size int64) (int64, bool) {
	text, ok := strings.CutPrefix(text, "bytes ")
	span, total, cut := strings.Cut(text, "/")
	first, last, dash := strings.Cut(span, "-")
	n, err1 := strconv.ParseInt(first, 10, 64)
	m, err2 := strconv.ParseInt(last, 10, 64)
	s, err3 := strconv.ParseInt(total, 10, 64)
	if !ok || !cut || !dash || err1 != nil || err2 != nil || err3 != nil || n != offset || s != size || m < n || m >= s {
		return 0, false
	}
	return m - n + 1, true
}

// A ring is the bytes between a down-lane's network and its disk: one goroutine
// fills it while another empties it, so that neither waits for the other's turn.
// What has come is written at once, however little it is.
type ring struct {
	buf []byte

	mu       sync.Mutex // guards what follows
	moved    sync.Cond
	in, out  int64 // bytes that ever came in and went out
	ended    bool  // nothing comes in any more
	stopping bool  // nothing goes out any more
}

// pour copies from r to write until either ends, and returns how much and write's
// error. stop has to end a Read of r.
func pour(r io.Reader, stop func(), offset int64, write func(p []byte, offset int64) error) (int64, error) {
	pooled := laneBuffers.Get().(*[]byte)
	defer laneBuffers.Put(pooled)
	g := &ring{buf: *pooled}
	g.moved.L = &g.mu
	var filling sync.WaitGroup
	filling.Go(func() { g.fill(r) })
	n, err := g.drain(offset, write)
	if err != nil {
		stop()
	}
	filling.Wait()
	return n, err
}

func (g *ring) fill(r io.Reader) {
	size := int64(len(g.buf))
	for {
		g.mu.Lock()
		for g.in-g.out == size && !g.stopping {
			g.moved.Wait()
		}
		from := g.in % size
		free := min(size-from, size-(g.in-g.out), lanePiece)
		over := g.stopping
		g.mu.Unlock()
		if over {
			return
		}
		n, err := r.Read(g.buf[from : from+free])
		g.mu.Lock()
		g.in += int64(n)
		g.ended = g.ended || err != nil
		g.moved.Signal()
		g.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (g *ring) drain(offset int64, write func([]byte, int64) error) (int64, error) {
	size := int64(len(g.buf))
	for {
		g.mu.Lock()
		for g.in == g.out && !g.ended {
			g.moved.Wait()
		}
		from := g.out % size
		n := min(size-from, g.in-g.out)
		done := g.out
		g.mu.Unlock()
		if n == 0 {
			return done, nil
		}
		err := write(g.buf[from:from+n], offset+done)
		g.mu.Lock()
		if err != nil {
			g.stopping = true
		} else {
			g.out += n
		}
		g.moved.Signal()
		g.mu.Unlock()
		if err != nil {
			return done, err
		}
	}
}
