package inbox

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dian-im/dian/internal/memdisk"
	"github.com/dian-im/dian/internal/x3b"
)

// receiveAll takes in three transfers of data in a way that comes by every step,
// and tells done of each that was kept. It ends early when the disk fails.
func receiveAll(b *Inbox, data []byte, done func(Key)) {
	info := Info{Size: int64(len(data))}
	sum := x3b.Bytes(data)
	for i := range 2 {
		for {
			p, err := b.Begin(testKey(i), info)
			if err != nil {
				return
			}
			third := int64(len(data)/3 + 1)
			end := min(p.Offset()+third, info.Size)
			if _, err := p.Write(data[p.Offset():end]); err != nil {
				p.Close()
				return
			}
			p.Mark()
			if p.Offset() < info.Size {
				p.Close()
				continue
			}
			if err := p.Verify("x3b", sum[:]); errors.Is(err, ErrDigest) {
				panic(err)
			}
			f, err := p.Keep()
			if err != nil {
				return
			}
			done(testKey(i))
			f.Notified()
			break
		}
	}
	if _, err := b.Put(testKey(2), info, data); err == nil {
		done(testKey(2))
	}
	b.Cancelled(testKey(3), 1105)
}

// finish takes in what b does not have yet, from where it says, and checks that all
// of it is then there with the right bytes, and that what was kept before still is.
func finish(t *testing.T, what string, b *Inbox, data []byte, kept []Key) {
	t.Helper()
	for i := range 3 {
		key := testKey(i)
		if e, _ := b.Lookup(key); e.State != Have {
			if slices.Contains(kept, key) {
				t.Errorf("%s: transfer %d was kept and is not known", what, i)
			}
			p, err := b.Begin(key, Info{Size: int64(len(data))})
			if err != nil {
				t.Errorf("%s: Begin %d = %v", what, i, err)
				continue
			}
			write(t, p, data[p.Offset():])
			sum := x3b.Bytes(data)
			if err := p.Verify("x3b", sum[:]); err != nil {
				t.Errorf("%s: transfer %d: %v", what, i, err)
			}
			if _, err := p.Keep(); err != nil {
				t.Errorf("%s: Keep %d = %v", what, i, err)
			}
		}
		b.mu.Lock()
		stem := b.entries[key].stem
		b.mu.Unlock()
		if got, err := readAll(b.disk, stem+".file", 1<<30); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: transfer %d has %d bytes (%v), want these %d", what, i, len(got), err, len(data))
		}
	}
}

// After a power loss at any step, nothing that was kept is lost and nothing is
// there with wrong bytes (cases 80, 85, 86).
func TestPowerLossLosesNothingThatWasKept(t *testing.T) {
	seeds, data := 300, content(10_000, 5)
	for seed := range seeds {
		if seed == seeds-3 {
			data = content(x3b.BlockSize+10_000, 5)
		}
		random := rand.New(rand.NewPCG(7, uint64(seed)))
		lossy := memdisk.New(nil)
		var mu sync.Mutex
		var kept, keptThen []Key
		var after *memdisk.Disk
		left := 1 + random.IntN(110)
		hook := func(string, string) error {
			mu.Lock()
			defer mu.Unlock()
			if left--; left == 0 {
				keptThen = slices.Clone(kept)
				after = lossy.PowerLoss(random)
			}
			if left <= 0 {
				return errors.New("no power")
			}
			return nil
		}
		b, err := OpenOn(memdisk.Hook(lossy, hook), Options{})
		if err == nil {
			b.step = 2_000
			receiveAll(b, data, func(k Key) {
				mu.Lock()
				defer mu.Unlock()
				kept = append(kept, k)
			})
			b.Close()
		}
		if after == nil {
			after, keptThen = lossy.PowerLoss(random), kept
		}
		what := fmt.Sprintf("seed %d", seed)
		again, err := OpenOn(after, Options{})
		if err != nil {
			t.Errorf("%s: Open = %v", what, err)
			continue
		}
		finish(t, what, again, data, keptThen)
		again.Close()
		if t.Failed() {
			return
		}
	}
}

// The process is killed before each change of the folder in turn; the next one goes
// on with what it finds (cases 84, 85).
func TestKilledAtEachStepGoesOn(t *testing.T) {
	data := content(10_000, 3)
	dir, copies := t.TempDir(), t.TempDir()
	real, err := openPlace(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer real.close()
	type state struct {
		step string
		dir  string
		kept []Key
	}
	var mu sync.Mutex
	var states []state
	var kept []Key
	hook := func(op, name string) error {
		mu.Lock()
		defer mu.Unlock()
		to := filepath.Join(copies, fmt.Sprint(len(states)))
		if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
			return err
		}
		states = append(states, state{op + " " + name[max(0, len(name)-8):], to, slices.Clone(kept)})
		return nil
	}
	b := openDisk(t, memdisk.Hook(real, hook))
	receiveAll(b, data, func(k Key) {
		mu.Lock()
		defer mu.Unlock()
		kept = append(kept, k)
	})
	b.Close()
	if len(states) < 40 || len(kept) != 3 {
		t.Fatalf("%d steps, %d kept: the scenario did not run", len(states), len(kept))
	}
	for i, s := range states {
		b, err := Open(s.dir, Options{})
		if err != nil {
			t.Errorf("step %d (%s): %v", i, s.step, err)
			continue
		}
		finish(t, fmt.Sprintf("step %d (%s)", i, s.step), b, data, s.kept)
		b.Close()
		names := left(t, s.dir)
		for _, name := range names {
			if name != ".file" {
				t.Errorf("step %d (%s) left a %s", i, s.step, name)
			}
		}
		if len(names) != 3 { // a file that was renamed before the crash and is not in the ledger comes again
			t.Errorf("step %d (%s) left %v, want the 3 files", i, s.step, names)
		}
	}
}

