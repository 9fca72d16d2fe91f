package dian_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/diantest"
	"github.com/dian-im/dian/internal/memnet"
)

// A lineCutter cuts what is open, and the next few connections, after so many bytes.
type lineCutter struct {
	mu    sync.Mutex // guards what follows
	ends  []*memnet.Conn
	up    bool // what clients write; otherwise what the server writes
	after int64
	next  int // connections still to be dialled that get the same
}

func (l *lineCutter) dialled(client, server *memnet.Conn) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	end := server
	if l.up {
		end = client
	}
	l.ends = append(l.ends, client, server)
	if l.next > 0 {
		l.next--
		end.CutAfter(l.after)
	}
	return nil
}

// arm cuts every line after n more bytes in one direction.
func (l *lineCutter) arm(up bool, n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.up, l.after, l.next = up, n, 2 // the next ones are the two lanes
	for i, end := range l.ends {
		if i%2 == 0 == up {
			end.CutAfter(n)
		}
	}
	l.ends = nil
}

// A transfer survives the loss of its lines wherever it stands: in the offer, the
// answer, the head of a lane, the content, Finish and the verdict.
func TestTransferSurvivesACutAtEveryByte(t *testing.T) {
	const size = 70 << 10 // beyond what travels in an offer
	var steps []int64
	for n := int64(0); n < 1200; n += 9 { // frames and heads
		steps = append(steps, n)
	}
	for n := int64(1200); n < size+2000; n += 3989 {
		steps = append(steps, n)
	}
	for n := int64(size - 20); n < size+700; n += 31 { // the last bytes
		steps = append(steps, n)
	}
	for _, up := range []bool{true, false} {
		for _, kind := range []dian.Kind{dian.Buffer, dian.File} {
			t.Run(fmt.Sprintf("%v up %v", kind, up), func(t *testing.T) {
				relays(t, func(t *testing.T, r *relay) {
					cutter := &lineCutter{}
					r.l.OnDial = cutter.dialled
					var got, results diary
					content := noise(size)
					bob := r.connect("bob", dian.WithHandler(dian.Handler{
						NotifyBufferData: func(b dian.BufferData) { got.add("%s %v", b.SendID, bytes.Equal(b.Data, content)) },
						NotifyFileData: func(f dian.FileData) {
							data, err := os.ReadFile(f.Path)
							got.add("%s %v", f.SendID, err == nil && bytes.Equal(data, content))
							os.Remove(f.Path)
						},
					}))
					defer bob.Close()
					var lost atomic.Int64
					h := results.sending()
					h.NotifyReconnected = func() { lost.Add(1) }
					alice := r.connect("alice", dian.WithHandler(h))
					defer alice.Close()
					for i, n := range steps {
						if kind == dian.File && i%4 != 0 { // the disk is slower
							continue
						}
						cutter.arm(up, n)
						var opts []dian.SendOption
						if kind == dian.Buffer {
							opts = append(opts, dian.AsBuffer())
						}
						// The lines that break may be those on which the peer seems to be away.
						task := alice.SendReader("bob", bytes.NewReader(content), size, append(opts, dian.WithWaitForPeer(time.Minute))...)
						if err := task.Wait(t.Context()); err != nil {
							t.Errorf("cut after %d bytes: %v", n, err)
						}
						time.Sleep(20 * time.Second) // a second delivery would come by now
						if what := got.of(task.ID()); what != "true" {
							t.Errorf("cut after %d bytes: delivered %q", n, what)
						}
						if what := results.of(task.ID()); what != "result 0" {
							t.Errorf("cut after %d bytes: told %q", n, what)
						}
					}
					if lost.Load() < 10 {
						t.Errorf("the sender's session was cut %d times", lost.Load())
					}
				})
			})
		}
	}
}

