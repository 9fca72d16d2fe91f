// Package ports gives tests ports that stay theirs.
package ports

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"testing"
)

// The first port of the range that systems take the local ports of outgoing connections
// from is 32768 on Linux and 49152 elsewhere.
const first, last = 10000, 32767

var next atomic.Uint32

func init() { next.Store(rand.Uint32N(last - first)) }

// Free returns a loopback port that nobody listens on, for a server that is started or
// started again later. A port that the system chooses would not do: as soon as nobody
// listens on it, the system may give it to an outgoing connection of another test.
func Free(t testing.TB) int {
	t.Helper()
	for range last - first {
		port := first + int(next.Add(1)%(last-first))
		if ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			ln.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}
