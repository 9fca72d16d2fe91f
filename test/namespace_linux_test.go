package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// missed is within what time a dead peer has to be noticed (case 88): twice the
// heartbeat of 9 s, and 20 s with everything. The slack is for a machine that is busy.
const missed, missedSlack = 20 * time.Second, 5 * time.Second

// A land is three network namespaces: the relay's in the middle, with a line to the
// sender's and one to the listener's.
type land struct {
	t    *testing.T
	name map[string]string // of the namespaces: relay, sender, listener

	faulty []string // namespaces with a rule of drop's
}

var lands atomic.Int64

const (
	senderAddr, relayToSender     = "10.77.1.2", "10.77.1.1"
	listenerAddr, relayToListener = "10.77.2.2", "10.77.2.1"
)

// run runs a program and wants it to succeed.
func run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func newLand(t *testing.T) *land {
	t.Helper()
	l := &land{t: t, name: map[string]string{}}
	n := lands.Add(1)
	for _, who := range []string{"relay", "sender", "listener"} {
		name := fmt.Sprintf("dian-%d-%d-%s", os.Getpid(), n, who)
		run(t, "ip", "netns", "add", name)
		t.Cleanup(func() { exec.Command("ip", "netns", "del", name).Run() })
		l.name[who] = name
		l.run(who, "ip", "link", "set", "lo", "up")
	}
	for who, addrs := range map[string][2]string{"sender": {senderAddr, relayToSender}, "listener": {listenerAddr, relayToListener}} {
		// The same name at both ends: who the line goes to.
		run(t, "ip", "link", "add", "name", "to-"+who, "netns", l.name["relay"], "type", "veth", "peer", "name", "to-relay", "netns", l.name[who])
		l.run(who, "ip", "addr", "add", addrs[0]+"/24", "dev", "to-relay")
		l.run(who, "ip", "link", "set", "to-relay", "up")
		l.run("relay", "ip", "addr", "add", addrs[1]+"/24", "dev", "to-"+who)
		l.run("relay", "ip", "link", "set", "to-"+who, "up")
	}
	return l
}

// run runs a program in a namespace and wants it to succeed.
func (l *land) run(who string, args ...string) string {
	l.t.Helper()
	return run(l.t, append([]string{"ip", "netns", "exec", l.name[who]}, args...)...)
}

// start starts a program in a namespace.
func (l *land) start(who string, env []string, args ...string) *process {
	l.t.Helper()
	return start(l.t, env, "ip", append([]string{"netns", "exec", l.name[who]}, args...)...)
}

// drop lets packets on the line to who vanish: those that come "in" from there to the
// relay, those that go "out", or "both", on their way; or those that go out at the
// relay's own "firewall", after which its kernel takes them for not sent yet.
func (l *land) drop(who, way string) {
	l.t.Helper()
	if way == "in" || way == "both" {
		l.rule("relay", "input", "iifname to-"+who)
	}
	if way == "out" || way == "both" {
		l.rule(who, "input", "iifname to-relay")
	}
	if way == "firewall" {
		l.rule("relay", "output", "oifname to-"+who)
	}
}

func (l *land) rule(place, hook, packets string) {
	l.t.Helper()
	file := filepath.Join(l.t.TempDir(), "rules")
	rules := "add table inet fault\nadd chain inet fault way { type filter hook " + hook + " priority 0; }\nadd rule inet fault way " + packets + " drop\n"
	if err := os.WriteFile(file, []byte(rules), 0o600); err != nil {
		l.t.Fatal(err)
	}
	l.run(place, "nft", "-f", file)
	l.faulty = append(l.faulty, place)
}

func (l *land) mend() {
	l.t.Helper()
	for _, place := range l.faulty {
		l.run(place, "nft", "delete", "table", "inet", "fault")
	}
	l.faulty = nil
}

// came returns how many bytes have come to the listener on its line.
func (l *land) came() int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(l.run("listener", "cat", "/sys/class/net/to-relay/statistics/rx_bytes")), 10, 64)
	if err != nil {
		l.t.Error(err)
	}
	return n
}

// sessions returns how many sessions of a role the relay counts.
func (l *land) sessions(role string) int {
	n := 0
	for line := range strings.Lines(l.run("relay", "curl", "-s", "http://127.0.0.1:7700/metrics")) {
		if strings.HasPrefix(line, "dian_sessions{") && strings.Contains(line, `role="`+role+`"`) {
			fields := strings.Fields(line)
			v, _ := strconv.Atoi(fields[len(fields)-1])
			n += v
		}
	}
	return n
}

