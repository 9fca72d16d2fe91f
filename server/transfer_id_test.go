package server

import (
	"strings"
	"testing"

	"github.com/dian-im/dian/internal/wire"
)

func testTransferIDs() []*transferID {
	return []*transferID{
		{App: "a", Source: "s", Target: "t", Kind: wire.Kind_KIND_FILE, Instance: placeA},
		{App: strings.Repeat("界", 64), Source: strings.Repeat("𝄞", 128), Target: strings.Repeat("𝄞", 128), Kind: wire.Kind_KIND_FILE,
			Size: 1<<63 - 1, Instance: placeB, HTTP: true, Digest: strings.Repeat("d", 32), Send: [16]byte{1, 2, 3}},
		{App: "a", Source: "s", Target: "s", Kind: wire.Kind_KIND_BUFFER, Size: wire.BufferBytes, Instance: placeA, HTTP: true},
	}
}

func TestTransferIDRoundTrip(t *testing.T) {
	for _, id := range testTransferIDs() {
		text := id.encode()
		if len(text) > wire.TransferBytes {
			t.Errorf("%d bytes, at most %d are allowed", len(text), wire.TransferBytes)
		}
		got, err := decodeTransferID(text)
		if err != nil || *got != *id {
			t.Errorf("decode = %v, %v, want %v", got, err, id)
		}
		for i := range len(text) {
			if _, err := decodeTransferID(text[:i]); err == nil {
				t.Errorf("cut at %d was taken", i)
			}
		}
		for _, bad := range []string{text + "A", text + "=", text + "\n", " " + text} {
			if _, err := decodeTransferID(bad); err == nil {
				t.Errorf("%q was taken", bad)
			}
		}
	}
}

func FuzzTransferID(f *testing.F) {
	for _, id := range testTransferIDs() {
		f.Add(id.encode())
	}
	f.Fuzz(func(t *testing.T, text string) {
		id, err := decodeTransferID(text)
		if err == nil && id.encode() != text {
			t.Errorf("%q is taken for %q", text, id.encode())
		}
	})
}
