package dian_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/diantest"
	"github.com/dian-im/dian/internal/memnet"
	"github.com/dian-im/dian/server"
)

// The tests of this file hold the promises of the reference semantics where the
// reference interface is silent, in the order of its decisions.

// diary is what happened, in order.
type diary struct {
	mu    sync.Mutex // guards lines
	lines []string
}

func (d *diary) add(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
}

func (d *diary) read() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.lines)
}

// sending writes a sender's callbacks down.
func (d *diary) sending() dian.Handler {
	result := func(r dian.Result) { d.add("result %s %d", r.SendID, dian.CodeOf(r.Err)) }
	return dian.Handler{
		SendCmdResult: result, SendBufferResult: result, SendFileResult: result,
		CancelSendResult: func(r dian.CancelResult) { d.add("cancel %s %d", r.SendID, dian.CodeOf(r.Err)) },
	}
}

// of returns the lines that name an id, without it.
func (d *diary) of(id string) string {
	var list []string
	for _, line := range d.read() {
		if strings.Contains(line, id) {
			list = append(list, strings.Replace(line, id+" ", "", 1))
		}
	}
	return strings.Join(list, ", ")
}

// Decision 1.

func TestZeroMeansTheReceiverHasIt(t *testing.T) {
	relay := diantest.New(t)
	hold, entered := make(chan struct{}), make(chan struct{}, 10)
	release := sync.OnceFunc(func() { close(hold) })
	defer release()
	stuck := dian.Handler{
		NotifyCmdData:    func(dian.CmdData) { entered <- struct{}{}; <-hold },
		NotifyBufferData: func(dian.BufferData) { <-hold },
		NotifyFileData:   func(dian.FileData) { <-hold },
	}
	dir := t.TempDir()
	relay.Client("bob", dian.WithHandler(stuck), dian.WithReceiveDir(dir))
	relay.Client("carol", dian.WithHandler(stuck), dian.WithAckHandled())
	alice := relay.Client("alice")

	// Queued is enough, whatever the application does.
	for range 3 {
		mustEnd(t, alice.SendCmd("bob", []byte("x")), dian.OK)
	}
	for _, n := range []int{10, 200 << 10} {
		data := noise(n)
		if r := mustEnd(t, alice.SendBuffer("bob", data), dian.OK); r.Receipt != dian.Stored {
			t.Errorf("receipt %v of a buffer", r.Receipt)
		}
		if r := mustEnd(t, alice.SendFile("bob", writeFile(t, data)), dian.OK); r.Receipt != dian.Stored || r.LengthOnly {
			t.Errorf("receipt %v of a file, length only %v", r.Receipt, r.LengthOnly)
		}
		// It is on the receiver's disk, whole, before the sender knows.
		found := false
		kept, _ := filepath.Glob(filepath.Join(dir, "*.file"))
		for _, path := range kept {
			got, err := os.ReadFile(path)
			found = found || err == nil && bytes.Equal(got, data)
		}
		if !found {
			t.Errorf("%d bytes: not among the %d files of the receive folder", n, len(kept))
		}
	}

	// By the receiver's choice its handler has to have returned.
	wait(t, entered)
	task := alice.SendCmd("carol", []byte("x"))
	wait(t, entered)
	mustEnd(t, alice.SendCmd("bob", nil), dian.OK) // as much time as an answer takes
	select {
	case <-task.Done():
		t.Errorf("result %v before the handler has returned", task.Result().Err)
	default:
	}
	release()
	mustEnd(t, task, dian.OK)
}

// Decision 2.

func TestLimitsAreInclusive(t *testing.T) {
	relay := diantest.New(t)
	in := newInbound()
	h := in.handler()
	h.HandleCmd = func(m dian.CmdData) ([]byte, error) { return m.Data, nil }
	relay.Client("bob", dian.WithHandler(h))
	alice := relay.Client("alice")
	data := noise(65_536)
	if r := mustEnd(t, alice.SendCmd("bob", data, dian.WithMeta(noise(4096))), dian.OK); !bytes.Equal(r.Reply, data) || r.Size != 65_536 {
		t.Errorf("size %d, reply of %d bytes", r.Size, len(r.Reply))
	}
	name, kind := strings.Repeat("n", 1024), strings.Repeat("t", 255)
	r := mustEnd(t, alice.SendReader("bob", pattern{104_857_600}, 104_857_600, dian.AsBuffer(),
		dian.WithMeta(noise(4096)), dian.WithName(name), dian.WithType(kind)), dian.OK)
	b := wait(t, in.buffers)
	if r.Size != 104_857_600 || len(b.Data) != 104_857_600 || len(b.Meta) != 4096 || b.Name != name || b.Type != kind {
		t.Errorf("size %d, received %d bytes, meta of %d", r.Size, len(b.Data), len(b.Meta))
	}
	if sum(bytes.NewReader(b.Data)) != sum(readerOf(pattern{104_857_600})) {
		t.Error("content differs")
	}
}

// Decision 3.

