package test

import (
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// asleep is longer than anybody waits for a silent peer: twice the heartbeat of 9 s.
const asleep = 30 * time.Second

// TestStoppedProcessesGoOn stops each role for longer than the heartbeats allow, in
// the middle of a file (case 89): the others notice, nothing is corrupted, and after
// SIGCONT the file arrives once, without being sent from the start.
func TestStoppedProcessesGoOn(t *testing.T) {
	t.Parallel()
	const size = 48 << 20
	path, sum := randomFile(t, "film.bin", size, 71)
	for _, role := range []string{"sender", "relay", "listener"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			r, dir := startRelay(t), t.TempDir()
			l := listen(t, r.url, "bob", dir)
			p := startPipe(t, r.addr)
			p.limit(8 << 20)
			s := start(t, nil, dian, "send", "--server", "http://"+p.addr, "--user", "alice", "--json", "bob", path)
			s.expect(0, "a third", func(e event) bool { return e.text("event") == "progress" && e.number("sent") > size/3 })
			victim := map[string]*process{"sender": s, "relay": r.process, "listener": l}[role]
			victim.cmd.Process.Signal(syscall.SIGSTOP)
			time.Sleep(asleep)
			if role == "listener" { // the relay has noticed
				c := start(t, nil, dian, "cmd", "--server", r.url, "--user", "alice", "--json", "bob", "are you there")
				c.wait()
				if code := c.named("result").number("code"); code != 603 {
					t.Errorf("a command to the stopped listener got %d, want 603", code)
				}
			}
			victim.cmd.Process.Signal(syscall.SIGCONT)
			if status := s.wait(); status != 0 {
				t.Fatalf("dian send ended with %d: %s", status, s.errors())
			}
			delivered(t, l, sum)
			if got := append(files(t, dir), leftovers(t, dir)...); len(got) != 1 {
				t.Errorf("the receiver has %q, want the file", got)
			}
			if twice := p.up.Load() - size; twice > 24<<20 {
				t.Errorf("%d bytes were sent twice, want no more than buffers and a step of the journal", twice)
			}
			if n := len(s.all("result")); n != 1 {
				t.Errorf("%d results, want 1", n)
			}
		})
	}
}

// TestListenerThatSleptIsFenced stops a listener, lets another one take its place in
// the middle of a file, and wakes the first (case 89): it learns that it was kicked and
// stays away, the second keeps the place and gets the file, whole and once.
func TestListenerThatSleptIsFenced(t *testing.T) {
	t.Parallel()
	const size = 48 << 20
	path, sum := randomFile(t, "film.bin", size, 72)
	for name, wait := range map[string]time.Duration{"while its line still counts": 2 * time.Second, "after its line was missed": 22 * time.Second} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, dir, other := startRelay(t), t.TempDir(), t.TempDir()
			old := listen(t, r.url, "bob", dir)
			p := startPipe(t, r.addr)
			p.limit(8 << 20)
			args := []string{"send", "--server", "http://" + p.addr, "--user", "alice", "--json", "bob", path}
			s := start(t, nil, dian, args...)
			s.expect(0, "a third", func(e event) bool { return e.text("event") == "progress" && e.number("sent") > size/3 })
			old.cmd.Process.Signal(syscall.SIGSTOP)
			time.Sleep(wait)
			now := listen(t, r.url, "bob", other)
			p.limit(0)
			if status := s.wait(); status == 0 || s.named("result").number("code") != 1104 {
				t.Errorf("dian send ended with %d and %v, want 1104: the part is at another place", status, s.all("result"))
			}
			if s = start(t, nil, dian, args...); s.wait() != 0 {
				t.Fatalf("the second send: %s", s.errors())
			}
			old.cmd.Process.Signal(syscall.SIGCONT)
			if status := old.wait(); status != 1 {
				t.Errorf("the listener that slept ended with %d, want 1", status)
			}
			off, _ := old.expect(0, "line off", func(e event) bool { return e.text("event") == "line" && e.text("state") == "off" })
			if off.number("code") != 10 {
				t.Errorf("it was told %v, want 10", off)
			}
			delivered(t, now, sum)
			c := start(t, nil, dian, "cmd", "--server", r.url, "--user", "alice", "bob", "hello")
			if c.wait() != 0 || now.named("cmd").text("text") != "hello" {
				t.Errorf("the second listener has lost its place: %s", c.errors())
			}
			for _, e := range now.all("line") {
				if e.text("state") != "up" {
					t.Errorf("the second listener's line: %v", e)
				}
			}
			if got, had := files(t, other), files(t, dir); len(got) != 1 || len(had) != 0 {
				t.Errorf("the listeners have %q and %q, want the file at the second", had, got)
			}
			if got := sumOf(t, filepath.Join(other, "film.bin")); got != sum {
				t.Errorf("SHA-256 %s, want %s", got, sum)
			}
		})
	}
}

