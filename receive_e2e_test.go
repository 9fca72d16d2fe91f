package dian_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/diantest"
)

func TestOffersMayBeAnsweredLater(t *testing.T) {
	relay := diantest.New(t)
	in := newInbound()
	offers := make(chan *dian.Offer, 10)
	h := in.handler()
	h.AcceptFile = func(o *dian.Offer) { offers <- o }
	h.AcceptBuffer = h.AcceptFile
	relay.Client("bob", dian.WithHandler(h))
	alice := relay.Client("alice")
	data := noise(300 << 10)

	task := alice.SendBuffer("bob", data)
	o := wait(t, offers)
	for deadline := time.Now().Add(10 * time.Second); task.State() == dian.TaskQueued && time.Now().Before(deadline); {
		<-time.After(time.Millisecond) // the offer may be there before its sender notes that it went out
	}
	if got := task.State(); got != dian.TaskWaiting {
		t.Errorf("state %v while the peer is asked", got)
	}
	relay.Cut() // the offer outlives its session
	<-time.After(400 * time.Millisecond)
	o.Accept()
	o.Refuse(dian.ErrPeerRefused, "too late")
	mustEnd(t, task, dian.OK)
	if b := wait(t, in.buffers); !bytes.Equal(b.Data, data) {
		t.Error("content differs")
	}
	wait(t, o.Done())

	for _, n := range []int{10, 300 << 10} {
		task = alice.SendFile("bob", writeFile(t, noise(n)))
		wait(t, offers).Refuse(4711, "no room in my heart")
		r := mustEnd(t, task, 4711)
		if e := r.Err.(*dian.Error); e.Origin != dian.Peer || e.Detail != "no room in my heart" {
			t.Errorf("%+v", e)
		}
	}
	select {
	case f := <-in.files:
		t.Errorf("refused file came: %+v", f)
	default:
	}
}

func TestNobodyToTakeIsARefusal(t *testing.T) {
	relay := diantest.New(t)
	relay.Client("bob")
	alice := relay.Client("alice")
	mustEnd(t, alice.SendBuffer("bob", noise(5)), dian.ErrPeerRefused)
	mustEnd(t, alice.SendFile("bob", writeFile(t, noise(100<<10))), dian.ErrPeerRefused)
}

func TestAcceptToNeverReplaces(t *testing.T) {
	relay := diantest.New(t)
	in := newInbound()
	dir := t.TempDir()
	h := in.handler()
	h.AcceptFile = func(o *dian.Offer) { o.AcceptTo(filepath.Join(dir, "kept.jpg")) }
	relay.Client("bob", dian.WithHandler(h))
	alice := relay.Client("alice")
	for _, want := range []string{"kept.jpg", "kept (1).jpg"} {
		data := noise(len(want) << 16)
		mustEnd(t, alice.SendFile("bob", writeFile(t, data)), dian.OK)
		f := wait(t, in.files)
		got, err := os.ReadFile(filepath.Join(dir, want))
		if f.Path != filepath.Join(dir, want) || err != nil || !bytes.Equal(got, data) {
			t.Errorf("path %s, want %s; %v", f.Path, want, err)
		}
	}
}

func TestAcceptWriterHandsOver(t *testing.T) {
	relay := diantest.New(t)
	in := newInbound()
	var got bytes.Buffer
	h := in.handler()
	h.AcceptFile = func(o *dian.Offer) { o.AcceptWriter(&got) }
	relay.Client("bob", dian.WithHandler(h))
	alice := relay.Client("alice")
	for _, n := range []int{100, 5 << 20} {
		got.Reset()
		data := noise(n)
		r := mustEnd(t, alice.SendFile("bob", writeFile(t, data)), dian.OK)
		f := wait(t, in.files)
		if r.Receipt != dian.Handed || f.Receipt != dian.Handed || f.Path != "" || !bytes.Equal(got.Bytes(), data) {
			t.Errorf("%d bytes: receipts %v %v, path %q, %d bytes", n, r.Receipt, f.Receipt, f.Path, got.Len())
		}
	}
}

type fullWriter struct{}

func (fullWriter) Write([]byte) (int, error) { return 0, dian.ErrNoSpace }

