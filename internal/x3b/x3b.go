// Package x3b computes the digest that Dian's transfers are verified with.
//
// The x3b digest of some content is the XXH3-128 of its block list. Content is
// cut into blocks of 8 MiB, of which the last may be shorter; every block gives
// 16 bytes, its XXH3-128 in canonical (big-endian) form; these bytes, one block
// after the other, are the block list. Empty content has an empty list.
//
// Block digests make the work survive a restart: a program that wrote down the
// list of complete blocks goes on from there and reads at most one block again.
//
// The digest finds accidents: a torn write, a lost piece, a proxy that cut a
// response short. It is not a cryptographic hash and finds no forgery.
package x3b

import (
	"encoding/hex"

	"github.com/zeebo/xxh3"
)

const (
	// BlockSize is the length of a block in bytes. It is part of the digest's
	// definition and never changes under this name.
	BlockSize = 8 << 20
	// Size is the length of a Sum in bytes.
	Size = 16
)

// A Sum is a digest, of a block or of whole content, in canonical form.
type Sum [Size]byte

// String returns s in lower-case hexadecimal.
func (s Sum) String() string { return hex.EncodeToString(s[:]) }

// Block returns the digest of one block. It does not check len(p).
func Block(p []byte) Sum { return xxh3.Hash128(p).Bytes() }

// Of returns the digest of content whose block digests, in order, are blocks.
func Of(blocks []Sum) Sum {
	var h xxh3.Hasher
	for i := range blocks {
		h.Write(blocks[i][:])
	}
	return h.Sum128().Bytes()
}

// Bytes returns the digest of the content p.
func Bytes(p []byte) Sum {
	var h xxh3.Hasher
	for len(p) > 0 {
		n := min(len(p), BlockSize)
		s := Block(p[:n])
		h.Write(s[:])
		p = p[n:]
	}
	return h.Sum128().Bytes()
}

// A Hasher computes the digest of content as it streams by. It is not safe for
// concurrent use. The zero value is ready, and so is what New returns.
type Hasher struct {
	blocks []Sum       // of the complete blocks; what is in it never changes
	block  xxh3.Hasher // over the bytes after them
	filled int         // how many bytes these are, always less than BlockSize
}

// New returns a Hasher at the start of its content.
func New() *Hasher { return new(Hasher) }

// Resume returns a Hasher that goes on after complete blocks with these digests,
// at offset len(blocks)*BlockSize. It copies blocks.
func Resume(blocks []Sum) *Hasher {
	return &Hasher{blocks: append([]Sum(nil), blocks...)}
}

// Write hashes p. It returns len(p) and never an error. It allocates nothing but
// room for the block list, as that grows.
func (h *Hasher) Write(p []byte) (int, error) {
	written := len(p)
	for len(p) > 0 {
		n := min(len(p), BlockSize-h.filled)
		h.block.Write(p[:n])
		p = p[n:]
		if h.filled += n; h.filled == BlockSize {
			h.blocks = append(h.blocks, h.block.Sum128().Bytes())
			h.block.Reset()
			h.filled = 0
		}
	}
	return written, nil
}

// Len returns how many bytes of content were hashed, those before Resume included.
func (h *Hasher) Len() int64 {
	return int64(len(h.blocks))*BlockSize + int64(h.filled)
}

// Blocks returns the digests of the complete blocks so far. The caller must not
// change them; later Writes do not change them either.
func (h *Hasher) Blocks() []Sum { return h.blocks[:len(h.blocks):len(h.blocks)] }

// Tail returns the digest of the bytes after the last complete block, or the zero
// Sum if there are none.
func (h *Hasher) Tail() Sum {
	if h.filled == 0 {
		return Sum{}
	}
	return h.block.Sum128().Bytes()
}

// Sum returns the digest of the content so far. The Hasher goes on undisturbed.
func (h *Hasher) Sum() Sum {
	var list xxh3.Hasher
	for i := range h.blocks {
		list.Write(h.blocks[i][:])
	}
	if h.filled > 0 {
		tail := h.Tail()
		list.Write(tail[:])
	}
	return list.Sum128().Bytes()
}
