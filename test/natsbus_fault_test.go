package test

import (
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/dian-im/dian/internal/bus"
	"github.com/dian-im/dian/internal/bus/bustest"
	"github.com/dian-im/dian/internal/bus/natsbus"
)

var (
	toldUp   = bustest.Told{State: "up"}
	toldDown = bustest.Told{State: "down"}
)

// natsGoroutines are the stacks of goroutines of natsbus and nats.go, but of no server.
func natsGoroutines() []string {
	all := make([]byte, 8<<20)
	var found []string
	for stack := range strings.SplitSeq(string(all[:runtime.Stack(all, true)]), "\n\n") {
		if strings.Contains(stack, "internal/bus/natsbus.") || strings.Contains(stack, "nats-io/nats.go.") {
			found = append(found, stack)
		}
	}
	return found
}

// noNATSGoroutines waits until the goroutines of all nodes have ended.
func noNATSGoroutines(t *testing.T) {
	t.Helper()
	end := time.Now().Add(patience)
	for len(natsGoroutines()) > 0 {
		if time.Now().After(end) {
			t.Fatalf("still running:\n%s", strings.Join(natsGoroutines(), "\n\n"))
		}
		<-time.After(5 * time.Millisecond)
	}
}

func TestNATSMayComeLater(t *testing.T) {
	s := startNATS(t, nil)
	s.stop()
	var log logBook
	c := s.config()
	c.Logger = log.logger()
	early := joinNATS(t, c)
	if err := early.Publish("s", nil); err != bus.ErrDown {
		t.Errorf("Publish = %v, want ErrDown", err)
	}
	if got := early.MaxBytes(); got != 1<<20 {
		t.Errorf("MaxBytes = %d, want 1 MiB", got)
	}
	early.MustSubscribe("s")
	log.waitFor(t, "level=WARN", "no connection to NATS")
	s.start()
	early.Expect(toldUp)
	log.waitFor(t, "level=INFO", "connected to NATS")
	late := joinNATS(t, c)
	late.Expect(toldUp)
	late.Knows("s")
}

func TestNATSRefusesAPasswordAndThenDoesNot(t *testing.T) {
	s := startNATS(t, func(o *server.Options) { o.Username, o.Password = "dian", "the new one" })
	var log logBook
	c := s.config()
	c.URLs = []string{"nats://dian:s3cr3t@" + s.address()}
	c.Logger = log.logger()
	n := joinNATS(t, c)
	log.waitFor(t, "level=ERROR", "no connection to NATS", "authorization violation")
	first := s.logins(t)
	bustest.Eventually(t, "it does not try again", func() bool { return s.logins(t) >= first+3 })
	open := 0
	for _, stack := range natsGoroutines() {
		if strings.Contains(stack, "natsbus.(*conn).write") {
			open++
		}
	}
	if open > 1 {
		t.Errorf("%d connections are open after refused logins, want 1 at most", open)
	}
	s.stop()
	s.options.Password = "s3cr3t"
	s.start()
	n.Expect(toldUp)
	// Here the password changes under a connection that has been there: it is told too.
	s.stop()
	n.Expect(toldDown)
	s.options.Password = "another"
	s.start()
	last := s.logins(t)
	bustest.Eventually(t, "it does not try again", func() bool { return s.logins(t) >= last+3 })
	s.stop()
	s.options.Password = "s3cr3t"
	s.start()
	n.Expect(toldUp)
	n.Close()
	if strings.Contains(log.String(), "s3cr3t") || strings.Contains(log.String(), "dian:") {
		t.Errorf("the log has a secret:\n%s", &log)
	}
}

func TestNATSForbidsSubjects(t *testing.T) {
	s := startNATS(t, func(o *server.Options) {
		allowed := &server.SubjectPermission{Allow: []string{"dian.>", "_INBOX.>"}}
		o.Users = []*server.User{{Username: "dian", Password: "s3cr3t", Permissions: &server.Permissions{Publish: allowed, Subscribe: allowed}}}
	})
	var log logBook
	c := s.config()
	c.URLs = []string{"nats://dian:s3cr3t@" + s.address()}
	c.Logger = log.logger()
	a, b := joinNATS(t, c), joinNATS(t, c)
	a.Expect(toldUp)
	b.Expect(toldUp)
	a.MustPublish("out.of.bounds", "content")
	log.waitFor(t, "level=ERROR", "permissions violation", "action=publish", "prefix=out")
	a.MustSubscribe("also.out")
	log.waitFor(t, "level=ERROR", "permissions violation", "action=subscribe", "prefix=also")
	a.MustSubscribe("dian.s")
	b.Knows("dian.s") // it goes on
	for _, secret := range []string{"s3cr3t", "content", "bounds"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("the log has %q:\n%s", secret, &log)
		}
	}
}