func TestOfflinePeerIsToldAtOnceOrWaitedFor(t *testing.T) {
	relays(t, func(t *testing.T, r *relay) {
		alice := r.connect("alice")
		defer alice.Close()
		send := func(opts ...dian.SendOption) []*dian.Task {
			return []*dian.Task{
				alice.SendCmd("bob", []byte("x"), opts...),
				alice.SendBuffer("bob", noise(10), opts...),
				alice.SendReader("bob", pattern{100 << 10}, 100<<10, opts...),
			}
		}
		start := time.Now()
		for _, task := range send() {
			if err := task.Wait(t.Context()); dian.CodeOf(err) != dian.ErrPeerOffline || err.(*dian.Error).Origin != dian.Server {
				t.Errorf("%v: %v, want %v", task.Kind(), err, dian.ErrPeerOffline)
			}
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("told after %v", took)
		}
		for _, task := range send(dian.WithWaitForPeer(time.Minute)) {
			if err := task.Wait(t.Context()); dian.CodeOf(err) != dian.ErrPeerOffline {
				t.Errorf("%v: %v, want %v", task.Kind(), err, dian.ErrPeerOffline)
			}
			if took := time.Since(start); took < 55*time.Second || took > 70*time.Second {
				t.Errorf("%v: waited for %v, want a minute", task.Kind(), took)
			}
		}
		patient := send(dian.WithWaitForPeer(time.Hour))
		time.Sleep(30 * time.Minute)
		in := newInbound()
		h := in.handler()
		h.NotifyCmdData = func(dian.CmdData) {}
		bob := r.connect("bob", dian.WithHandler(h))
		defer bob.Close()
		for _, task := range patient {
			if err := task.Wait(t.Context()); err != nil {
				t.Errorf("%v: %v after the peer came", task.Kind(), err)
			}
		}
		wait(t, in.buffers)
		wait(t, in.files)
	})
}

// Decision 5.

func TestEveryTaskHasExactlyOneResult(t *testing.T) {
	relay := diantest.New(t, hasty)
	var told diary
	h := takesAll
	h.AcceptBuffer = func(o *dian.Offer) {
		if o.Name == "no" {
			o.Refuse(dian.ErrPeerRefused, "")
		} else if o.Name != "never" {
			o.Accept()
		}
	}
	relay.Client("bob", dian.WithHandler(h))
	alice := relay.Client("alice", dian.WithHandler(told.sending()))
	want := map[string]dian.Code{}
	var tasks []*dian.Task
	add := func(code dian.Code, task *dian.Task) {
		want[task.ID()] = code
		tasks = append(tasks, task)
	}
	for range 20 {
		add(dian.OK, alice.SendCmd("bob", noise(100)))
		add(dian.OK, alice.SendBuffer("bob", noise(100)))
		add(dian.OK, alice.SendBuffer("bob", noise(100<<10)))
		add(dian.OK, alice.SendReader("bob", pattern{200 << 10}, 200<<10))
		add(dian.ErrPeerRefused, alice.SendBuffer("bob", nil, dian.WithName("no")))
		add(dian.ErrPeerOffline, alice.SendCmd("nobody", nil))
		add(dian.ErrBadTarget, alice.SendCmd("", nil))
		add(dian.ErrFileNotFound, alice.SendFile("bob", filepath.Join(t.TempDir(), "none")))
		add(dian.ErrNotLoggedIn, alice.SendBuffer("bob", nil, dian.WithName("never")))
	}
	for _, task := range tasks {
		if want[task.ID()] != dian.ErrNotLoggedIn {
			mustEnd(t, task, want[task.ID()])
		}
	}
	relay.Cut()
	alice.Close() // returns behind the last callback
	for _, task := range tasks {
		r := mustEnd(t, task, want[task.ID()])
		if got := told.of(task.ID()); got != fmt.Sprintf("result %d", want[task.ID()]) {
			t.Errorf("%s was told %q, want its one result %v", task.ID(), got, want[task.ID()])
		}
		if r.SendID != task.ID() || r.Target != task.Target() || r.Kind != task.Kind() {
			t.Errorf("result %+v is of another task than %s", r, task.ID())
		}
	}
	if n := len(told.read()); n != len(tasks) {
		t.Errorf("%d callbacks for %d tasks", n, len(tasks))
	}
}

