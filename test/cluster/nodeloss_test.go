package cluster

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	natsd "github.com/nats-io/nats-server/v2/server"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/test/internal/ports"
)

// A pair is alice, who sends, and bob, who receives, each behind a front of its own.
type pair struct {
	t        *testing.T
	fa, fb   *front
	alice    *dian.Client
	bob      *dian.Client
	commands *log
	files    chan dian.FileData
}

// A log is what has arrived, in order.
type log struct {
	mu  sync.Mutex
	all []string
}

func (l *log) add(m string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, m)
}

func (l *log) list() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.all...)
}

func newPair(t *testing.T, a, b *node) *pair {
	t.Helper()
	p := &pair{t: t, fa: newFront(t, a), fb: newFront(t, b), commands: &log{}, files: make(chan dian.FileData, 10)}
	p.bob = connect(t, p.fb.url, "bob", dian.WithHandler(dian.Handler{
		NotifyCmdData:  func(m dian.CmdData) { p.commands.add(string(m.Data)) },
		NotifyFileData: func(m dian.FileData) { p.files <- m },
	}))
	p.alice = connect(t, p.fa.url, "alice")
	return p
}

// A stream is a file and commands under way from alice to bob.
type stream struct {
	p        *pair
	data     []byte
	src      *slowReader
	file     *dian.Task
	mu       sync.Mutex
	commands []*dian.Task
	stop     chan struct{}
	stopped  chan struct{}
}

