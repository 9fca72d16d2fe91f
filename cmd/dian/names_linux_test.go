package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/diantest"
	"github.com/dian-im/dian/internal/filename/names"
	"github.com/dian-im/dian/internal/wire"
)

// onTerminal is a `dian` whose input and output are a terminal.
type onTerminal struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended and its output is read

	mu  sync.Mutex // guards out
	out bytes.Buffer
}

// startOnTerminal starts `dian` on a terminal that is tall enough for a bar a file.
func startOnTerminal(t *testing.T, args ...string) *onTerminal {
	t.Helper()
	control, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(control.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	screen, err := os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 500, Col: 200}); err != nil {
		t.Fatal(err)
	}
	path, err := exec.LookPath("dian")
	if err != nil {
		t.Fatal(err)
	}
	p := &onTerminal{t: t, cmd: exec.Command(path, args...), done: make(chan struct{})}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = screen, screen, screen
	p.cmd.Env = append(os.Environ(), "TERM=xterm", "HOME="+t.TempDir(), "XDG_CACHE_HOME="+t.TempDir())
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	screen.Close()
	go func() {
		defer close(p.done)
		buf := make([]byte, 32<<10)
		for {
			n, err := control.Read(buf)
			p.mu.Lock()
			p.out.Write(buf[:n])
			p.mu.Unlock()
			if err != nil { // EIO, when nobody has the terminal open
				break
			}
		}
		p.cmd.Wait()
		control.Close()
	}()
	t.Cleanup(func() { p.cmd.Process.Kill(); <-p.done })
	return p
}

func (p *onTerminal) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// until waits for a text on the terminal.
func (p *onTerminal) until(what string) {
	p.t.Helper()
	p.untilCount(what, 1)
}

func (p *onTerminal) untilCount(what string, n int) {
	p.t.Helper()
	for deadline := time.Now().Add(patience); strings.Count(p.text(), what) < n; {
		if time.Now().After(deadline) {
			text := p.text()
			p.t.Fatalf("%d times %q, want %d; the terminal ends in %q", strings.Count(text, what), what, n, text[max(0, len(text)-1000):])
		}
		<-time.After(5 * time.Millisecond)
	}
}

// interrupt is Ctrl-C; it returns all that was shown.
func (p *onTerminal) interrupt() string {
	p.cmd.Process.Signal(os.Interrupt)
	<-p.done
	return p.text()
}

// fitForTerminal sees that nothing came to a terminal as it was sent.
func fitForTerminal(t *testing.T, what, text string) {
	t.Helper()
	for i, line := range strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n") {
		if raw := names.Raw(line); len(raw) > 0 {
			t.Errorf("%s: %U in line %d: %.300q", what, raw, i, line)
		}
	}
}

