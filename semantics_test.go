package dian_test

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/diantest"
	"github.com/dian-im/dian/internal/memnet"
)

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

// readerOf reads a pattern from its begin.
func readerOf(p pattern) io.Reader { return io.NewSectionReader(p, 0, p.size) }