func TestWriterErrorEndsTheTransfer(t *testing.T) {
	relay := diantest.New(t)
	h := newInbound().handler()
	h.AcceptFile = func(o *dian.Offer) { o.AcceptWriter(fullWriter{}) }
	relay.Client("bob", dian.WithHandler(h))
	alice := relay.Client("alice")
	r := mustEnd(t, alice.SendFile("bob", writeFile(t, noise(3<<20))), dian.ErrNoSpace)
	if r.Err.(*dian.Error).Origin != dian.Peer {
		t.Errorf("%+v", r.Err)
	}
}

func TestSenderCancels(t *testing.T) {
	relay := diantest.New(t)
	in := newInbound()
	dir := t.TempDir()
	bob := relay.Client("bob", dian.WithHandler(in.handler()), dian.WithReceiveDir(dir))
	var events []string
	done := make(chan struct{}, 2)
	slow := &gate{pattern: pattern{64 << 20}, at: 10 << 20, reached: make(chan struct{}), open: make(chan struct{})}
	alice := relay.Client("alice", dian.WithHandler(dian.Handler{
		CancelSendResult: func(r dian.CancelResult) { events = append(events, "cancel "+dian.CodeOf(r.Err).Error()) },
		SendFileResult: func(r dian.Result) {
			events = append(events, "result "+dian.CodeOf(r.Err).Error())
			done <- struct{}{}
		},
	}))
	task := alice.SendReader("bob", slow, slow.size)
	wait(t, slow.reached)
	alice.CancelSend(task.ID())
	slow.release()
	mustEnd(t, task, dian.ErrCancelled)
	n := wait(t, in.cancels)
	if n.SendID != task.ID() || n.Source != "alice" || n.Kind != dian.File {
		t.Errorf("%+v", n)
	}
	wait(t, done)
	if got := strings.Join(events, ", "); got != "cancel 0: ok, result 1105: cancelled" {
		t.Error(got)
	}
	// Cancelled is for good.
	mustEnd(t, alice.SendReader("bob", pattern{64 << 20}, 64<<20, dian.WithSendID(task.ID())), dian.ErrCancelled)
	bob.Close()
	if left, _ := filepath.Glob(filepath.Join(dir, "*.part")); len(left) > 0 {
		t.Errorf("parts are here: %v", left)
	}
}

func TestReceiverCancels(t *testing.T) {
	relay := diantest.New(t)
	in := newInbound()
	offers := make(chan *dian.Offer, 1)
	h := in.handler()
	h.AcceptFile = func(o *dian.Offer) { o.Accept(); offers <- o }
	relay.Client("bob", dian.WithHandler(h))
	alice := relay.Client("alice")
	slow := &gate{pattern: pattern{64 << 20}, at: 10 << 20, reached: make(chan struct{}), open: make(chan struct{})}
	defer slow.release()
	task := alice.SendReader("bob", slow, slow.size)
	wait(t, slow.reached)
	o := wait(t, offers)
	o.Cancel()
	go func() { <-task.Done() }()
	r := mustEndOpen(t, task, slow)
	if dian.CodeOf(r.Err) != dian.ErrCancelled {
		t.Errorf("%v", r.Err)
	}
	wait(t, o.Done())
}

// mustEndOpen waits for a task whose source hangs: its result must not wait for it.
func mustEndOpen(t *testing.T, task *dian.Task, slow *gate) dian.Result {
	t.Helper()
	select {
	case <-task.Done():
	case <-time.After(500 * time.Millisecond):
		slow.release()
		select {
		case <-task.Done():
		case <-time.After(20 * time.Second):
			t.Fatalf("task is %v", task.State())
		}
	}
	return task.Result()
}

func TestQueuedTaskIsCancelledAtOnce(t *testing.T) {
	relay := diantest.New(t)
	offers := make(chan *dian.Offer, 10)
	h := newInbound().handler()
	h.AcceptFile = func(o *dian.Offer) { offers <- o }
	relay.Client("bob", dian.WithHandler(h))
	alice := relay.Client("alice", dian.WithParallel(1))
	path := writeFile(t, noise(100<<10))
	first := alice.SendFile("bob", path)
	wait(t, offers)
	second := alice.SendFile("bob", path)
	if got := second.State(); got != dian.TaskQueued {
		t.Errorf("state %v", got)
	}
	second.Cancel()
	mustEnd(t, second, dian.ErrCancelled)
	alice.Close()
	mustEnd(t, first, dian.ErrNotLoggedIn)
}

