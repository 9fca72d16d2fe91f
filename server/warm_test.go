package server

import (
	"bytes"
	"testing"
)

// Content goes through unchanged where a lane changes from its small buffer to the
// large one, also in a later up-lane of the same down-lane.
func TestLaneThatWarmsUpChangesNothing(t *testing.T) {
	for _, piece := range []int{warmBytes + 3<<20, warmBytes - 1, warmBytes/2 + 1, 5<<20 + 7} {
		rt := newRelayTest(t, true, nil)
		bob := rt.receiver("bob", placeA)
		content := testContent(warmBytes + 3<<20)
		path := rt.create("alice", "bob", len(content), "")
		if err := rt.uploadAll(path, "alice", content, piece); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(bob.content(path), content) {
			t.Errorf("pieces of %d: other content", piece)
		}
		rt.stop()
	}
}
