package server

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// pump reads a session's frames, and so keeps it alive, until it ends.
func (p *testPeer) pump() <-chan *wire.Frame {
	frames := make(chan *wire.Frame, 1000)
	go func() {
		defer close(frames)
		for {
			f, err := p.read()
			if err != nil {
				return
			}
			frames <- f
		}
	}()
	return frames
}

func answerAccept(transfer string, offset int64) *wire.Frame {
	return &wire.Frame{Body: &wire.Frame_Answer{Answer: &wire.Answer{
		Transfer: transfer, Decision: wire.Decision_DECISION_ACCEPT, Offset: offset, Receipt: wire.Receipt_RECEIPT_STORED}}}
}

// A receiver's token ends in the middle of a long transfer: it is told, its session and
// its lane end with the token, and its next login goes on from where it was.
func TestTransferOutlivesAToken(t *testing.T) { // case 29
	synctest.Test(t, func(t *testing.T) {
		const hours, size, first = 10, 100, 40
		content := testContent(size)
		r := memRelay(t, func(c *Config) { c.ResumeWindow = 24 * time.Hour })
		start := time.Now()
		bob := r.hello(listenHello(relayToken(t, "app", "bob", hours*time.Hour, nil, nil), 1))
		frames := bob.pump()
		created := make(chan string, 1)
		go func() {
			resp, _ := r.do("POST", "/v1/users/bob/transfers", r.token("alice"), nil, "Tus-Resumable", "1.0.0", "Upload-Length", strconv.Itoa(size))
			created <- resp.Header.Get("Location")
		}()
		offer := (<-frames).GetOffer()
		bob.send(answerAccept(offer.GetTransfer(), 0))
		path := <-created
		if path != lanePathPrefix+offer.GetTransfer() {
			t.Fatalf("Location %q, offer %v", path, offer)
		}
		get := func(ticket string, from int) (got []byte, ended time.Duration) {
			req, err := http.NewRequest("GET", "http://relay.example"+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Ticket "+ticket)
			req.Header.Set("Range", "bytes="+strconv.Itoa(from)+"-")
			resp, err := r.web.Do(req)
			if err != nil || resp.StatusCode != http.StatusPartialContent {
				t.Errorf("GET = %v, %v", resp, err)
				return nil, 0
			}
			defer resp.Body.Close()
			got, _ = io.ReadAll(resp.Body)
			return got, time.Since(start)
		}
		patch := func(from, to int) (int, string) {
			resp, body := r.do("PATCH", path, r.token("alice"), bytes.NewReader(content[from:to]),
				"Tus-Resumable", "1.0.0", "Content-Type", tusContentType, "Upload-Offset", strconv.Itoa(from))
			return resp.StatusCode, resp.Header.Get("Upload-Offset") + body
		}

		var lanes sync.WaitGroup
		lanes.Go(func() {
			got, ended := get(offer.Ticket, 0)
			if !bytes.Equal(got, content[:first]) {
				t.Errorf("the first lane brought %d bytes, want %d", len(got), first)
			}
			if over := ended - hours*time.Hour; over < -time.Second || over > 25*time.Second {
				t.Errorf("it ended %v after the token, want at most 25s", over)
			}
		})
		lanes.Go(func() {
			if status, said := patch(0, first); status != http.StatusNoContent || said != strconv.Itoa(first) {
				t.Errorf("PATCH = %d %s", status, said)
			}
		})
		if f := <-frames; f.GetSync() == nil {
			t.Errorf("got %v, want Sync", f)
		}
		bob.send(&wire.Frame{Body: &wire.Frame_Received{Received: &wire.Received{Transfer: offer.Transfer, Offset: first}}})

		if f := <-frames; f.GetTokenWillExpire() == nil || time.Since(start).Round(time.Second) != hours*time.Hour-tokenNotice {
			t.Errorf("got %v after %v", f, time.Since(start))
		}
		if f := <-frames; wire.Code(f.GetLineOff().GetCode()) != wire.TokenExpired || time.Since(start).Round(time.Second) != hours*time.Hour {
			t.Errorf("got %v after %v", f, time.Since(start))
		}
		lanes.Wait()
		if resp, _ := r.do("GET", path, "", nil, "Authorization", "Ticket "+offer.Ticket); resp.StatusCode != http.StatusNotFound {
			t.Errorf("the old ticket gets %d, want 404", resp.StatusCode)
		}

		bob = r.hello(listenHello(r.token("bob"), 1))
		frames = bob.pump()
		q := (<-frames).GetQuery()
		if q.GetTransfer() != offer.Transfer || q.GetTicket() == offer.Ticket {
			t.Fatalf("Query %v", q)
		}
		bob.send(&wire.Frame{Body: &wire.Frame_Standing{Standing: &wire.Standing{
			Transfer: q.Transfer, State: wire.TransferState_TRANSFER_STATE_PARTIAL, Offset: first, Size: size}}})
		lanes.Go(func() {
			if got, _ := get(q.Ticket, first); !bytes.Equal(got, content[first:]) {
				t.Errorf("the second lane brought %d bytes, want %d", len(got), size-first)
			}
		})
		lanes.Go(func() {
			if status, said := patch(first, size); status != http.StatusNoContent || said != strconv.Itoa(size) {
				t.Errorf("second PATCH = %d %s", status, said)
			}
		})
		for f := <-frames; f.GetFinish() == nil; f = <-frames {
		}
		bob.send(&wire.Frame{Body: &wire.Frame_Verdict{Verdict: &wire.Verdict{Transfer: q.Transfer, Receipt: wire.Receipt_RECEIPT_STORED}}})
		lanes.Wait()
		bob.conn.Close()
	})
}

// A ticket that is used a hundred times at once: one lane gets the content, whole and
// once, and no other gets a byte of it.
func TestOneOfAHundredLanesOfATicketGetsTheContent(t *testing.T) { // case 33
	rt := newRelayTest(t, false, nil)
	bob := rt.receiver("bob", placeA)
	bob.noLanes = true
	content := testContent(50_000)
	path := rt.create("alice", "bob", len(content), "")
	p := bob.part(path)
	bodies := make([][]byte, 100)
	statuses := make([]int, len(bodies))
	var ended atomic.Int64
	for i := range bodies {
		go func() {
			a := rt.do(rt.request("GET", path, "", nil, "Authorization", "Ticket "+p.ticket))
			bodies[i], statuses[i] = []byte(a.body), a.status
			ended.Add(1)
		}()
	}
	// The newest one ends all others, whichever that is.
	eventually(t, func() bool { return ended.Load() == int64(len(bodies)-1) })
	patched := make(chan answer, 1)
	go func() { patched <- rt.patch(path, "alice", 0, content) }()
	eventually(t, func() bool { return ended.Load() == int64(len(bodies)) })
	whole := 0
	for i, body := range bodies {
		switch {
		case bytes.Equal(body, content):
			whole++
		case len(body) > 0 && statuses[i] == http.StatusOK:
			t.Errorf("lane %d got %d bytes too", i, len(body))
		}
	}
	if whole != 1 {
		t.Errorf("%d lanes got all of it, want 1", whole)
	}
	bob.mu.Lock()
	p.data = content
	bob.confirm(p.offer.Transfer, p)
	bob.judge(p.offer.Transfer, p)
	bob.mu.Unlock()
	rt.want(<-patched, http.StatusNoContent)
	if n := rt.srv.transfers.lanesOpen(); n != 0 {
		t.Errorf("%d lanes are left", n)
	}
}

// lanesOpen counts the transfers that have a lane.
func (ts *transfers) lanesOpen() (n int) {
	ts.mu.Lock()
	all := keys(ts.table)
	ts.mu.Unlock()
	for _, t := range all {
		t.mu.Lock()
		if t.down != nil || t.up != nil {
			n++
		}
		t.mu.Unlock()
	}
	return n
}

// What is secret, and what is other people's, is told nowhere: not in the log at its
// most talkative, not in metrics, not in an answer, not when something breaks.
func TestNothingSecretIsToldAnywhere(t *testing.T) { // cases 31 and 113
	const secret, text = "canary-secret-0123456789abcdef0123", "canarytext"
	var log lockedBuffer
	panicking := false
	r := tcpRelay(t, func(c *Config) {
		c.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug - 4}))
		c.Apps[0].Keys = []Key{{ID: "k", Algorithm: HS256, Secret: NewSecret([]byte(secret))}}
		c.Authorize = func(_ context.Context, a Action) error {
			if panicking {
				panic("the hook fell over " + a.Target + secret)
			}
			return nil
		}
	})
	key := Key{ID: "k", Algorithm: HS256, Secret: NewSecret([]byte(secret))}
	mint := func(user string) string {
		token, err := Mint(key, "app", user, time.Hour, nil, []string{"*"})
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	alice, bob := mint("alice-"+text), mint("bob-"+text)
	var said strings.Builder
	do := func(method, path, token string, body string, headers ...string) {
		req, err := http.NewRequest(method, "http://relay.example"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		for i := 0; i < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		if resp, err := r.web.Do(req); err == nil {
			got, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			said.WriteString(resp.Status + string(got))
			for name, values := range resp.Header {
				said.WriteString(name + strings.Join(values, " "))
			}
		}
	}
	listener := r.hello(listenHello(bob, 1))
	frames := listener.pump()
	go func() {
		for f := range frames {
			switch b := f.Body.(type) {
			case *wire.Frame_Command:
				listener.send(ackFrame(&wire.CommandAck{Ref: b.Command.Ref, Id: b.Command.Id, Outcome: final, Code: uint32(wire.PeerRefused)}))
			case *wire.Frame_Offer:
				listener.send(&wire.Frame{Body: &wire.Frame_Answer{Answer: &wire.Answer{Transfer: b.Offer.Transfer, Decision: wire.Decision_DECISION_REFUSE, Code: uint32(wire.PeerRefused)}}})
			}
		}
	}()
	meta := "Y2FuYXJ5dGV4dA==" // canarytext
	for _, token := range []string{alice, alice[:len(alice)-3] + "AAA", alice + "x", "x" + secret, mint("..x")[:40]} {
		for _, user := range []string{"bob-" + text, "nobody-" + text, "%00" + text, "bad%0D%0A" + text} {
			do("POST", "/v1/users/"+user+"/commands", token, text, "Dian-Meta", meta)
			do("PUT", "/v1/users/"+user+"/files/"+text+".txt", token, text, "Dian-Meta", meta)
			do("POST", "/v1/users/"+user+"/transfers", token, text, "Tus-Resumable", "1.0.0", "Upload-Length", "10",
				"Upload-Metadata", "filename "+meta+",meta "+meta, "Content-Type", tusContentType)
			do("GET", "/v1/transfers/"+text, token, "")
			do("GET", "/v1/transfers/"+text+"?ticket="+secret, token, "")
			do("PATCH", "/v1/transfers/"+text, token, text, "Tus-Resumable", "1.0.0", "Content-Type", tusContentType, "Upload-Offset", "0")
			do("GET", "/"+text+"?token="+token, token, text)
			do("GET", "/v1/users", token, text, "Origin", "https://"+text+".example")
			do("POST", "/v1/users/"+user+"/commands", token, text, "Dian-Send-Id", text, "X-HTTP-Method-Override", text)
		}
		p := r.dial(wire.ProtoSubprotocol)
		p.send(helloFrame(&wire.Hello{Token: token, Client: text, Role: wire.Role_ROLE_SEND}))
		if f, err := p.read(); err == nil && f.GetWelcome() != nil {
			p.send(commandFrame(&wire.Command{Id: text, Target: text, Data: []byte(text)}),
				&wire.Frame{Body: &wire.Frame_Offer{Offer: &wire.Offer{SendId: text, Target: text, Name: text}}},
				&wire.Frame{Body: &wire.Frame_UpdateToken{UpdateToken: &wire.UpdateToken{Token: token + "x"}}},
				&wire.Frame{Body: &wire.Frame_Answer{Answer: &wire.Answer{Transfer: text, Detail: text}}})
			for err == nil {
				_, err = p.read()
			}
		}
		p.conn.Close()
	}
	panicking = true
	do("POST", "/v1/users/bob-"+text+"/commands", alice, text)
	do("GET", "/v1/users/bob-"+text, alice, "")
	p := r.hello(sendHello(alice))
	p.send(commandFrame(&wire.Command{Id: wire.NewSendID(), Target: "bob-" + text, Data: []byte(text)}))
	for err := error(nil); err == nil; {
		_, err = p.read()
	}
	panicking = false
	do("GET", "/metrics", alice, "")
	r.stop()
	logged := log.text()
	if !strings.Contains(logged, "bug caught") || !strings.Contains(logged, "token refused") {
		t.Errorf("the log does not tell of what happened: %.300s", logged)
	}
	signature := alice[strings.LastIndex(alice, ".")+1:]
	for what, canary := range map[string]string{"the secret": secret, "its half": secret[:20], "a token's signature": signature[:20], "a token": alice[:60]} {
		if strings.Contains(logged, canary) || strings.Contains(said.String(), canary) {
			t.Errorf("%s is told", what)
		}
	}
	if at := strings.Index(logged, text); at >= 0 {
		t.Errorf("the log tells a name or content: %s", logged[max(0, at-200):at+20])
	}
	if at := strings.Index(said.String(), text); at >= 0 {
		t.Errorf("an answer repeats a name or content: %s", said.String()[max(0, at-200):at+20])
	}
}