// The verdict is lost: the sender asks again, and the receiver answers from what it
// remembers (case 78).
func TestLostVerdictIsNoSecondDelivery(t *testing.T) {
	for _, size := range []int64{10, 100 << 10} {
		for _, lost := range []string{"on its way to the server", "on its way to the sender"} {
			for _, kind := range []dian.Kind{dian.Buffer, dian.File} {
				t.Run(fmt.Sprintf("%v of %d bytes %s", kind, size, lost), func(t *testing.T) {
					relays(t, func(t *testing.T, r *relay) {
						var got, results diary
						var before func()
						bob := r.connect("bob", dian.WithHandler(dian.Handler{
							AcceptBuffer:     func(o *dian.Offer) { before(); o.Accept() },
							AcceptFile:       func(o *dian.Offer) { before(); o.Accept() },
							NotifyBufferData: func(b dian.BufferData) { got.add("%s", b.SendID) },
							NotifyFileData:   func(f dian.FileData) { got.add("%s", f.SendID) },
						}))
						defer bob.Close()
						bobs := r.l.Conns()[0]
						alice := r.connect("alice", dian.WithHandler(results.sending()))
						defer alice.Close()
						var alices *memnet.Conn
						for _, c := range r.l.Conns() {
							if c != bobs {
								alices = c
							}
						}
						var opts []dian.SendOption
						if kind == dian.Buffer {
							opts = append(opts, dian.AsBuffer())
						}
						before = func() {
							if lost == "on its way to the sender" && size <= 64<<10 {
								alices.BlackholeWrites()
							} else if size <= 64<<10 {
								bobs.StallReads()
							}
						}
						content := &atEnd{pattern: pattern{size}, reached: make(chan struct{}, 100)}
						task := alice.SendReader("bob", content, size, opts...)
						if size > 64<<10 {
							<-content.reached // the content is read: only Finish and the verdict are to come
							if lost == "on its way to the sender" {
								alices.BlackholeWrites()
							} else {
								bobs.StallReads()
							}
						}
						for len(got.read()) == 0 {
							time.Sleep(time.Millisecond)
						}
						synctest.Wait()
						r.l.CutAll()
						if err := task.Wait(t.Context()); err != nil {
							t.Errorf("result %v", err)
						}
						time.Sleep(time.Minute)
						if n := len(got.read()); n != 1 {
							t.Errorf("delivered %d times", n)
						}
						if lines := results.of(task.ID()); lines != "result 0" {
							t.Errorf("told %q", lines)
						}
					})
				})
			}
		}
	}
}

// atEnd tells when its last byte is read.
type atEnd struct {
	pattern
	reached chan struct{}
}

func (a *atEnd) ReadAt(b []byte, off int64) (int, error) {
	n, err := a.pattern.ReadAt(b, off)
	if off+int64(n) >= a.size {
		select {
		case a.reached <- struct{}{}:
		default:
		}
	}
	return n, err
}

// A lane on which nothing moves, from its first moment on, is given up for another.
func TestStalledLaneIsReplaced(t *testing.T) {
	relays(t, func(t *testing.T, r *relay) {
		in := newInbound()
		bob := r.connect("bob", dian.WithHandler(in.handler()))
		defer bob.Close()
		var dials atomic.Int64
		dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := r.l.Dial(ctx)
			if err == nil && dials.Add(1) == 2 { // the first one is the session
				c.(*memnet.Conn).Stall()
			}
			return c, err
		}
		alice := r.connect("alice", dian.WithHTTPClient(&http.Client{Transport: &http.Transport{DialContext: dial}}))
		defer alice.Close()
		if err := alice.SendReader("bob", pattern{8 << 20}, 8<<20).Wait(t.Context()); err != nil {
			t.Errorf("%v, after %d connections", err, dials.Load())
		}
		r.l.CutAll() // the stalled one is still there
	})
}

// A lane that moves and then does not, with the bytes before its stall confirmed and
// those after it read within a moment, is given up too: what it was handed last is
// told of although no further read follows.
func TestLaneThatStallsAfterConfirmedBytesIsReplaced(t *testing.T) {
	relays(t, func(t *testing.T, r *relay) {
		in := newInbound()
		bob := r.connect("bob", dian.WithHandler(in.handler()))
		defer bob.Close()
		var dials atomic.Int64
		dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := r.l.Dial(ctx)
			if err == nil && dials.Add(1) == 2 { // the first one is the session
				c = &stallsAfter{Conn: c, left: 1 << 20}
			}
			return c, err
		}
		alice := r.connect("alice", dian.WithHTTPClient(&http.Client{Transport: &http.Transport{DialContext: dial}}))
		defer alice.Close()
		start := time.Now()
		if err := alice.SendReader("bob", pattern{8 << 20}, 8<<20).Wait(t.Context()); err != nil {
			t.Errorf("%v, after %d connections", err, dials.Load())
		}
		if took := time.Since(start); took > 30*time.Second {
			t.Errorf("the lane was given up after %v", took)
		}
		r.l.CutAll()
		time.Sleep(time.Second) // net/http closes refused uploads with patience
	})
}

