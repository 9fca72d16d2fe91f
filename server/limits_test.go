package server

import (
	"math"
	"testing"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

func TestBucketRefills(t *testing.T) {
	var b bucket
	now := time.Unix(1_800_000_000, 0)
	for i := range 3 {
		if !b.take(now, 3, 1) {
			t.Fatalf("refused at %d", i)
		}
	}
	if b.take(now, 3, 1) {
		t.Error("more than the burst")
	}
	if !b.take(now.Add(time.Second), 3, 1) || b.take(now.Add(time.Second), 3, 1) {
		t.Error("a second gives one")
	}
}

func TestEpochsOnlyRise(t *testing.T) {
	c := epochClock{start: time.Now()}
	last := uint64(0)
	for range 10_000 {
		next := c.next()
		if next <= last {
			t.Fatalf("%d after %d", next, last)
		}
		last = next
	}
	if got := c.next(maxEpoch, 7); got != maxEpoch+1 {
		t.Errorf("next(%d) = %d", uint64(maxEpoch), got)
	}
	if got := c.next(); got > last+10_000 {
		t.Errorf("one client's claim lifts everybody: %d", got)
	}
}

func TestRefsAreNeverUsedAgain(t *testing.T) {
	p := pending{wait: time.Hour, expired: func(pendingCommand) {}}
	defer p.close()
	seen := map[uint64]bool{}
	for range 3 { // fill, empty, shrink
		var refs []uint64
		for {
			ref, code := p.add(pendingCommand{from: &postedCommand{}, id: "x", share: &share{}})
			if code != wire.OK {
				break
			}
			if seen[ref] {
				t.Fatalf("ref %d again", ref)
			}
			seen[ref] = true
			refs = append(refs, ref)
		}
		if len(refs) != maxPending {
			t.Fatalf("%d fit, want %d", len(refs), maxPending)
		}
		for _, ref := range refs {
			if _, ok := p.take(ref, "y"); ok {
				t.Fatal("taken under another id")
			}
			if _, ok := p.take(ref, "x"); !ok {
				t.Fatalf("ref %d is not there", ref)
			}
		}
		if p.used != 0 || len(p.slots) != 0 {
			t.Errorf("%d used, %d slots kept", p.used, len(p.slots))
		}
	}
	if _, ok := p.take(math.MaxUint64, ""); ok {
		t.Error("a ref from nowhere")
	}
}
