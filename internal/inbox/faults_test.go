package inbox

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/dian-im/dian/internal/memdisk"
	"github.com/dian-im/dian/internal/x3b"
)

// A fault is what happens to the n-th change of a disk.
type fault struct {
	errno error
	lasts bool // and to all after it, until it is lifted
	space bool // it is told as no space
}

var faults = map[string]fault{
	"ENOSPC once": {syscall.ENOSPC, false, true}, "ENOSPC": {syscall.ENOSPC, true, true},
	"EDQUOT once": {syscall.EDQUOT, false, true},
	"EFBIG once":  {syscall.EFBIG, false, true},
	"EIO once":    {syscall.EIO, false, false}, "EIO": {syscall.EIO, true, false},
	"EROFS once": {syscall.EROFS, false, false}, "EROFS": {syscall.EROFS, true, false},
}

// faultyDisk is a disk with one fault.
type faultyDisk struct {
	lossy *memdisk.Disk
	fault fault

	mu    sync.Mutex // guards what follows
	left  int        // changes before the fault; negative: it has come
	where string     // the change that failed first
}

func (d *faultyDisk) hook(op, name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.left--
	if d.left > 0 || d.left < 0 && !d.fault.lasts {
		return nil
	}
	if d.where == "" {
		d.where = op + " " + name
		if _, suffix, ok := ownName(name); ok {
			d.where = op + " " + suffix
		}
	}
	if op == "sync" {
		d.lossy.Drop(name)
	}
	return d.fault.errno
}

// at says where the fault has come; empty: not yet.
func (d *faultyDisk) at() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.where
}

func (d *faultyDisk) lift() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.left, d.fault.lasts = -1, false
}

// receiveSome takes in five transfers, each in its own way, whatever becomes of the
// others, and returns their errors; nil is a kept file that somebody was told of.
func receiveSome(b *Inbox, data []byte) (out [5]error) {
	info := Info{Size: int64(len(data))}
	sum := x3b.Bytes(data)
	lane := func(key Key, cut int) error {
		p, err := b.Begin(key, info)
		if err != nil {
			return err
		}
		defer func() {
			if p != nil {
				p.Close()
			}
		}()
		if at := int(p.Offset()); cut > at {
			if _, err := p.Write(data[at:cut]); err != nil {
				return err
			}
			if err := p.Mark(); err != nil {
				return err
			}
			if err := p.Close(); err != nil { // and goes on
				return err
			}
			if p, err = b.Begin(key, info); err != nil {
				return err
			}
		}
		for at := int(p.Offset()); at < len(data); at += 3_000 {
			if _, err := p.Write(data[at:min(len(data), at+3_000)]); err != nil {
				return err
			}
			if err := p.Mark(); err != nil {
				return err
			}
		}
		if err := p.Verify("x3b", sum[:]); err != nil {
			return err
		}
		f, err := p.Keep()
		if err == nil {
			f.Notified()
		}
		return err
	}
	out[0] = lane(testKey(0), 0)
	out[1] = lane(testKey(1), 5_000)
	_, out[2] = b.Put(testKey(2), info, data)
	out[3] = b.Cancelled(testKey(3), 1105)
	out[4] = lane(testKey(4), 9_999)
	return out
}

// Each change of the disk fails in turn, once or until somebody makes room. The error
// says which kind it was; nothing is reported as kept that is not on the disk, also
// when the flush that failed is followed by one that works; the other transfers go
// on; and afterwards everything can be received, in this process and in the next, by
// kill or by a loss of power (cases 75, 76, 85).
func TestEveryStepMayFail(t *testing.T) {
	data := content(10_000, 7)
	runs, seen := 0, map[string]int{}
	for name, f := range faults {
		for step := 1; ; step++ {
			d := &faultyDisk{lossy: memdisk.New(nil), fault: f, left: step}
			what := fmt.Sprintf("%s at %d", name, step)
			b, err := OpenOn(memdisk.Hook(d.lossy, d.hook), Options{})
			if err != nil {
				if errors.Is(err, ErrNoSpace) != f.space {
					t.Errorf("%s (%s): Open = %v", what, d.at(), err)
				}
				d.lift()
				if b, err = OpenOn(memdisk.Hook(d.lossy, d.hook), Options{}); err != nil {
					t.Errorf("%s (%s): Open with room = %v", what, d.at(), err)
					continue
				}
			}
			b.step = 2_000
			inOpen := d.at() != ""
			results := receiveSome(b, data)
			where := d.at()
			if where == "" {
				b.Close()
				if step < 40 {
					t.Fatalf("%s: the scenario has only %d steps", name, step)
				}
				break
			}
			runs++
			seen[where]++
			what += " (" + where + ")"
			failed := 0
			var kept []Key
			for i, err := range results {
				switch {
				case err == nil && i != 3:
					kept = append(kept, testKey(i))
				case err == nil:
				case errors.Is(err, ErrNoSpace):
					failed++
					if !f.space {
						t.Errorf("%s: transfer %d: %v, want a write error", what, i, err)
					}
				case errors.Is(err, ErrWrite):
					failed++
					// A flush that failed is final, whatever its reason.
					if f.space && !strings.HasPrefix(where, "sync") && !f.lasts {
						t.Errorf("%s: transfer %d: %v, want no space", what, i, err)
					}
				default:
					t.Errorf("%s: transfer %d: %v", what, i, err)
				}
			}
			if !f.lasts && failed > 1 {
				t.Errorf("%s: %d transfers failed: %v", what, failed, results)
			}
			if f.lasts && !inOpen && failed == 0 && !strings.HasPrefix(where, "remove") && !strings.HasSuffix(where, "ledger") {
				t.Errorf("%s: everything is kept on a disk that takes nothing", what)
			}
			random := rand.New(rand.NewPCG(uint64(step), 5))
			next := map[string]*memdisk.Disk{"kill": d.lossy.Written()}
			for i := range 3 {
				next[fmt.Sprint("power loss ", i)] = d.lossy.PowerLoss(random)
			}
			d.lift()
			for how, disk := range next {
				again, err := OpenOn(disk, Options{})
				if err != nil {
					t.Errorf("%s, then %s: Open = %v", what, how, err)
					continue
				}
				received(t, what+", then "+how, again, data, kept)
				again.Close()
			}
			received(t, what, b, data, kept)
			b.Close()
			if t.Failed() {
				return
			}
		}
	}
	t.Logf("%d faults at %d kinds of places: %v", runs, len(seen), seen)
}

// received sees that what was kept is there, that a cancel which was written down
// still is, and that the rest can be received now.
func received(t *testing.T, what string, b *Inbox, data []byte, kept []Key) {
	t.Helper()
	for _, key := range kept {
		if e, _ := b.Lookup(key); e.State != Have {
			t.Errorf("%s: %s was kept and is %d", what, key.SendID, e.State)
		}
	}
	for i, err := range receiveSome(b, data) {
		if err != nil && !errors.Is(err, ErrHave) {
			t.Errorf("%s: transfer %d cannot be received: %v", what, i, err)
		}
		if i == 3 {
			continue
		}
		b.mu.Lock()
		e := b.entries[testKey(i)]
		b.mu.Unlock()
		if e == nil {
			t.Errorf("%s: transfer %d is not known", what, i)
			continue
		}
		if got, err := readAll(b.disk, e.stem+".file", 1<<20); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: transfer %d has %d bytes (%v), want these %d", what, i, len(got), err, len(data))
		}
	}
}