// TestOperatorSeesTheDrain stops a relay in order while a file is under way that would
// take hours: the operator can see what it waits for, and end it. The socket goes with
// the relay.
func TestOperatorSeesTheDrain(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "admin.sock")
	r := startRelayWith(t, []string{"DIAN_SHUTDOWN_GRACE=1h", "DIAN_ADMIN_LISTEN=" + socket})
	admin := func(args ...string) []event {
		p := start(t, []string{"DIAN_ADMIN=" + socket}, dian, append(append([]string{"admin"}, args...), "--json")...)
		if status := p.wait(); status != 0 {
			t.Fatalf("dian admin %v ended with %d: %s", args, status, p.errors())
		}
		return p.lines
	}
	listen(t, r.url, "bob", t.TempDir())
	p := startPipe(t, r.addr)
	p.limit(64 << 10)
	path, _ := randomFile(t, "film.bin", 48<<20, 73)
	s := start(t, nil, dian, "send", "--server", "http://"+p.addr, "--user", "alice", "--json", "bob", path)
	s.expect(0, "progress", func(e event) bool { return e.text("event") == "progress" && e.number("sent") > 0 })
	r.process.cmd.Process.Signal(syscall.SIGTERM)
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		answer, err := http.Get(r.url + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode == http.StatusServiceUnavailable {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the relay does not stop")
		}
	}
	transfers := admin("transfers")
	if len(transfers) != 1 || transfers[0].text("to") != "bob" {
		t.Fatalf("the operator sees %v, want alice's file to bob", transfers)
	}
	admin("cancel", transfers[0].text("sendId"))
	if status := r.process.wait(); status != 0 {
		t.Errorf("the relay ended with %d: %s", status, r.process.errors())
	}
	if _, err := os.Stat(socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// TestHeartbeatsKeepAnIdleLineUp puts listener and relay behind a proxy that cuts
// connections on which nothing moves, in a tenth of the time (case 92).
func TestHeartbeatsKeepAnIdleLineUp(t *testing.T) {
	t.Parallel()
	const cut = 6 * time.Second
	r := startRelayWith(t, []string{"DIAN_HEARTBEAT=2s"}) // a machine may be busy for another 2 s
	p := startPipe(t, r.addr)
	p.idle.Store(int64(cut))
	l := listen(t, "http://"+p.addr, "bob", t.TempDir())
	time.Sleep(4 * cut)
	if lines := l.all("line"); len(lines) != 1 {
		t.Errorf("the idle line was lost: %v", lines)
	}
	c := start(t, nil, dian, "cmd", "--server", r.url, "--user", "alice", "bob", "hello")
	if c.wait() != 0 {
		t.Errorf("a command over the idle line: %s", c.errors())
	}
	// The proxy does cut: a relay that says less is lost.
	quiet := startRelayWith(t, []string{"DIAN_HEARTBEAT=20s"})
	q := startPipe(t, quiet.addr)
	q.idle.Store(int64(cut))
	l = listen(t, "http://"+q.addr, "bob", t.TempDir())
	l.expect(0, "a loss", func(e event) bool { return e.text("state") == "reconnecting" })
}
