package server

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

func fileOffer(size int64) *wire.Offer {
	return &wire.Offer{SendId: wire.NewSendID(), Target: "bob", Kind: wire.Kind_KIND_FILE, Size: size}
}

func cancelOf(sendID string) *wire.Frame {
	return &wire.Frame{Body: &wire.Frame_Cancel{Cancel: &wire.Cancel{SendId: sendID}}}
}

func TestInlineOfferIsJudgedAndAnsweredAgain(t *testing.T) {
	rt := newRelayTest(t, false, nil)
	bob := rt.receiver("bob", placeA)
	alice := rt.login("demo", "alice", wire.Role_ROLE_SEND, "")
	o := fileOffer(5)
	o.Kind, o.Inlined, o.Inline = wire.Kind_KIND_BUFFER, true, []byte("hello")
	alice.offer(o)
	if v := alice.verdict(); v.Code != 0 {
		t.Fatalf("Verdict = %v", v)
	}
	alice.offer(o)
	if v := alice.verdict(); v.Code != 0 {
		t.Errorf("again: %v", v)
	}
	bob.mu.Lock()
	defer bob.mu.Unlock()
	if bob.verdicts != 1 {
		t.Errorf("the receiver judged %d times", bob.verdicts)
	}
}

func TestRefusalReachesSender(t *testing.T) {
	rt := newRelayTest(t, false, nil)
	bob := rt.receiver("bob", placeA)
	bob.refuse = 606
	alice := rt.login("demo", "alice", wire.Role_ROLE_SEND, "")
	alice.offer(fileOffer(10))
	if v := alice.verdict(); v.Code != 606 || v.Origin != wire.Origin_ORIGIN_PEER || v.Detail != "no" {
		t.Errorf("Verdict = %v", v)
	}
	rt.want(rt.do(rt.request("POST", "/v1/users/bob/transfers", "alice", nil, "Upload-Length", "3")), 403)
	rt.want(rt.do(rt.request("PUT", "/v1/users/bob/files/x", "alice", strings.NewReader("abc"))), 403)
}

func TestServerRefusesOffersItself(t *testing.T) {
	rt := newRelayTest(t, false, func(c *Config) { c.MaxFileBytes = 1000 })
	rt.receiver("bob", placeA)
	alice := rt.login("demo", "alice", wire.Role_ROLE_SEND, "")
	for _, c := range []struct {
		change func(*wire.Offer)
		code   wire.Code
	}{
		{func(o *wire.Offer) { o.Target = "carol" }, wire.PeerOffline},
		{func(o *wire.Offer) { o.Target = "" }, wire.BadTarget},
		{func(o *wire.Offer) { o.Size = -1 }, wire.BadParameter},
		{func(o *wire.Offer) { o.Size = 1<<63 - 1 }, wire.FileTooLarge},
		{func(o *wire.Offer) { o.Size = 1001 }, wire.FileTooLarge},
		{func(o *wire.Offer) { o.Kind, o.Size = wire.Kind_KIND_BUFFER, wire.BufferBytes+1 }, wire.BufferTooLarge},
		{func(o *wire.Offer) { o.SendId = "no id" }, wire.BadSendID},
		{func(o *wire.Offer) { o.Instance = []byte(placeB) }, wire.BadSendID},
		{func(o *wire.Offer) { o.Inline = []byte("x") }, wire.BadParameter},
	} {
		o := fileOffer(10)
		c.change(o)
		alice.offer(o)
		if v := alice.verdict(); wire.Code(v.Code) != c.code || v.Origin != wire.Origin_ORIGIN_SERVER || v.SendId != o.SendId {
			t.Errorf("Verdict = %v, want %d", v, c.code)
		}
	}
}

func TestCancelBeforeTheLastByte(t *testing.T) {
	rt := newRelayTest(t, false, nil)
	bob := rt.receiver("bob", placeA)
	alice := rt.login("demo", "alice", wire.Role_ROLE_SEND, "")
	o := fileOffer(100)
	alice.offer(o)
	a := alice.accepted()
	rt.want(rt.patch(a.Url, "alice", 0, testContent(50)), 204)
	alice.send(cancelOf(o.SendId))
	if v := alice.verdict(); v.Code != 1105 || v.Origin != wire.Origin_ORIGIN_SERVER {
		t.Errorf("Verdict = %v", v)
	}
	eventually(t, func() bool { p := bob.part(a.Url); bob.mu.Lock(); defer bob.mu.Unlock(); return p.canceled && p.acked })
	alice.offer(o)
	if v := alice.verdict(); v.Code != 1105 {
		t.Errorf("offered again: %v", v)
	}
	alice.send(cancelOf(wire.NewSendID()))
	if v := alice.verdict(); v.Code != 1104 {
		t.Errorf("cancel of nothing: %v", v)
	}
}