func TestCancelTellsItsOutcomeBeforeTheResult(t *testing.T) {
	const none = "01890a5d-ac96-774b-bcce-b302099a8057"
	for _, kind := range []dian.Kind{dian.Buffer, dian.File} {
		t.Run(kind.String(), func(t *testing.T) {
			relay := diantest.New(t, hasty)
			var told diary
			in, dir := newInbound(), t.TempDir()
			asked := make(chan *dian.Offer, 10)
			h := in.handler()
			h.NotifyCmdData = func(dian.CmdData) {}
			h.AcceptBuffer = func(o *dian.Offer) {
				if o.Name != "wait" {
					o.Accept()
				}
				asked <- o
			}
			h.AcceptFile = h.AcceptBuffer
			bob := relay.Client("bob", dian.WithHandler(h), dian.WithReceiveDir(dir))
			gate := &gatedWrites{left: 1 << 20, reached: make(chan struct{}), open: make(chan struct{})}
			alice := relay.Client("alice", dian.WithHandler(told.sending()))
			slow := relay.Client("alice", dian.WithSendOnly(), dian.WithHandler(told.sending()), dialing(gate.wrap))
			send := func(c *dian.Client, size int64, opts ...dian.SendOption) *dian.Task {
				if kind == dian.Buffer {
					opts = append(opts, dian.AsBuffer())
				}
				return c.SendReader("bob", pattern{size}, size, opts...)
			}

			// Before the peer has answered: it is withdrawn, and nobody was accepted.
			before := send(alice, 200<<10, dian.WithName("wait"))
			o := wait(t, asked)
			before.Cancel()
			mustEnd(t, before, dian.ErrCancelled)
			wait(t, o.Done())
			o.Accept() // too late, and changes nothing

			// In the middle.
			middle := send(slow, 8<<20)
			wait(t, asked)
			wait(t, gate.reached)
			slow.CancelSend(middle.ID())
			slow.CancelSend(middle.ID()) // twice is no more than once
			gate.release()
			mustEnd(t, middle, dian.ErrCancelled)
			if n := wait(t, in.cancels); n.SendID != middle.ID() || n.Source != "alice" || n.Kind != kind {
				t.Errorf("the receiver was told %+v", n)
			}

			// Too late, of a command, and of nothing.
			late := send(alice, 200<<10)
			mustEnd(t, late, dian.OK)
			late.Cancel()
			alice.CancelSend(late.ID())
			command := alice.SendCmd("bob", nil)
			command.Cancel()
			mustEnd(t, command, dian.OK)
			alice.CancelSend(none)
			alice.CancelSend("no id at all")

			alice.Close()
			slow.Close()
			bob.Close()
			for task, want := range map[string]string{
				before.ID():    "cancel 0, result 1105",
				middle.ID():    "cancel 0, cancel 0, result 1105",
				late.ID():      "result 0, cancel 1104, cancel 1104",
				none:           "cancel 1104",
				"no id at all": "cancel 1104",
			} {
				if got := told.of(task); got != want {
					t.Errorf("told %q, want %q", got, want)
				}
			}
			if got := told.of(command.ID()); got != "cancel 1104, result 0" && got != "result 0, cancel 1104" {
				t.Errorf("told %q of a command", got)
			}
			if len(in.cancels) > 0 {
				t.Errorf("more cancels were told: %+v", <-in.cancels)
			}
			if n := len(in.files) + len(in.buffers); n != 1 {
				t.Errorf("%d were received, want the one that was not cancelled", n)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "*.part")); len(left) > 0 {
				t.Errorf("parts are left: %v", left)
			}
		})
	}
}

// A cancel that meets the end of its transfer: both sides agree on what it was (case 81).
func TestBothEndsAgreeOnALateCancel(t *testing.T) {
	relay := diantest.New(t, hasty)
	var told diary
	var mu sync.Mutex
	got, cancelled := map[string]int{}, map[string]int{}
	bob := relay.Client("bob", dian.WithHandler(dian.Handler{
		NotifyBufferData: func(b dian.BufferData) { mu.Lock(); got[b.SendID]++; mu.Unlock() },
		NotifyCancelSend: func(c dian.CancelNotice) { mu.Lock(); cancelled[c.SendID]++; mu.Unlock() },
	}))
	alice := relay.Client("alice", dian.WithHandler(told.sending()), dian.WithParallel(8))
	var tasks []*dian.Task
	for i := range 150 {
		size := int64(70<<10 + i)
		if i%3 == 0 {
			size = int64(i)
		}
		task := alice.SendReader("bob", pattern{size}, size, dian.AsBuffer())
		tasks = append(tasks, task)
		for range i * 50 { // some time between nothing and a whole transfer
			if _, total := task.Progress(); total < 0 {
				break
			}
			runtime.Gosched()
		}
		task.Cancel()
	}
	outcomes := map[string]int{}
	for _, task := range tasks {
		mustEndOneOf(t, task, dian.OK, dian.ErrCancelled)
	}
	alice.Close()
	bob.Close()
	for _, task := range tasks {
		what := told.of(task.ID())
		outcomes[what]++
		switch n := got[task.ID()]; what {
		case "cancel 0, result 1105":
			if n != 0 {
				t.Errorf("%s was cancelled, and was delivered %d times", task.ID(), n)
			}
		case "cancel 1104, result 0", "result 0, cancel 1104":
			if n != 1 || cancelled[task.ID()] != 0 {
				t.Errorf("%s was sent, delivered %d times, and cancelled %d times", task.ID(), n, cancelled[task.ID()])
			}
		default:
			t.Errorf("%s was told %q", task.ID(), what)
		}
	}
	t.Log(outcomes)
}

// Decision 6.

func TestProgressIsConfirmedRisingAndRare(t *testing.T) {
	relays(t, func(t *testing.T, r *relay) {
		r.l.OnDial = func(client, server *memnet.Conn) error { // a slow line: 64 KiB every 20 ms
			client.Delay(20 * time.Millisecond)
			return nil
		}
		type event struct {
			dian.Progress
			at time.Time
		}
		events := map[string][]event{}
		results := map[string]int{} // how many events came before the result
		h := dian.Handler{
			NotifySendProgress: func(p dian.Progress) { events[p.SendID] = append(events[p.SendID], event{p, time.Now()}) },
			SendBufferResult:   func(r dian.Result) { results[r.SendID] = len(events[r.SendID]) },
		}
		h.SendFileResult = h.SendBufferResult
		var held sync.Map
		bob := r.connect("bob", dian.WithHandler(dian.Handler{
			NotifyBufferData: func(b dian.BufferData) { held.Store(b.SendID, true) },
			NotifyFileData:   func(f dian.FileData) { held.Store(f.SendID, true) },
		}))
		defer bob.Close()
		alice := r.connect("alice", dian.WithHandler(h))
		want := map[string]int64{}
		for _, size := range []int64{0, 1, 64 << 10, 64<<10 + 1, 12 << 20} {
			for _, opts := range [][]dian.SendOption{nil, {dian.AsBuffer()}} {
				task := alice.SendReader("bob", pattern{size}, size, append(opts, dian.WithCookie(size))...)
				if err := task.Wait(t.Context()); err != nil {
					t.Fatalf("%d bytes: %v", size, err)
				}
				want[task.ID()] = size
			}
		}
		alice.Close()
		for id, size := range want {
			list := events[id]
			if len(list) == 0 || results[id] != len(list) {
				t.Errorf("%d bytes: %d events, %d of them before the result", size, len(list), results[id])
				continue
			}
			if last := list[len(list)-1]; last.Sent != size || last.Total != size {
				t.Errorf("%d bytes: the last event is %d/%d", size, last.Sent, last.Total)
			}
			if size == 0 && len(list) != 1 {
				t.Errorf("empty content has %d events", len(list))
			}
			if size > 1<<20 && len(list) < 5 {
				t.Errorf("%d bytes: only %d events", size, len(list))
			}
			for i, e := range list {
				if e.Target != "bob" || e.Cookie != size || e.Total != size || e.Sent > size || i > 0 && e.Sent <= list[i-1].Sent {
					t.Errorf("%d bytes: event %d is %+v after %+v", size, i, e.Progress, list[max(i-1, 0)].Progress)
				}
				if i >= 10 && e.at.Sub(list[i-10].at) < time.Second {
					t.Errorf("%d bytes: more than ten events within %v", size, e.at.Sub(list[i-10].at))
				}
			}
		}
	})
}