// stallsAfter is a connection on which nothing moves any more after some bytes.
type stallsAfter struct {
	net.Conn
	left int
}

func (c *stallsAfter) Write(b []byte) (int, error) {
	if c.left -= len(b); c.left < 0 {
		c.Conn.(*memnet.Conn).Stall()
	}
	return c.Conn.Write(b)
}

// Everything that can restart does, at several places of a transfer.
func TestTransferSurvivesRestarts(t *testing.T) {
	const size = 12 << 20
	for _, who := range []string{"server", "receiver", "sender"} {
		for _, kind := range []dian.Kind{dian.Buffer, dian.File} {
			for _, at := range []int{1, size / 2} {
				t.Run(fmt.Sprintf("%s, %v at %d", who, kind, at), func(t *testing.T) {
					t.Parallel()
					relay := diantest.New(t, hasty)
					in, dir := newInbound(), t.TempDir()
					var asked atomic.Int64
					asked.Store(-1)
					h := in.handler()
					h.AcceptFile = func(o *dian.Offer) { asked.Store(o.Received); o.Accept() }
					listen := func() *dian.Client {
						return relay.Client("bob", dian.WithReceiveDir(dir), dian.WithHandler(h))
					}
					bob := listen()
					gate := &gatedWrites{left: at + 2000, reached: make(chan struct{}), open: make(chan struct{})}
					defer gate.release()
					alice := relay.Client("alice", dialing(gate.wrap))
					content := pattern{size}
					path := filepath.Join(t.TempDir(), "content")
					if err := os.WriteFile(path, readAll(t, content), 0o600); err != nil {
						t.Fatal(err)
					}
					var opts []dian.SendOption
					send := func() *dian.Task {
						if kind == dian.File {
							return alice.SendFile("bob", path, opts...)
						}
						return alice.SendReader("bob", content, size, append(opts, dian.AsBuffer())...)
					}
					task := send()
					wait(t, gate.reached)
					keeps := who == "receiver" && kind == dian.File && at == size/2
					for end := time.Now().Add(20 * time.Second); keeps && partBytes(t, dir) == 0; time.Sleep(time.Millisecond) {
						if time.Now().After(end) { // what is under way is less than half
							t.Fatal("the receiver has none of it")
						}
					}
					asked.Store(-1)
					switch who {
					case "server":
						relay.Restart()
						gate.release()
					case "receiver":
						bob.Close()
						bob = listen()
						gate.release()
						relay.Cut()
					case "sender":
						gate.release()
						alice.Close()
						mustEndOneOf(t, task, dian.ErrNotLoggedIn, dian.OK) // it may be quick
						alice = relay.Client("alice")
						opts = []dian.SendOption{dian.WithSendID(task.ID())}
						task = send()
					}
					r := mustEnd(t, task, dian.OK)
					if r.Receipt != dian.Stored || r.Size != size {
						t.Errorf("%+v", r)
					}
					var got io.Reader
					if kind == dian.File {
						f, err := os.Open(wait(t, in.files).Path)
						if err != nil {
							t.Fatal(err)
						}
						defer f.Close()
						got = f
					} else {
						got = bytes.NewReader(wait(t, in.buffers).Data)
					}
					if sum(got) != sum(readerOf(content)) {
						t.Error("content differs")
					}
					if keeps && asked.Load() <= 0 {
						t.Errorf("asked again with %d bytes here", asked.Load())
					}
					alice.Close()
					bob.Close()
					if n := len(in.files) + len(in.buffers); n > 0 {
						t.Errorf("%d more deliveries", n)
					}
				})
			}
		}
	}
}

