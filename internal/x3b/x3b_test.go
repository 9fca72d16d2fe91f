package x3b

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/zeebo/xxh3"
)

var update = flag.Bool("update", false, "write testdata/vectors/x3b.json anew")

const vectorFile = "../../testdata/vectors/x3b.json"

// vectors is the file that the Go and the TypeScript tests read alike.
type vectors struct {
	About   string   `json:"about"`
	Pattern string   `json:"pattern"`
	Vectors []vector `json:"vectors"`
}

type vector struct {
	Size   int64    `json:"size"`
	Blocks []string `json:"blocks"` // hex, one per block
	X3b    string   `json:"x3b"`    // hex
}

// pattern returns the n bytes that the vectors are made of.
func pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte((i%251*31 + 7) % 251)
	}
	return p
}

// plain is the definition, spelled out with one-shot hashes only.
func plain(p []byte) (blocks []string, sum string) {
	var list []byte
	blocks = []string{}
	for len(p) > 0 {
		n := min(len(p), BlockSize)
		b := xxh3.Hash128(p[:n]).Bytes()
		list, blocks, p = append(list, b[:]...), append(blocks, fmt.Sprintf("%x", b)), p[n:]
	}
	return blocks, fmt.Sprintf("%x", xxh3.Hash128(list).Bytes())
}

func TestVectors(t *testing.T) {
	if *update {
		out := vectors{
			About: "x3b: XXH3-128 (seed 0) over the concatenated canonical (big-endian) XXH3-128 values of the blocks of " +
				"8388608 bytes; the last block may be shorter, empty content has no block. All digests are hex.",
			Pattern: "byte i of the content is (i*31 + 7) mod 251",
		}
		for _, size := range []int{0, 1, 64<<10 - 1, 64 << 10, 64<<10 + 1, BlockSize - 1, BlockSize, BlockSize + 1, 2*BlockSize + 5} {
			blocks, sum := plain(pattern(size))
			out.Vectors = append(out.Vectors, vector{Size: int64(size), Blocks: blocks, X3b: sum})
		}
		b, err := json.MarshalIndent(out, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(vectorFile, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	var file vectors
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Vectors) != 9 {
		t.Errorf("%d vectors, want 9", len(file.Vectors))
	}
	for _, v := range file.Vectors {
		p := pattern(int(v.Size))
		if got := Bytes(p).String(); got != v.X3b {
			t.Errorf("size %d: Bytes = %s, want %s", v.Size, got, v.X3b)
		}
		var sums []Sum
		for i, want := range v.Blocks {
			s := Block(p[i*BlockSize : min(len(p), (i+1)*BlockSize)])
			if s.String() != want {
				t.Errorf("size %d: block %d = %s, want %s", v.Size, i, s, want)
			}
			sums = append(sums, s)
		}
		if got := Of(sums).String(); got != v.X3b {
			t.Errorf("size %d: Of = %s, want %s", v.Size, got, v.X3b)
		}
	}
}

// Whatever the pieces, a Hasher says what Bytes says, of every prefix it is asked for.
func TestHasherAgreesWithBytes(t *testing.T) {
	p := pattern(2*BlockSize + 5)
	random := rand.New(rand.NewPCG(1, 2))
	for _, most := range []int{1 << 12, 1 << 17, 1 << 24} {
		h, done := New(), 0
		for done < len(p) {
			n := min(1+random.IntN(most), len(p)-done)
			if wrote, err := h.Write(p[done : done+n]); wrote != n || err != nil {
				t.Fatalf("Write = %d, %v, want %d, nil", wrote, err, n)
			}
			done += n
			if random.IntN(1000) == 0 || most > 1<<20 {
				if got, want := h.Sum(), Bytes(p[:done]); got != want || h.Len() != int64(done) {
					t.Fatalf("after %d of pieces ≤ %d: Sum = %s, Len = %d, want %s", done, most, got, h.Len(), want)
				}
			}
		}
		if got, want := h.Sum(), Bytes(p); got != want {
			t.Errorf("pieces ≤ %d: Sum = %s, want %s", most, got, want)
		}
	}
}

func TestResumeGoesOnAtABlock(t *testing.T) {
	p := pattern(2*BlockSize + 5)
	first := New()
	first.Write(p[:BlockSize+99])
	h := Resume(first.Blocks())
	if h.Len() != BlockSize {
		t.Fatalf("Len = %d, want %d", h.Len(), BlockSize)
	}
	h.Write(p[BlockSize:])
	if got, want := h.Sum(), Bytes(p); got != want {
		t.Errorf("Sum = %s, want %s", got, want)
	}
	if got, want := h.Tail(), Block(p[2*BlockSize:]); got != want {
		t.Errorf("Tail = %s, want %s", got, want)
	}
	if got := New().Tail(); got != (Sum{}) {
		t.Errorf("Tail of nothing = %s, want zero", got)
	}
}

func TestWriteAllocatesNothing(t *testing.T) {
	h, p := New(), make([]byte, 64<<10)
	if got := testing.AllocsPerRun(1000, func() { h.Write(p); h.Tail() }); got != 0 {
		t.Errorf("%v allocations a Write, want 0", got)
	}
}

func BenchmarkWrite(b *testing.B) {
	for _, size := range []int{16 << 10, 64 << 10, 256 << 10} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			h, p := New(), make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				h.Write(p)
			}
		})
	}
}