// Whatever a peer sends as a name, a user, a command or a type: on the terminal of
// `dian listen`, as text and as JSON, it is visible text, and on the disk a safe name
// (cases 20, 57 to 63).
func TestHostileNamesOnATerminal(t *testing.T) {
	rows := names.Sendable(t)
	for _, mode := range []string{"text", "json"} {
		t.Run(mode, func(t *testing.T) {
			relay := diantest.New(t)
			dir := filepath.Join(t.TempDir(), "in")
			args := []string{"listen", "--server", relay.URL, "--user", "bob", "--dir", dir, "--debug"}
			ready := "listening as"
			if mode == "json" {
				args, ready = append(args, "--json"), `"state":"up"`
			}
			p := startOnTerminal(t, args...)
			p.until(ready)
			alice := relay.Client("alice", dian.WithSendOnly(), dian.WithParallel(32))
			var tasks []*dian.Task
			for i, row := range rows {
				text := fmt.Sprintf("content %d", i)
				kind := dian.WithType(row.In[:min(len(row.In), 100)])
				if len(row.In) > 100 {
					kind = dian.WithType("")
				}
				tasks = append(tasks, alice.SendReader("bob", strings.NewReader(text), int64(len(text)), dian.WithName(row.In), kind),
					alice.SendBuffer("bob", []byte(row.In), dian.WithName(row.In)))
			}
			for _, row := range names.All(t) {
				if len(row.In) <= cmdBytes {
					tasks = append(tasks, alice.SendCmd("bob", []byte(row.In)))
				}
			}
			users := 0
			for _, row := range rows {
				if wire.CheckUser(row.In) == nil && row.In != "bob" {
					users++
					c := relay.Client(row.In, dian.WithSendOnly())
					tasks = append(tasks, c.SendCmd("bob", []byte("from a user")))
					defer c.Close()
				}
			}
			for _, task := range tasks {
				if err := task.Wait(t.Context()); err != nil {
					t.Errorf("%v", err)
				}
			}
			if mode == "json" {
				p.untilCount(`"event":"file"`, len(rows))
				p.untilCount(`"event":"buffer"`, len(rows))
			} else {
				p.untilCount("file from", len(rows))
				p.untilCount("buffer from", len(rows))
			}
			text := p.interrupt()
			fitForTerminal(t, mode, text)
			contents := map[string]bool{}
			all, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range all {
				if e.Name() == ".dian" && e.IsDir() {
					continue
				}
				got, err := os.ReadFile(filepath.Join(dir, e.Name()))
				if err != nil || !e.Type().IsRegular() {
					t.Errorf("%q: %v, %v", e.Name(), e.Type(), err)
				}
				contents[string(got)] = true
				for _, broken := range names.Broken(e.Name()) {
					t.Errorf("%q %s", e.Name(), broken)
				}
			}
			if len(contents) != len(rows) {
				t.Errorf("%d files are there, want %d", len(contents), len(rows))
			}
			if beside, _ := os.ReadDir(filepath.Dir(dir)); len(beside) != 1 {
				t.Errorf("beside the folder there is %v", beside)
			}
			if mode == "json" {
				sentAs := map[string]string{}
				for i, row := range rows {
					sentAs[fmt.Sprintf("content %d", i)] = row.In
				}
				for line := range strings.Lines(strings.ReplaceAll(text, "\r\n", "\n")) {
					var e fileEvent
					if json.Unmarshal([]byte(line), &e) != nil || e.Event != "file" {
						continue
					}
					got, err := os.ReadFile(e.Path)
					if err != nil || sentAs[string(got)] != e.Name || filepath.Dir(e.Path) != dir {
						t.Errorf("the event of %q has path %q (%v) with %q", e.Name, e.Path, err, got)
					}
				}
			}
			t.Logf("%d names, %d users", len(rows), users)
		})
	}
}

// The sender's side: paths of files that others have named, in progress bars, results,
// errors and JSON.
func TestHostilePathsOnATerminal(t *testing.T) {
	folder := t.TempDir()
	var paths []string
	for _, row := range names.All(t) {
		if row.In == "" || len(row.In) > 255 || strings.ContainsAny(row.In, "/\x00") || row.In == "." || row.In == ".." {
			continue
		}
		path := filepath.Join(folder, row.In)
		if err := os.WriteFile(path, []byte(row.Name), 0o600); err != nil {
			t.Fatalf("%s: %v", row.Name, err)
		}
		paths = append(paths, path)
	}
	if len(paths) < 200 {
		t.Fatalf("%d paths", len(paths))
	}
	missing := append(paths[:20:20], filepath.Join(folder, "missing\x1b[31m\u202e\ufe0f"), filepath.Join(folder, "\x9b31m", "x"))
	drawn := regexp.MustCompile(`\x1b\[\d+A|\x1b\[J`) // what bars are drawn with
	for _, mode := range []string{"bars", "json", "text"} {
		t.Run(mode, func(t *testing.T) {
			relay := diantest.New(t)
			args := []string{"send", "--server", relay.URL, "--user", "alice", "--parallel", "256", "--debug"}
			switch mode {
			case "bars":
				p := startOnTerminal(t, append(append(args, "--wait", "1h", "--", "bob"), paths...)...)
				p.until("waiting")
				p.untilCount("waiting", len(paths)/2) // each is drawn again and again
				text := p.interrupt()
				if !drawn.MatchString(text) {
					t.Error("nothing was drawn")
				}
				fitForTerminal(t, mode, strings.ReplaceAll(drawn.ReplaceAllString(text, ""), "\r", ""))
			case "json":
				p := startOnTerminal(t, append(append(args, "--json", "--", "bob"), append(paths, missing...)...)...)
				<-p.done
				fitForTerminal(t, mode, p.text())
			case "text":
				in := make(chan dian.FileData, 1000)
				relay.Client("bob", dian.WithHandler(dian.Handler{NotifyFileData: func(f dian.FileData) { in <- f }}))
				p := startOnTerminal(t, append(append(args, "--", "bob"), append(paths, missing...)...)...)
				<-p.done
				fitForTerminal(t, mode, strings.ReplaceAll(drawn.ReplaceAllString(p.text(), ""), "\r", ""))
				if n := strings.Count(p.text(), "sent \""); n != len(paths)+20 {
					t.Errorf("%d were sent, want %d", n, len(paths)+20)
				}
			}
		})
	}
}

