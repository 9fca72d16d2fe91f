package server

import (
	"bytes"
	"testing"
	"time"
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

// When all seats of pairs with large buffers are taken, a pair goes on with its small
// one. It takes the seat of one that stands still, whose down-lane ends, and gives it
// back.
func TestOnlySoManyPairsAreWarm(t *testing.T) {
	rt := newRelayTest(t, true, nil)
	ts := rt.srv.transfers
	ts.warm.most = 1
	stalled := &pace{t: &transfer{ts: ts}, d: &downLane{lane: lane{stopped: make(chan struct{})}}}
	if !ts.warm.take(stalled, int64(time.Since(ts.born)+time.Hour)) { // it moves, for an hour
		t.Fatal("not one seat")
	}
	bob := rt.receiver("bob", placeA)
	content := testContent(5 * warmBytes / 2)
	path := rt.create("alice", "bob", len(content), "")
	half, rest := len(content)/2, make(chan []byte, 2)
	r := rt.request("PATCH", path, "alice", &lateBody{now: bytes.NewReader(content[:half]), rest: rest}, "Upload-Offset", "0")
	r.ContentLength = int64(len(content))
	done := make(chan answer, 1)
	go func() { done <- rt.do(r) }()
	eventually(t, func() bool { return bob.received(path) == half }) // without a seat
	if isStopped(stalled.d.stopped) {
		t.Error("a pair that moves has lost its seat")
	}
	stalled.last.Store(-int64(stalledAfter))
	rest <- content[half : len(content)-1]
	<-stalled.d.stopped
	rest <- content[len(content)-1:]
	close(rest)
	rt.want(<-done, 204)
	if !bytes.Equal(bob.content(path), content) {
		t.Error("other content")
	}
	eventually(t, func() bool { ts.warm.mu.Lock(); defer ts.warm.mu.Unlock(); return len(ts.warm.taken) == 0 })
}

// One write with the large buffers must not look as if the lane stood still.
func TestSlowLanesStayCold(t *testing.T) {
	for _, c := range []struct {
		bytes int64
		took  time.Duration
		want  bool
	}{
		{fastBytes, stalledAfter, true},
		{fastBytes, stalledAfter + time.Second, false},
		{fastBytes / 100, stalledAfter, false},
		{fastBytes / 2, stalledAfter / 4, true},
	} {
		if got := isFast(c.bytes, c.took); got != c.want {
			t.Errorf("%d bytes in %v: fast %t, want %t", c.bytes, c.took, got, c.want)
		}
		if piece := float64(laneBuffer/2) / float64(c.bytes) * c.took.Seconds(); c.want && piece > stalledAfter.Seconds()/2 {
			t.Errorf("%d bytes in %v: a write takes %.1f s", c.bytes, c.took, piece)
		}
	}
}
