package inbox

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/dian-im/dian/internal/disk"

	"github.com/google/go-cmp/cmp"

	"github.com/dian-im/dian/internal/x3b"
)

// content returns n bytes that differ at every block and from seed to seed.
func content(n int, seed byte) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i*7) ^ byte(i>>8) ^ byte(i>>16) ^ seed
	}
	return p
}

func testKey(n int) Key { return Key{"alice", fmt.Sprintf("0190f0a0-0000-7000-8000-%012d", n)} }

func open(t testing.TB, dir string, options Options) *Inbox {
	t.Helper()
	b, err := Open(dir, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func openDisk(t testing.TB, d disk.Disk) *Inbox {
	t.Helper()
	b, err := OpenOn(d, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func begin(t testing.TB, b *Inbox, key Key, info Info) *Part {
	t.Helper()
	p, err := b.Begin(key, info)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func write(t testing.TB, p *Part, data []byte) {
	t.Helper()
	if n, err := p.Write(data); n != len(data) || err != nil {
		t.Fatalf("Write = %d, %v, want %d, nil", n, err, len(data))
	}
}

// keep verifies data against p and keeps it.
func keep(t testing.TB, p *Part, data []byte) *File {
	t.Helper()
	sum := x3b.Bytes(data)
	if err := p.Verify("x3b", sum[:]); err != nil {
		t.Fatal(err)
	}
	f, err := p.Keep()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func hasContent(t testing.TB, f *File, want []byte) {
	t.Helper()
	r, err := f.Open()
	if err != nil {
		t.Error(err)
		return
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("file has %d bytes (%v), want these %d", len(got), err, len(want))
	}
}

func wantErr(t testing.TB, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s = %v, want %v", what, got, want)
	}
}

func lookup(t testing.TB, b *Inbox, key Key, want Entry, known bool) {
	t.Helper()
	got, ok := b.Lookup(key)
	if diff := cmp.Diff(want, got); diff != "" || ok != known {
		t.Errorf("Lookup: known %v, want %v; -want +got:\n%s", ok, known, diff)
	}
}

// left returns the names in dir that belong to transfers.
func left(t testing.TB, dir string) []string {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range all {
		if len(e.Name()) > 32 {
			out = append(out, e.Name()[32:])
		}
	}
	return out
}

func TestReceivedFileIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "in", "box")
	b := open(t, dir, Options{})
	data := content(300_000, 1)
	info := Info{Size: int64(len(data)), Name: "../photo.jpg", Type: "image/jpeg", Meta: []byte{1, 2}, Header: []byte{3}}
	lookup(t, b, testKey(1), Entry{}, false)
	p := begin(t, b, testKey(1), info)
	for at := 0; at < len(data); at += 7_777 {
		write(t, p, data[at:min(len(data), at+7_777)])
	}
	lookup(t, b, testKey(1), Entry{State: Partial, Offset: info.Size, Size: info.Size}, true)
	if _, err := p.Keep(); !errors.Is(err, ErrNotVerified) {
		t.Errorf("Keep before Verify = %v", err)
	}
	f := keep(t, p, data)
	hasContent(t, f, data)
	lookup(t, b, testKey(1), Entry{State: Have, Offset: info.Size, Size: info.Size}, true)
	if diff := cmp.Diff(info, f.Info); diff != "" || f.Key != testKey(1) {
		t.Errorf("kept as %v; -want +got:\n%s", f.Key, diff)
	}
	if !strings.HasPrefix(f.Path(), dir) || strings.Contains(f.Path(), "photo") {
		t.Errorf("Path = %s", f.Path())
	}
	if runtime.GOOS != "windows" { // case 68
		for path, want := range map[string]os.FileMode{dir: 0o700 | os.ModeDir, f.Path(): 0o600} {
			if info, err := os.Stat(path); err != nil || info.Mode() != want {
				t.Errorf("%s: mode %v (%v), want %v", path, info.Mode(), err, want)
			}
		}
	}
	if got := left(t, dir); len(got) != 1 || got[0] != ".file" {
		t.Errorf("folder has %v, want one .file", got)
	}
	_, err := b.Begin(testKey(1), info)
	wantErr(t, "Begin of what is here", err, ErrHave)
	wantErr(t, "Cancelled of what is here", b.Cancelled(testKey(1), 1105), ErrHave)
	_, err = p.Write(nil)
	wantErr(t, "Write after Keep", err, ErrEnded)
	wantErr(t, "Mark after Keep", p.Mark(), ErrEnded)
}

// The acknowledgement was lost and both restart: it is here, and told once more at
// most (case 78).
func TestKeptFileIsKnownAfterRestart(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, Options{})
	id := b.Instance()
	data := content(5_000, 1)
	for i := range 3 {
		if _, err := b.Put(testKey(i), Info{Size: 5_000, Meta: []byte("m")}, data); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range b.Unnotified() {
		if f.Key == testKey(0) {
			if err := f.Notified(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "Close again", b.Close(), ErrClosed)
	b = open(t, dir, Options{})
	if b.Instance() != id || id == [16]byte{} {
		t.Errorf("Instance = %x, want %x as before", b.Instance(), id)
	}
	lookup(t, b, testKey(0), Entry{State: Have, Offset: 5_000, Size: 5_000, Notified: true}, true)
	lookup(t, b, testKey(1), Entry{State: Have, Offset: 5_000, Size: 5_000}, true)
	files := b.Unnotified()
	if len(files) != 2 {
		t.Fatalf("%d files to tell of, want 2", len(files))
	}
	for _, f := range files {
		hasContent(t, f, data)
		if string(f.Info.Meta) != "m" {
			t.Errorf("Meta = %q", f.Info.Meta)
		}
	}
	_, err := b.Put(testKey(1), Info{Size: 5_000}, data)
	wantErr(t, "Put again", err, ErrHave)
}

func TestPartGoesOnAfterRestart(t *testing.T) {
	data := content(x3b.BlockSize+12_345, 9)
	sha := sha256.Sum256(data)
	info := Info{Size: int64(len(data)), SHA256: sha[:]}
	for _, cut := range []int{1, 70_000, x3b.BlockSize, x3b.BlockSize + 1, len(data)} {
		dir := t.TempDir()
		b := open(t, dir, Options{})
		p := begin(t, b, testKey(1), info)
		write(t, p, data[:cut])
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		lookup(t, b, testKey(1), Entry{State: Partial, Offset: int64(cut), Size: info.Size}, true)
		b.Close()
		b = open(t, dir, Options{})
		lookup(t, b, testKey(1), Entry{State: Partial, Offset: int64(cut), Size: info.Size}, true)
		_, err := b.Begin(testKey(1), Info{Size: info.Size + 1})
		wantErr(t, "Begin with another size", err, ErrMismatch)
		_, err = b.Begin(testKey(1), Info{Size: info.Size, SHA256: make([]byte, 32)})
		wantErr(t, "Begin with another SHA-256", err, ErrMismatch)
		p = begin(t, b, testKey(1), Info{Size: info.Size})
		if p.Offset() != int64(cut) {
			t.Fatalf("Offset = %d, want %d", p.Offset(), cut)
		}
		write(t, p, data[cut:])
		hasContent(t, keep(t, p, data), data)
	}
}

func TestWrongBytesAreRefused(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, Options{})
	data := content(1_000, 1)
	sum, sha := x3b.Bytes(data), sha256.Sum256(data)
	p := begin(t, b, testKey(1), Info{Size: 1_000})
	_, err := p.Write(make([]byte, 1_001))
	wantErr(t, "Write beyond the size", err, ErrTooMuch)
	write(t, p, data[:999])
	wantErr(t, "Verify too early", p.Verify("", nil), ErrDigest)
	_, err = p.WriteAt(data[999:], 998)
	wantErr(t, "WriteAt elsewhere", err, ErrOffset)
	if _, err := p.WriteAt(data[999:], 999); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		algorithm string
		value     []byte
		want      error
	}{
		{"x3b", sum[:], nil}, {"x3b", sum[:15], ErrDigest}, {"x3b", nil, ErrDigest}, {"x3b", make([]byte, 16), ErrDigest},
		{"sha-256", sha[:], nil}, {"sha-256", make([]byte, 32), ErrDigest}, {"md5", nil, ErrAlgorithm}, {"", nil, nil},
	} {
		wantErr(t, "Verify "+c.algorithm, p.Verify(c.algorithm, c.value), c.want)
	}
	if err := b.Drop(p); err != nil {
		t.Error(err)
	}
	lookup(t, b, testKey(1), Entry{}, false)
	p = begin(t, b, testKey(1), Info{Size: 1_000, SHA256: make([]byte, 32)})
	write(t, p, data)
	wantErr(t, "Verify against Info's SHA-256", p.Verify("x3b", sum[:]), ErrDigest)
	p.Drop()
	_, err = b.Put(testKey(1), Info{Size: 999}, data)
	wantErr(t, "Put of another length", err, ErrDigest)
	_, err = b.Put(testKey(1), Info{Size: 1_000, SHA256: sum[:]}, data)
	wantErr(t, "Put with a short SHA-256", err, ErrDigest)
	if got := left(t, dir); len(got) != 0 {
		t.Errorf("folder still has %v", got)
	}
}

func TestEmptyFileIsKept(t *testing.T) {
	b := open(t, t.TempDir(), Options{})
	hasContent(t, keep(t, begin(t, b, testKey(1), Info{}), nil), nil)
	f, err := b.Put(testKey(2), Info{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	hasContent(t, f, nil)
}

func TestOneReceiverPerTransfer(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, Options{})
	p := begin(t, b, testKey(1), Info{Size: 10})
	_, err := b.Begin(testKey(1), Info{Size: 10})
	wantErr(t, "Begin of an open part", err, ErrBusy)
	other := begin(t, b, Key{"mallory", testKey(1).SendID}, Info{Size: 20}) // another source's
	write(t, other, content(20, 2))
	p.Close()
	if p, err = b.Begin(testKey(1), Info{Size: 10}); err != nil {
		t.Error(err)
	}
	_, err = Open(dir, Options{})
	wantErr(t, "Open of an open folder", err, ErrInUse)
	for _, c := range []struct {
		key  Key
		info Info
	}{
		{Key{}, Info{}}, {testKey(3), Info{Size: -1}}, {testKey(3), Info{Meta: make([]byte, maxMeta+1)}}, {testKey(3), Info{SHA256: []byte{1}}},
		{Key{strings.Repeat("a", maxSource+1), "x"}, Info{}}, {testKey(3), Info{Name: strings.Repeat("a", maxName+1)}},
	} {
		_, err := b.Begin(c.key, c.info)
		wantErr(t, "Begin with bad info", err, ErrInfo)
	}
	file := filepath.Join(dir, "lock")
	for _, path := range []string{file, filepath.Join(file, "x")} {
		_, err := Open(path, Options{})
		wantErr(t, "Open of a plain file", err, ErrFolder)
	}
	b.Close()
	_, err = p.Write(nil)
	wantErr(t, "Write after the inbox's Close", err, ErrEnded)
	_, err = b.Begin(testKey(5), Info{})
	wantErr(t, "Begin after Close", err, ErrClosed)
	b = open(t, dir, Options{})
	lookup(t, b, other.Key(), Entry{State: Partial, Offset: 20, Size: 20}, true)
}

// case 81
func TestCancelledTransferIsGoneAndStaysSo(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, Options{})
	data := content(1_000, 1)
	running := begin(t, b, testKey(1), Info{Size: 1_000})
	write(t, running, data[:500])
	stored := begin(t, b, testKey(2), Info{Size: 1_000})
	write(t, stored, data[:500])
	stored.Close()
	for i := 1; i <= 3; i++ {
		for range 2 {
			if err := b.Cancelled(testKey(i), 1105); err != nil {
				t.Error(err)
			}
		}
	}
	_, err := running.Write(data[500:])
	wantErr(t, "Write after the cancel", err, ErrCancelled)
	_, err = running.Keep()
	wantErr(t, "Keep after the cancel", err, ErrCancelled)
	if got := left(t, dir); len(got) != 0 {
		t.Errorf("folder still has %v", got)
	}
	b.Close()
	b = open(t, dir, Options{})
	for i := 1; i <= 3; i++ {
		lookup(t, b, testKey(i), Entry{State: Cancelled, Code: 1105}, true)
		_, err := b.Begin(testKey(i), Info{Size: 1_000})
		wantErr(t, "Begin of a cancelled transfer", err, ErrCancelled)
	}
}

// Whatever waits under a new random name is left alone (case 64).
func TestTakenNameIsNotOpened(t *testing.T) {
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "victim")
	b := open(t, dir, Options{})
	if err := os.WriteFile(outside, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	names := []string{strings.Repeat("a", 32), strings.Repeat("b", 32), strings.Repeat("c", 32), strings.Repeat("d", 32)}
	if err := os.Symlink(outside, filepath.Join(dir, names[0]+".part")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, names[1]+".part"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, names[2]+".part"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.options.NewStem = func() string { n := names[0]; names = names[1:]; return n }
	data := content(100, 1)
	p := begin(t, b, testKey(1), Info{Size: 100})
	write(t, p, data)
	f := keep(t, p, data)
	if want := strings.Repeat("d", 32) + ".file"; filepath.Base(f.Path()) != want {
		t.Errorf("kept as %s, want %s", filepath.Base(f.Path()), want)
	}
	if got, err := os.ReadFile(outside); string(got) != "precious" {
		t.Errorf("the file outside has %q, %v", got, err)
	}
}

// The folder is replaced by a link while a file comes in (case 65).
func TestSwappedFolderRedirectsNothing(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("an open folder cannot be renamed on Windows")
	}
	top := t.TempDir()
	dir, outside := filepath.Join(top, "inbox"), filepath.Join(top, "outside")
	if err := os.Mkdir(outside, 0o700); err != nil {
		t.Fatal(err)
	}
	b := open(t, dir, Options{})
	data := content(1_000, 1)
	p := begin(t, b, testKey(1), Info{Size: 1_000})
	write(t, p, data[:500])
	if err := errors.Join(os.Rename(dir, dir+".moved"), os.Symlink(outside, dir)); err != nil {
		t.Fatal(err)
	}
	write(t, p, data[500:])
	if err := p.Mark(); err != nil {
		t.Error(err)
	}
	hasContent(t, keep(t, p, data), data)
	if _, err := b.Put(testKey(2), Info{Size: 1_000}, data); err != nil {
		t.Error(err)
	}
	if got := left(t, outside); len(got) != 0 {
		t.Errorf("outside has %v", got)
	}
}

func TestWriteAllocatesNothing(t *testing.T) {
	b := open(t, t.TempDir(), Options{})
	p := begin(t, b, testKey(1), Info{Size: 1 << 40})
	defer p.Drop()
	chunk := make([]byte, 4<<10)
	if got := testing.AllocsPerRun(500, func() { p.Write(chunk) }); got != 0 {
		t.Errorf("%v allocations a Write, want 0", got)
	}
}