// partBytes returns how much of unfinished files is in a receive folder.
func partBytes(t *testing.T, dir string) (n int64) {
	t.Helper()
	parts, err := filepath.Glob(filepath.Join(dir, "*.part"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range parts {
		if info, err := os.Stat(name); err == nil { // it may be whole by now
			n += info.Size()
		}
	}
	return n
}

// diantest's Restart is a crash: nobody hears GoAway, which would make clients wait.
func TestRestartIsWithoutAWord(t *testing.T) {
	relay := diantest.New(t, hasty)
	lost, back := make(chan dian.Reconnecting, 1000), make(chan struct{}, 1000)
	relay.Client("alice", dian.WithHandler(dian.Handler{
		NotifyReconnecting: func(r dian.Reconnecting) { lost <- r },
		NotifyReconnected:  func() { back <- struct{}{} },
	}))
	for range 8 {
		relay.Restart()
		if r := wait(t, lost); r.Attempt != 1 || r.Delay > 250*time.Millisecond {
			t.Errorf("the first try comes after %v: %+v", r.Delay, r)
		}
		wait(t, back)
		for len(lost) > 0 {
			<-lost
		}
	}
}

func readAll(t *testing.T, p pattern) []byte {
	t.Helper()
	data, err := io.ReadAll(readerOf(p))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// What one place has begun to receive no other place goes on with.
func TestAnotherPlaceDoesNotGoOn(t *testing.T) {
	for _, kind := range []dian.Kind{dian.Buffer, dian.File} {
		t.Run(kind.String(), func(t *testing.T) {
			relay := diantest.New(t, hasty)
			in, dir := newInbound(), t.TempDir()
			first := relay.Client("bob", dian.WithReceiveDir(dir), dian.WithHandler(in.handler()))
			gate := &gatedWrites{left: 1 << 20, reached: make(chan struct{}), open: make(chan struct{})}
			defer gate.release()
			alice := relay.Client("alice", dialing(gate.wrap))
			var opts []dian.SendOption
			if kind == dian.Buffer {
				opts = append(opts, dian.AsBuffer())
			}
			task := alice.SendReader("bob", pattern{8 << 20}, 8<<20, opts...)
			wait(t, gate.reached)
			first.Close()
			other := newInbound()
			second := relay.Client("bob", dian.WithHandler(other.handler()))
			gate.release()
			relay.Cut() // the sender asks again, and names the place
			if r := mustEnd(t, task, dian.ErrBadSendID); r.Err.(*dian.Error).Origin != dian.Server {
				t.Errorf("%+v", r.Err)
			}
			if n := len(in.files) + len(in.buffers) + len(other.files) + len(other.buffers); n > 0 {
				t.Errorf("%d were delivered", n)
			}
			// A new task goes to the new place.
			mustEnd(t, alice.SendReader("bob", pattern{8 << 20}, 8<<20, append(opts, dian.WithInstance(second.Instance()), dian.WithWaitForPeer(time.Minute))...), dian.OK)
		})
	}
}

func TestAllSizesFromAllSources(t *testing.T) {
	relay := diantest.New(t)
	in := newInbound()
	relay.Client("bob", dian.WithHandler(in.handler()))
	alice := relay.Client("alice")
	for _, n := range sizes {
		data := noise(n)
		path := writeFile(t, data)
		for how, send := range map[string]func() *dian.Task{
			"path as file":     func() *dian.Task { return alice.SendFile("bob", path) },
			"bytes as buffer":  func() *dian.Task { return alice.SendBuffer("bob", data) },
			"reader as file":   func() *dian.Task { return alice.SendReader("bob", bytes.NewReader(data), int64(n)) },
			"reader as buffer": func() *dian.Task { return alice.SendReader("bob", bytes.NewReader(data), int64(n), dian.AsBuffer()) },
		} {
			task := send()
			r := mustEnd(t, task, dian.OK)
			var got []byte
			if task.Kind() == dian.Buffer {
				got = wait(t, in.buffers).Data
			} else {
				f := wait(t, in.files)
				var err error
				if got, err = os.ReadFile(f.Path); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(got, data) || r.Receipt != dian.Stored || r.LengthOnly || r.Size != int64(n) {
				t.Errorf("%s, %d bytes: %d came, result %+v", how, n, len(got), r)
			}
			if sent, total := task.Progress(); sent != int64(n) || total != int64(n) {
				t.Errorf("%s, %d bytes: progress %d/%d", how, n, sent, total)
			}
			if got, want := r.FileName != "", how == "path as file"; got != want {
				t.Errorf("%s: file name %q", how, r.FileName)
			}
		}
	}
}
