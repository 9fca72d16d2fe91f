package dian_test

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/diantest"
)

const changeSize = 12 << 20 // one and a half blocks of the digest

// rewrite changes bytes in place and sets both times back.
func rewrite(path string, at int64, text string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(text), at)
	return errors.Join(err, f.Close(), os.Chtimes(path, info.ModTime(), info.ModTime()))
}

// replace puts another file of the same size and times in path's place.
func replace(path string, data []byte) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(path+".new", data, 0o600), os.Chtimes(path+".new", info.ModTime(), info.ModTime()), os.Rename(path+".new", path))
}

// sourceChanges are what may happen to a file. harmless leaves its content as it is:
// then it arrives.
var sourceChanges = []struct {
	how      string
	change   func(path string) error
	harmless bool
}{
	{"grown by a byte", func(path string) error { return appendTo(path, "x") }, false},
	{"grown by a block", func(path string) error { return os.Truncate(path, changeSize+8<<20) }, false},
	{"shrunk by a byte", func(path string) error { return os.Truncate(path, changeSize-1) }, false},
	{"shrunk to half", func(path string) error { return os.Truncate(path, changeSize/2) }, false},
	{"emptied", func(path string) error { return os.Truncate(path, 0) }, false},
	{"shrunk and grown again", func(path string) error { return errors.Join(os.Truncate(path, 5), os.Truncate(path, changeSize)) }, false},
	{"rewritten at its beginning, times set back", func(path string) error { return rewrite(path, 100, "other") }, false},
	{"rewritten with other content", func(path string) error { return os.WriteFile(path, make([]byte, changeSize), 0o600) }, false},
	{"touched", func(path string) error { return os.Chtimes(path, time.Time{}, time.Now().Add(time.Hour)) }, false},
	{"replaced, same size and times", func(path string) error { return replace(path, make([]byte, changeSize)) }, false},
	{"replaced by a link to itself", func(path string) error {
		return errors.Join(os.Rename(path, path+".away"), os.WriteFile(path+".other", nil, 0o600), os.Symlink(path+".other", path))
	}, false},
	{"replaced by a folder", func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) }, false},
	{"replaced by a FIFO", func(path string) error { return errors.Join(os.Remove(path), syscall.Mkfifo(path, 0o600)) }, false},
	{"deleted", os.Remove, false},
	{"another mode", func(path string) error { return os.Chmod(path, 0o644) }, true},
	{"a second name", func(path string) error { return os.Link(path, path+".second") }, true},
	{"rewritten with the same bytes, times set back", func(path string) error {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return rewrite(path, 0, string(data))
	}, true},
}

