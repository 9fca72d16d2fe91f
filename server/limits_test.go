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

func TestTallyForgetsWhoHoldsNothing(t *testing.T) {
	var c tally[string]
	for i, want := range []bool{true, true, false} { // two each
		if got := c.take("a", 2, 3); got != want {
			t.Errorf("take %d of a = %v, want %v", i, got, want)
		}
	}
	for i, want := range []bool{true, false} { // three in all
		if got := c.take("b", 2, 3); got != want {
			t.Errorf("take %d of b = %v, want %v", i, got, want)
		}
	}
	for _, key := range []string{"a", "a", "b"} {
		c.give(key)
	}
	if len(c.held) != 0 || c.total != 0 {
		t.Errorf("%v and %d are left", c.held, c.total)
	}
}

func TestAddressesCountByTheirOwner(t *testing.T) {
	for a, b := range map[string]string{
		"192.0.2.1:1":             "[::ffff:192.0.2.1]:2",
		"[2001:db8:1:2::1]:1":     "[2001:db8:1:2:ffff::9]:2",
		"[fe80::1%eth0]:1":        "[fe80::1%eth1]:1",
		"@":                       "",
		"[2001:db8:1:2::1]:65535": "[2001:db8:1:2::]:1",
	} {
		if sourceOf(a) != sourceOf(b) {
			t.Errorf("%q and %q are two", a, b)
		}
	}
	if sourceOf("192.0.2.1:1") == sourceOf("192.0.2.2:1") {
		t.Error("two addresses are one")
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
			ref, code := p.add(pendingCommand{from: &postedCommand{}, id: "x"})
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