func TestCancelAfterTheLastByteIsTheReceivers(t *testing.T) {
	for _, late := range []bool{false, true} {
		rt := newRelayTest(t, false, nil)
		bob := rt.receiver("bob", placeA)
		bob.silent = true
		alice := rt.login("demo", "alice", wire.Role_ROLE_SEND, "")
		o := fileOffer(100)
		alice.offer(o)
		a := alice.accepted()
		done := make(chan answer, 1)
		go func() { done <- rt.patch(a.Url, "alice", 0, testContent(100)) }()
		eventually(t, func() bool { return len(bob.content(a.Url)) == 100 })
		want, status := uint32(1105), 410
		if late { // it has verified already, and its verdict was lost
			want, status = 0, 204
			p := bob.part(a.Url)
			bob.mu.Lock()
			p.finished, p.done, bob.silent = &wire.Finish{}, true, false
			bob.mu.Unlock()
		}
		alice.send(cancelOf(o.SendId))
		if v := alice.verdict(); v.Code != want || v.Origin != wire.Origin_ORIGIN_PEER {
			t.Errorf("late %v: Verdict = %v", late, v)
		}
		rt.want(<-done, status)
	}
}

func TestReceiverCancels(t *testing.T) {
	rt := newRelayTest(t, false, nil)
	bob := rt.receiver("bob", placeA)
	content := testContent(1000)
	path := rt.create("alice", "bob", 1000, "")
	body := &brokenBody{Reader: bytes.NewReader(content[:500]), then: make(chan struct{})}
	done := make(chan answer, 1)
	go func() {
		r := rt.request("PATCH", path, "alice", body, "Upload-Offset", "0")
		r.ContentLength = 1000
		done <- rt.do(r)
	}()
	eventually(t, func() bool { return len(bob.content(path)) == 500 })
	bob.send(&wire.Frame{Body: &wire.Frame_Verdict{Verdict: &wire.Verdict{
		Transfer: strings.TrimPrefix(path, lanePathPrefix), Code: 1105}}})
	rt.want(<-done, 410)
	close(body.then)
	rt.want(rt.head(path, "alice"), 410)
}

func TestDeleteInMidPatch(t *testing.T) {
	rt := newRelayTest(t, false, nil)
	bob := rt.receiver("bob", placeA)
	for _, size := range []int{1000, 4 << 20} { // copied, and spliced
		path := rt.create("alice", "bob", size, "")
		body := &brokenBody{Reader: bytes.NewReader(testContent(size)[:size/2]), then: make(chan struct{})}
		done := make(chan answer, 1)
		go func() {
			r := rt.request("PATCH", path, "alice", body, "Upload-Offset", "0")
			r.ContentLength = int64(size)
			done <- rt.do(r)
		}()
		eventually(t, func() bool { return len(bob.content(path)) == size/2 })
		rt.want(rt.do(rt.request("DELETE", path, "alice", nil)), 204)
		if a := rt.want(<-done, 410); !strings.Contains(a.body, "1105") {
			t.Errorf("PATCH says %s", a.body)
		}
		close(body.then)
		rt.want(rt.do(rt.request("DELETE", path, "alice", nil)), 410)
	}
	path := rt.create("alice", "bob", 3, "")
	rt.want(rt.patch(path, "alice", 0, []byte("abc")), 204)
	if a := rt.want(rt.do(rt.request("DELETE", path, "alice", nil)), 403); !strings.Contains(a.body, "1104") {
		t.Errorf("DELETE of a done one says %s", a.body)
	}
}