// Decision 7.

func TestCommandsKeepOrderAndComeOnceOverRealCuts(t *testing.T) {
	const n, batch = 2000, 100
	relay := diantest.New(t)
	var mu sync.Mutex
	var got []string
	back := make(chan struct{}, 1000)
	bob := relay.Client("bob", dian.WithHandler(dian.Handler{
		NotifyCmdData:     func(m dian.CmdData) { mu.Lock(); got = append(got, string(m.Data)); mu.Unlock() },
		NotifyReconnected: func() { back <- struct{}{} },
	}))
	var told diary
	alice := relay.Client("alice", dian.WithHandler(told.sending()))
	var tasks []*dian.Task
	var want []string
	for i := range n {
		if i == 1 { // the first one has arrived: TestFirstCommandSurvivesACut is about the other case
			mustEnd(t, tasks[0], dian.OK)
		}
		if i%batch == batch/2 {
			relay.Cut() // with what is under way; the next ones are sent while the line is down
		}
		if i%batch == 0 && i > 0 {
			wait(t, back)
		}
		want = append(want, fmt.Sprintf("%05d", i))
		tasks = append(tasks, alice.SendCmd("bob", []byte(want[i]), dian.WithWaitForPeer(time.Minute)))
	}
	for _, task := range tasks {
		mustEnd(t, task, dian.OK)
	}
	alice.Close()
	bob.Close() // 0 says that they are queued for the callback
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(got, want) {
		t.Errorf("got %d commands, want %d in order and once", len(got), n)
	}
	if lines := told.read(); len(lines) != n {
		t.Errorf("%d results for %d commands", len(lines), n)
	}
}

// The receiver lives, so a command that never reached it is sent again and arrives.
func TestFirstCommandSurvivesACut(t *testing.T) {
	relays(t, func(t *testing.T, r *relay) {
		var got diary
		bob := r.connect("bob", dian.WithHandler(dian.Handler{NotifyCmdData: func(m dian.CmdData) { got.add("%s", m.Data) }}))
		defer bob.Close()
		lines := r.l.Conns()
		alice := r.connect("alice")
		defer alice.Close()
		for _, c := range lines { // bob's: what the server passes on is lost
			c.BlackholeWrites()
		}
		task := alice.SendCmd("bob", []byte("first"))
		synctest.Wait()
		r.l.CutAll()
		if err := task.Wait(t.Context()); err != nil {
			t.Errorf("%v, though the receiver was there all the time", err)
		}
		bob.Close()
		if lines := got.read(); !slices.Equal(lines, []string{"first"}) {
			t.Errorf("received %q", lines)
		}
	})
}

func TestUnknownFateIsNoSecondDelivery(t *testing.T) {
	relay := diantest.New(t)
	hold, entered := make(chan struct{}), make(chan string, 10)
	first := relay.Client("bob", dian.WithHandler(dian.Handler{HandleCmd: func(m dian.CmdData) ([]byte, error) {
		entered <- string(m.Data)
		<-hold
		return nil, nil
	}}))
	alice := relay.Client("alice")
	lost := alice.SendCmd("bob", []byte("once"))
	wait(t, entered)
	// Another life of the receiver, which cannot know what the first one has done.
	var got diary
	relay.Client("bob", dian.WithHandler(dian.Handler{NotifyCmdData: func(m dian.CmdData) { got.add("%s", m.Data) }}))
	r := mustEnd(t, lost, dian.ErrPeerNoAnswer)
	if r.Err.(*dian.Error).Origin != dian.Peer {
		t.Errorf("%+v", r.Err)
	}
	mustEnd(t, alice.SendCmd("bob", []byte("next")), dian.OK)
	close(hold)
	first.Close()
	if lines := got.read(); len(lines) > 1 || len(lines) == 1 && lines[0] != "next" {
		t.Errorf("the second life got %q", lines)
	}
}

// Decisions 8 and 9.