func appendTo(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// Whatever happens to a file while it is sent, while it waits for its turn, or between
// a stop and going on: the receiver gets it whole and unchanged, or nothing, and the
// sender a typed error (cases 72, 73).
func TestSourceChangesAreFound(t *testing.T) {
	for _, when := range []string{"while it is sent", "while it waits for its turn", "between stop and resume"} {
		for _, c := range sourceChanges {
			t.Run(c.how+" "+when, func(t *testing.T) {
				t.Parallel()
				relay := diantest.New(t, hasty)
				in, dir := newInbound(), t.TempDir()
				offers := make(chan *dian.Offer, 10)
				h := in.handler()
				h.AcceptFile = func(o *dian.Offer) { offers <- o }
				bob := relay.Client("bob", dian.WithReceiveDir(dir), dian.WithHandler(h))
				gate := &gatedWrites{left: 10 << 20, reached: make(chan struct{}), open: make(chan struct{})}
				defer gate.release()
				var dialled atomic.Int64
				wrap := func(c net.Conn) net.Conn {
					if dialled.Add(1) == 1 { // the session
						return c
					}
					return &endingConn{gatedConn{c, gate}, make(chan struct{}), sync.Once{}}
				}
				alice := relay.Client("alice", dian.WithParallel(1), dialing(wrap))
				data := noise(changeSize)
				path := writeFile(t, data)
				if err := os.Chtimes(path, time.Time{}, time.Now().Add(-time.Hour)); err != nil {
					t.Fatal(err)
				}
				var task *dian.Task
				switch when {
				case "while it waits for its turn":
					blocker := alice.SendReader("bob", pattern{100 << 10}, 100<<10)
					wait(t, offers)
					task = alice.SendFile("bob", path)
					if err := c.change(path); err != nil {
						t.Fatal(err)
					}
					blocker.Cancel()
					gate.release()
				case "while it is sent":
					task = alice.SendFile("bob", path)
					wait(t, offers).Accept()
					wait(t, gate.reached)
					if err := c.change(path); err != nil {
						t.Fatal(err)
					}
					gate.release()
				default:
					task = alice.SendFile("bob", path)
					wait(t, offers).Accept()
					wait(t, gate.reached)
					alice.Close() // which ends the write that the gate holds
					mustEnd(t, task, dian.ErrNotLoggedIn)
					if err := c.change(path); err != nil {
						t.Fatal(err)
					}
					alice = relay.Client("alice")
					task = alice.SendFile("bob", path, dian.WithSendID(task.ID()))
				}
				go func() { // it may be offered again, or late
					for {
						select {
						case o := <-offers:
							o.Accept()
						case <-t.Context().Done():
							return
						}
					}
				}()
				want := []dian.Code{dian.ErrFileError, dian.ErrFileNotFound, dian.ErrDigestMismatch, dian.ErrBadSendID}
				switch {
				case c.harmless:
					want = []dian.Code{dian.OK}
				case when != "while it is sent":
					// What there is now may be another file, and sent as that.
					want = append(want, dian.OK)
				default:
					want = want[:1]
				}
				r := mustEndOneOf(t, task, want...)
				if when == "while it is sent" && r.Err != nil {
					wait(t, in.cancels)
				}
				bob.Close()
				if r.Err != nil {
					if len(in.files) > 0 {
						t.Errorf("%v, and a file came: %+v", r.Err, <-in.files)
					}
					if when == "while it is sent" {
						nothingKept(t, dir)
					} else if left, _ := filepath.Glob(filepath.Join(dir, "*.file")); len(left) > 0 {
						t.Errorf("%v, and a file is kept: %v", r.Err, left)
					}
					return
				}
				now, err := os.ReadFile(path)
				if err != nil {
					t.Fatalf("result 0 of what is not there: %v", err)
				}
				f := wait(t, in.files)
				got, err := os.ReadFile(f.Path)
				if err != nil || !bytes.Equal(got, now) {
					t.Errorf("result 0, and %d bytes came that the file does not have (%v)", len(got), err)
				}
			})
		}
	}
}

// endingConn is a gatedConn whose writes end with it.
type endingConn struct {
	gatedConn
	closed chan struct{}
	once   sync.Once
}

func (c *endingConn) Write(p []byte) (int, error) {
	wrote := make(chan error, 1)
	data := bytes.Clone(p)
	go func() { _, err := c.gatedConn.Write(data); wrote <- err }() // ends with the gate
	select {
	case err := <-wrote:
		return len(p), err
	case <-c.closed:
		return 0, net.ErrClosed
	}
}

func (c *endingConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.gatedConn.Close()
}

// Small files travel in the offer, and are looked at as closely.
func TestSmallSourceChangesAreFound(t *testing.T) {
	relay := diantest.New(t)
	in := newInbound()
	relay.Client("bob", dian.WithHandler(in.handler()))
	alice := relay.Client("alice", dian.WithParallel(1))
	for _, size := range []int{0, 1, 4096, 64 << 10} {
		for how, change := range map[string]func(path string) error{
			"grown":    func(path string) error { return appendTo(path, "x") },
			"replaced": func(path string) error { return replace(path, make([]byte, size)) },
			"deleted":  os.Remove,
		} {
			hold := &gate{pattern: pattern{1 << 20}, at: 0, reached: make(chan struct{}), open: make(chan struct{})}
			blocker := alice.SendReader("bob", hold, 1<<20)
			wait(t, hold.reached)
			path := writeFile(t, noise(size))
			var tasks []*dian.Task
			for range 8 {
				tasks = append(tasks, alice.SendFile("bob", path))
			}
			if err := change(path); err != nil {
				t.Fatal(err)
			}
			hold.release()
			mustEnd(t, blocker, dian.OK)
			came := 1
			for _, task := range tasks {
				if r := mustEndOneOf(t, task, dian.OK, dian.ErrFileError, dian.ErrFileNotFound); r.Err == nil {
					came++ // it was sent before the change
				}
			}
			for range came {
				f := wait(t, in.files)
				if f.SendID == blocker.ID() {
					continue
				}
				if got, err := os.ReadFile(f.Path); err != nil || !bytes.Equal(got, noise(size)) {
					t.Errorf("%d bytes %s: %d came, %v", size, how, len(got), err)
				}
			}
			if came == 1+len(tasks) && size > 0 {
				t.Logf("%d bytes %s: all were sent before", size, how)
			}
		}
	}
}

const unprivileged = "DIAN_TEST_UNPRIVILEGED"

// What cannot be sent is said at once, with the code that tells why; nothing hangs,
// and nothing is opened that a look has ruled out (case 74).
func TestSourcesThatAreNone(t *testing.T) {
	relay := diantest.New(t)
	in := newInbound()
	relay.Client("bob", dian.WithHandler(in.handler()))
	alice := relay.Client("alice")
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	file := writeFile(t, noise(100<<10))
	err := errors.Join(
		syscall.Mkfifo(at("fifo"), 0o600), os.Mkdir(at("folder"), 0o700), os.Symlink(file, at("link to a file.txt")),
		os.Symlink(at("folder"), at("link to a folder")), os.Symlink(at("none"), at("link to nothing")), os.Symlink(at("loop"), at("loop")),
		os.Symlink(at("fifo"), at("link to a fifo")), os.Symlink(at("link to a file.txt"), at("link to a link")), os.Symlink("/dev/zero", at("link to a device")),
	)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path string
		want dian.Code
	}{
		{at("none"), dian.ErrFileNotFound}, {at("folder"), dian.ErrFileError}, {at("folder") + "/", dian.ErrFileError}, {dir, dian.ErrFileError}, {"/", dian.ErrFileError},
		{at("fifo"), dian.ErrFileError}, {at("link to a fifo"), dian.ErrFileError}, {at("link to a folder"), dian.ErrFileError},
		{at("link to nothing"), dian.ErrFileNotFound}, {at("loop"), dian.ErrFileRead}, {at("link to a device"), dian.ErrFileError},
		{"/dev/null", dian.ErrFileError}, {"/dev/zero", dian.ErrFileError}, {"/dev/tty", dian.ErrFileError}, {"/dev/full", dian.ErrFileError},
		{"/proc/self/status", dian.ErrFileError}, {"/proc/self/mem", dian.ErrFileRead}, {"/proc/self", dian.ErrFileError}, {"/proc/self/fd", dian.ErrFileError},
		{"/proc/cpuinfo", dian.ErrFileError}, {"/sys/kernel/mm/transparent_hugepage/enabled", dian.ErrFileError},
		{file + "/x", dian.ErrFileRead}, {"", dian.ErrFileNotFound}, {at("a\x00b"), dian.ErrFileRead},
	} {
		if _, err := os.Lstat(c.path); c.path == "/sys/kernel/mm/transparent_hugepage/enabled" && err != nil {
			continue
		}
		r := mustEnd(t, alice.SendFile("bob", c.path), c.want)
		if e := r.Err.(*dian.Error); e.Origin != dian.Local {
			t.Errorf("%q: %+v", c.path, e)
		}
	}
	if len(in.files) > 0 {
		t.Errorf("a file came: %+v", <-in.files)
	}
	// A link is followed, and the file has the link's name.
	for path, name := range map[string]string{at("link to a file.txt"): "link to a file.txt", at("link to a link"): "link to a link"} {
		mustEnd(t, alice.SendFile("bob", path), dian.OK)
		f := wait(t, in.files)
		if got, err := os.ReadFile(f.Path); f.Name != name || err != nil || !bytes.Equal(got, noise(100<<10)) {
			t.Errorf("%s arrived as %q with %d bytes, %v", path, f.Name, len(got), err)
		}
	}
	// A name that is not UTF-8 is the file's own on some systems.
	odd := at("caf\xe9.txt")
	if err := os.WriteFile(odd, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustEnd(t, alice.SendFile("bob", odd), dian.OK)
	if f := wait(t, in.files); f.Name != "caf\ufffd.txt" {
		t.Errorf("it arrived as %q", f.Name)
	}

	if os.Getuid() != 0 {
		unreadable(t, alice.SendFile, dir)
		return
	}
	// Nothing is unreadable for root: somebody else has to try.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.Open(self) // where nobody may not look
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	child := exec.CommandContext(t.Context(), "/proc/self/fd/3", "-test.run=^TestUnreadableSource$", "-test.v")
	child.ExtraFiles = []*os.File{program}
	child.Env = []string{unprivileged + "=" + relay.URL, "TMPDIR=/tmp", "HOME=/tmp"}
	child.Dir = "/"
	child.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := child.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("PASS")) {
		t.Errorf("as nobody: %v\n%s", err, out)
	}
}

