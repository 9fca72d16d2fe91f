package sim

import (
	"math/rand/v2"

	"github.com/dian-im/dian/internal/wire"
	"github.com/dian-im/dian/internal/x3b"
)

// contentOf returns the bytes of a task's source. Another version is what a file
// holds after somebody has changed it.
func contentOf(key uint64, size int64, version int) []byte {
	b := make([]byte, size)
	source := rand.New(rand.NewPCG(key, uint64(version)))
	for i := 0; i < len(b); i += 8 {
		v := source.Uint64()
		for j := i; j < min(i+8, len(b)); j++ {
			b[j] = byte(v)
			v >>= 8
		}
	}
	return b
}

func digestOf(b []byte) *wire.Digest {
	sum := x3b.Bytes(b)
	return &wire.Digest{Algorithm: wire.DigestX3B, Value: sum[:]}
}