// flow begins a file that takes some seconds and a command every few milliseconds.
func (p *pair) flow(size int, pause time.Duration) *stream {
	s := &stream{p: p, data: content(size), stop: make(chan struct{}), stopped: make(chan struct{})}
	s.src = &slowReader{r: bytes.NewReader(s.data), pause: pause}
	s.file = p.alice.SendReader("bob", s.src, int64(size), dian.WithName("x.bin"), dian.WithWaitForPeer(patience))
	go func() {
		defer close(s.stopped)
		for i := 0; ; i++ {
			select {
			case <-s.stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			task := p.alice.SendCmd("bob", fmt.Append(nil, i), dian.WithWaitForPeer(patience))
			s.mu.Lock()
			s.commands = append(s.commands, task)
			s.mu.Unlock()
		}
	}()
	return s
}

// reached waits until the receiver has confirmed a share of the file.
func (s *stream) reached(share float64) {
	s.p.t.Helper()
	wait(s.p.t, fmt.Sprintf("%.0f %% of the file are there", share*100), func() bool {
		sent, total := s.file.Progress()
		return float64(sent) >= share*float64(total)
	})
}

// check waits for everything and looks that nothing is lost, twice or out of order. Of
// the commands as many may have the result 604, or 602 where a node has too much to say to another, as a fault may cost.
func (s *stream) check(unknown int) {
	t := s.p.t
	t.Helper()
	if err := result(t, s.file); err != nil {
		t.Errorf("file: %v", err)
	} else {
		f := <-s.p.files
		if got, err := os.ReadFile(f.Path); err != nil || !bytes.Equal(got, s.data) {
			t.Errorf("the file has %d bytes, %v", len(got), err)
		}
	}
	close(s.stop)
	<-s.stopped
	fates := map[string]error{}
	lost := 0
	for i, task := range s.commands {
		err := result(t, task)
		if code := dian.CodeOf(err); err != nil && code != dian.ErrPeerNoAnswer && code != dian.ErrPeerBusy {
			t.Errorf("command %d: %v", i, err)
		}
		if err != nil {
			lost++
		}
		fates[fmt.Sprint(i)] = err
	}
	if lost > unknown {
		t.Errorf("%d of %d commands have the result 604 or 602, at most %d may", lost, len(fates), unknown)
	}
	last := -1
	seen := map[string]bool{}
	for _, m := range s.p.commands.list() {
		var n int
		fmt.Sscan(m, &n)
		if n <= last {
			t.Errorf("command %d after %d", n, last)
		}
		last = n
		if seen[m] {
			t.Errorf("command %s was delivered twice", m)
		}
		seen[m] = true
	}
	for m, err := range fates {
		if err == nil && !seen[m] {
			t.Errorf("command %s has the result 0 and was not delivered", m)
		}
		if dian.CodeOf(err) == dian.ErrPeerBusy && seen[m] {
			t.Errorf("command %s has the result 602 and was delivered", m)
		}
	}
	t.Logf("%d commands, %d with 604 or 602; %d bytes of %d read", len(fates), lost, s.src.bytes(), len(s.data))
	select {
	case f := <-s.p.files:
		t.Errorf("%s was delivered twice", f.SendID)
	case <-time.After(100 * time.Millisecond):
	}
}

// Whichever node is killed, the receiver's, the sender's or a third one, both ends go on
// (case 95).
func TestKilledNode(t *testing.T) {
	for i, who := range []string{"receiver's", "sender's", "third"} {
		t.Run(who, func(t *testing.T) {
			t.Parallel()
			nats := startNATS(t)
			nodes := trio(t, nats.url())
			receiver, sender, third := nodes[0], nodes[1], nodes[2]
			p := newPair(t, &sender.node, &receiver.node)
			s := p.flow(192<<20, 4*time.Millisecond)
			s.reached(0.3)
			victim := []*process{receiver, sender, third}[i]
			begun := time.Now()
			victim.kill()
			for _, f := range []*front{p.fa, p.fb} { // what a load balancer does
				f.mu.Lock()
				if f.to == victim.url[len("http://"):] {
					f.to = third.url[len("http://"):]
				}
				f.mu.Unlock()
			}
			at, _ := s.file.Progress()
			wait(t, "bytes flow again", func() bool { now, _ := s.file.Progress(); return now > at })
			t.Logf("bytes flow again after %v", time.Since(begun))
			s.check(40)
			if read := s.src.bytes(); read > int64(len(s.data))*3/2 {
				t.Errorf("%d bytes were read of %d: it has begun again", read, len(s.data))
			}
		})
	}
}

// A node that is stopped for a minute and goes on: its users have gone elsewhere, and
// what it still believes does no harm (cases 89 and 96).
func TestStoppedNode(t *testing.T) {
	t.Parallel()
	nats := startNATS(t)
	nodes := trio(t, nats.url())
	p := newPair(t, &nodes[1].node, &nodes[0].node)
	s := p.flow(512<<20, 30*time.Millisecond)
	s.reached(0.1)
	nodes[0].signal(syscall.SIGSTOP)
	p.fb.point(&nodes[2].node)
	begun := time.Now()
	wait(t, "the others give it up", func() bool { return metric(t, nodes[1].url, "dian_cluster_nodes") == 1 })
	s.reached(0.5) // it goes on without that node
	if left := time.Minute - time.Since(begun); left > 0 {
		time.Sleep(left)
	}
	nodes[0].signal(syscall.SIGCONT)
	meet(t, nodes)
	s.check(100)
	sum := 0.0
	wait(t, "bob has one session", func() bool {
		sum = 0
		for _, n := range nodes {
			sum += metric(t, n.url, "dian_sessions")
		}
		return sum == 2 // and alice's
	})
}

// NATS goes away and comes back: sessions stay, and what is under way between nodes
// begins again (case 97).
func TestNATSRestarts(t *testing.T) {
	t.Parallel()
	nats := startNATS(t)
	nodes := trio(t, nats.url())
	p := newPair(t, &nodes[1].node, &nodes[0].node)
	s := p.flow(256<<20, 20*time.Millisecond)
	for i, down := range []time.Duration{0, time.Second, 8 * time.Second} { // the last one is longer than nodes wait for each other
		s.reached(0.2 * float64(i+1))
		nats.stop()
		time.Sleep(down)
		nats.start()
		meet(t, nodes)
	}
	s.check(200)
	if p.bob.Err() != nil || p.alice.Err() != nil {
		t.Errorf("sessions ended: %v, %v", p.bob.Err(), p.alice.Err())
	}
}

// A node is stopped in order, and another one begun in its place, one after the other:
// a rolling upgrade. Nothing is lost (case 101).
func TestRollingUpgrade(t *testing.T) {
	t.Parallel()
	nats := startNATS(t)
	nodes := trio(t, nats.url())
	p := newPair(t, &nodes[1].node, &nodes[0].node)
	s := p.flow(256<<20, 25*time.Millisecond)
	for i := range nodes {
		s.reached(0.25 * float64(i+1))
		next := nodes[(i+1)%3]
		for _, f := range []*front{p.fa, p.fb} { // /readyz says 503: nothing new comes here
			f.point(&next.node)
		}
		nodes[i].signal(syscall.SIGTERM)
		done := make(chan struct{})
		go func() { _, _ = nodes[i].cmd.Process.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(patience):
			t.Fatalf("%s does not end", nodes[i].name)
		}
		nodes[i] = serve(t, nodes[i].name+"'", nats.url(), ports.Free(t))
		meet(t, nodes)
	}
	s.check(0)
}

// NATS throws a node out that does not read, as it does with slow consumers: what was on
// its way to the node is lost, and nothing is lost for good (case 97).
func TestSlowConsumer(t *testing.T) {
	t.Parallel()
	nats := startNATS(t, func(o *natsd.Options) { o.MaxPending, o.WriteDeadline = 1<<20, 200*time.Millisecond })
	nodes := trio(t, nats.url())
	p := newPair(t, &nodes[1].node, &nodes[0].node)
	s := p.flow(128<<20, 20*time.Millisecond)
	s.reached(0.1)
	const pairs, each = 16, 32 // of 60 kB: more than NATS and the kernel hold for it
	got := &log{}
	var senders []*dian.Client
	for i := range pairs {
		connect(t, nodes[0].url, fmt.Sprint("dora", i), dian.WithHandler(dian.Handler{
			NotifyCmdData: func(m dian.CmdData) { got.add(m.SendID) },
		}))
		senders = append(senders, connect(t, nodes[1].url, fmt.Sprint("carl", i)))
		wait(t, "she is known", func() bool { return result(t, senders[i].SendCmd(fmt.Sprint("dora", i), nil)) == nil })
	}
	nodes[0].signal(syscall.SIGSTOP)
	var tasks []*dian.Task
	for i, carl := range senders {
		for range each {
			tasks = append(tasks, carl.SendCmd(fmt.Sprint("dora", i), make([]byte, 60_000), dian.WithWaitForPeer(patience)))
		}
	}
	wait(t, "NATS has thrown it out", func() bool { return nats.srv.NumSlowConsumers() > 0 })
	nodes[0].signal(syscall.SIGCONT)
	meet(t, nodes)
	fates := map[string]error{}
	for _, task := range tasks {
		fates[task.ID()] = result(t, task)
	}
	seen := map[string]bool{}
	for _, id := range got.list() {
		if seen[id] {
			t.Errorf("command %s was delivered twice", id)
		}
		seen[id] = true
	}
	for id, err := range fates {
		switch {
		case err == nil && !seen[id]:
			t.Errorf("command %s has the result 0 and was not delivered", id)
		case dian.CodeOf(err) == dian.ErrPeerBusy: // too much for the node that it goes to
			if seen[id] {
				t.Errorf("command %s has the result 602 and was delivered", id)
			}
		case err != nil && dian.CodeOf(err) != dian.ErrPeerNoAnswer:
			t.Errorf("command %s: %v", id, err)
		}
	}
	s.check(1000)
}