// config writes the configuration of a relay that listens on all addresses.
func (l *land) config() string {
	l.t.Helper()
	path := filepath.Join(l.t.TempDir(), "dian.yaml")
	if err := os.WriteFile(path, []byte("listen: \":7700\"\napps:\n  - id: demo\n    keys:\n      - id: k\n        algorithm: HS256\n        secret: 0123456789abcdef0123456789abcdef\n"), 0o600); err != nil {
		l.t.Fatal(err)
	}
	return path
}

func tokenOf(t *testing.T, config, user string) string {
	t.Helper()
	return strings.TrimSpace(run(t, dian, "token", "--config", config, "--app", "demo", "--user", user))
}

// A journey is a file on its way through a land.
type journey struct {
	*land
	relay, s, l *process
	dir, sum    string
	size        int64
}

// set starts relay, listener and sender, each in its namespace, and a file that takes
// about 8 seconds, and waits for a third of it.
func (l *land) set(size int64) *journey {
	t := l.t
	t.Helper()
	dir := t.TempDir()
	config := l.config()
	j := &journey{land: l, dir: filepath.Join(dir, "in"), size: size}
	j.relay = l.start("relay", nil, dian, "serve", "--config", config)
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if exec.Command("ip", "netns", "exec", l.name["relay"], "curl", "-s", "http://127.0.0.1:7700/healthz").Run() == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the relay does not answer: %s", j.relay.errors())
		}
	}
	var path string
	path, j.sum = randomFile(t, "film.bin", size, 101)
	j.l = l.start("listener", []string{"DIAN_TOKEN=" + tokenOf(t, config, "bob")}, dian, "listen", "--server", "http://"+relayToListener+":7700", "--dir", j.dir, "--json")
	j.l.expect(0, "line up", func(e event) bool { return e.text("event") == "line" && e.text("state") == "up" })
	// Slow enough that there is a middle: tbf where the kernel has it.
	l.run("sender", "tc", "qdisc", "add", "dev", "to-relay", "root", "tbf", "rate", fmt.Sprintf("%dbit", size), "burst", "128kb", "latency", "200ms")
	j.s = l.start("sender", []string{"DIAN_TOKEN=" + tokenOf(t, config, "alice"), "XDG_CACHE_HOME=" + filepath.Join(dir, "cache")}, dian, "send", "--server", "http://"+relayToSender+":7700", "--json", "bob", path)
	j.s.expect(0, "a third", func(e event) bool { return e.text("event") == "progress" && e.number("sent") > size/3 })
	return j
}

// noticed waits until a client tells that its line is lost, and how long that took.
func (j *journey) noticed(p *process, began time.Time) {
	j.t.Helper()
	p.expect(0, "that the line is lost", func(e event) bool { return e.text("state") == "reconnecting" })
	if took := time.Since(began); took > missed+missedSlack {
		j.t.Errorf("%s noticed after %v, want %v", p.name, took, missed)
	}
}

