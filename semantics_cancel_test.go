package dian_test

import (
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/diantest"
)

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
