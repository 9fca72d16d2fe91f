package dian_test

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/diantest"
)

// What is no regular file is refused at once, whoever asks for it and though
// opening it would wait (case 74).
func TestSpecialFilesAreRefused(t *testing.T) {
	relay := diantest.New(t)
	in := newInbound()
	relay.Client("bob", dian.WithHandler(in.handler()))
	alice := relay.Client("alice")
	dir := t.TempDir()
	fifo, socket, link := filepath.Join(dir, "fifo"), filepath.Join(dir, "socket"), filepath.Join(dir, "link")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Symlink(fifo, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, socket, link, dir, "/dev/null", "/dev/zero", "/proc/self"} {
		r := mustEnd(t, alice.SendFile("bob", path), dian.ErrFileError)
		if r.Err.(*dian.Error).Origin != dian.Local || r.FileName != path {
			t.Errorf("%s: %+v", path, r)
		}
	}
	if len(in.files) > 0 {
		t.Errorf("a file came: %+v", <-in.files)
	}
}

// A file that says it is empty and cannot be read is not sent as an empty one. The
// permissions of a file mean nothing to root; a read that fails does.
func TestUnreadableEmptyFileIsARefusal(t *testing.T) {
	alice := couple(t, takesAll)
	r := mustEnd(t, alice.SendFile("bob", "/proc/self/mem"), dian.ErrFileRead)
	if !errors.Is(r.Err, syscall.EIO) {
		t.Errorf("%v, want it to wrap %v", r.Err, syscall.EIO)
	}
}

const smallDisk = "DIAN_TEST_SMALL_DISK"

// The sender is told of a receiver's full disk with 1112, and others run on (case
// 75). Root gets a small disk; whoever may not mount one gets a process that may
// not write large files, which the receiver treats alike.
func TestFullDiskIsToldToTheSender(t *testing.T) {
	const fits, tooLarge = 300 << 10, 6 << 20
	if os.Getenv(smallDisk) != "" {
		limit := syscall.Rlimit{Cur: 1 << 20, Max: 1 << 20}
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
			t.Fatal(err)
		}
		fillDisk(t, t.TempDir(), fits, tooLarge)
		return
	}
	dir := t.TempDir()
	err := syscall.Mount("dian", dir, "tmpfs", 0, "size=2m")
	switch {
	case err == nil:
		t.Cleanup(func() { syscall.Unmount(dir, 0) })
		fillDisk(t, filepath.Join(dir, "in"), fits, tooLarge)
	case !errors.Is(err, syscall.EPERM) && !errors.Is(err, syscall.EACCES):
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), self, "-test.run=^TestFullDiskIsToldToTheSender$", "-test.timeout=60s")
	child.Env = append(os.Environ(), smallDisk+"=1")
	if out, err := child.CombinedOutput(); err != nil {
		t.Errorf("with RLIMIT_FSIZE: %v\n%s", err, out)
	}
}

func fillDisk(t *testing.T, dir string, fits, tooLarge int64) {
	t.Helper()
	relay := diantest.New(t)
	in := newInbound()
	bob := relay.Client("bob", dian.WithReceiveDir(dir), dian.WithHandler(in.handler()))
	alice := relay.Client("alice")
	for range 2 {
		r := mustEnd(t, alice.SendReader("bob", pattern{tooLarge}, tooLarge), dian.ErrNoSpace)
		if e := r.Err.(*dian.Error); e.Origin != dian.Peer || !errors.Is(e, dian.ErrNoSpace) || r.Receipt != dian.None {
			t.Errorf("%+v", r)
		}
		mustEnd(t, alice.SendReader("bob", pattern{fits}, fits), dian.OK)
		wait(t, in.files)
	}
	bob.Close()
	if left, _ := filepath.Glob(filepath.Join(dir, "*.part")); len(left) > 0 {
		t.Errorf("what did not fit keeps the disk full: %v", left)
	}
	if len(in.files) > 0 {
		t.Errorf("a file came: %+v", <-in.files)
	}
}
