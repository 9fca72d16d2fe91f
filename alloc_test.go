//go:build !race

package dian_test

import (
	"runtime"
	"testing"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/diantest"
	"github.com/dian-im/dian/server"
)

// A command of many in flight costs few allocations in sender, relay and receiver
// together, because what is garbage costs more than the rest of a command: its
// collection comes as often as a small heap is full.
func TestCommandAllocatesLittle(t *testing.T) {
	const most, commands, window = 13, 20000, 256 // 11 are needed, the rest is for what comes by the batch
	fast := server.Limit{CommandsPerSecond: 1 << 20}
	relay := diantest.New(t, func(c *server.Config) {
		c.Limits = server.Limits{All: fast, App: fast, Address: fast, User: fast}
	})
	relay.Client("bob", dian.WithHandler(dian.Handler{NotifyCmdData: func(dian.CmdData) {}}))
	free := make(chan error, window)
	alice := relay.Client("alice", dian.WithSendOnly(), dian.WithHandler(dian.Handler{
		SendCmdResult: func(r dian.Result) { free <- r.Err },
	}))
	data := make([]byte, 100)
	run := func(n int) {
		for range window {
			alice.SendCmd("bob", data)
		}
		for range n - window {
			if err := <-free; err != nil {
				t.Fatal(err)
			}
			alice.SendCmd("bob", data)
		}
		for range window {
			if err := <-free; err != nil {
				t.Fatal(err)
			}
		}
	}
	run(2 * window) // pools and queues have their sizes
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	run(commands)
	runtime.ReadMemStats(&after)
	each := float64(after.Mallocs-before.Mallocs) / commands
	t.Logf("%.1f allocations and %d bytes a command", each, (after.TotalAlloc-before.TotalAlloc)/commands)
	if each > most {
		t.Errorf("%.1f allocations a command, want at most %d", each, most)
	}
}