func TestUntoldFilesAreToldAfterARestart(t *testing.T) {
	relay := diantest.New(t)
	dir := t.TempDir()
	h := dian.Handler{AcceptFile: func(o *dian.Offer) { o.Accept() }} // nobody is told
	bob := relay.Client("bob", dian.WithReceiveDir(dir), dian.WithHandler(h))
	alice := relay.Client("alice")
	data := noise(200 << 10)
	task := alice.SendFile("bob", writeFile(t, data), dian.WithMeta([]byte("m")))
	mustEnd(t, task, dian.OK)
	bob.Close()
	in := newInbound()
	h = in.handler()
	behind := make(chan bool, 1)
	h.NotifyCmdData = func(dian.CmdData) { behind <- true }
	bob = relay.Client("bob", dian.WithReceiveDir(dir), dian.WithHandler(h))
	f := wait(t, in.files)
	if f.SendID != task.ID() || f.Source != "alice" || f.Name != "photo.jpg" || string(f.Meta) != "m" {
		t.Errorf("%+v", f)
	}
	to, err := f.SaveAs(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(to); err != nil || !bytes.Equal(got, data) || filepath.Base(to) != "photo.jpg" {
		t.Errorf("%s: %v", to, err)
	}
	mustEnd(t, alice.SendCmd("bob", nil), dian.OK)
	wait(t, behind) // the callback before it has returned, and that is noted
	bob.Close()
	in = newInbound()
	relay.Client("bob", dian.WithReceiveDir(dir), dian.WithHandler(in.handler()))
	select {
	case f := <-in.files:
		t.Errorf("told again: %+v", f)
	case <-time.After(50 * time.Millisecond):
	}
}

func TestReceiverMayLogInAgainWhenKicked(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	relay := diantest.New(t)
	off := make(chan error, 1)
	first, err := dian.Connect(t.Context(), relay.URL, dian.WithToken(relay.Token("bob")),
		dian.WithHandler(dian.Handler{NotifyLineOff: func(err error) { off <- err }}))
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	second, err := dian.Connect(t.Context(), relay.URL, dian.WithToken(relay.Token("bob")))
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if got := dian.CodeOf(wait(t, off)); got != dian.ErrKicked {
		t.Errorf("line off with %v", got)
	}
	third, err := dian.Connect(t.Context(), relay.URL, dian.WithToken(relay.Token("bob")))
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	if first.Instance() != third.Instance() || first.Instance() == second.Instance() {
		t.Error("the folder that came free was not used")
	}
}

func TestNothingIsLeftRunning(t *testing.T) {
	relay := diantest.New(t, hasty)
	in := newInbound()
	bob := relay.Client("bob", dian.WithHandler(in.handler()))
	alice := relay.Client("alice")
	mustEnd(t, alice.SendFile("bob", writeFile(t, noise(1<<20))), dian.OK)
	slow := lazy{pattern{1 << 30}}
	task := alice.SendReader("bob", slow, slow.size)
	for {
		if sent, _ := task.Progress(); sent > 0 {
			break
		}
		<-time.After(time.Millisecond)
	}
	alice.Close()
	bob.Close()
	mustEnd(t, task, dian.ErrNotLoggedIn)
	for range 100 {
		buf := make([]byte, 1<<20)
		stacks := string(buf[:runtime.Stack(buf, true)])
		if !strings.Contains(stacks, "(*outTransfer)") && !strings.Contains(stacks, "(*inTransfer)") &&
			!strings.Contains(stacks, "internal/inbox.") && !strings.Contains(stacks, "(*ring)") {
			return
		}
		<-time.After(10 * time.Millisecond)
	}
	t.Error("goroutines are left")
}

func TestManyTransfersAtOnce(t *testing.T) {
	relay := diantest.New(t)
	in := newInbound()
	relay.Client("bob", dian.WithHandler(in.handler()), dian.WithParallelReceive(2))
	alice := relay.Client("alice", dian.WithParallel(6))
	var tasks []*dian.Task
	for i := range 12 {
		tasks = append(tasks, alice.SendReader("bob", pattern{int64(1<<20 + i)}, int64(1<<20+i)))
	}
	for i, task := range tasks {
		if i == 5 {
			relay.Cut()
		}
		mustEnd(t, task, dian.OK)
	}
	for range tasks {
		f := wait(t, in.files)
		got, err := os.Open(f.Path)
		if err != nil {
			t.Fatal(err)
		}
		if sum(got) != sum(io.NewSectionReader(pattern{f.Size}, 0, f.Size)) {
			t.Error("content differs")
		}
		got.Close()
	}
}