func TestTicketsCountForTheirTransferOnly(t *testing.T) {
	rt := newRelayTest(t, false, nil)
	bob := rt.receiver("bob", placeA)
	bob.noLanes = true
	path, other := rt.create("alice", "bob", 10, ""), rt.create("alice", "bob", 10, "")
	for _, ticket := range []string{"", "x", bob.part(other).ticket} {
		rt.want(rt.do(rt.request("GET", path, "", nil, "Authorization", "Ticket "+ticket)), 404)
		rt.want(rt.do(rt.request("GET", path+"?ticket="+ticket, "bob", nil)), 404)
	}
	good := path + "?ticket=" + bob.part(path).ticket
	rt.want(rt.do(rt.request("GET", good, "", nil, "Range", "bytes=10-")), 416)
	rt.want(rt.do(rt.request("GET", good, "", nil, "Range", "bytes=9223372036854775807-")), 416)
	rt.want(rt.do(rt.request("GET", path[:len(path)-1], "", nil)), 404)
}

func TestDownLaneHeaders(t *testing.T) {
	rt := newRelayTest(t, false, nil)
	bob := rt.receiver("bob", placeA)
	bob.hold = true
	go rt.do(rt.request("POST", "/v1/users/bob/transfers", "alice", nil, "Upload-Length", "10",
		"Upload-Metadata", "filename YSINCuKCrC50eHQ=")) // a"\r\n€.txt
	var p *receivedPart
	eventually(t, func() bool {
		bob.mu.Lock()
		defer bob.mu.Unlock()
		for _, p = range bob.parts {
		}
		return p != nil
	})
	etag := ""
	for _, c := range []struct{ spec, ifRange, want, length string }{
		{"", "", "", "10"},
		{"bytes=4-", "", "bytes 4-9/10", "6"},
		{"bytes=4-", "ETAG", "bytes 4-9/10", "6"},
		{"bytes=4-", `"other"`, "", "10"},
		{"bytes=-3", "", "bytes 7-9/10", "3"},
		{"bytes=1-2,4-5", "", "", "10"},
		{"lines=1-2", "", "", "10"},
		{"bytes=2-99", "", "bytes 2-9/10", "8"},
	} {
		r := rt.request("GET", p.offer.Url, "", nil, "Authorization", "Ticket "+p.ticket)
		if c.spec != "" {
			r.Header.Set("Range", c.spec)
		}
		if c.ifRange != "" {
			r.Header.Set("If-Range", strings.ReplaceAll(c.ifRange, "ETAG", etag))
		}
		res, err := rt.http.Client().Do(r) // the head comes at once, though nothing is sent
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		h := res.Header
		if h.Get("Content-Range") != c.want || h.Get("Content-Length") != c.length || h.Get("X-Accel-Buffering") != "no" ||
			h.Get("Content-Disposition") != "attachment; filename*=utf-8''a___%E2%82%AC.txt" ||
			h.Get("Accept-Ranges") != "bytes" || h.Get("ETag") == "" || etag != "" && h.Get("ETag") != etag {
			t.Errorf("%v: %v", c, h)
		}
		etag = h.Get("ETag")
	}
	rt.srv.transfers.patience = 20 * time.Millisecond
	a := rt.want(rt.do(rt.request("GET", p.offer.Url, "", nil, "Authorization", "Ticket "+p.ticket, "Range", "bytes=0-4")), 503)
	if a.header.Get("Retry-After") != "0" {
		t.Errorf("Retry-After = %q", a.header.Get("Retry-After"))
	}
}

func TestStrangersCannotTouchATransfer(t *testing.T) { // cases 36, 37, 39
	rt := newRelayTest(t, false, nil)
	bob := rt.receiver("bob", placeA)
	mallory := rt.login("demo", "mallory", wire.Role_ROLE_LISTEN, placeB)
	path := rt.create("alice", "bob", 100, "")
	id := strings.TrimPrefix(path, lanePathPrefix)
	for _, r := range []*http.Request{
		rt.request("HEAD", path, "mallory", nil),
		rt.request("DELETE", path, "mallory", nil),
		rt.request("PATCH", path, "bob", strings.NewReader("x"), "Upload-Offset", "0"),
		rt.request("HEAD", path, "", nil, "Authorization", "Bearer "+tokenOf(t, "other", "alice")),
		rt.request("HEAD", path+"A", "alice", nil),
		rt.request("HEAD", lanePathPrefix+"AQ", "alice", nil),
	} {
		rt.want(rt.do(r), 404)
	}
	rt.want(rt.do(rt.request("HEAD", path, "", nil)), 401)
	for _, f := range []*wire.Frame{
		{Body: &wire.Frame_Received{Received: &wire.Received{Transfer: id, Offset: 50}}},
		{Body: &wire.Frame_Verdict{Verdict: &wire.Verdict{Transfer: id}}},
		{Body: &wire.Frame_Standing{Standing: &wire.Standing{Transfer: id, State: wire.TransferState_TRANSFER_STATE_UNKNOWN}}},
		{Body: &wire.Frame_Answer{Answer: &wire.Answer{Transfer: id, Decision: wire.Decision_DECISION_REFUSE, Code: 606}}},
		{Body: &wire.Frame_Finish{Finish: &wire.Finish{Transfer: id}}},
		{Body: &wire.Frame_Cancel{Cancel: &wire.Cancel{Transfer: id}}},
		{Body: &wire.Frame_VerdictAck{VerdictAck: &wire.VerdictAck{Transfer: id}}},
	} {
		mallory.send(f)
	}
	if v := mallory.verdict(); v.Code != 1104 { // of its Cancel
		t.Errorf("Verdict = %v", v)
	}
	content := testContent(100)
	if err := rt.uploadAll(path, "alice", content, 100); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(bob.content(path), content) {
		t.Error("other content")
	}
}