// TestUnreadableSource is what nobody runs for TestSourcesThatAreNone.
func TestUnreadableSource(t *testing.T) {
	url := os.Getenv(unprivileged)
	if url == "" {
		return
	}
	client, end := connected(t, url, dian.WithToken(devToken(t, "nobody")), dian.WithSendOnly())
	defer end()
	unreadable(t, client.SendFile, t.TempDir())
}

func unreadable(t *testing.T, send func(string, string, ...dian.SendOption) *dian.Task, dir string) {
	t.Helper()
	path, shut := filepath.Join(dir, "unreadable"), filepath.Join(dir, "shut")
	err := errors.Join(os.WriteFile(path, []byte("x"), 0o200), os.Mkdir(shut, 0o700), os.WriteFile(filepath.Join(shut, "x"), nil, 0o600), os.Chmod(shut, 0o000))
	if err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(shut, 0o700)
	for _, path := range []string{path, filepath.Join(shut, "x")} {
		r := mustEnd(t, send("bob", path), dian.ErrFileRead)
		if !errors.Is(r.Err, os.ErrPermission) {
			t.Errorf("%s: %v", path, r.Err)
		}
	}
}

// A file is opened once, and closed when the task is over, whatever its end.
func TestSourcesAreClosed(t *testing.T) {
	relay := diantest.New(t)
	in := newInbound()
	relay.Client("bob", dian.WithHandler(in.handler()))
	alice := relay.Client("alice")
	path := writeFile(t, noise(100<<10))
	open := func() (n int) {
		links, _ := filepath.Glob("/proc/self/fd/*")
		for _, link := range links {
			if to, _ := os.Readlink(link); to == path {
				n++
			}
		}
		return n
	}
	mustEnd(t, alice.SendFile("bob", path), dian.OK)
	mustEnd(t, alice.SendFile("carol", path), dian.ErrPeerOffline)
	task := alice.SendFile("carol", path, dian.WithWaitForPeer(time.Minute))
	for deadline := time.Now().Add(10 * time.Second); open() != 1 && time.Now().Before(deadline); {
		<-time.After(time.Millisecond)
	}
	if n := open(); n != 1 {
		t.Errorf("a waiting task has the file open %d times", n)
	}
	task.Cancel()
	mustEnd(t, task, dian.ErrCancelled)
	wait(t, in.files)
	for deadline := time.Now().Add(10 * time.Second); open() > 0 && time.Now().Before(deadline); {
		<-time.After(time.Millisecond)
	}
	if n := open(); n != 0 {
		t.Errorf("the file is still open %d times", n)
	}
}