// Arguments are bytes: a command is carried as it was typed, and a path is that of the
// file.
func TestArgumentsAreBytes(t *testing.T) {
	relay := diantest.New(t)
	got := make(chan dian.CmdData, 1)
	relay.Client("bob", dian.WithHandler(dian.Handler{NotifyCmdData: func(m dian.CmdData) { got <- m }}))
	dian, err := exec.LookPath("dian")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"\xff\xfe", "caf\xe9", "a,b\\,c", "{}", "[1]", "1", "true", "\xed\xa0\x80", "\x9b31m"} {
		out, err := exec.Command(dian, "cmd", "--server", relay.URL, "--user", "alice", "--meta", text, "--", "bob", text).CombinedOutput()
		if err != nil {
			t.Errorf("%q: %v %s", text, err, out)
			continue
		}
		if m := <-got; string(m.Data) != text || string(m.Meta) != text {
			t.Errorf("%q arrived as %q with %q", text, m.Data, m.Meta)
		}
	}
}

// The pieces that lines are made of, for every row, those too that no wire and no file
// system takes.
func TestHostileTextIsVisibleEverywhere(t *testing.T) {
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	for _, mode := range []bool{false, true} {
		con := newConsole(nil, out, out)
		con.json = mode
		for _, row := range names.All(t) {
			if len(row.In) > 6_000 {
				continue
			}
			failure := &dian.Error{Op: row.In, Peer: row.In, Origin: dian.Peer, Code: 4711, Detail: row.In}
			path := &os.PathError{Op: "open", Path: row.In, Err: syscall.ENOENT}
			for _, err := range []error{failure, path, &os.LinkError{Op: "rename", Old: row.In, New: row.In, Err: syscall.EEXIST},
				fmt.Errorf("%s: %w", row.In, io.EOF), &dian.Error{Op: "send file", Code: dian.ErrFileRead, Detail: row.In}} {
				con.warn("%s", describe(err))
				tellResult(con, dian.Result{Target: row.In, FileName: row.In, Kind: dian.File, Err: err}, quote(row.In))
				con.end(err)
				con.end(usageError{row.In})
			}
			tellResult(con, dian.Result{Target: row.In, FileName: row.In, Kind: dian.Command, Reply: []byte(row.In)}, row.In)
			con.say("%s", row.In)
			con.say("%s %s %s", quote(row.In), excerpt([]byte(row.In), excerptBytes), shorten(quote(row.In), nameWidth))
			con.tell(bufferEvent{"buffer", row.In, row.In, row.In, row.In, 1, []byte(row.In), []byte(row.In)})
			con.tell(cancelEvent{"cancel", row.In, row.In, row.In})
			con.tell(userEvent{"user", row.In, row.In, 1})
			con.tell(lineEvent{"line", row.In, 1, row.In})
		}
	}
	got, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	fitForTerminal(t, "lines", string(got))
	if n := bytes.Count(got, []byte("\n")); n < 10*len(names.All(t)) {
		t.Errorf("%d lines", n)
	}
}
