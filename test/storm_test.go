package test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A storm is one world: a relay, or several that are one, a listener, two users who
// send files and one who sends commands, each in a process of its own, and what is known
// of all of it.
type storm struct {
	t    *testing.T
	seed uint64
	rng  *rand.Rand // of the storm's own goroutine, as outages are
	dir  string
	env  []string

	outages int // of the bus

	listener, commander *seat
	relays, senders     []*seat
	addrs               []string    // the relays'
	nats                *natsServer // nil: there is one relay
	front               string      // an address that leads to any relay
	way                 *pipe       // the senders', counted
	near, far           string      // the URL that senders use, and the listener's

	mu      sync.Mutex // guards what follows and the seats
	parcels map[string]*parcel
	order   []string        // names of parcels as they were made
	done    map[string]bool // names of parcels that were looked at and removed
	calm    bool            // no new work
	bytes   int64
	faults  []string
	stderr  map[string][]byte // the end of what each role said
	batches int
	results map[int64]int // by code, of files

	commands map[string]int64 // results by "LIFE/NUMBER"
	lastSeen map[int]int      // by commander's life: the last number that was delivered
	seen     map[string]int   // commands delivered, by the listener's life
	codes    map[int64]int    // by code, of commands
}

// fault notes what must not be. It needs w.mu.
func (w *storm) fault(format string, args ...any) {
	if len(w.faults) < 20 {
		w.faults = append(w.faults, fmt.Sprintf(format, args...))
	}
}

// heard looks at what a program says to people.
func (w *storm) heard(role string, b []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stderr[role] = append(w.stderr[role], b...)
	if n := len(w.stderr[role]); n > 16<<10 {
		w.stderr[role] = w.stderr[role][n-8<<10:]
	}
	for _, bad := range []string{"panic: ", "bug caught", "DATA RACE", "fatal error: "} {
		if strings.Contains(string(b), bad) {
			w.fault("%s: %s", role, tail(string(b)))
		}
	}
}

// rate is what one lane of a storm may carry, bytes a second.
const rate = 4 << 20

// newStorm is a world with so many relays.
func newStorm(t *testing.T, seed uint64, nodes int) *storm {
	dir := t.TempDir()
	w := &storm{
		t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), dir: dir,
		parcels: map[string]*parcel{}, results: map[int64]int{}, stderr: map[string][]byte{},
		done: map[string]bool{}, commands: map[string]int64{}, lastSeen: map[int]int{}, seen: map[string]int{}, codes: map[int64]int{},
	}
	w.env = append(os.Environ(), "XDG_CACHE_HOME="+filepath.Join(dir, "cache"), "DIAN_HEARTBEAT=1s", "DIAN_RESUME_WINDOW=40s", "GOMAXPROCS=2")
	serve := []string{"serve", "--dev", "--log-level", "warn"}
	if nodes > 1 {
		w.nats = startNATS(t, nil)
		serve = append(serve, "--nats", "nats://"+w.nats.address())
	}
	for range nodes {
		addr := freeAddress(t)
		w.addrs = append(w.addrs, addr)
		w.relays = append(w.relays, w.seat("relay", func(int) *exec.Cmd {
			return w.program(dian, append(slices.Clip(serve), "--listen", addr)...)
		}))
	}
	if w.front = w.addrs[0]; nodes > 1 {
		w.front = startPipe(t, w.addrs...).addr
	}
	w.far = "http://" + w.front
	for _, d := range []string{"in", "out"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	w.listener = w.seat("listener", func(int) *exec.Cmd {
		return w.program(dian, "listen", "--server", w.far, "--user", "bob", "--dir", w.in(), "--json")
	})
	w.listener.line = w.received
	w.way = startPipe(t, w.addrs...)
	w.way.limit(rate)
	w.near = "http://" + w.way.addr
	for _, user := range []string{"alice", "carol"} {
		w.senders = append(w.senders, w.sender(user))
	}
	dave := token(t, "dave")
	w.commander = w.seat("commander", func(life int) *exec.Cmd {
		if w.calm && life > 0 {
			return nil
		}
		cmd := w.program(os.Args[0])
		cmd.Env = append(cmd.Env, "DIAN_TEST_PART=commander", "DIAN_TEST_SERVER=http://"+w.front, "DIAN_TEST_TOKEN="+dave,
			"DIAN_TEST_TARGET=bob", "DIAN_TEST_LIFE="+strconv.Itoa(life))
		return cmd
	})
	w.commander.line = w.commanded
	return w
}

func (w *storm) in() string { return filepath.Join(w.dir, "in") }

func (w *storm) program(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = slices.Clone(w.env)
	return cmd
}

func (w *storm) seat(role string, next func(int) *exec.Cmd) *seat {
	return &seat{w: w, role: role, next: next, done: make(chan struct{})}
}

