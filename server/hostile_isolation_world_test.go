package server

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// What only the victims may learn: it occurs in nothing that others are told.
const (
	canaryName = "canary-name"
	canaryText = "canary-text"
	canaryMeta = "canary-meta"
)

const (
	victimApp  = "app"
	islandSize = 10 // of the victims' transfers
	islandFrom = 3  // which the receiver has already
)

// instanceBob is the victim's receiving place.
var instanceBob = bytes.Repeat([]byte{0xB0}, wire.InstanceBytes)

// An islander is a session that reads all the time, plays its part as
// docs/protocol.md has it, and remembers what it was told.
type islander struct {
	*testPeer
	keeps map[string]bool // commands without ack, transfers that are accepted

	mu  sync.Mutex // guards what follows
	got []*wire.Frame
	err error // how it ended
}

func newIslander(p *testPeer) *islander {
	i := &islander{testPeer: p, keeps: map[string]bool{}}
	go func() {
		for {
			f, err := p.read()
			i.mu.Lock()
			if err != nil {
				i.err = err
				i.mu.Unlock()
				return
			}
			i.got = append(i.got, f)
			i.mu.Unlock()
			i.play(f)
		}
	}()
	return i
}

// told returns what has come since it was asked last.
func (i *islander) told() ([]*wire.Frame, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	got := i.got
	i.got = nil
	return got, i.err
}

// play answers: commands are done, offers are refused but the victims' own, and of
// anything else nothing is known.
func (i *islander) play(f *wire.Frame) {
	switch b := f.Body.(type) {
	case *wire.Frame_Command:
		if !i.keeps[b.Command.Id] || b.Command.Source.User != "alice" {
			i.reply(ackFrame(&wire.CommandAck{Ref: b.Command.Ref, Id: b.Command.Id, Outcome: final}))
		}
	case *wire.Frame_Offer:
		if o := b.Offer; i.keeps[o.SendId] && o.Source.User == "alice" {
			i.reply(answerAccept(o.Transfer, islandFrom))
			return
		}
		i.reply(&wire.Frame{Body: &wire.Frame_Answer{Answer: &wire.Answer{
			Transfer: b.Offer.Transfer, Decision: wire.Decision_DECISION_REFUSE, Code: uint32(wire.PeerRefused)}}})
	case *wire.Frame_Query:
		i.reply(&wire.Frame{Body: &wire.Frame_Standing{Standing: &wire.Standing{
			Transfer: b.Query.Transfer, State: wire.TransferState_TRANSFER_STATE_UNKNOWN}}})
	case *wire.Frame_Cancel:
		i.reply(&wire.Frame{Body: &wire.Frame_Verdict{Verdict: &wire.Verdict{Transfer: b.Cancel.Transfer, Code: uint32(wire.Cancelled)}}})
	case *wire.Frame_Sync:
		i.reply(&wire.Frame{Body: &wire.Frame_Received{Received: &wire.Received{Transfer: b.Sync.Transfer, Offset: b.Sync.Offset}}})
	case *wire.Frame_Finish:
		i.reply(&wire.Frame{Body: &wire.Frame_Verdict{Verdict: &wire.Verdict{Transfer: b.Finish.Transfer, Receipt: wire.Receipt_RECEIPT_STORED}}})
	case *wire.Frame_Verdict:
		if b.Verdict.Transfer != "" {
			i.reply(&wire.Frame{Body: &wire.Frame_VerdictAck{VerdictAck: &wire.VerdictAck{Transfer: b.Verdict.Transfer}}})
		}
	}
}

// reply answers, if the island is not about to end.
func (i *islander) reply(f *wire.Frame) { _ = i.write(f) }

// An island is a relay, in a bubble, with two victims: alice, who sends, and bob, who
// receives. A transfer of a session, one of an HTTP sender and a command are under
// way between them.
type island struct {
	t          *testing.T
	r          *testRelay
	alice, bob *islander
	viaSession *wire.Offer // as bob was asked
	viaHTTP    *wire.Offer
	pending    *wire.Command
	content    []byte
	sessions   map[uint64]bool // epochs of the victims'
	banned     string          // a user whom the operator's hook forbids everything
}

