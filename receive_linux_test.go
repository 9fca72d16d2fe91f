package dian_test

import (
	"errors"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/diantest"
)

// TestFullDiskIsToldAtOnce needs a file system of its own, which only root can make;
// what the inbox does on a full disk is tested in package inbox for everybody.
func TestFullDiskIsToldAtOnce(t *testing.T) {
	dir := t.TempDir()
	err := syscall.Mount("dian", dir, "tmpfs", 0, "size=4m")
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) {
		t.Log("not allowed to mount")
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, 0) })
	relay := diantest.New(t)
	in := newInbound()
	bob := relay.Client("bob", dian.WithReceiveDir(filepath.Join(dir, "in")), dian.WithHandler(in.handler()))
	alice := relay.Client("alice")
	start := time.Now()
	r := mustEnd(t, alice.SendFile("bob", writeFile(t, noise(16<<20))), dian.ErrNoSpace)
	if took := time.Since(start); took > 5*time.Second || r.Err.(*dian.Error).Origin != dian.Peer {
		t.Errorf("after %v: %+v", took, r.Err)
	}
	mustEnd(t, alice.SendFile("bob", writeFile(t, noise(1<<20))), dian.OK) // others run on
	wait(t, in.files)
	bob.Close()
}

func TestFIFOAndDeviceAreRefusedWithoutWaiting(t *testing.T) {
	relay := diantest.New(t)
	alice := relay.Client("alice")
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, "/dev/zero"} {
		mustEnd(t, alice.SendFile("bob", path), dian.ErrFileError)
	}
	in := newInbound()
	relay.Client("bob", dian.WithHandler(in.handler()))
	mustEnd(t, alice.SendFile("bob", "/proc/self/status"), dian.ErrFileError) // says that it has 0 bytes
}
