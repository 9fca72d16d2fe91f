package test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// jumpy builds dian with a wall clock that can be moved: package time adds what a
// file says, in seconds. Timers, and what Go measures with them, stay as they are, as
// they do when a machine's clock is set.
var jumpy = sync.OnceValues(func() (string, error) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", err
	}
	clock := filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go")
	source, err := os.ReadFile(clock)
	if err != nil {
		return "", err
	}
	const now = "	sec, nsec, mono := runtimeNow()\n"
	if strings.Count(string(source), now) < 1 {
		return "", os.ErrInvalid
	}
	text := strings.Replace(string(source), now, now+"	sec += Jump\n", 1) + "\n// Jump is set by the test's program alone.\nvar Jump int64\n"
	dir, err := os.MkdirTemp(filepath.Dir(dian), "jumpy")
	if err != nil {
		return "", err
	}
	main, err := filepath.Abs("../cmd/dian/jump.go")
	if err != nil {
		return "", err
	}
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if e := os.WriteFile(path, []byte(text), 0o600); e != nil {
			err = e
		}
		return path
	}
	overlay, _ := json.Marshal(map[string]any{"Replace": map[string]string{
		clock: write("time.go", text),
		main: write("jump.go", `package main

import (
	"os"
	"strconv"
	"strings"
	"time"
)

func init() {
	look := func() {
		if b, err := os.ReadFile(os.Getenv("DIAN_TEST_JUMP")); err == nil {
			if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil {
				time.Jump = n
			}
		}
	}
	look()
	go func() {
		for {
			time.Sleep(20 * time.Millisecond)
			look()
		}
	}()
}
`)}})
	program := filepath.Join(dir, "dian")
	build := exec.Command("go", "build", "-trimpath", "-overlay", write("overlay.json", string(overlay)), "-o", program, "./cmd/dian")
	build.Dir = ".."
	if out, e := build.CombinedOutput(); e != nil {
		return string(out), e
	}
	return program, err
})

// TestClockJumps moves the wall clock of one process by an hour, either way, in the
// middle of a file, breaks all lines and kills the receiver then (case 94): the file
// arrives once and is not sent from the start, nobody is kicked, and no line comes and
// goes more often than it was cut.
func TestClockJumps(t *testing.T) {
	t.Parallel()
	program, err := jumpy()
	if err != nil {
		t.Fatalf("build with a clock that can be moved: %v: %s", err, program)
	}
	const size = 40 << 20
	path, sum := randomFile(t, "film.bin", size, 91)
	for _, role := range []string{"relay", "listener", "sender"} {
		for name, jump := range map[string]string{"an hour ahead": "3600", "an hour back": "-3600"} {
			t.Run(role+", "+name, func(t *testing.T) {
				t.Parallel()
				clock, dir := filepath.Join(t.TempDir(), "clock"), t.TempDir()
				programs, envs := map[string]string{"relay": dian, "listener": dian, "sender": dian}, map[string][]string{}
				programs[role], envs[role] = program, []string{"DIAN_TEST_JUMP=" + clock}
				r := &relay{t: t, addr: freeAddress(t)}
				r.url = "http://" + r.addr
				r.process = start(t, envs["relay"], programs["relay"], "serve", "--dev", "--listen", r.addr)
				waitListening(t, r.addr)
				// Tokens are of a login service, whose clock is right, and older than the skew that is granted.
				bobs, alices := oldToken(t, "bob"), oldToken(t, "alice")
				far, near := startPipe(t, r.addr), startPipe(t, r.addr)
				near.limit(6 << 20)
				receive := func(env []string) *process {
					p := start(t, env, programs["listener"], "listen", "--server", "http://"+far.addr, "--token", bobs, "--dir", dir, "--json")
					p.expect(0, "line up", func(e event) bool { return e.text("event") == "line" && e.text("state") == "up" })
					return p
				}
				l := receive(envs["listener"])
				deliver := func(env []string) *process {
					return start(t, append(env, "XDG_CACHE_HOME="+filepath.Join(dir, ".cache")), programs["sender"], "send", "--server", "http://"+near.addr, "--token", alices, "--json", "bob", path)
				}
				s := deliver(envs["sender"])
				sent := func(p *process, n int64) {
					p.expect(0, "progress", func(e event) bool { return e.text("event") == "progress" && e.number("sent") > n })
				}
				sent(s, size/6)
				if err := os.WriteFile(clock, []byte(jump), 0o600); err != nil {
					t.Fatal(err)
				}
				if role == "sender" { // so that it writes its record under the wrong clock
					s.kill()
					s = deliver(envs["sender"])
				}
				sent(s, size/3)
				for _, p := range []*process{l, s} {
					for _, e := range p.all("line") {
						if e.text("state") != "up" {
							t.Errorf("%s: the jump alone cost the line: %v", p.name, e)
						}
					}
				}
				far.cut() // everybody logs in again
				near.cut()
				sent(s, size/2)
				// What was written down under the wrong clock counts under the right one.
				l.kill()
				s.kill()
				l = receive(nil)
				s = deliver(nil)
				near.limit(0)
				if status := s.wait(); status != 0 {
					t.Fatalf("dian send ended with %d: %s", status, s.errors())
				}
				delivered(t, l, sum)
				if twice := near.up.Load() - size; twice > 16<<20 {
					t.Errorf("%d bytes were sent twice, want no more than buffers and a step of the journal", twice)
				}
				c := start(t, nil, dian, "cmd", "--server", r.url, "--token", alices, "bob", "hello")
				if c.wait() != 0 {
					t.Errorf("a command afterwards: %s", c.errors())
				}
				for _, e := range l.all("line") {
					if e.text("state") != "up" {
						t.Errorf("the line of the last listener: %v", e)
					}
				}
				if got := append(files(t, dir), leftovers(t, dir)...); len(got) != 2 { // with .cache
					t.Errorf("the receiver has %q, want the file", got)
				}
			})
		}
	}
}
