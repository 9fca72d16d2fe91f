package main

import (
	"runtime"
	"runtime/debug"
	"testing"
)

// Memory is given back once after each busy time: not during it, and not again and
// again.
func TestMemoryIsGivenBackWhenItIsQuiet(t *testing.T) {
	const mib = 1 << 20
	var q quiet
	for i, c := range []struct {
		held, allocated uint64 // MiB
		want            bool
		left            uint64 // MiB, after it was given back
	}{
		{100, 500, false, 0},  // logins
		{200, 900, false, 0},  // more of them
		{200, 910, true, 100}, // quiet
		{101, 912, false, 0},
		{124, 916, false, 0}, // not worth it yet
		{126, 920, true, 100},
		{300, 1200, false, 0}, // busy again
		{300, 1201, true, 110},
		{60, 1202, false, 0}, // sessions have gone
	} {
		if got := q.worth(c.held*mib, c.allocated*mib); got != c.want {
			t.Fatalf("look %d: %t", i, got)
		}
		if c.want {
			q.gaveBack(c.left*mib, c.allocated*mib)
		}
	}
}

func TestHeapIsMeasured(t *testing.T) {
	debug.FreeOSMemory() // or the 64 MiB are found in what others have left
	before, allocatedBefore := heap()
	large := make([]byte, 64<<20)
	held, allocated := heap()
	if held < before+32<<20 || allocated < allocatedBefore+64<<20 {
		t.Errorf("64 MiB more: %d -> %d bytes held, %d -> %d allocated", before, held, allocatedBefore, allocated)
	}
	runtime.KeepAlive(large)
}
