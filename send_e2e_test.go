package dian_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/diantest"
	"github.com/dian-im/dian/server"
)

// noise returns n bytes that do not repeat.
func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), 7})
	r.Read(b)
	return b
}

// inbound is what a receiver was told.
type inbound struct {
	files   chan dian.FileData
	buffers chan dian.BufferData
	cancels chan dian.CancelNotice
}

func newInbound() *inbound {
	return &inbound{make(chan dian.FileData, 1000), make(chan dian.BufferData, 1000), make(chan dian.CancelNotice, 100)}
}

func (i *inbound) handler() dian.Handler {
	return dian.Handler{
		NotifyFileData:   func(f dian.FileData) { i.files <- f },
		NotifyBufferData: func(b dian.BufferData) { i.buffers <- b },
		NotifyCancelSend: func(c dian.CancelNotice) { i.cancels <- c },
	}
}

func wait[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(20 * time.Second):
		t.Fatal("nothing came within 20 s")
		panic("unreachable")
	}
}

func mustEnd(t *testing.T, task *dian.Task, want dian.Code) dian.Result {
	t.Helper()
	select {
	case <-task.Done():
	case <-time.After(30 * time.Second):
		t.Fatalf("task is %v after 30 s", task.State())
	}
	r := task.Result()
	if got := dian.CodeOf(r.Err); got != want {
		t.Fatalf("result is %v, want %v", r.Err, want)
	}
	return r
}

func writeFile(t *testing.T, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "photo.jpg")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// hasty lets a relay stop without waiting for transfers.
func hasty(cfg *server.Config) { cfg.ShutdownGrace = 50 * time.Millisecond }

var sizes = []int{0, 1, 64<<10 - 1, 64 << 10, 64<<10 + 1, 8<<20 - 1, 8 << 20, 8<<20 + 1}

func TestFilesOfAllSizesArriveWhole(t *testing.T) {
	relay := diantest.New(t)
	in := newInbound()
	relay.Client("bob", dian.WithHandler(in.handler()))
	alice := relay.Client("alice")
	for _, n := range sizes {
		data := noise(n)
		task := alice.SendFile("bob", writeFile(t, data), dian.WithMeta([]byte("m")), dian.WithType("image/jpeg"))
		r := mustEnd(t, task, dian.OK)
		f := wait(t, in.files)
		got, err := os.ReadFile(f.Path)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes: received %d, %v", n, len(got), err)
		}
		if r.Receipt != dian.Stored || r.LengthOnly || r.Size != int64(n) || f.Source != "alice" || f.Name != "photo.jpg" ||
			string(f.Meta) != "m" || f.Type != "image/jpeg" || f.Size != int64(n) || f.SendID != task.ID() {
			t.Errorf("%d bytes: result %+v, file %+v", n, r, f)
		}
		if sent, total := task.Progress(); sent != int64(n) || total != int64(n) {
			t.Errorf("%d bytes: progress %d/%d", n, sent, total)
		}
	}
}

func TestBuffersOfAllSizesArriveWhole(t *testing.T) {
	relay := diantest.New(t)
	in := newInbound()
	relay.Client("bob", dian.WithHandler(in.handler()))
	alice := relay.Client("alice")
	for _, n := range sizes {
		data := noise(n)
		mustEnd(t, alice.SendBuffer("bob", data, dian.WithName("n")), dian.OK)
		if b := wait(t, in.buffers); !bytes.Equal(b.Data, data) || b.Name != "n" || b.Data == nil {
			t.Errorf("%d bytes: received %d", n, len(b.Data))
		}
	}
}

func TestManySmallFilesAreQuick(t *testing.T) {
	relay := diantest.New(t)
	in := newInbound()
	relay.Client("bob", dian.WithHandler(in.handler()))
	alice := relay.Client("alice")
	path := writeFile(t, noise(1000))
	start := time.Now()
	var tasks []*dian.Task
	for range 200 {
		tasks = append(tasks, alice.SendFile("bob", path))
	}
	for _, task := range tasks {
		mustEnd(t, task, dian.OK)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("200 files took %v", took)
	} else {
		t.Logf("200 files took %v", took)
	}
	for range 200 {
		wait(t, in.files)
	}
}

// pattern is content of any size without memory.
type pattern struct{ size int64 }