// missedBy waits until the relay counts no session of a role.
func (j *journey) missedBy(role string, began time.Time) {
	j.t.Helper()
	for j.sessions(role) > 0 {
		if took := time.Since(began); took > missed+missedSlack {
			j.t.Errorf("the relay still counts the session after %v, want %v", took, missed)
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	j.t.Logf("the relay missed the session after %v", time.Since(began))
}

// arrive wants the file whole and once, and not sent from the start.
func (j *journey) arrive() {
	j.t.Helper()
	if status := j.s.wait(); status != 0 {
		j.t.Fatalf("dian send ended with %d: %s", status, j.s.errors())
	}
	delivered(j.t, j.l, j.sum)
	if got := append(files(j.t, j.dir), leftovers(j.t, j.dir)...); len(got) != 1 {
		j.t.Errorf("the receiver has %q, want the file", got)
	}
	// Heads of packets, what TCP sent again, buffers; from the start it were a third more at least.
	if n := j.came(); n > j.size*5/4 {
		j.t.Errorf("%d bytes came to the listener for a file of %d", n, j.size)
	}
	last := int64(-1)
	for _, e := range j.s.all("progress") {
		if e.number("sent") < last {
			j.t.Errorf("progress went back from %d to %d", last, e.number("sent"))
		}
		last = e.number("sent")
	}
}

// TestLostPackets lets packets vanish without a word, both ways and one way at a time,
// at either client's line, in the middle of a file (cases 88 and 91): both ends notice
// within 20 s, and when the line is back the file goes on.
func TestLostPackets(t *testing.T) {
	needRoot(t, "blackholes and one-way partitions in network namespaces (cases 88, 91)")
	t.Parallel()
	for _, who := range []string{"sender", "listener"} {
		for _, way := range []string{"both", "in", "out", "firewall"} {
			t.Run(who+", "+way, func(t *testing.T) {
				t.Parallel()
				l := newLand(t)
				j := l.set(64 << 20)
				client := map[string]*process{"sender": j.s, "listener": j.l}[who]
				began := time.Now()
				l.drop(who, way)
				role := map[string]string{"sender": "send", "listener": "listen"}[who]
				done := make(chan bool)
				go func() { defer close(done); j.noticed(client, began) }()
				j.missedBy(role, began)
				<-done
				l.mend()
				j.arrive()
			})
		}
	}
}

// TestLinesThatMove takes the link down for a while, several times, and gives the
// client another address in the middle of a file (case 91).
func TestLinesThatMove(t *testing.T) {
	needRoot(t, "link loss and change of address in network namespaces (case 91)")
	t.Parallel()
	for _, who := range []string{"sender", "listener"} {
		addr := map[string]string{"sender": senderAddr, "listener": listenerAddr}[who]
		t.Run(who+"'s link", func(t *testing.T) {
			t.Parallel()
			l := newLand(t)
			j := l.set(64 << 20)
			for range 3 {
				l.run(who, "ip", "link", "set", "to-relay", "down")
				time.Sleep(2 * time.Second)
				l.run(who, "ip", "link", "set", "to-relay", "up")
				time.Sleep(time.Second)
			}
			j.arrive()
		})
		t.Run(who+"'s address", func(t *testing.T) {
			t.Parallel()
			l := newLand(t)
			j := l.set(64 << 20)
			client := map[string]*process{"sender": j.s, "listener": j.l}[who]
			began := time.Now()
			l.run(who, "ip", "addr", "add", strings.TrimSuffix(addr, "2")+"77/24", "dev", "to-relay")
			l.run(who, "ip", "addr", "del", addr+"/24", "dev", "to-relay")
			l.run(who, "ip", "addr", "replace", strings.TrimSuffix(addr, "2")+"77/24", "dev", "to-relay") // it may have gone with the first
			j.noticed(client, began)
			j.arrive()
		})
	}
}

// TestNameServerDown lets names be unknown for a while (case 93): a login fails with a
// typed error, who was online asks again without a storm, and is back afterwards.
func TestNameServerDown(t *testing.T) {
	needRoot(t, "a name server that is down (case 93)")
	t.Parallel()
	l := newLand(t)
	name := l.name["relay"]
	etc := filepath.Join("/etc/netns", name)
	if err := os.MkdirAll(etc, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(etc); os.Remove("/etc/netns") })
	if err := os.WriteFile(filepath.Join(etc, "resolv.conf"), []byte("nameserver 127.0.0.1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	down := filepath.Join(t.TempDir(), "down")
	names := l.start("relay", []string{"DIAN_TEST_PART=names", "DIAN_TEST_DOWN=" + down}, os.Args[0])
	names.named("ready")
	config := l.config()
	serve := func() *process { return l.start("relay", nil, dian, "serve", "--config", config) }
	r := serve()
	bob, alice := []string{"DIAN_TOKEN=" + tokenOf(t, config, "bob")}, []string{"DIAN_TOKEN=" + tokenOf(t, config, "alice")}
	for deadline := time.Now().Add(patience); exec.Command("ip", "netns", "exec", name, "curl", "-s", "http://127.0.0.1:7700/healthz").Run() != nil && time.Now().Before(deadline); {
		time.Sleep(50 * time.Millisecond)
	}
	listener := l.start("relay", bob, dian, "listen", "--server", "http://relay.test:7700", "--dir", t.TempDir(), "--json")
	up := func(e event) bool { return e.text("event") == "line" && e.text("state") == "up" }
	_, next := listener.expect(0, "line up", up)
	if err := os.WriteFile(down, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := l.start("relay", alice, dian, "cmd", "--server", "http://relay.test:7700", "bob", "hello")
	if status := c.wait(); status != 1 || !strings.Contains(c.errors(), "203") {
		t.Errorf("without names: status %d, %s; want 203", status, c.errors())
	}
	asked := len(names.all("question"))
	r.kill()
	serve()
	time.Sleep(10 * time.Second)
	// One try asks for both kinds of address, twice each.
	if n := len(names.all("question")) - asked; n < 4 || n > 4*mostTries {
		t.Errorf("%d questions in 10 s, want some and no storm", n)
	}
	os.Remove(down)
	listener.expect(next, "line up again", up)
}
