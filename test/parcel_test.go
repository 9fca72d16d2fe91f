package test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// A parcel is a file that must arrive.
type parcel struct {
	path, sum string
	size      int64
	ok        bool           // a result of 0 was told
	codes     map[int64]int  // the other results
	told      map[string]int // events of the receiver, by sendID
}

// pack makes a batch of files of all sizes.
func (w *storm) pack(user string, rng *rand.Rand) []string {
	sizes := []int64{0, 1, 64 << 10, 64<<10 + 1, 200 << 10, rng.Int64N(4 << 20), 4<<20 + rng.Int64N(12<<20)}
	for range 8 {
		sizes = append(sizes, rng.Int64N(8<<10))
	}
	rng.Shuffle(len(sizes), func(i, j int) { sizes[i], sizes[j] = sizes[j], sizes[i] })
	sizes = sizes[:6+rng.IntN(len(sizes)-5)]
	w.batches++
	var names []string
	for i, size := range sizes {
		name := fmt.Sprintf("%s-%d-%d.bin", user, w.batches, i)
		path := filepath.Join(w.dir, "out", name)
		sum, err := fill(path, size, rng.Uint64())
		if err != nil {
			w.fault("%v", err)
			continue
		}
		w.parcels[name] = &parcel{path: path, sum: sum, size: size, codes: map[int64]int{}, told: map[string]int{}}
		w.order = append(w.order, name)
		w.bytes += size
		names = append(names, name)
	}
	return names
}

// fill writes size bytes that seed determines and returns their SHA-256.
func fill(path string, size int64, seed uint64) (string, error) {
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	hash := sha256.New()
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	_, err = io.CopyN(io.MultiWriter(f, hash), rand.NewChaCha8(key), size)
	return hex.EncodeToString(hash.Sum(nil)), err
}