func TestLyingReceiverEndsItsSession(t *testing.T) { // cases 15, 17
	rt := newRelayTest(t, false, nil)
	bob := rt.receiver("bob", placeA)
	path := rt.create("alice", "bob", 100, "")
	bob.send(&wire.Frame{Body: &wire.Frame_Received{Received: &wire.Received{
		Transfer: strings.TrimPrefix(path, lanePathPrefix), Offset: 1<<63 - 1}}})
	eventually(t, func() bool { return rt.srv.listener("demo", "bob") == nil })
}

func TestManyOpenTransfersAreRefused(t *testing.T) { // case 51
	rt := newRelayTest(t, false, func(c *Config) { c.Limits.User.Transfers = 12 })
	rt.receiver("bob", placeA)
	for range 3 {
		rt.create("alice", "bob", 10, "")
	}
	a := rt.want(rt.do(rt.request("POST", "/v1/users/bob/transfers", "alice", nil, "Upload-Length", "10")), 503)
	if !strings.Contains(a.body, `"code":602`) || a.header.Get("Retry-After") == "" {
		t.Errorf("answer %s %v", a.body, a.header)
	}
}

func TestUnansweredOfferIsWithdrawn(t *testing.T) {
	rt := newRelayTest(t, false, func(c *Config) { c.HTTPOfferWait = 300 * time.Millisecond })
	bob := rt.receiver("bob", placeA)
	bob.hold = true
	rt.want(rt.do(rt.request("POST", "/v1/users/bob/transfers", "alice", nil, "Upload-Length", "10")), 422)
	eventually(t, func() bool {
		bob.mu.Lock()
		defer bob.mu.Unlock()
		for _, p := range bob.parts {
			return p.canceled
		}
		return false
	})
}

func TestIdleTransferIsForgotten(t *testing.T) {
	rt := newRelayTest(t, false, func(c *Config) { c.ResumeWindow = 300 * time.Millisecond })
	rt.receiver("bob", placeA)
	alice := rt.login("demo", "alice", wire.Role_ROLE_SEND, "")
	alice.offer(fileOffer(10))
	alice.accepted()
	if v := alice.verdict(); v.Code != 207 {
		t.Errorf("Verdict = %v, want 207", v)
	}
	ts := rt.srv.transfers
	eventually(t, func() bool { // the table is empty
		ts.mu.Lock()
		defer ts.mu.Unlock()
		return len(ts.table)+len(ts.ids)+len(ts.source)+len(ts.target)+len(ts.open) == 0
	})
}

