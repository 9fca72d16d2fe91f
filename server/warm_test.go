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

// When all places of pairs with large buffers are taken, a pair goes on with its
// small one; it takes a place as soon as one is free, and gives it back.
func TestOnlySoManyPairsAreWarm(t *testing.T) {
	rt := newRelayTest(t, true, nil)
	warm := make(chan struct{}, 1)
	rt.srv.transfers.warm = warm
	warm <- struct{}{}
	bob := rt.receiver("bob", placeA)
	content := testContent(5 * warmBytes / 2)
	path := rt.create("alice", "bob", len(content), "")
	half, rest := len(content)/2, make(chan []byte, 2)
	r := rt.request("PATCH", path, "alice", &lateBody{now: bytes.NewReader(content[:half]), rest: rest}, "Upload-Offset", "0")
	r.ContentLength = int64(len(content))
	done := make(chan answer, 1)
	go func() { done <- rt.do(r) }()
	eventually(t, func() bool { return len(bob.content(path)) == half }) // without a place
	<-warm
	rest <- content[half : len(content)-1]
	eventually(t, func() bool { return len(warm) == 1 })
	rest <- content[len(content)-1:]
	close(rest)
	rt.want(<-done, 204)
	if !bytes.Equal(bob.content(path), content) {
		t.Error("other content")
	}
	eventually(t, func() bool { return len(warm) == 0 })
}