// A process that is killed goes on from the mark, without anything having been
// flushed; if what the mark covers is not there, from the journal (case 80).
func TestMarkSurvivesAKill(t *testing.T) {
	for _, c := range []struct {
		name    string
		journal int // bytes journalled
		spoil   int // byte of the part that is not on the disk, or -1
		want    int64
	}{
		{"mark only", 0, -1, 9_000},
		{"mark after journal", 4_000, -1, 9_000},
		{"bytes of the mark lost", 4_000, 5_000, 4_000},
		{"bytes of the mark lost, no journal", 0, 5_000, 0},
		{"bytes of the journal lost too", 4_000, 100, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			data := content(10_000, 1)
			lossy := memdisk.New(nil)
			b := openDisk(t, lossy)
			p := begin(t, b, testKey(1), Info{Size: 10_000})
			write(t, p, data[:c.journal])
			p.turn.Lock()
			if err := p.journal(); err != nil {
				t.Error(err)
			}
			p.turn.Unlock()
			write(t, p, data[c.journal:9_000])
			if err := p.Mark(); err != nil {
				t.Error(err)
			}
			write(t, p, data[9_000:9_500])
			if c.spoil >= 0 {
				lossy.Flip(p.stem+".part", int64(c.spoil))
			}
			again := openDisk(t, lossy)
			q := begin(t, again, testKey(1), Info{Size: 10_000})
			if q.Offset() != c.want {
				t.Fatalf("Offset = %d, want %d", q.Offset(), c.want)
			}
			write(t, q, data[c.want:])
			sum := x3b.Bytes(data)
			wantErr(t, "Verify", q.Verify("x3b", sum[:]), nil)
			q.Drop()
		})
	}
}

// case 87
func TestDamagedJournalMeansStartingAgain(t *testing.T) {
	r := &record{key: testKey(1), info: Info{Size: 3 * x3b.BlockSize, Name: "n", Meta: []byte{1}}, offset: x3b.BlockSize + 5,
		blocks: []x3b.Sum{{1}}, tail: x3b.Sum{2}}
	good := r.encode()
	if back, err := decodeRecord(good); err != nil || back.offset != r.offset || back.blocks[0] != r.blocks[0] || back.tail != r.tail {
		t.Fatalf("decodeRecord = %+v, %v", back, err)
	}
	for n := range good {
		if _, err := decodeRecord(good[:n]); err == nil {
			t.Errorf("cut to %d bytes: no error", n)
		}
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[n] ^= 1 << bit
			if _, err := decodeRecord(bad); err == nil {
				t.Errorf("bit %d of byte %d: no error", bit, n)
			}
		}
		if _, err := decodeRecord(append(bytes.Clone(good[:n]), make([]byte, len(good)-n)...)); err == nil {
			t.Errorf("zeros from byte %d: no error", n)
		}
	}
	data := content(1_000, 1)
	for _, journal := range [][]byte{nil, good[:40], make([]byte, 300), good} { // the last: of another part
		dir := t.TempDir()
		b := open(t, dir, Options{})
		p := begin(t, b, testKey(1), Info{Size: 1_000})
		write(t, p, data[:600])
		p.Close()
		b.Close()
		if err := os.WriteFile(filepath.Join(dir, p.stem+".journal"), journal, 0o600); err != nil {
			t.Fatal(err)
		}
		b = open(t, dir, Options{})
		p = begin(t, b, testKey(1), Info{Size: 1_000})
		if p.Offset() != 0 {
			t.Fatalf("Offset = %d, want 0", p.Offset())
		}
		write(t, p, data)
		hasContent(t, keep(t, p, data), data)
	}
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add((&record{key: testKey(1), info: Info{Size: 10}, offset: 5}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := decodeRecord(b); err == nil && !bytes.Equal(r.encode(), b) {
			t.Errorf("%x reads as what writes as %x", b, r.encode())
		}
	})
}

func TestJournalIsWrittenEverySecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lossy := memdisk.New(nil)
		b := openDisk(t, lossy)
		p := begin(t, b, testKey(1), Info{Size: 10_000})
		write(t, p, content(5_000, 1))
		time.Sleep(journalEvery + time.Millisecond)
		synctest.Wait()
		after := openDisk(t, lossy.PowerLoss(rand.New(rand.NewPCG(1, 1))))
		lookup(t, after, testKey(1), Entry{State: Partial, Offset: 5_000, Size: 10_000}, true)
	})
}