func TestOneMaySendToOneself(t *testing.T) {
	relay := diantest.New(t)
	in := newInbound()
	h := in.handler()
	h.HandleCmd = func(m dian.CmdData) ([]byte, error) { return []byte(m.Source), nil }
	alice := relay.Client("alice", dian.WithHandler(h))
	if r := mustEnd(t, alice.SendCmd("alice", nil), dian.OK); string(r.Reply) != "alice" {
		t.Errorf("reply %q", r.Reply)
	}
	for _, n := range []int64{0, 10, 300 << 10} {
		mustEnd(t, alice.SendReader("alice", pattern{n}, n), dian.OK)
		if f := wait(t, in.files); f.Source != "alice" || f.Size != n {
			t.Errorf("%+v", f)
		}
		mustEnd(t, alice.SendReader("alice", pattern{n}, n, dian.AsBuffer()), dian.OK)
		if b := wait(t, in.buffers); b.Source != "alice" || int64(len(b.Data)) != n {
			t.Errorf("%d bytes from %s", len(b.Data), b.Source)
		}
	}
}

func TestEveryCallbackSaysWhatItIsAbout(t *testing.T) {
	relay := diantest.New(t, hasty)
	var mu sync.Mutex
	sender, receiver := map[string][]string{}, map[string][]string{}
	note := func(where map[string][]string, id, what string, ok bool) {
		mu.Lock()
		defer mu.Unlock()
		where[id] = append(where[id], what)
		if !ok {
			t.Errorf("%s of %s lacks something", what, id)
		}
	}
	cancelNow, cancelled := make(chan struct{}, 10), make(chan struct{})
	bob := relay.Client("bob", dian.WithHandler(dian.Handler{
		NotifyCmdData: func(m dian.CmdData) {
			note(receiver, m.SendID, "command", m.Source == "alice" && string(m.Meta) == "meta" && len(m.Data) == 0)
		},
		NotifyBufferData: func(b dian.BufferData) {
			note(receiver, b.SendID, "buffer", b.Source == "alice" && string(b.Meta) == "meta" && b.Data != nil && len(b.Data) == 0)
		},
		NotifyFileData: func(f dian.FileData) {
			note(receiver, f.SendID, "file", f.Source == "alice" && string(f.Meta) == "meta" && f.Name == "photo.jpg" && f.Size == 0)
		},
		NotifyCancelSend: func(c dian.CancelNotice) {
			note(receiver, c.SendID, "cancel", c.Source == "alice" && c.Kind == dian.File)
			close(cancelled)
		},
		AcceptFile: func(o *dian.Offer) {
			note(receiver, o.SendID, "offer", o.Source == "alice" && string(o.Meta) == "meta" && o.Kind == dian.File)
			o.Accept()
			if o.Size > 0 {
				cancelNow <- struct{}{}
			}
		},
		AcceptBuffer: func(o *dian.Offer) {
			note(receiver, o.SendID, "offer", o.Source == "alice" && string(o.Meta) == "meta" && o.Kind == dian.Buffer)
			o.Accept()
		},
	}))
	type cookie struct{ n int }
	path := writeFile(t, nil)
	result := func(r dian.Result) {
		c, ok := r.Cookie.(*cookie)
		note(sender, r.SendID, "result", ok && c != nil && r.Target == "bob" && (r.Kind == dian.File && r.Err == nil) == (r.FileName == path))
	}
	alice := relay.Client("alice", dian.WithHandler(dian.Handler{
		SendCmdResult: result, SendBufferResult: result, SendFileResult: result,
		NotifySendProgress: func(p dian.Progress) {
			_, ok := p.Cookie.(*cookie)
			note(sender, p.SendID, "progress", ok && p.Target == "bob")
		},
		CancelSendResult: func(r dian.CancelResult) { _, ok := r.Cookie.(*cookie); note(sender, r.SendID, "cancel", ok) },
	}))
	with := func(n int) []dian.SendOption {
		return []dian.SendOption{dian.WithCookie(&cookie{n}), dian.WithMeta([]byte("meta"))}
	}
	command := alice.SendCmd("bob", nil, with(1)...)
	buffer := alice.SendBuffer("bob", nil, with(2)...)
	file := alice.SendFile("bob", path, with(3)...)
	mustEnd(t, command, dian.OK)
	mustEnd(t, buffer, dian.OK)
	mustEnd(t, file, dian.OK)
	big := alice.SendReader("bob", lazy{pattern{1 << 30}}, 1<<30, with(4)...)
	wait(t, cancelNow)
	for sent := int64(0); sent == 0; sent, _ = big.Progress() {
		runtime.Gosched()
	}
	big.Cancel()
	mustEnd(t, big, dian.ErrCancelled)
	wait(t, cancelled)
	alice.Close()
	bob.Close()
	for task, want := range map[*dian.Task][2]string{
		command: {"result", "command"},
		buffer:  {"progress result", "offer buffer"},
		file:    {"progress result", "offer file"},
		big:     {"progress cancel result", "offer cancel"},
	} {
		if got := strings.Join(slices.Compact(sender[task.ID()]), " "); got != want[0] {
			t.Errorf("%v: the sender was told %q, want %q", task.Kind(), got, want[0])
		}
		if got := strings.Join(receiver[task.ID()], " "); got != want[1] {
			t.Errorf("%v: the receiver was told %q, want %q", task.Kind(), got, want[1])
		}
	}
	if len(sender) != 4 || len(receiver) != 4 {
		t.Errorf("callbacks of other ids: %v, %v", slices.Collect(maps.Keys(sender)), slices.Collect(maps.Keys(receiver)))
	}
}