func (w *storm) seats() []*seat {
	return slices.Concat(w.relays, []*seat{w.listener, w.commander}, w.senders)
}

// sender is a seat that sends one batch of files after the other, each until all
// of it has arrived.
func (w *storm) sender(user string) *seat {
	var batch []string
	rng := rand.New(rand.NewPCG(w.seed, uint64(user[0])))
	s := w.seat("sender", nil)
	s.next = func(int) *exec.Cmd {
		batch = slices.DeleteFunc(batch, func(name string) bool { return w.done[name] || w.parcels[name].ok })
		if len(batch) == 0 {
			if w.calm {
				return nil
			}
			batch = w.pack(user, rng)
		}
		args := []string{"send", "--server", w.near, "--user", user, "--json"}
		if rng.IntN(2) == 0 {
			args = append(args, "--wait", "30s")
		}
		args = append(args, "bob")
		for _, name := range batch {
			args = append(args, w.parcels[name].path)
		}
		return w.program(dian, args...)
	}
	seen := map[string]bool{} // results of this life
	s.line = func(life int, e event) {
		if e.text("event") != "result" {
			return
		}
		key := fmt.Sprintf("%d %s", life, e.text("file"))
		p := w.parcels[filepath.Base(e.text("file"))]
		if p == nil || seen[key] {
			w.fault("a result too many: %v", e)
			return
		}
		seen[key] = true
		code := e.number("code")
		w.results[code]++
		switch code {
		case 0:
			if p.ok {
				w.fault("%s was sent again after its result of 0", p.path)
			}
			p.ok = true
			if e.text("receipt") != "stored" {
				w.fault("receipt of %s is %q", p.path, e.text("receipt"))
			}
		case 8, 12, 202, 203, 205, 206, 207, 602, 603, 604:
			p.codes[code]++ // may pass: it is sent again
		default:
			w.fault("%s got %v", p.path, e)
		}
	}
	return s
}

// received takes in what the listener tells.
func (w *storm) received(life int, e event) {
	switch e.text("event") {
	case "file":
		p := w.parcels[e.text("name")]
		if w.done[e.text("name")] {
			return // told again after a kill, perhaps; the file must not be there again
		}
		if p == nil {
			w.fault("a file that nobody sent: %v", e)
			return
		}
		p.told[e.text("sendId")]++
	case "cmd":
		who, n, ok := commandName(e.text("text"))
		if !ok {
			w.fault("a command that nobody sent: %v", e)
			return
		}
		name := fmt.Sprintf("%d/%d", who, n)
		if before, again := w.seen[name]; again {
			w.fault("command %s came twice, to life %d and %d of the listener", name, before, life)
		}
		if n < w.lastSeen[who] {
			w.fault("command %s came after %d", name, w.lastSeen[who])
		}
		w.seen[name] = life
		w.lastSeen[who] = max(w.lastSeen[who], n)
	}
}

func commandName(text string) (life, n int, ok bool) {
	parts := strings.SplitN(text, "/", 3)
	if len(parts) != 3 {
		return 0, 0, false
	}
	life, err1 := strconv.Atoi(parts[0])
	n, err2 := strconv.Atoi(parts[1])
	return life, n, err1 == nil && err2 == nil
}

// commanded takes in a result that the commander tells.
func (w *storm) commanded(_ int, e event) {
	if e.text("event") != "result" {
		return
	}
	name, code := e.text("text"), e.number("code")
	if _, again := w.commands[name]; again {
		w.fault("a second result for command %s", name)
	}
	w.commands[name] = code
	w.codes[code]++
	switch code {
	case 0, 207, 602, 603, 604, 8:
	default:
		w.fault("command %s got %d", name, code)
	}
}

// begin starts everybody.
func (w *storm) begin() {
	for _, s := range w.seats() {
		go s.keep()
	}
	w.t.Cleanup(func() { // also after a failure
		for _, s := range w.seats() {
			w.mu.Lock()
			s.quit = true
			if s.running != nil {
				s.running.Process.Kill()
			}
			w.mu.Unlock()
			<-s.done
		}
	})
}

