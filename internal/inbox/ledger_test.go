package inbox

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dian-im/dian/internal/memdisk"
)

// ledgerOf makes a folder with n kept files and returns it and its ledger's content.
func ledgerOf(t testing.TB, n int) (dir string, raw []byte) {
	t.Helper()
	dir = t.TempDir()
	b := open(t, dir, Options{})
	for i := range n {
		if _, err := b.Put(testKey(i), Info{Size: 1, Meta: []byte(recordMark + "\x05\x00\x00\x00")}, []byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	b.Close()
	raw, err := os.ReadFile(filepath.Join(dir, ledgerName))
	if err != nil {
		t.Fatal(err)
	}
	return dir, raw
}

// readLedger loads raw as a ledger.
func readLedger(t testing.TB, raw []byte) (*ledgerContent, *memdisk.Disk, []string) {
	t.Helper()
	d := memdisk.New(nil)
	f, err := d.Create(ledgerName)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt(raw, 0)
	var said []string
	l, c, err := loadLedger(d, time.Now(), func(msg string, args ...any) { said = append(said, msg+fmt.Sprint(args...)) })
	if err != nil {
		t.Fatal(err)
	}
	// Whatever was wrong, what comes next is read again.
	if err := l.append(appendRecord(nil, l.seed, (&entry{state: Cancelled, key: testKey(99)}).payload()), true); err != nil {
		t.Fatal(err)
	}
	_, again, err := loadLedger(d, time.Now(), func(msg string, args ...any) { t.Errorf("repaired ledger: %s %v", msg, args) })
	if err != nil || len(again.entries) != len(c.entries)+1 {
		t.Errorf("after an append the ledger has %d entries (%v), want %d", len(again.entries), err, len(c.entries)+1)
	}
	return c, d, said
}

// cases 86, 87
func TestTornEndOfLedgerIsCutOff(t *testing.T) {
	_, raw := ledgerOf(t, 3)
	var ends []int
	seed, _ := ledgerSeed(raw)
	for piece := range ledgerPieces(raw, seed) {
		ends = append(ends, piece.end)
	}
	if len(ends) != 3 || ends[2] != len(raw) {
		t.Fatalf("records end at %v of %d", ends, len(raw))
	}
	for n := ends[0]; n < len(raw); n++ {
		for _, torn := range [][]byte{raw[:n], append(bytes.Clone(raw[:n]), make([]byte, 50)...)} {
			c, _, _ := readLedger(t, torn)
			want := 1
			if bytes.HasPrefix(torn, raw[:ends[1]]) { // its last byte may be a zero anyway
				want = 2
			}
			if bytes.HasPrefix(torn, raw) {
				want = 3
			}
			if len(c.entries) != want {
				t.Errorf("cut at %d: %d entries, want %d", n, len(c.entries), want)
			}
			if len(torn) == n && !c.damaged.IsZero() {
				t.Errorf("cut at %d counts as damage", n)
			}
		}
	}
}

func TestDamagedRecordCostsOnlyItself(t *testing.T) {
	_, raw := ledgerOf(t, 3)
	seed, _ := ledgerSeed(raw)
	at := 0
	for piece := range ledgerPieces(raw, seed) {
		for i := piece.start; i < piece.end; i++ {
			bad := bytes.Clone(raw)
			bad[i] ^= 0x10
			c, _, said := readLedger(t, bad)
			if len(c.entries) != 2 || c.entries[testKey(at)] != nil {
				t.Errorf("byte %d of record %d: entries %d, want the two others", i-piece.start, at, len(c.entries))
			}
			if len(said) != 1 {
				t.Errorf("byte %d of record %d: said %q, want one warning", i-piece.start, at, said)
			}
		}
		at++
	}
	for i := range ledgerHeader {
		bad := bytes.Clone(raw)
		bad[i] ^= 1
		if c, _, _ := readLedger(t, bad); len(c.entries) != 3 {
			t.Errorf("byte %d of the header: %d entries, want 3", i, len(c.entries))
		}
	}
	for _, junk := range [][]byte{nil, []byte("hello"), make([]byte, 1000)} {
		c, d, said := readLedger(t, junk)
		if _, aside := d.Bytes(ledgerName + ".bad"); len(c.entries) != 0 || len(said) != 1 || !aside {
			t.Errorf("ledger %q: %d entries, said %q, set aside %v", junk, len(c.entries), said, aside)
		}
	}
}

// A sender cannot hide a record in its meta for the search after damage.
func TestRecordInsideMetaIsNotTaken(t *testing.T) {
	forged := appendRecord(nil, 0, (&entry{state: Cancelled, key: testKey(7)}).payload())
	dir := t.TempDir()
	b := open(t, dir, Options{})
	if _, err := b.Put(testKey(1), Info{Meta: forged}, nil); err != nil {
		t.Fatal(err)
	}
	b.Close()
	raw, err := os.ReadFile(filepath.Join(dir, ledgerName))
	if err != nil {
		t.Fatal(err)
	}
	raw[ledgerHeader+1]++
	if c, _, _ := readLedger(t, raw); len(c.entries) != 0 {
		t.Errorf("%d entries out of a damaged record", len(c.entries))
	}
}

func TestLedgerIsWrittenAnewWhenItGrows(t *testing.T) {
	lossy := memdisk.New(nil)
	b := openDisk(t, lossy)
	info := Info{Meta: make([]byte, maxMeta), Header: make([]byte, maxMeta)}
	for i := range 200 { // 32 KiB each until notified, then nearly nothing
		f, err := b.Put(testKey(i), info, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Notified(); err != nil {
			t.Error(err)
		}
	}
	b.Close() // the committer is done
	raw, _ := lossy.Bytes(ledgerName)
	size := len(raw)
	if size > ledgerSlack+100_000 {
		t.Errorf("ledger has %d bytes", size)
	}
	again := openDisk(t, lossy.PowerLoss(rand.New(rand.NewPCG(1, 1))))
	for i := range 200 {
		if e, _ := again.Lookup(testKey(i)); e.State != Have {
			t.Errorf("%d is %v", i, e)
		}
	}
}

// Everybody who waits shares the flushes of files, folder and ledger. Where the disk
// cannot flush all at once, or fails, each file is flushed by itself.
func TestManySmallFilesShareTheirFlushes(t *testing.T) {
	const n = 100
	for _, c := range []struct {
		fails error
		want  map[string]int
	}{
		{nil, map[string]int{"sync.part": 1, "flush": 1, "syncDir": 2, "syncedger": 2}},
		{errors.ErrUnsupported, map[string]int{"sync.part": n, "flush": 1, "syncDir": 2, "syncedger": 2}},
		{errors.New("broken"), map[string]int{"sync.part": n, "flush": 1, "syncDir": 2, "syncedger": 2}},
	} {
		lossy := memdisk.New(nil)
		var mu sync.Mutex
		counts := map[string]int{}
		gate := make(chan struct{})
		reached := make(chan struct{})
		var first sync.Once
		b := openDisk(t, memdisk.Hook(lossy, func(op, name string) error {
			mu.Lock()
			defer mu.Unlock()
			switch op {
			case "sync":
				op += name[max(0, len(name)-5):]
			case "move":
				mu.Unlock()
				first.Do(func() { // it holds the committer until all wait
					close(reached)
					<-gate
				})
				mu.Lock()
			}
			counts[op]++
			if op == "flush" {
				return c.fails
			}
			return nil
		}))
		clear(counts)
		put := func(i int) {
			if _, err := b.Put(testKey(i), Info{Size: 100}, content(100, byte(i))); err != nil {
				t.Error(err)
			}
		}
		var all sync.WaitGroup
		all.Go(func() { put(0) })
		<-reached
		for i := 1; i < n; i++ {
			all.Go(func() { put(i) })
		}
		for waiting := 0; waiting < n-1; {
			b.queue.Lock()
			waiting = len(b.waiting)
			b.queue.Unlock()
			runtime.Gosched() // lets them come
		}
		close(gate)
		all.Wait()
		mu.Lock()
		for op, want := range c.want {
			if counts[op] != want {
				t.Errorf("flush fails with %v: %d × %s for %d files, want %d", c.fails, counts[op], op, n, want)
			}
		}
		mu.Unlock()
		for seed := range uint64(20) { // who was told that a file is kept has it
			found := lossy.PowerLoss(rand.New(rand.NewPCG(seed, 1)))
			again := openDisk(t, found)
			for i := range n {
				data, _ := found.Bytes(again.KeptName(testKey(i)))
				if e, _ := again.Lookup(testKey(i)); e.State != Have || !bytes.Equal(data, content(100, byte(i))) {
					t.Fatalf("flush fails with %v: after a loss of power %d is %v, with %d bytes", c.fails, i, e.State, len(data))
				}
			}
		}
	}
}

// A flush of the whole file system that takes long, because others write much, is not
// tried again for a while.
func TestFlushOfAllThatTakesLongIsGivenUp(t *testing.T) {
	var now atomic.Int64
	clock := func() time.Time { return time.Unix(1_000_000, now.Load()) }
	b := &Inbox{options: Options{Now: clock}}
	slow := time.Second
	flushes := 0
	b.disk = memdisk.Hook(memdisk.New(nil), func(op, _ string) error {
		flushes++
		now.Add(int64(slow))
		return nil
	})
	first, second := b.flushAll(), b.flushAll()
	if !first || second || flushes != 1 {
		t.Errorf("%d flushes of a slow disk, want 1", flushes)
	}
	slow = 0
	now.Add(int64(flushPause))
	again, andAgain := b.flushAll(), b.flushAll()
	if !again || !andAgain || flushes != 3 {
		t.Errorf("%d flushes, want 3: it is fast again", flushes)
	}
}

func FuzzLedger(f *testing.F) {
	_, raw := ledgerOf(f, 2)
	f.Add(raw)
	f.Add(raw[:len(raw)-3])
	f.Fuzz(func(t *testing.T, b []byte) { readLedger(t, b) })
}

// case 69
func TestCleanerRemovesOnlyWhatIsItsOwn(t *testing.T) {
	dir := t.TempDir()
	stem := func(c string) string { return strings.Repeat(c, 32) }
	foreign := []string{"notes.txt", stem("g") + ".part", stem("a") + ".jpg", "a" + stem("a") + ".part", stem("A") + ".part", ".part"}
	for _, name := range append(foreign, stem("1")+".part", stem("2")+".journal", stem("3")+".mark.tmp", stem("4")+".file") {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, stem("5")+".part"), 0o700); err != nil {
		t.Fatal(err)
	}
	b := open(t, dir, Options{PartBytes: 2_500})
	exists := func(name string) bool {
		_, err := os.Lstat(filepath.Join(dir, name))
		return err == nil
	}
	for i, want := range map[string]bool{"1.part": false, "2.journal": false, "3.mark.tmp": false, "4.file": true, "5.part": true} {
		if name := stem(i[:1]) + i[1:]; exists(name) != want {
			t.Errorf("%s exists: %v, want %v", name, !want, want)
		}
	}
	data := content(1_000, 1)
	active := begin(t, b, testKey(0), Info{Size: 2_000})
	write(t, active, data)
	for i := 1; i <= 3; i++ { // 1 is the oldest
		p := begin(t, b, testKey(i), Info{Size: 2_000})
		write(t, p, data)
		p.Close()
	}
	told, err := b.Put(testKey(10), Info{Size: 1_000}, data)
	if err != nil {
		t.Fatal(err)
	}
	told.Notified()
	untold, err := b.Put(testKey(11), Info{Size: 1_000}, data)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Cancelled(testKey(12), 1105); err != nil {
		t.Fatal(err)
	}
	state := func(i int) State { e, _ := b.Lookup(testKey(i)); return e.State }
	for _, c := range []struct {
		after time.Duration
		want  map[int]State
		told  bool
	}{
		{0, map[int]State{0: Partial, 1: 0, 2: Partial, 3: Partial, 10: Have, 11: Have, 12: Cancelled}, true},
		{25 * time.Hour, map[int]State{0: Partial, 2: 0, 3: 0, 10: Have, 11: Have, 12: 0}, true},
		{8 * 24 * time.Hour, map[int]State{0: Partial, 10: 0, 11: Have}, false},
	} {
		if err := b.Clean(time.Now().Add(c.after)); err != nil {
			t.Error(err)
		}
		for i, want := range c.want {
			if got := state(i); got != want {
				t.Errorf("after %v: transfer %d is %d, want %d", c.after, i, got, want)
			}
		}
		if got := exists(filepath.Base(told.Path())); got != c.told {
			t.Errorf("after %v: the file it was told of is here: %v", c.after, got)
		}
	}
	hasContent(t, untold, data)
	write(t, active, data)
	for _, name := range foreign {
		if !exists(name) {
			t.Errorf("%s is gone", name)
		}
	}
	if !exists(stem("4") + ".file") {
		t.Errorf("a file that a ledger which is gone may have listed is gone too")
	}
	b.Close()
	wantErr(t, "Clean after Close", b.Clean(time.Now()), ErrClosed)
}

// A damaged ledger does not make the cleaner throw away what it listed.
func TestFilesOfADamagedLedgerStay(t *testing.T) {
	dir, raw := ledgerOf(t, 2)
	raw[ledgerHeader+20]++
	if err := os.WriteFile(filepath.Join(dir, ledgerName), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		b := open(t, dir, Options{})
		if err := errors.Join(b.Clean(time.Now().Add(100*24*time.Hour)), b.Close()); err != nil {
			t.Error(err)
		}
	}
	if got := left(t, dir); len(got) != 2 {
		t.Errorf("folder has %v, want both files", got)
	}
}
