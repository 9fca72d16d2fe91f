package server

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/dian-im/dian/internal/wire"
)

// A receiver that comes back before its old line was missed may be another process
// with less than the one before: a HEAD that waits is answered by its word, not by
// what was known of the old one.
func TestHeadWaitsForTheWordOfAReceiverThatCameBack(t *testing.T) {
	rt := newRelayTest(t, false, nil)
	bob := rt.login("demo", "bob", wire.Role_ROLE_LISTEN, placeA)
	created := make(chan string, 1)
	go func() { created <- rt.create("alice", "bob", 1000, "") }()
	o := bob.next(func(f *wire.Frame) bool { return f.GetOffer() != nil }).GetOffer()
	bob.send(&wire.Frame{Body: &wire.Frame_Answer{Answer: &wire.Answer{
		Transfer: o.Transfer, Decision: wire.Decision_DECISION_ACCEPT, Receipt: wire.Receipt_RECEIPT_STORED,
	}}})
	path := <-created

	down, err := http.NewRequestWithContext(t.Context(), http.MethodGet, rt.http.URL+o.Url, nil)
	if err != nil {
		t.Fatal(err)
	}
	down.Header.Set("Authorization", "Ticket "+o.Ticket)
	lane, err := rt.http.Client().Do(down)
	if err != nil {
		t.Fatal(err)
	}
	body, rest := io.Pipe()
	patched := make(chan answer, 1)
	go func() {
		patched <- rt.do(rt.request("PATCH", path, "alice", body, "Upload-Offset", "0"))
	}()
	if _, err := rest.Write(testContent(400)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(lane.Body, make([]byte, 400)); err != nil {
		t.Fatal(err)
	}
	bob.send(&wire.Frame{Body: &wire.Frame_Received{Received: &wire.Received{Transfer: o.Transfer, Offset: 300}}})
	lane.Body.Close()
	rest.CloseWithError(io.ErrUnexpectedEOF)
	<-patched
	t0 := rt.srv.transfers.find(o.Transfer)
	eventually(t, func() bool { // the server has missed both lanes
		t0.mu.Lock()
		defer t0.mu.Unlock()
		return t0.down == nil && t0.up == nil
	})

	asked := make(chan answer, 1)
	go func() { asked <- rt.head(path, "alice") }()
	bob.next(func(f *wire.Frame) bool { return f.GetSync() != nil })
	again := rt.login("demo", "bob", wire.Role_ROLE_LISTEN, placeA)
	q := again.next(func(f *wire.Frame) bool { return f.GetQuery() != nil }).GetQuery()
	again.send(&wire.Frame{Body: &wire.Frame_Standing{Standing: &wire.Standing{
		Transfer: q.Transfer, SendId: q.SendId, State: wire.TransferState_TRANSFER_STATE_PARTIAL, Offset: 250, Size: 1000,
	}}})
	// It has said what it has, and may be asked whether that survives it.
	go func() {
		for f := range again.frames {
			if s := f.GetSync(); s != nil {
				again.send(&wire.Frame{Body: &wire.Frame_Received{Received: &wire.Received{Transfer: s.Transfer, Offset: 250}}})
			}
		}
	}()
	a := rt.want(<-asked, 200)
	if got := a.header.Get("Upload-Offset"); got != "250" {
		t.Errorf("Upload-Offset = %q, want 250, %s", got, strings.TrimPrefix(path, lanePathPrefix))
	}
}