func TestTusRefusals(t *testing.T) {
	rt := newRelayTest(t, false, nil)
	rt.receiver("bob", placeA)
	const create = "/v1/users/bob/transfers"
	path := rt.create("alice", "bob", 10, "")
	for _, c := range []struct {
		name   string
		r      *http.Request
		status int
	}{
		{"no version", rt.request("POST", create, "alice", nil, "Tus-Resumable", ""), 412},
		{"other version", rt.request("HEAD", path, "alice", nil, "Tus-Resumable", "0.2.2"), 412},
		{"no length", rt.request("POST", create, "alice", nil), 400},
		{"negative length", rt.request("POST", create, "alice", nil, "Upload-Length", "-1"), 400},
		{"length over 63 bits", rt.request("POST", create, "alice", nil, "Upload-Length", "9223372036854775808"), 400},
		{"length with a plus", rt.request("POST", create, "alice", nil, "Upload-Length", "+1"), 400},
		{"metadata not base64", rt.request("POST", create, "alice", nil, "Upload-Length", "1", "Upload-Metadata", "filename $"), 400},
		{"metadata twice", rt.request("POST", create, "alice", nil, "Upload-Length", "1", "Upload-Metadata", "a YQ==,a YQ=="), 400},
		{"bad digest", rt.request("POST", create, "alice", nil, "Upload-Length", "1", "Upload-Metadata", "digest YQ=="), 400},
		{"bad kind", rt.request("POST", create, "alice", nil, "Upload-Length", "1", "Upload-Metadata", "kind YQ=="), 400},
		{"nobody there", rt.request("POST", "/v1/users/carol/transfers", "alice", nil, "Upload-Length", "1"), 404},
		{"content type", rt.request("PATCH", path, "alice", strings.NewReader("x"), "Upload-Offset", "0", "Content-Type", "text/plain"), 415},
		{"no offset", rt.request("PATCH", path, "alice", strings.NewReader("x")), 400},
		{"past the end", rt.request("PATCH", path, "alice", strings.NewReader("xx"), "Upload-Offset", "9"), 400},
		{"huge offset", rt.request("PATCH", path, "alice", strings.NewReader("xx"), "Upload-Offset", "9223372036854775807"), 400},
		{"empty body", rt.request("PATCH", path, "alice", nil, "Upload-Offset", "0"), 400},
	} {
		if a := rt.do(c.r); a.status != c.status {
			t.Errorf("%s: %d %s, want %d", c.name, a.status, a.body, c.status)
		}
	}
	a := rt.want(rt.do(rt.request("OPTIONS", path, "", nil)), 204)
	if a.header.Get("Tus-Extension") != tusExtensions {
		t.Errorf("OPTIONS: %v", a.header)
	}
}

func TestCreationWithUploadAndSameIDTwice(t *testing.T) {
	rt := newRelayTest(t, false, nil)
	bob := rt.receiver("bob", placeA)
	content := testContent(500)
	const metadata = "sendId MDE5MmYwYzAtMDAwMC03MDAwLTgwMDAtMDAwMDAwMDAwMDAx,kind YnVmZmVy"
	r := rt.request("POST", "/v1/users/bob/transfers", "alice", bytes.NewReader(content),
		"Upload-Length", "500", "Upload-Metadata", metadata, "Content-Type", tusContentType)
	a := rt.want(rt.do(r), 201)
	if a.header.Get("Upload-Offset") != "500" {
		t.Errorf("Upload-Offset = %s", a.header.Get("Upload-Offset"))
	}
	path := a.header.Get("Location")
	if again := rt.create("alice", "bob", 500, metadata); again != path {
		t.Errorf("the same sendId gave another transfer")
	}
	if p := bob.part(path); p.offer.Kind != wire.Kind_KIND_BUFFER || !bytes.Equal(bob.content(path), content) {
		t.Errorf("offer %v", p.offer)
	}
	rt.want(rt.do(rt.request("POST", "/v1/users/bob/transfers", "alice", nil,
		"Upload-Length", "501", "Upload-Metadata", metadata)), 404) // another content under the same id
}

func TestMethodOverride(t *testing.T) {
	rt := newRelayTest(t, false, nil)
	bob := rt.receiver("bob", placeA)
	path := rt.create("alice", "bob", 3, "")
	rt.want(rt.do(rt.request("POST", path, "alice", strings.NewReader("abc"), "X-HTTP-Method-Override", "PATCH",
		"Upload-Offset", "0", "Content-Type", tusContentType)), 204)
	if string(bob.content(path)) != "abc" {
		t.Errorf("content %q", bob.content(path))
	}
}

func TestCloseEndsWaitingLanes(t *testing.T) {
	rt := newRelayTest(t, false, nil)
	bob := rt.receiver("bob", placeA)
	path := rt.create("alice", "bob", 10<<20, "")
	body, w := io.Pipe()
	done := make(chan answer, 1)
	go func() {
		r := rt.request("PATCH", path, "alice", body, "Upload-Offset", "0")
		r.ContentLength = 10 << 20
		done <- rt.do(r)
	}()
	_, _ = w.Write(testContent(1 << 20))
	eventually(t, func() bool { return len(bob.content(path)) > 0 })
	begun := time.Now()
	rt.srv.transfers.close()
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("close took %v", took)
	}
	w.CloseWithError(io.ErrUnexpectedEOF)
	<-done
}