func TestNATSHasItsOwnMaxBytes(t *testing.T) {
	s := startNATS(t, func(o *server.Options) { o.MaxPayload = 1000 })
	var log logBook
	c := s.config()
	c.Logger = log.logger()
	talker, listener := joinNATS(t, c), joinNATS(t, s.config())
	talker.Expect(toldUp)
	listener.Expect(toldUp)
	listener.MustSubscribe("s")
	talker.MustSubscribe("of.talker")
	listener.SeenBy(talker)
	if got := talker.MaxBytes(); got != 1000 {
		t.Errorf("MaxBytes = %d, want 1000", got)
	}
	if err := talker.Publish("s", make([]byte, 1001)); err == nil {
		t.Error("1001 bytes are published")
	}
	talker.MustPublish("s", strings.Repeat("x", 1000))
	if got := listener.Next(); len(got.Data) != 1000 {
		t.Errorf("%d bytes have come, want 1000", len(got.Data))
	}
	// nats.go closes a connection for good when a server says what it does not know.
	less := s.options.Clone()
	less.MaxPayload = 100
	if err := s.running.ReloadOptions(less); err != nil {
		t.Fatal(err)
	}
	talker.Publish("s", make([]byte, 1000))
	talker.Expect(toldDown)
	talker.Expect(toldUp)
	log.waitFor(t, "level=ERROR", "ended the connection", "maximum payload violation")
	if got := talker.MaxBytes(); got != 100 {
		t.Errorf("MaxBytes = %d, want 100", got)
	}
	listener.Knows("of.talker")
	talker.MustPublish("s", "short")
	listener.Expect(bustest.Told{Subject: "s", Data: "short"})
}

func TestNATSLosesWhatTheHandlerDoesNotTake(t *testing.T) {
	const more = 5000
	s := startNATS(t, nil)
	var log logBook
	c := s.config()
	c.Logger = log.logger()
	busy, free := make(chan struct{}, 1), make(chan struct{})
	took := make(chan string, 200_000)
	slow, err := natsbus.Open(c, bus.Handler{
		Message: func(m bus.Message) {
			if m.Reply != "" {
				return
			}
			select {
			case busy <- struct{}{}:
				<-free
			default:
			}
			took <- m.Subject + " " + string(m.Data)
		},
		State: func(bool) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	for _, subject := range []string{"s", "t"} {
		if _, err := slow.Subscribe(subject); err != nil {
			t.Fatal(err)
		}
	}
	talker := joinNATS(t, s.config())
	talker.Expect(toldUp)
	bustest.Eventually(t, "nothing comes", func() bool {
		talker.MustPublish("s", "first")
		return len(busy) == 1
	})
	for i := range 65_536 + more {
		talker.MustPublish([]string{"s", "t"}[i%2], fmt.Sprint(i))
	}
	log.waitFor(t, "level=WARN", "messages are lost")
	if err := slow.Publish("u", nil); err != nil {
		t.Errorf("Publish = %v while the handler does not take its messages", err)
	}
	close(free)
	bustest.Eventually(t, "nothing comes any more", func() bool {
		talker.MustPublish("s", "last")
		for len(took) > 0 {
			if <-took == "s last" {
				return true
			}
		}
		return false
	})
	lost := 0
	for line := range strings.Lines(log.String()) {
		if _, number, ok := strings.Cut(line, "messages="); ok {
			var n int
			fmt.Sscan(number, &n)
			lost += n
		}
	}
	if lost == 0 || lost > more+2 {
		t.Errorf("%d messages are logged as lost, want at most %d", lost, more)
	}
}

// muteNATS listens and accepts and says nothing, so that nats.go waits for a login.
func muteNATS(t *testing.T, address string) (dialled <-chan net.Conn, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	conns := make(chan net.Conn, 1000)
	var loop sync.WaitGroup
	loop.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns <- c
		}
	})
	stop = sync.OnceFunc(func() {
		l.Close()
		loop.Wait()
		for len(conns) > 0 {
			(<-conns).Close()
		}
	})
	t.Cleanup(stop)
	return conns, stop
}

func TestNATSThatIsMuteHoldsNobody(t *testing.T) {
	s := startNATS(t, nil)
	n := joinNATS(t, s.config())
	n.Expect(toldUp)
	old := n.MustSubscribe("old")
	s.stop()
	n.Expect(toldDown)
	dialled, stop := muteNATS(t, s.address())
	for round := 0; ; round++ {
		<-dialled // from now on nats.go holds its lock for two seconds
		start := time.Now()
		if err := n.Publish("s", nil); err != bus.ErrDown {
			t.Errorf("Publish = %v, want ErrDown", err)
		}
		if _, err := n.Ask(t.Context(), "s", nil); err != bus.ErrDown {
			t.Errorf("Ask = %v, want ErrDown", err)
		}
		n.MustSubscribe(fmt.Sprintf("new.%d", round))()
		n.MaxBytes()
		old()
		if time.Since(start) < time.Second { // once is enough: what waits for the lock never is so quick
			break
		}
		if round == 5 {
			t.Fatal("calls return only when nats.go has given up a login")
		}
	}
	stop()
	s.start()
	n.Expect(toldUp)
}