// Decision 10.

func TestLogoutEndsTasksAndALostLineDoesNot(t *testing.T) {
	relay := diantest.New(t, hasty)
	asked := make(chan *dian.Offer, 10)
	bob := relay.Client("bob", dian.WithHandler(dian.Handler{
		NotifyCmdData: func(dian.CmdData) {}, NotifyBufferData: func(dian.BufferData) {},
		AcceptBuffer: func(o *dian.Offer) { asked <- o },
	}))
	var told diary
	back := make(chan struct{}, 10)
	h := told.sending()
	h.NotifyLineOff = func(err error) { told.add("line off %v", err) }
	h.NotifyReconnected = func() { back <- struct{}{} }
	alice := relay.Client("alice", dian.WithHandler(h))
	small, big := alice.SendBuffer("bob", noise(10)), alice.SendBuffer("bob", noise(200<<10))
	open := []*dian.Offer{wait(t, asked), wait(t, asked)}
	relay.Cut()
	wait(t, back)
	if lines := told.read(); len(lines) > 0 {
		t.Errorf("a lost line was told: %q", lines)
	}
	for _, o := range open {
		o.Accept()
	}
	mustEnd(t, small, dian.OK)
	mustEnd(t, big, dian.OK)

	left := []*dian.Task{
		alice.SendBuffer("bob", noise(10)), alice.SendBuffer("bob", noise(200<<10)),
		alice.SendCmd("nobody", nil, dian.WithWaitForPeer(time.Hour)),
	}
	wait(t, asked)
	wait(t, asked)
	alice.Close()
	for _, task := range left {
		if r := mustEnd(t, task, dian.ErrNotLoggedIn); r.Err.(*dian.Error).Origin != dian.Local {
			t.Errorf("%+v", r.Err)
		}
		if got := told.of(task.ID()); got != "result 12" {
			t.Errorf("%v was told %q", task.Kind(), got)
		}
	}
	for _, err := range []error{alice.SendCmd("bob", nil).Wait(t.Context()), alice.SendBuffer("bob", nil).Wait(t.Context()), alice.Err()} {
		if !errors.Is(err, dian.ErrNotLoggedIn) {
			t.Errorf("after Close: %v", err)
		}
	}
	if got := told.of("line off"); got != "" {
		t.Errorf("a logout was told: %q", got)
	}
	bob.Close()
}

func TestWindowOverEndsTasksAndTheIDGoesOn(t *testing.T) {
	relays(t, func(t *testing.T, r *relay) {
		const size, id = 8 << 20, "01890a5d-ac96-774b-bcce-b302099a8057"
		var down atomic.Bool
		r.l.OnDial = func(client, _ *memnet.Conn) error {
			if down.Load() {
				return errBroken
			}
			client.Delay(20 * time.Millisecond) // 64 KiB every 20 ms
			return nil
		}
		in := newInbound()
		bob := r.connect("bob", dian.WithHandler(in.handler()), dian.WithResumeWindow(time.Hour))
		defer bob.Close()
		var told diary
		h := told.sending()
		h.NotifyLineOff = func(err error) { told.add("line off %v", err) }
		first := make(chan dian.Progress, 1000)
		h.NotifySendProgress = func(p dian.Progress) { first <- p }
		alice := r.connect("alice", dian.WithHandler(h), dian.WithResumeWindow(10*time.Second))
		defer alice.Close()
		task := alice.SendReader("bob", pattern{size}, size, dian.WithSendID(id))
		var had int64
		for had < size/4 {
			had = wait(t, first).Sent
		}
		down.Store(true)
		r.l.CutAll()
		err := task.Wait(t.Context())
		if e, _ := errors.AsType[*dian.Error](err); dian.CodeOf(err) != dian.ErrConnectionLost || e.Origin != dian.Local {
			t.Errorf("%v, want %v", err, dian.ErrConnectionLost)
		}
		had, _ = task.Progress()
		down.Store(false)
		time.Sleep(time.Minute) // both are back
		for len(first) > 0 {
			<-first
		}
		again := alice.SendReader("bob", pattern{size}, size, dian.WithSendID(id))
		if p := wait(t, first); p.Sent < had {
			t.Errorf("began again at %d of %d bytes, though %d were confirmed", p.Sent, size, had)
		}
		if err := again.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if f := wait(t, in.files); f.SendID != id || f.Size != size {
			t.Errorf("%+v", f)
		}
		synctest.Wait() // Wait does not wait for callbacks
		if got := told.of(id); got != "result 207, result 0" {
			t.Errorf("told %q", got)
		}
		if got := told.of("line off"); got != "" {
			t.Errorf("told %q, though the client was reconnecting", got)
		}
		if len(in.files) > 0 {
			t.Errorf("a second file came: %+v", <-in.files)
		}
	})
}

// Decision 11.

