// Package test runs the real thing: built programs in processes of their own,
// curl, tus-js-client, other people's proxies, TLS and kill -9. What it needs
// beside Go is installed by setup.sh.
package test

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dian-im/dian/test/internal/ports"
)

// patience bounds every wait for something that must happen. It says nothing
// about speed: a test that waits for it has failed.
const patience = 90 * time.Second

var dian string // the program under test, built once by TestMain

func TestMain(m *testing.M) {
	if part := os.Getenv("DIAN_TEST_PART"); part != "" {
		os.Exit(play(part)) // this process is a client that a test has started
	}
	if _, err := os.Stat("js/node_modules"); err != nil {
		fmt.Fprintln(os.Stderr, "the JavaScript clients are not installed: run ./test/setup.sh, as make test does")
		os.Exit(1)
	}
	folder, err := os.MkdirTemp("", "dian-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	dian = filepath.Join(folder, "dian")
	args := append([]string{"build", "-o", dian}, strings.Fields(os.Getenv("DIAN_BUILD"))...) // "-race", say
	build := exec.Command("go", append(args, "./cmd/dian")...)
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build dian: %v\n%s", err, out)
		os.Exit(1)
	}
	if cache, err := exec.Command("go", "env", "GOCACHE").Output(); err == nil {
		os.Setenv("GOCACHE", strings.TrimSpace(string(cache))) // it would move with the next line
	}
	// Journals of sends and received files of these tests stay out of the home folder.
	os.Setenv("XDG_CACHE_HOME", filepath.Join(folder, "cache"))
	for _, name := range []string{"DIAN_SERVER", "DIAN_TOKEN", "DIAN_USER", "DIAN_CA", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		os.Unsetenv(name)
	}
	status := m.Run()
	os.RemoveAll(folder)
	os.Exit(status)
}

// event is one line of a program's --json output, or of upload.mjs.
type event map[string]any

func (e event) text(name string) string {
	s, _ := e[name].(string)
	return s
}

func (e event) number(name string) int64 {
	n, _ := e[name].(float64)
	return int64(n)
}

// process is a running program whose standard output is read as JSON lines.
type process struct {
	t     *testing.T
	name  string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	done  chan struct{} // closed when the program has ended

	mu     sync.Mutex // guards the fields below
	lines  []event
	plain  bytes.Buffer // lines that are not JSON
	stderr bytes.Buffer
	more   chan struct{} // closed and replaced when a line arrives
}

// start runs a program and ends it with the test.
func start(t *testing.T, env []string, program string, args ...string) *process {
	t.Helper()
	p := &process{t: t, name: filepath.Base(program) + " " + strings.Join(args[:min(2, len(args))], " "), done: make(chan struct{}), more: make(chan struct{})}
	p.cmd = exec.Command(program, args...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stderr = writerFunc(func(b []byte) (int, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.stderr.Write(b)
	})
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<24)
		for lines.Scan() {
			p.mu.Lock()
			var e event
			if json.Unmarshal(lines.Bytes(), &e) == nil {
				p.lines = append(p.lines, e)
			} else {
				fmt.Fprintln(&p.plain, lines.Text())
			}
			close(p.more)
			p.more = make(chan struct{})
			p.mu.Unlock()
		}
		p.cmd.Wait()
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			p.mu.Lock()
			defer p.mu.Unlock()
			t.Logf("%s: %d events, stdout %q\nstderr: %s", p.name, len(p.lines), tail(p.plain.String()), tail(p.stderr.String()))
			for _, e := range p.lines[max(0, len(p.lines)-8):] {
				t.Logf("  %v", e)
			}
		}
	})
	return p
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func tail(s string) string { return s[max(0, len(s)-4000):] }

// kill ends the program at once, as kill -9 does, and waits for its end.
func (p *process) kill() {
	p.cmd.Process.Signal(syscall.SIGKILL)
	<-p.done
}

// wait waits for the program's own end and returns its exit status.
func (p *process) wait() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatalf("%s has not ended", p.name)
	}
	return p.cmd.ProcessState.ExitCode()
}

// expect waits for the first event, from the from-th on, that pred accepts, and
// returns it and the number of the one behind it.
func (p *process) expect(from int, what string, pred func(event) bool) (event, int) {
	p.t.Helper()
	deadline := time.After(patience)
	for {
		p.mu.Lock()
		for ; from < len(p.lines); from++ {
			if pred(p.lines[from]) {
				e := p.lines[from]
				p.mu.Unlock()
				return e, from + 1
			}
		}
		more := p.more
		p.mu.Unlock()
		select {
		case <-more:
		case <-p.done:
			p.mu.Lock()
			n := len(p.lines)
			p.mu.Unlock()
			if from >= n {
				p.t.Fatalf("%s ended without %s", p.name, what)
			}
		case <-deadline:
			p.t.Fatalf("%s: no %s", p.name, what)
		}
	}
}