// rage kills and stops at random moments until each role has been killed so often.
func (w *storm) rage(kills int) {
	roles := map[string][]*seat{"relay": w.relays, "listener": {w.listener}, "sender": w.senders}
	names := slices.Sorted(maps.Keys(roles))
	for {
		short := slices.DeleteFunc(slices.Clone(names), func(role string) bool { return w.killed(roles[role]) >= kills })
		if len(short) == 0 {
			return
		}
		if w.mu.Lock(); len(w.faults) > 0 {
			w.mu.Unlock()
			return
		}
		w.mu.Unlock()
		// Mostly short lives, some long enough for large files and journals.
		wait := time.Duration(w.rng.ExpFloat64() * float64(350*time.Millisecond))
		time.Sleep(min(wait, 3*time.Second))
		role := short[w.rng.IntN(len(short))]
		victim := roles[role][w.rng.IntN(len(roles[role]))]
		if w.rng.IntN(10) == 0 {
			victim = w.commander // counted apart
		}
		w.shakeBus()
		switch dice := w.rng.IntN(20); {
		case dice < 2: // shorter or longer than the heartbeats allow
			victim.stop(time.Duration(w.rng.Int64N(int64(900 * time.Millisecond))))
		case dice < 3:
			victim.stop(2*time.Second + time.Duration(w.rng.Int64N(int64(time.Second))))
		case dice < 5: // killed while it stands still
			go victim.stop(300 * time.Millisecond)
			time.Sleep(time.Duration(w.rng.Int64N(int64(200 * time.Millisecond))))
			victim.signal(syscall.SIGKILL)
		case dice < 8: // two at once
			other := names[w.rng.IntN(len(names))]
			victim.signal(syscall.SIGKILL)
			roles[other][w.rng.IntN(len(roles[other]))].signal(syscall.SIGKILL)
		default:
			victim.signal(syscall.SIGKILL)
		}
	}
}

// shakeBus takes the bus away now and then, and gives it back.
func (w *storm) shakeBus() {
	switch {
	case w.nats == nil:
	case w.nats.running == nil:
		if w.rng.IntN(4) == 0 {
			w.nats.start()
		}
	case w.rng.IntN(16) == 0:
		w.nats.stop()
		w.outages++
	}
}

func (w *storm) killed(seats []*seat) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range seats {
		n += s.kills
	}
	return n
}

// settle lets everything converge, ends everybody in good order and looks at what
// has become of it.
func (w *storm) settle() {
	w.mu.Lock()
	w.calm = true
	w.mu.Unlock()
	if w.nats != nil && w.nats.running == nil {
		w.nats.start()
	}
	deadline := time.Now().Add(patience)
	for !w.converged() && time.Now().Before(deadline) {
		time.Sleep(50 * time.Millisecond)
	}
	w.mu.Lock()
	if w.commander.stdin != nil {
		w.commander.stdin.Close()
	}
	w.mu.Unlock()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		w.mu.Lock()
		idle := w.commander.running == nil
		w.mu.Unlock()
		if idle {
			break
		}
	}
	for _, s := range slices.Concat([]*seat{w.commander}, w.senders, []*seat{w.listener}, w.relays) {
		s.end()
	}
	w.check()
}

// converged reports whether every file has its result, and the receiver has told
// of it.
func (w *storm) converged() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.parcels {
		if !p.ok || len(p.told) == 0 {
			return len(w.faults) > 0
		}
	}
	return true
}

// check looks at the folder, the events and the counts after everything has ended.
func (w *storm) check() {
	w.mu.Lock()
	defer w.mu.Unlock()
	got := map[string]bool{}
	for _, name := range files(w.t, w.in()) {
		got[name] = true
		if w.parcels[name] == nil {
			w.fault("the receiver has %q, which nobody sent under this name: kept twice?", name)
		}
	}
	for _, name := range w.order {
		p := w.parcels[name]
		if p == nil {
			continue
		}
		switch {
		case !p.ok:
			w.fault("%s (%d bytes) has no result of 0, only %v", name, p.size, p.codes)
		case !got[name]:
			w.fault("%s (%d bytes) got 0 and is not there", name, p.size)
		case sumOf(w.t, filepath.Join(w.in(), name)) != p.sum:
			w.fault("%s (%d bytes) has another content", name, p.size)
		case len(p.told) == 0:
			w.fault("%s (%d bytes) is there and no event told of it", name, p.size)
		case len(p.told) > 1:
			w.fault("%s was told of under %d ids", name, len(p.told))
		}
	}
	entries, err := os.ReadDir(filepath.Join(w.in(), ".dian"))
	if err != nil {
		w.fault("%v", err)
	}
	for _, e := range entries {
		if name := e.Name(); name != "instance" && name != "ledger" && name != "lock" {
			w.fault("left over in the receive folder: %s", name)
		}
	}
	for name, code := range w.commands {
		if _, came := w.seen[name]; came && code == 603 {
			w.fault("command %s was delivered and its sender told 603", name)
		}
	}
	if len(w.commands) == 0 || len(w.seen) == 0 {
		w.fault("no commands went through: %d results, %d delivered", len(w.commands), len(w.seen))
	}
	for _, f := range w.faults {
		w.t.Error(f)
	}
	if len(w.faults) > 0 {
		for role, text := range w.stderr {
			w.t.Logf("%s said: …%s", role, tail(string(text)))
		}
	}
}