func (p pattern) ReadAt(b []byte, off int64) (int, error) {
	if off >= p.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(b)), p.size-off))
	for i := range n {
		b[i] = byte((off + int64(i)) * 7 >> 3)
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func sum(r io.Reader) string {
	h := sha256.New()
	io.Copy(h, r)
	return fmt.Sprintf("%x", h.Sum(nil))
}

func TestCutsDoNotHarm(t *testing.T) {
	relay := diantest.New(t)
	in := newInbound()
	relay.Client("bob", dian.WithHandler(in.handler()))
	alice := relay.Client("alice")
	const size = 96 << 20
	task := alice.SendReader("bob", pattern{size}, size, dian.WithName("x"))
	for range 6 {
		select {
		case <-task.Done():
		case <-time.After(150 * time.Millisecond):
			relay.Cut()
		}
	}
	mustEnd(t, task, dian.OK)
	f := wait(t, in.files)
	got, err := os.Open(f.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	if sum(got) != sum(io.NewSectionReader(pattern{size}, 0, size)) {
		t.Error("content differs")
	}
}

func TestServerRestartDoesNotHarm(t *testing.T) {
	relay := diantest.New(t, hasty)
	in := newInbound()
	relay.Client("bob", dian.WithHandler(in.handler()))
	alice := relay.Client("alice")
	const size = 64 << 20
	slow := &gate{pattern: pattern{size}, at: 20 << 20, reached: make(chan struct{}), open: make(chan struct{})}
	task := alice.SendReader("bob", slow, size)
	wait(t, slow.reached)
	relay.Restart()
	slow.release()
	mustEnd(t, task, dian.OK)
	if f := wait(t, in.files); f.Size != size {
		t.Errorf("size %d", f.Size)
	}
}

// gate is a pattern that stops at an offset until it is opened.
type gate struct {
	pattern
	at      int64
	once    sync.Once
	done    sync.Once
	reached chan struct{}
	open    chan struct{}
}

func (g *gate) ReadAt(b []byte, off int64) (int, error) {
	if off >= g.at {
		g.once.Do(func() { close(g.reached) })
		<-g.open
	}
	return g.pattern.ReadAt(b, off)
}

func TestReceiverRestartGoesOn(t *testing.T) {
	relay := diantest.New(t)
	dir := t.TempDir()
	bob := relay.Client("bob", dian.WithReceiveDir(dir), dian.WithHandler(newInbound().handler()))
	alice := relay.Client("alice")
	const size = 48 << 20
	slow := &gate{pattern: pattern{size}, at: 30 << 20, reached: make(chan struct{}), open: make(chan struct{})}
	task := alice.SendReader("bob", slow, size)
	wait(t, slow.reached)
	bob.Close()
	var offers []int64
	in := newInbound()
	h := in.handler()
	h.AcceptFile = func(o *dian.Offer) { offers = append(offers, o.Received); o.Accept() }
	relay.Client("bob", dian.WithReceiveDir(dir), dian.WithHandler(h))
	slow.release()
	mustEnd(t, task, dian.OK)
	f := wait(t, in.files)
	got, err := os.Open(f.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	if sum(got) != sum(io.NewSectionReader(pattern{size}, 0, size)) {
		t.Error("content differs")
	}
	if len(offers) != 1 || offers[0] == 0 {
		t.Errorf("offered again with %v bytes here", offers)
	}
}

func TestSenderRestartGoesOn(t *testing.T) {
	relay := diantest.New(t, hasty)
	in := newInbound()
	relay.Client("bob", dian.WithHandler(in.handler()))
	const size = 48 << 20
	half := make(chan struct{})
	var once sync.Once
	alice := relay.Client("alice", dian.WithHandler(dian.Handler{NotifySendProgress: func(p dian.Progress) {
		if p.Sent > 0 && p.Sent < size {
			once.Do(func() { close(half) })
		}
	}}))
	task := alice.SendReader("bob", lazy{pattern{size}}, size, dian.WithSendID("01890a5d-ac96-774b-bcce-b302099a8057"))
	wait(t, half)
	alice.Close()
	mustEnd(t, task, dian.ErrNotLoggedIn)
	alice = relay.Client("alice")
	var lane atomic.Int64
	task = alice.SendReader("bob", counter{pattern{size}, &lane}, size, dian.WithSendID("01890a5d-ac96-774b-bcce-b302099a8057"))
	mustEnd(t, task, dian.OK)
	if n := lane.Load(); n > size+size/4 { // each byte is read once, to send or to hash
		t.Errorf("read %d of %d bytes", n, size)
	}
	wait(t, in.files)
	// Once more: it is there, and is not told of again.
	task = alice.SendReader("bob", pattern{size}, size, dian.WithSendID("01890a5d-ac96-774b-bcce-b302099a8057"))
	mustEnd(t, task, dian.OK)
	select {
	case f := <-in.files:
		t.Errorf("notified again: %+v", f)
	case <-time.After(50 * time.Millisecond):
	}
}

// lazy is a pattern that takes its time.
type lazy struct{ pattern }

func (l lazy) ReadAt(b []byte, off int64) (int, error) {
	<-time.After(time.Millisecond)
	return l.pattern.ReadAt(b, off)
}

// counter counts what is read of it.
type counter struct {
	pattern
	n *atomic.Int64
}

func (c counter) ReadAt(b []byte, off int64) (int, error) {
	n, err := c.pattern.ReadAt(b, off)
	c.n.Add(int64(n))
	return n, err
}

func TestChangedFileIsFound(t *testing.T) {
	relay := diantest.New(t)
	in := newInbound()
	dir := t.TempDir()
	started := make(chan struct{}, 100)
	h := in.handler()
	h.AcceptFile = func(o *dian.Offer) { o.Accept(); started <- struct{}{} }
	bob := relay.Client("bob", dian.WithHandler(h), dian.WithReceiveDir(dir))
	alice := relay.Client("alice")
	path := writeFile(t, noise(40<<20))
	task := alice.SendFile("bob", path)
	wait(t, started)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.Write([]byte("more"))
	f.Close()
	mustEnd(t, task, dian.ErrFileError)
	bob.Close()
	select {
	case f := <-in.files:
		t.Errorf("a file came: %+v", f)
	default:
	}
	left, _ := filepath.Glob(filepath.Join(dir, "*.file"))
	if len(left) > 0 {
		t.Errorf("files are here: %v", left)
	}
}

func TestBadSourcesAreRefusedAtOnce(t *testing.T) {
	relay := diantest.New(t)
	alice := relay.Client("alice")
	dir := t.TempDir()
	mustEnd(t, alice.SendFile("bob", dir), dian.ErrFileError)
	r := mustEnd(t, alice.SendFile("bob", filepath.Join(dir, "none")), dian.ErrFileNotFound)
	if !errors.Is(r.Err, os.ErrNotExist) || r.FileName != filepath.Join(dir, "none") {
		t.Errorf("%v, %q", r.Err, r.FileName)
	}
	mustEnd(t, alice.SendBuffer("bob", make([]byte, 100<<20+1)), dian.ErrBufferTooLarge)
	mustEnd(t, alice.SendBuffer("", nil), dian.ErrBadTarget)
	mustEnd(t, alice.SendBuffer("bob", nil, dian.WithMeta(make([]byte, 4097))), dian.ErrBadParameter)
	mustEnd(t, alice.SendBuffer("bob", nil), dian.ErrPeerOffline)
}

func TestPeerIsWaitedFor(t *testing.T) {
	relay := diantest.New(t)
	alice := relay.Client("alice")
	task := alice.SendBuffer("bob", noise(100), dian.WithWaitForPeer(20*time.Second))
	in := newInbound()
	relay.Client("bob", dian.WithHandler(in.handler()))
	mustEnd(t, task, dian.OK)
	wait(t, in.buffers)
}

// release opens the gate.
func (g *gate) release() {
	g.done.Do(func() { close(g.open) })
}

func TestResultHasTheSendersPathWhateverFails(t *testing.T) {
	relay := diantest.New(t)
	alice := relay.Client("alice")
	path := writeFile(t, noise(10))
	missing := filepath.Join(t.TempDir(), "missing")
	long := dian.WithMeta(make([]byte, 5000))
	closed := relay.Client("carol")
	closed.Close()
	for name, c := range map[string]struct {
		task *dian.Task
		path string
		want dian.Code
	}{
		"bad target":   {alice.SendFile("", path), path, dian.ErrBadTarget},
		"bad send id":  {alice.SendFile("bob", path, dian.WithSendID("x")), path, dian.ErrBadSendID},
		"meta":         {alice.SendFile("bob", path, long), path, dian.ErrBadParameter},
		"no such file": {alice.SendFile("bob", missing), missing, dian.ErrFileNotFound},
		"folder":       {alice.SendFile("bob", filepath.Dir(path)), filepath.Dir(path), dian.ErrFileError},
		"offline":      {alice.SendFile("bob", path), path, dian.ErrPeerOffline},
		"logged out":   {closed.SendFile("bob", path), path, dian.ErrNotLoggedIn},
	} {
		if r := mustEnd(t, c.task, c.want); r.FileName != c.path {
			t.Errorf("%s: FileName %q, want %q", name, r.FileName, c.path)
		}
	}
}

func TestTaskKnowsThePlaceThatAccepted(t *testing.T) {
	relay := diantest.New(t)
	in := newInbound()
	bob := relay.Client("bob", dian.WithHandler(in.handler()))
	alice := relay.Client("alice")
	for _, n := range []int{10, 1 << 20} {
		task := alice.SendBuffer("bob", noise(n))
		mustEnd(t, task, dian.OK)
		if place, ok := task.Peer(); n > 64<<10 && (!ok || place != bob.Instance()) {
			t.Errorf("%d bytes: Peer = %x, %v; want %x", n, place, ok, bob.Instance())
		}
	}
	offline := alice.SendBuffer("carol", noise(10))
	mustEnd(t, offline, dian.ErrPeerOffline)
	if place, ok := offline.Peer(); ok {
		t.Errorf("nobody accepted, and Peer = %x", place)
	}
}
