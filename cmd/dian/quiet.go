package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	quietEvery = 5 * time.Second // how often the relay's memory is looked at
	quietShare = 16              // quiet is who allocates less than this part of it in that time
	quietGain  = 4 << 20         // bytes; for less nothing is done
)

// giveBackMemory returns to the system what a busy time has left, whenever the relay
// has become quiet: the garbage of ten thousand logins is as much as the sessions
// themselves, and a collector that waits for as much again would keep it for hours.
// It ends with ctx.
func giveBackMemory(ctx context.Context) {
	every := time.NewTicker(quietEvery)
	defer every.Stop()
	var q quiet
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
		if held, allocated := heap(); q.worth(held, allocated) {
			debug.FreeOSMemory()
			held, allocated = heap()
			q.gaveBack(held, allocated)
		}
	}
}

// heap returns how many bytes of memory the heap holds, and how many have been
// allocated since the start.
func heap() (held, allocated uint64) {
	sample := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/heap/free:bytes"}, {Name: "/gc/heap/allocs:bytes"},
	}
	metrics.Read(sample)
	last := len(sample) - 1
	for _, s := range sample[:last] {
		held += s.Value.Uint64()
	}
	return held, sample[last].Value.Uint64()
}

// A quiet decides when memory is given back: when little is going on and the heap
// holds a quarter more than was left the last time.
type quiet struct {
	left      uint64 // by the last time
	allocated uint64 // until the last look
}

func (q *quiet) worth(held, allocated uint64) bool {
	busy := allocated-q.allocated > held/quietShare
	q.allocated = allocated
	return !busy && held > q.left+max(q.left/4, quietGain)
}

func (q *quiet) gaveBack(held, allocated uint64) { q.left, q.allocated = held, allocated }