// newIsland makes it; first happens before the victims come.
func newIsland(t *testing.T, first ...func(w *island)) *island {
	w := &island{t: t, content: testContent(islandSize), sessions: map[uint64]bool{}}
	w.r = memRelay(t, fastRates, func(c *Config) {
		c.CommandWait, c.OfferWait, c.ResumeWindow = 10*time.Minute, 10*time.Hour, 20*time.Hour
		c.Heartbeat = 25 * time.Second
		c.Authorize = hookOf(&w.banned)
	})
	w.r.srv.transfers.patience = time.Second // a cell must not use up CommandWait
	for _, f := range first {
		f(w)
	}
	session := w.offer()
	w.bob = newIslander(w.r.hello(&wire.Hello{Token: w.token("bob"), Role: wire.Role_ROLE_LISTEN, Instance: instanceBob}))
	web, command := wire.NewSendID(), wire.NewSendID()
	for _, id := range []string{session.SendId, web, command} {
		w.bob.keeps[id] = true
	}
	w.alice = newIslander(w.r.hello(sendHello(w.token("alice"))))
	w.sessions[w.alice.welcome.Epoch], w.sessions[w.bob.welcome.Epoch] = true, true
	w.alice.send(&wire.Frame{Body: &wire.Frame_Offer{Offer: session}},
		commandFrame(&wire.Command{Id: command, Target: "bob", Data: []byte(canaryText), Meta: []byte(canaryMeta)}))
	resp, body := w.r.do("POST", "/v1/users/bob/transfers", w.token("alice"), nil, "Tus-Resumable", "1.0.0",
		"Upload-Length", strconv.Itoa(islandSize), "Upload-Metadata", "sendId "+base64Text(web)+",filename "+base64Text(canaryName)+",meta "+base64Text(canaryMeta))
	synctest.Wait()
	got, _ := w.bob.told()
	for _, f := range got {
		switch o := f.GetOffer(); {
		case o.GetSendId() == session.SendId:
			w.viaSession = o
		case o.GetSendId() == web:
			w.viaHTTP = o
		case f.GetCommand() != nil:
			w.pending = f.GetCommand()
		}
	}
	if w.viaSession == nil || w.viaHTTP == nil || w.pending == nil || resp.Header.Get("Location") != lanePathPrefix+w.viaHTTP.Transfer {
		t.Fatalf("nothing to harm: %d %s, bob has %v", resp.StatusCode, body, got)
	}
	w.alice.told()
	return w
}

func (w *island) token(user string) string {
	return relayToken(w.t, victimApp, user, 10_000*time.Hour, nil, []string{"*"})
}

func (w *island) offer() *wire.Offer {
	return &wire.Offer{SendId: wire.NewSendID(), Target: "bob", Kind: wire.Kind_KIND_FILE, Size: islandSize, Name: canaryName, Meta: []byte(canaryMeta)}
}

// snapshot is what the server knows of the victims.
func (w *island) snapshot() string {
	return snapshotOf(w.r.srv, func(s *session) bool { return w.sessions[s.epoch] }, func(k transferKey) bool {
		return k.app == victimApp && k.source == "alice"
	})
}

// canaries is what nobody else may be told.
func (w *island) canaries() []string {
	all := []string{canaryName, canaryText, canaryMeta, string(instanceBob), base64Text(string(instanceBob)), base64Text(canaryMeta), base64Text(canaryText)}
	for _, o := range []*wire.Offer{w.viaSession, w.viaHTTP} {
		all = append(all, o.Ticket)
	}
	return all
}