func TestSecondLoginTakesThePlaceWithoutAFight(t *testing.T) {
	relays(t, func(t *testing.T, r *relay) {
		var told diary
		watch := func(name string) dian.Option {
			return dian.WithHandler(dian.Handler{
				NotifyCmdData:      func(m dian.CmdData) { told.add("%s got %s", name, m.Data) },
				NotifyLineOff:      func(err error) { told.add("%s off %d", name, dian.CodeOf(err)) },
				NotifyReconnecting: func(dian.Reconnecting) { told.add("%s lost", name) },
			})
		}
		first := r.connect("bob", watch("first"))
		defer first.Close()
		var senders []*dian.Client // these kick nobody, and are not kicked
		for range 3 {
			c := r.connect("bob", watch("sender"), dian.WithSendOnly())
			defer c.Close()
			senders = append(senders, c)
		}
		alice := r.connect("alice")
		defer alice.Close()
		send := func(text string) {
			t.Helper()
			if err := alice.SendCmd("bob", []byte(text)).Wait(t.Context()); err != nil {
				t.Errorf("%s: %v", text, err)
			}
			synctest.Wait()
		}
		send("one")
		second := r.connect("bob", watch("second"))
		defer second.Close()
		synctest.Wait() // the two tell independently of each other
		send("two")
		time.Sleep(time.Hour)
		send("three")
		if err := first.SendCmd("alice", nil).Wait(t.Context()); !errors.Is(err, dian.ErrKicked) {
			t.Errorf("sent by the kicked one: %v", err)
		}
		if !errors.Is(first.Err(), dian.ErrKicked) || second.Err() != nil {
			t.Errorf("first %v, second %v", first.Err(), second.Err())
		}
		for _, c := range senders {
			if err := c.SendCmd("bob", []byte("self")).Wait(t.Context()); err != nil {
				t.Errorf("a sender's command: %v", err)
			}
		}
		synctest.Wait()
		want := []string{"first got one", "first off 10", "second got two", "second got three",
			"second got self", "second got self", "second got self"}
		if got := told.read(); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// Callbacks.

func TestCallbacksMayCallEverything(t *testing.T) {
	relay := diantest.New(t)
	in := newInbound()
	var bob *dian.Client
	ready, closed := make(chan struct{}), make(chan struct{})
	replies := make(chan error, 10)
	h := in.handler()
	h.NotifyCmdData = func(m dian.CmdData) {
		<-ready
		switch string(m.Data) {
		case "send and wait":
			for _, task := range []*dian.Task{
				bob.SendCmd("alice", m.Data), bob.SendBuffer("alice", noise(100)), bob.SendReader("alice", pattern{200 << 10}, 200<<10),
			} {
				replies <- task.Wait(t.Context())
			}
		case "cancel":
			task := bob.SendBuffer("nobody", noise(10), dian.WithWaitForPeer(time.Hour))
			task.Cancel()
			if err := task.Wait(t.Context()); !errors.Is(err, dian.ErrCancelled) {
				replies <- fmt.Errorf("cancelled: %w", err)
				return
			}
			_, err := bob.UserStatus(t.Context())
			replies <- errors.Join(err, bob.SetStatus(true, 1))
		case "close":
			err := bob.Close()
			bob.Close()
			replies <- err
			close(closed)
		}
	}
	bob = relay.Client("bob", dian.WithHandler(h))
	close(ready)
	other := newInbound().handler()
	other.NotifyCmdData = func(dian.CmdData) {}
	alice := relay.Client("alice", dian.WithHandler(other))
	for text, n := range map[string]int{"send and wait": 3, "cancel": 1} {
		mustEnd(t, alice.SendCmd("bob", []byte(text)), dian.OK)
		for range n {
			if err := wait(t, replies); err != nil {
				t.Errorf("%s: %v", text, err)
			}
		}
	}
	mustEnd(t, alice.SendCmd("bob", []byte("close")), dian.OK)
	wait(t, closed)
	wait(t, bob.Done())
	if err := wait(t, replies); err != nil || !errors.Is(bob.Err(), dian.ErrNotLoggedIn) {
		t.Errorf("closed inside a callback: %v, %v", err, bob.Err())
	}
}

// The bubble finds goroutines that are left at its end; the count finds those of a
// client while the server goes on.
func TestCloseLeavesNoGoroutine(t *testing.T) {
	relays(t, func(t *testing.T, r *relay) {
		r.l.OnDial = func(client, _ *memnet.Conn) error { // long transfers are under way when all is closed
			client.Delay(20 * time.Millisecond)
			return nil
		}
		settle := func() int {
			time.Sleep(5 * time.Minute) // the server holds lanes for as long as a transfer may be resumed
			synctest.Wait()
			return runtime.NumGoroutine()
		}
		once := func() {
			in := newInbound()
			h := in.handler()
			h.NotifyCmdData = func(dian.CmdData) {}
			hang := make(chan *dian.Offer, 10)
			h.AcceptBuffer = func(o *dian.Offer) {
				if o.Name == "hang" {
					hang <- o
					return
				}
				o.Accept()
			}
			bob := r.connect("bob", dian.WithHandler(h))
			alice := r.connect("alice", dian.WithHandler((&diary{}).sending()))
			idle := r.connect("carol", dian.WithSendOnly())
			if err := alice.StartUserStatusNotify(t.Context()); err != nil {
				t.Error(err)
			}
			for _, task := range []*dian.Task{
				alice.SendCmd("bob", nil), alice.SendBuffer("bob", noise(10)), alice.SendReader("bob", pattern{3 << 20}, 3<<20),
			} {
				if err := task.Wait(t.Context()); err != nil {
					t.Error(err)
				}
			}
			alice.SendBuffer("bob", noise(10), dian.WithName("hang"))
			wait(t, hang)
			alice.SendReader("bob", pattern{1 << 30}, 1<<30)
			alice.SendBuffer("nobody", nil, dian.WithWaitForPeer(time.Hour))
			gone := alice.SendReader("bob", pattern{1 << 30}, 1<<30)
			time.Sleep(time.Second)
			r.l.CutAll()
			time.Sleep(time.Second)
			gone.Cancel()
			alice.Close()
			bob.Close()
			idle.Close()
		}
		once() // pools and the like come with the first use
		before := settle()
		for range 3 {
			once()
		}
		if after := settle(); after > before {
			stacks := make([]byte, 1<<20)
			t.Errorf("%d goroutines, %d before\n%s", after, before, stacks[:runtime.Stack(stacks, true)])
		}
	})
}

// Cases 57 to 63: a name is data. It arrives as it was sent, and what is created on
// disk has a safe one and takes nothing's place.
func TestHostileNamesArriveAsData(t *testing.T) {
	names := []string{
		"", ".", "..", "../x", "../../etc/passwd", "/etc/passwd", `C:\x`, `\\server\x`, "x/", "a/b\\c", `..\x`, "%2e%2e%2fx",
		"a\x00b", "\x1b[31mred\x1b[0m", "bell\a", "two\nlines", "cr\rlf", "\u202Egpj.exe", "zero\u200Bwidth", "\uFEFFbom",
		"CON", "nul.txt", "COM1", "COM1 ", "COM¹", "LPT9.tar.gz", "CLOCK$", "dot.", "space ", "a:b", "a?*<>|\"b", "aux.c",
		strings.Repeat("n", 300), strings.Repeat("ä", 500) + ".jpeg", strings.Repeat("x", 1018) + ".jpeg",
		"e\u0301.txt", "\u00e9.txt", "README", "readme", ".partial", ".bashrc", "-rf", "a#b?%41.txt", "~", "$HOME", "`id`", " x",
	}
	relay := diantest.New(t)
	in := newInbound()
	root := t.TempDir()
	saved := filepath.Join(root, "saved")
	if err := os.Mkdir(saved, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "x"), []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	relay.Client("bob", dian.WithHandler(in.handler()), dian.WithReceiveDir(filepath.Join(root, "in")))
	alice := relay.Client("alice")
	contents := map[string]string{}
	for i, name := range slices.Concat(names, names) { // each twice: nothing is replaced
		text := fmt.Sprintf("content %d", i)
		mustEnd(t, alice.SendReader("bob", strings.NewReader(text), int64(len(text)), dian.WithName(name)), dian.OK)
		f := wait(t, in.files)
		if f.Name != name {
			t.Errorf("name %q arrived as %q", name, f.Name)
		}
		if f.SafeName == "" || f.SafeName != filepath.Base(f.SafeName) || len(f.SafeName) > 255 ||
			strings.ContainsAny(f.SafeName, "\x00\x07\x1b\r\n/\\:\u202E\u200B") {
			t.Errorf("name %q has the safe name %q", name, f.SafeName)
		}
		if filepath.Dir(f.Path) != filepath.Join(root, "in") || len(f.Path) > 300 || strings.Contains(filepath.Base(f.Path), "x") {
			t.Errorf("name %q: received at %q", name, f.Path)
		}
		path, err := f.SaveAs(saved)
		if err != nil {
			t.Errorf("name %q: %v", name, err)
			continue
		}
		if filepath.Dir(path) != saved || contents[path] != "" || i < len(names) && contents[path] == "" && !strings.HasPrefix(filepath.Base(path), strings.TrimSuffix(f.SafeName, filepath.Ext(f.SafeName))) {
			t.Errorf("name %q: saved as %q", name, path)
		}
		contents[path] = text
		if _, err := f.SaveAs(saved); err == nil {
			t.Errorf("name %q was saved twice", name)
		}
	}
	for path, want := range contents {
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%q holds %q, %v; want %q", path, got, err, want)
		}
		if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != 0o600 {
			t.Errorf("%q is %v, %v", path, info.Mode(), err)
		}
	}
	if list, _ := os.ReadDir(saved); len(list) != 2*len(names) {
		t.Errorf("%d files are saved, want %d", len(list), 2*len(names))
	}
	if list, _ := os.ReadDir(root); len(list) != 3 {
		t.Errorf("beside the folders there is %v", list)
	}
	if got, _ := os.ReadFile(filepath.Join(root, "x")); string(got) != "untouched" {
		t.Errorf("a file outside of the folder holds %q", got)
	}
	for _, bad := range []string{strings.Repeat("x", 1025), strings.Repeat("x", 5000), "a\xffb"} {
		mustEnd(t, alice.SendReader("bob", strings.NewReader(""), 0, dian.WithName(bad)), dian.ErrBadParameter)
	}
}

// Names of users are as hostile as names of files: errors show them quoted (case 59).
func TestErrorsAreFitForATerminal(t *testing.T) {
	relay := diantest.New(t, func(cfg *server.Config) { cfg.MaxFileBytes = 100 })
	detail := "\x1b[31mred\r\nX: y\u202E"
	relay.Client("bob", dian.WithHandler(dian.Handler{AcceptBuffer: func(o *dian.Offer) { o.Refuse(4711, detail) }}))
	alice := relay.Client("alice")
	r := mustEnd(t, alice.SendBuffer("bob", nil), 4711)
	if e := r.Err.(*dian.Error); e.Detail != detail || e.Origin != dian.Peer {
		t.Errorf("%+v", e)
	}
	if text := r.Err.Error(); strings.ContainsAny(text, "\x1b\r\n\u202E") {
		t.Errorf("%q", text)
	}
}

// readerOf reads a pattern from its begin.
func readerOf(p pattern) io.Reader { return io.NewSectionReader(p, 0, p.size) }