// A server that stops to read lets what is published pile up in the node, for a while.
func TestNATSThatStopsReadingHoldsNobody(t *testing.T) {
	t.Parallel()
	s := startNATS(t, nil)
	line := startBadLine(t, s.address())
	c := s.config()
	c.URLs = []string{"nats://" + line.Listen}
	n := joinNATS(t, c)
	n.Expect(toldUp)
	for _, data := range []int{100, 1 << 20} { // the first are found dead by pings, the others have no room
		line.poison("bandwidth", "upstream", map[string]any{"rate": 0})
		refused := make(chan int, 1) // how many were published before
		go func() {
			message := make([]byte, data)
			published := 0
			for ; n.Publish("s", message) == nil; published++ {
				if data < 1000 {
					<-time.After(time.Millisecond)
				}
			}
			refused <- published
		}()
		select {
		case published := <-refused:
			t.Logf("%d messages of %d bytes are published before the connection counts as lost", published, data)
		case <-time.After(patience):
			t.Fatal("Publish waits, or goes on for ever")
		}
		n.Expect(toldDown)
		line.heal()
		n.Expect(toldUp)
		n.MustPublish("s", "")
	}
}

// Nothing says that the other end is gone: a cable that was pulled.
func TestNATSThatIsSilentIsMissed(t *testing.T) {
	t.Parallel()
	s := startNATS(t, nil)
	line := startBadLine(t, s.address())
	c := s.config()
	c.URLs = []string{"nats://" + line.Listen}
	var log logBook
	c.Logger = log.logger()
	n := joinNATS(t, c)
	n.Expect(toldUp)
	line.poison("timeout", "upstream", map[string]any{"timeout": 0})
	line.poison("timeout", "downstream", map[string]any{"timeout": 0})
	start := time.Now()
	n.Expect(toldDown)
	t.Logf("missed after %v", time.Since(start))
	log.waitFor(t, "level=WARN", "connection to NATS lost", "stale connection")
	line.heal()
	n.Expect(toldUp)
}

func TestNATSCloseIsNoFailure(t *testing.T) {
	s := startNATS(t, nil)
	var log logBook
	c := s.config()
	c.Logger = log.logger()
	n := joinNATS(t, c)
	n.Expect(toldUp)
	n.Close()
	noNATSGoroutines(t)
	if strings.Contains(log.String(), "level=WARN") || strings.Contains(log.String(), "level=ERROR") {
		t.Errorf("the log has failures:\n%s", &log)
	}
}

func TestNATSCloseLeavesNoGoroutine(t *testing.T) {
	noNATSGoroutines(t)
	s := startNATS(t, nil)
	c := s.config()
	for _, test := range []struct {
		name string
		run  func(t *testing.T) bus.Bus // returns what is to be closed
	}{
		{"at once", func(t *testing.T) bus.Bus { return joinNATS(t, c) }},
		{"connected", func(t *testing.T) bus.Bus {
			n := joinNATS(t, c)
			n.Expect(toldUp)
			n.MustSubscribe("s")
			if _, err := n.Ask(t.Context(), "s", nil); err != bus.ErrNobody {
				t.Errorf("Ask = %v, want ErrNobody", err)
			}
			return n
		}},
		{"with a full queue", func(t *testing.T) bus.Bus {
			n, talker := joinNATS(t, c), joinNATS(t, c)
			n.MustSubscribe("s")
			n.SeenBy(talker)
			for range 20_000 { // twice what n.Told takes
				talker.MustPublish("s", "")
			}
			talker.Close()
			go func() {
				for range n.Told { // let the handler return, which Close waits for
				}
			}()
			t.Cleanup(func() { close(n.Told) })
			return n
		}},
		{"while it is refused", func(t *testing.T) bus.Bus {
			s.stop()
			t.Cleanup(s.start)
			return joinNATS(t, c)
		}},
		{"while it logs in for the first time", func(t *testing.T) bus.Bus {
			s.stop()
			t.Cleanup(s.start)
			dialled, _ := muteNATS(t, s.address())
			n := joinNATS(t, c)
			bustest.Eventually(t, "it does not dial", func() bool { return len(dialled) > 0 })
			return n
		}},
		{"while it reconnects", func(t *testing.T) bus.Bus {
			n := joinNATS(t, c)
			n.Expect(toldUp)
			s.stop()
			t.Cleanup(s.start)
			n.Expect(toldDown)
			return n
		}},
		{"while it logs in again", func(t *testing.T) bus.Bus {
			n := joinNATS(t, c)
			n.Expect(toldUp)
			s.stop()
			t.Cleanup(s.start)
			dialled, _ := muteNATS(t, s.address())
			bustest.Eventually(t, "it does not dial", func() bool { return len(dialled) > 0 })
			return n
		}},
		{"while NATS does not answer", func(t *testing.T) bus.Bus {
			line := startBadLine(t, s.address())
			to := c
			to.URLs = []string{"nats://" + line.Listen}
			n := joinNATS(t, to)
			n.Expect(toldUp)
			line.poison("timeout", "downstream", map[string]any{"timeout": 0})
			n.MustPublish("s", "")
			return n
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := test.run(t)
			b.Close()
			noNATSGoroutines(t)
			if err := b.Publish("s", nil); err != bus.ErrDown {
				t.Errorf("Publish = %v, want ErrDown", err)
			}
		})
	}
}