// goOn brings all that is under way between the victims to a good end.
func (w *island) goOn() {
	w.t.Helper()
	w.bob.send(ackFrame(&wire.CommandAck{Ref: w.pending.Ref, Id: w.pending.Id, Outcome: final, Reply: []byte("reply")}))
	synctest.Wait()
	got, err := w.alice.told()
	if len(got) != 1 || string(got[0].GetCommandResult().GetReply()) != "reply" {
		w.t.Errorf("the victims' command ended with %v, %v", got, err)
	}
	for _, o := range []*wire.Offer{w.viaSession, w.viaHTTP} {
		var lanes sync.WaitGroup
		lanes.Go(func() {
			resp, body := w.r.do("GET", o.Url, "", nil, "Authorization", "Ticket "+o.Ticket, "Range", fmt.Sprintf("bytes=%d-", islandFrom))
			if resp.StatusCode != http.StatusPartialContent || body != string(w.content[islandFrom:]) {
				w.t.Errorf("the victim's lane brought %d %q", resp.StatusCode, body)
			}
			if o == w.viaSession { // its up-lane waits for the verdict
				w.alice.send(&wire.Frame{Body: &wire.Frame_Finish{Finish: &wire.Finish{Transfer: o.Transfer}}})
			}
		})
		lanes.Go(func() {
			resp, body := w.r.do("PATCH", o.Url, w.token("alice"), bytes.NewReader(w.content[islandFrom:]),
				"Tus-Resumable", "1.0.0", "Content-Type", tusContentType, "Upload-Offset", strconv.Itoa(islandFrom))
			if resp.StatusCode != http.StatusNoContent {
				w.t.Errorf("the victim's up-lane got %d %s", resp.StatusCode, body)
			}
		})
		lanes.Wait()
	}
	synctest.Wait()
	got, _ = w.alice.told()
	if last := got[max(0, len(got)-1):]; len(last) != 1 || last[0].GetVerdict().GetReceipt() != wire.Receipt_RECEIPT_STORED || last[0].GetVerdict().GetCode() != 0 {
		w.t.Errorf("the victims' transfer ended with %v", got)
	}
	resp, _ := w.r.do("HEAD", w.viaHTTP.Url, w.token("alice"), nil, "Tus-Resumable", "1.0.0")
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Upload-Offset") != strconv.Itoa(islandSize) {
		w.t.Errorf("the victim's HTTP transfer stands at %d %v", resp.StatusCode, resp.Header)
	}
	if n := w.r.counter("dian_panics_total"); n != "0" {
		w.t.Errorf("dian_panics_total = %s", n)
	}
}

// calm wants the victims to be as they were before a cell, and to have been told
// nothing but what the actor may send to bob.
func (w *island) calm(cell, before string, a isolationActor, reaches string) {
	w.t.Helper()
	if seen := w.heard(cell, before, a); seen != reaches {
		w.t.Errorf("%s: bob was sent %q, want %q", cell, seen, reaches)
	}
}

// heard is calm with whatever the actor may send, and returns the kind of it.
func (w *island) heard(cell, before string, a isolationActor) (seen string) {
	w.t.Helper()
	if after := w.snapshot(); after != before {
		w.t.Errorf("%s: the victims' state was\n%sand is\n%s", cell, before, after)
	}
	if got, err := w.alice.told(); len(got) > 0 || err != nil {
		w.t.Errorf("%s: alice was told %v, %v", cell, got, err)
	}
	got, err := w.bob.told()
	if err != nil {
		w.t.Fatalf("%s: bob's session ended: %v", cell, err)
	}
	for _, f := range got {
		var source, transfer string
		switch b := f.Body.(type) {
		case *wire.Frame_Command:
			source, seen = b.Command.Source.GetUser(), "Command"
		case *wire.Frame_Offer:
			source, seen, transfer = b.Offer.Source.GetUser(), "Offer", b.Offer.Transfer
		case *wire.Frame_Query:
			source, seen, transfer = b.Query.Source.GetUser(), "Query", b.Query.Transfer
		case *wire.Frame_Cancel:
			source, transfer = b.Cancel.Source.GetUser(), b.Cancel.Transfer
		case *wire.Frame_VerdictAck: // of an offer that he refused
			source, transfer = a.user, b.VerdictAck.Transfer
		}
		if id, err := decodeTransferID(transfer); transfer != "" && (err != nil || id.App != a.app || id.Source != a.user) {
			source = "somebody else"
		}
		if source != a.user || a.app != victimApp {
			w.t.Errorf("%s: bob was told %v", cell, f)
		}
		seen = cmp.Or(seen, kindOf(f))
	}
	return seen
}

// secret wants nothing of the victims' in what an actor was told.
func (w *island) secret(cell, told string) {
	w.t.Helper()
	for _, canary := range w.canaries() {
		if strings.Contains(told, canary) {
			w.t.Errorf("%s: the answer tells %q: %s", cell, canary, told)
		}
	}
}

// end closes the bubble's connections.
func (w *island) end(more ...*islander) {
	for _, i := range append(more, w.alice, w.bob) {
		i.conn.Close()
	}
	w.r.stop()
}

// readAll reads an answer's head and body as one text, and the body.
func readAll(resp *http.Response) (text, body string) {
	defer resp.Body.Close()
	data, _ := io.ReadAll(resp.Body)
	resp.Body = io.NopCloser(bytes.NewReader(data))
	resp.Header.Del("Date")
	resp.Header.Del("Content-Length") // the body is there
	var head bytes.Buffer
	_ = resp.Header.Write(&head)
	return resp.Status + "\n" + head.String() + string(data), string(data)
}
