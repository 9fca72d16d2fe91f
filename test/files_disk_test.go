package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// ext4 makes a file system of so many MiB in a file and mounts it; "" where that is
// not allowed or not possible.
func ext4(t *testing.T, mebibytes int64) string {
	t.Helper()
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, mebibytes<<20); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"mkfs.ext4", "-q", "-F", image}, {"mount", "-o", "loop,errors=remount-ro", image, dir}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Logf("%s: %v %s", args[0], err, out)
			return ""
		}
	}
	t.Cleanup(func() { exec.Command("umount", "-l", dir).Run() })
	return dir
}

// shutDown ends a file system as a disk that was pulled out does: from now on every
// write and flush fails with EIO.
func shutDown(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	const goingDown, withoutLog = 0x8004587d, 2
	flag := uint32(withoutLog)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), goingDown, uintptr(unsafe.Pointer(&flag))); errno != 0 {
		return errno
	}
	return nil
}

// breakDown makes ext4 find an error, whereupon it turns read-only.
func breakDown(dir string) error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[1] == dir {
			return os.WriteFile("/sys/fs/ext4/"+filepath.Base(fields[0])+"/trigger_fs_error", []byte("1"), 0)
		}
	}
	return fmt.Errorf("%s is not mounted", dir)
}

// TestDiskFaultsAreToldAtOnce breaks the receiver's disk in the middle of a file: its
// sender is told with the right code, on the same line, while another transfer of the
// same relay runs on and arrives (cases 75, 76).
func TestDiskFaultsAreToldAtOnce(t *testing.T) {
	path, _ := randomFile(t, "film.bin", 48<<20, 77)
	other, otherSum := randomFile(t, "other.bin", 24<<20, 78)
	for _, c := range []struct {
		how   string
		size  int64 // of the disk, in MiB
		fault func(dir string) error
		want  int64
	}{
		{"full", 32, func(string) error { return nil }, 1112},
		{"pulled out", 128, shutDown, 1402},
		{"read-only", 128, breakDown, 1402},
	} {
		t.Run(c.how, func(t *testing.T) {
			disk := ext4(t, c.size)
			if disk == "" {
				return
			}
			r := startRelay(t)
			listen(t, r.url, "bob", filepath.Join(disk, "in"))
			carol := listen(t, r.url, "carol", t.TempDir())
			slow, quick := startPipe(t, r.addr), startPipe(t, r.addr)
			slow.limit(1 << 20)
			quick.limit(16 << 20)
			args := func(p *pipe, user, to, path string) []string {
				return []string{"send", "--server", "http://" + p.addr, "--user", user, "--json", to, path}
			}
			beside := start(t, nil, dian, args(slow, "dave", "carol", other)...)
			moves := func(e event) bool { return e.text("event") == "progress" && e.number("sent") > 0 }
			beside.expect(0, "progress", moves)
			s := start(t, nil, dian, args(quick, "alice", "bob", path)...)
			s.expect(0, "progress", moves)
			if err := c.fault(disk); err != nil {
				t.Fatal(err)
			}
			if status := s.wait(); status != 1 {
				t.Errorf("dian send ended with %d, want 1", status)
			}
			if result := s.named("result"); result.number("code") != c.want {
				t.Errorf("the result is %v, want %d", result, c.want)
			}
			if lost := s.all("line"); len(lost) > 0 {
				t.Errorf("the line was lost over it: %v", lost)
			}
			if over := beside.all("result"); len(over) > 0 {
				t.Errorf("the other transfer was over first: %v", over)
			}
			slow.limit(0)
			if status := beside.wait(); status != 0 {
				t.Errorf("the other transfer ended with %d: %s", status, beside.errors())
			}
			delivered(t, carol, otherSum)
			if c.how != "full" {
				return
			}
			// There is room again once what did not fit is gone.
			for deadline := time.Now().Add(patience); len(leftovers(t, disk)) > 0 && time.Now().Before(deadline); {
				time.Sleep(20 * time.Millisecond)
			}
			fits, _ := randomFile(t, "fits.bin", 8<<20, 79)
			send(t, r.url, fits)
		})
	}
}
