package test

import (
	"crypto/sha256"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"time"

	sdk "github.com/dian-im/dian"
)

// TestFiftyLargestBuffersAtOnce sends one client 50 buffers of 100 MiB at the same time
// (case 50). All arrive, and the client, which would take 50 transfers side by side,
// never holds more than its 512 MiB of buffers and what they grow by.
func TestFiftyLargestBuffersAtOnce(t *testing.T) {
	const n, size, most = 50, 104_857_600, 3 << 29
	defer debug.SetGCPercent(debug.SetGCPercent(20)) // what is held, rather than what was
	r := startRelay(t)
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{50}).Read(data)
	want := sha256.Sum256(data)
	var got, bad atomic.Int64
	handler := sdk.Handler{NotifyBufferData: func(b sdk.BufferData) {
		got.Add(1)
		if sha256.Sum256(b.Data) != want {
			bad.Add(1)
		}
	}}
	client := func(user string, opts ...sdk.Option) *sdk.Client {
		c, err := sdk.Connect(t.Context(), r.url, append(opts, sdk.WithToken(token(t, user)))...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	client("bob", sdk.WithHandler(handler), sdk.WithReceiveDir(t.TempDir()), sdk.WithParallelReceive(n))
	alice := client("alice", sdk.WithParallel(n))
	var tasks []*sdk.Task
	for range n {
		tasks = append(tasks, alice.SendBuffer("bob", data))
	}
	var peak uint64
	var mem runtime.MemStats
	for _, task := range tasks {
		for ended := false; !ended; {
			select {
			case <-task.Done():
				ended = true
			case <-time.After(50 * time.Millisecond):
				runtime.ReadMemStats(&mem)
				peak = max(peak, mem.HeapAlloc)
			}
		}
		if err := task.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	}
	for deadline := time.Now().Add(patience); got.Load() < n && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond) // a result says that the callback is in its queue
	}
	if got.Load() != n || bad.Load() != 0 {
		t.Errorf("%d buffers came, %d of them changed", got.Load(), bad.Load())
	}
	if peak > most {
		t.Errorf("%d MiB were held", peak>>20)
	}
	t.Logf("at most %d MiB held", peak>>20)
}