// named waits for the first event of that name.
func (p *process) named(name string) event {
	p.t.Helper()
	e, _ := p.expect(0, "event "+name, func(e event) bool { return e.text("event") == name })
	return e
}

// all returns the events of that name so far.
func (p *process) all(name string) []event {
	p.mu.Lock()
	defer p.mu.Unlock()
	var found []event
	for _, e := range p.lines {
		if e.text("event") == name {
			found = append(found, e)
		}
	}
	return found
}

// errors returns what the program has written to standard error.
func (p *process) errors() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.String()
}

// freeAddress returns a loopback address nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("127.0.0.1:%d", ports.Free(t))
}

// waitListening waits until something accepts connections at addr.
func waitListening(t *testing.T, addr string) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if conn, err := net.Dial("tcp", addr); err == nil {
			conn.Close()
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("nothing listens at %s", addr)
}

// relay is a `dian serve` in its own process.
type relay struct {
	*process
	t    *testing.T
	addr string
	url  string
	args []string
	env  []string
}

// startRelay runs `dian serve --dev` on a free port.
func startRelay(t *testing.T, args ...string) *relay {
	t.Helper()
	return startRelayWith(t, nil, args...)
}

// startRelayWith is startRelay with settings from the environment.
func startRelayWith(t *testing.T, env []string, args ...string) *relay {
	t.Helper()
	r := &relay{t: t, addr: freeAddress(t), env: env}
	r.url = "http://" + r.addr
	r.args = append([]string{"serve", "--dev", "--listen", r.addr}, args...)
	r.again()
	return r
}

// again starts the relay anew at the same address.
func (r *relay) again() {
	r.t.Helper()
	r.process = start(r.t, r.env, dian, r.args...)
	waitListening(r.t, r.addr)
}

// listen runs `dian listen` for user, which keeps files in dir, and waits until it is online.
func listen(t *testing.T, url, user, dir string, env ...string) *process {
	t.Helper()
	p := start(t, env, dian, "listen", "--server", url, "--user", user, "--dir", dir, "--json")
	p.expect(0, "line up", func(e event) bool { return e.text("event") == "line" && e.text("state") == "up" })
	return p
}

// token makes a token for the development relay.
func token(t *testing.T, user string) string {
	t.Helper()
	out, err := exec.Command(dian, "token", "--dev", "--user", user, "--see", "*").Output()
	if err != nil {
		t.Fatalf("dian token: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// oldToken makes a token for the development relay that is an hour and a half old and
// has as much to go: neither clock jump makes it expire or come from the future.
func oldToken(t *testing.T, user string) string {
	t.Helper()
	encode := base64.RawURLEncoding.EncodeToString
	fresh := strings.Split(token(t, user), ".")
	if len(fresh) != 3 {
		t.Fatal("not a token")
	}
	var claims map[string]any
	text, err := base64.RawURLEncoding.DecodeString(fresh[1])
	if err == nil {
		err = json.Unmarshal(text, &claims)
	}
	if err != nil {
		t.Fatal(err)
	}
	claims["iat"], claims["exp"] = time.Now().Add(-90*time.Minute).Unix(), time.Now().Add(90*time.Minute).Unix()
	delete(claims, "nbf")
	if text, err = json.Marshal(claims); err != nil {
		t.Fatal(err)
	}
	signed := fresh[0] + "." + encode(text)
	mac := hmac.New(sha256.New, []byte("dian-dev-secret-that-everybody-knows"))
	mac.Write([]byte(signed))
	return signed + "." + encode(mac.Sum(nil))
}

// randomFile writes n bytes that repeat for a given seed and returns path and SHA-256.
func randomFile(t *testing.T, name string, n int64, seed uint64) (path, sum string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), name)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	hash := sha256.New()
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	if _, err := io.CopyN(io.MultiWriter(f, hash), rand.NewChaCha8(key), n); err != nil {
		t.Fatal(err)
	}
	return path, hex.EncodeToString(hash.Sum(nil))
}

// sumOf returns the SHA-256 of a file.
func sumOf(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(hash.Sum(nil))
}

// files returns the names of the files in dir that a person would see.
func files(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".dian") {
			names = append(names, e.Name())
		}
	}
	return names
}

// leftovers returns what the receive folder of dir still holds of unfinished transfers.
func leftovers(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	filepath.WalkDir(dir, func(path string, _ os.DirEntry, _ error) error {
		if strings.HasSuffix(path, ".part") || strings.HasSuffix(path, ".journal") {
			found = append(found, path)
		}
		return nil
	})
	return found
}