// A flush that failed fails its part for good: trying again might succeed without
// the bytes (case 76).
func TestFailedFlushFailsThePart(t *testing.T) {
	broken := errors.New("input/output error")
	for _, when := range []string{"journal", "keep", "folder", "ledger"} {
		t.Run(when, func(t *testing.T) {
			lossy, data := memdisk.New(nil), content(10_000, 1)
			var failing sync.Map
			b := openDisk(t, memdisk.Hook(lossy, func(op, name string) error {
				if what, ok := failing.Load("now"); ok && (op == "sync" || op == "syncDir") && strings.HasSuffix(name, what.(string)) {
					failing.Delete("now")
					return broken
				}
				return nil
			}))
			p := begin(t, b, testKey(1), Info{Size: 10_000})
			write(t, p, data)
			if err := p.Mark(); err != nil {
				t.Error(err)
			}
			wantErr(t, "Verify", p.Verify("", nil), nil)
			failing.Store("now", map[string]string{"journal": ".part", "keep": ".part", "folder": ".", "ledger": "ledger"}[when])
			if when == "journal" {
				p.journalNow <- struct{}{}
				<-p.journalDone
				_, err := p.Write(nil)
				wantErr(t, "Write after it", err, ErrWrite)
				wantErr(t, "Mark after it", p.Mark(), ErrWrite)
			}
			for range 2 {
				_, err := p.Keep()
				wantErr(t, "Keep", err, ErrWrite)
				wantErr(t, "Keep", err, broken)
			}
			lookup(t, b, testKey(1), Entry{}, false)
			p.Close()
			// Here and after a restart it comes again from the start.
			for _, b := range []*Inbox{b, openDisk(t, lossy)} {
				p := begin(t, b, testKey(1), Info{Size: 10_000})
				if p.Offset() != 0 {
					t.Errorf("Offset = %d, want 0", p.Offset())
				}
				p.Drop()
			}
			write(t, begin(t, b, testKey(1), Info{Size: 10_000}), data)
			b.Close()
		})
	}
}

// A full disk is told as such; the part can go on when there is room (case 75).
func TestFullDiskKeepsThePart(t *testing.T) {
	lossy, data := memdisk.New(nil), content(10_000, 1)
	var full sync.Map
	b := openDisk(t, memdisk.Hook(lossy, func(op, name string) error {
		if what, ok := full.Load("now"); ok && (op == "write" || op == "create") && strings.Contains(name, what.(string)) {
			return syscall.ENOSPC
		}
		return nil
	}))
	p := begin(t, b, testKey(1), Info{Size: 10_000})
	write(t, p, data[:6_000])
	full.Store("now", "")
	_, err := p.Write(data[6_000:])
	wantErr(t, "Write", err, ErrNoSpace)
	wantErr(t, "Mark", p.Mark(), ErrNoSpace)
	_, err = b.Begin(testKey(2), Info{Size: 1})
	wantErr(t, "Begin", err, ErrNoSpace)
	_, err = b.Put(testKey(2), Info{Size: 1}, data[:1])
	wantErr(t, "Put", err, ErrNoSpace)
	full.Delete("now")
	write(t, p, data[6_000:])
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	p = begin(t, b, testKey(1), Info{Size: 10_000})
	wantErr(t, "Verify", p.Verify("", nil), nil)
	full.Store("now", "ledger")
	_, err = p.Keep()
	wantErr(t, "Keep without room in the ledger", err, ErrNoSpace)
	full.Delete("now")
	p = begin(t, b, testKey(1), Info{Size: 10_000})
	if p.Offset() != 10_000 {
		t.Errorf("Offset = %d, want all", p.Offset())
	}
	keep(t, p, data)
}

// Several goroutines at one part, as when a lane displaces another, do no harm.
func TestPartTakesTurns(t *testing.T) {
	b := open(t, t.TempDir(), Options{})
	data := content(400_000, 1)
	p := begin(t, b, testKey(1), Info{Size: int64(len(data))})
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			for {
				at := p.Offset()
				_, err := p.WriteAt(data[at:min(at+1_000, int64(len(data)))], at)
				if errors.Is(err, ErrTooMuch) || at == int64(len(data)) {
					return
				}
				p.Mark()
			}
		})
	}
	all.Wait()
	f := keep(t, p, data)
	hasContent(t, f, data)
	for i := range 20 {
		p := begin(t, b, testKey(100+i), Info{Size: 1_000})
		write(t, p, data[:1_000])
		wantErr(t, "Verify", p.Verify("", nil), nil)
		var kept, cancelled error
		all.Go(func() { _, kept = p.Keep() })
		all.Go(func() { cancelled = b.Cancelled(p.Key(), 1105) })
		all.Wait()
		if e, _ := b.Lookup(p.Key()); (kept == nil) == (cancelled == nil) || (kept == nil) != (e.State == Have) {
			t.Errorf("Keep = %v, Cancelled = %v, then %v: one must win", kept, cancelled, e.State)
		}
	}
}
