package server

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/dian-im/dian/internal/wire"
	"github.com/dian-im/dian/internal/wiretest"
)

// A matrixRelay is a relay with two calm sessions, a transfer and a command between
// them that are under way, and mallory, who sends every frame in every state.
type matrixRelay struct {
	*baseline
	transfer *wire.Accepted
	pending  *wire.Command
	token    string               // mallory's
	actors   map[string]*testPeer // mallory's live sessions, by role and protocol
	cells    int
}

func newMatrixRelay(t testing.TB) *matrixRelay {
	r := memRelay(t, fastRates, func(c *Config) {
		c.CommandWait, c.OfferWait, c.ResumeWindow = 10*time.Minute, 10*time.Minute, time.Hour
		c.Heartbeat = 25 * time.Second
	})
	m := &matrixRelay{baseline: newBaseline(r), token: r.token("mallory"), actors: map[string]*testPeer{}}
	o := &wire.Offer{SendId: wire.NewSendID(), Target: "calm-bob", Kind: wire.Kind_KIND_FILE, Size: 10}
	m.alice.send(&wire.Frame{Body: &wire.Frame_Offer{Offer: o}})
	got := m.bob.next().GetOffer()
	m.bob.send(&wire.Frame{Body: &wire.Frame_Answer{Answer: &wire.Answer{
		Transfer: got.GetTransfer(), Decision: wire.Decision_DECISION_ACCEPT, Offset: 3, Receipt: wire.Receipt_RECEIPT_STORED}}})
	if m.transfer = m.alice.next().GetAccepted(); m.transfer == nil {
		t.Fatal("no transfer to harm")
	}
	m.alice.send(commandFrame(&wire.Command{Id: wire.NewSendID(), Target: "calm-bob", Data: []byte("under way")}))
	m.pending = m.bob.command()
	return m
}

// snapshot is what the server knows, without what is mallory's own.
func (m *matrixRelay) snapshot() string {
	return snapshotOf(m.r.srv, func(s *session) bool { return s.user != "mallory" }, func(k transferKey) bool { return k.source != "mallory" })
}

// snapshotOf is what the server knows of the victims' sessions and transfers.
func snapshotOf(s *Server, ofSession func(*session) bool, ofTransfer func(transferKey) bool) string {
	var lines []string
	for _, sess := range s.all() {
		if !ofSession(sess) {
			continue
		}
		sess.pending.mu.Lock()
		lines = append(lines, fmt.Sprintln("session", sess.user, sess.epoch, sess.live(), sess.status.Load(), sess.pending.used,
			sess.party.user.used[countSent].Load(), sess.token().Expires, s.listener(sess.app, sess.user) != nil))
		sess.pending.mu.Unlock()
	}
	s.transfers.mu.Lock()
	all := keys(s.transfers.table)
	s.transfers.mu.Unlock()
	for _, t := range all {
		t.mu.Lock()
		if ofTransfer(t.key) {
			lines = append(lines, fmt.Sprintln("transfer", t.id, t.m.State(), t.m.At(), t.m.Confirmed(), t.m.Synced(), t.m.Relayed(), t.m.Acked(),
				t.sender != nil, t.receiver != nil, t.ticket, t.upUntil, t.m.Receipt(), t.up != nil, t.down != nil))
		}
		t.mu.Unlock()
	}
	s.presence.mu.RLock()
	for at, watchers := range s.presence.named {
		for w := range watchers {
			if ofSession(w) {
				lines = append(lines, fmt.Sprintln("watch", at, w.user))
			}
		}
	}
	s.presence.mu.RUnlock()
	sort.Strings(lines)
	return strings.Join(lines, "")
}

// known is what frames are filled with: of this world, but of nothing that is there.
func (m *matrixRelay) known() map[string]any {
	return map[string]any{
		"id": wire.NewSendID(), "send_id": wire.NewSendID(), "target": "nobody", "user": "mallory", "app": "app",
		"instance": instanceOf(9), "transfer": "AbC_-09", "url": "/v1/transfers/AbC_-09", "ticket": "T", "token": m.token,
		"stream": uint64(5), "seq": uint64(7), "floor": uint64(6), "size": int64(10), "offset": int64(5), "inline": []byte{},
		"lane_base": "http://evil.example", "algorithm": "x3b",
	}
}

// aimed is known, but names what is under way between the calm sessions.
func (m *matrixRelay) aimed() map[string]any {
	k := m.known()
	k["transfer"], k["send_id"], k["target"] = m.transfer.Transfer, m.transfer.SendId, "calm-bob"
	k["url"], k["user"], k["instance"] = m.transfer.Url, "calm-bob", instanceOf(1)
	k["CommandAck.ref"], k["CommandAck.id"], k["Command.ref"] = m.pending.Ref, m.pending.Id, m.pending.Ref
	return k
}

// Who may send what in a live session (docs/protocol.md §4 to §7); all else closes
// with 1002.
var (
	sentByAll       = []string{"Ping", "Pong", "UpdateToken", "Command", "PresenceQuery", "PresenceSubscribe", "Offer", "Finish", "VerdictAck", "Cancel"}
	sentByListeners = []string{"CommandAck", "Status", "Answer", "Received", "Verdict", "Standing"}
)

// An expectation is what a frame has to lead to.
type expectation struct {
	status int         // a close; stays
	answer string      // the kind of the one frame that answers; "" for none
	codes  []wire.Code // one of which it has; nil for any
	moved  bool        // it reaches the calm bob
}

// expectLive says what a frame leads to in a live session.
func expectLive(kind string, f *wire.Frame, role wire.Role, good string, stopping bool) expectation {
	if !slices.Contains(sentByAll, kind) && !(role == wire.Role_ROLE_LISTEN && slices.Contains(sentByListeners, kind)) {
		return expectation{status: websocket.CloseProtocolError}
	}
	broken := brokenRules(f)
	codes := func(unbroken ...wire.Code) []wire.Code {
		if len(broken) > 0 {
			return broken
		}
		return unbroken
	}
	switch kind {
	case "Ping", "Pong", "Status":
		return expectation{} // a Pong is the link's and comes at its time
	case "Command":
		if to := f.GetCommand().Target; len(broken) == 0 && to == "calm-bob" {
			return expectation{answer: "CommandResult", codes: codes(0), moved: true}
		}
		return expectation{answer: "CommandResult", codes: codes(wire.PeerOffline)}
	case "UpdateToken":
		unbroken := wire.TokenMalformed
		if f.GetUpdateToken().Token == good {
			unbroken = wire.OK
		}
		return expectation{answer: "TokenUpdated", codes: append(codes(unbroken), wire.OverLimit)}
	case "PresenceQuery", "PresenceSubscribe":
		return expectation{answer: "PresenceList", codes: append(codes(0), wire.OverLimit)}
	case "Offer":
		if o := f.GetOffer(); len(broken) == 0 && o.Target == "calm-bob" && !stopping {
			if len(o.Instance) > 0 && string(o.Instance) != string(instanceOf(1)) {
				return expectation{answer: "Verdict", codes: []wire.Code{wire.BadSendID}}
			}
			return expectation{answer: "Verdict", codes: []wire.Code{wire.PeerRefused}, moved: true}
		}
		if stopping {
			return expectation{answer: "Verdict", codes: codes(wire.PeerOffline, wire.ServiceFault)}
		}
		return expectation{answer: "Verdict", codes: codes(wire.PeerOffline)}
	case "Cancel":
		if len(broken) == 0 {
			// Or what became of a transfer of mallory's own under this id.
			return expectation{answer: "Verdict", codes: []wire.Code{wire.BadSendID, wire.PeerRefused}}
		}
	}
	if len(broken) > 0 {
		return expectation{status: websocket.CloseProtocolError}
	}
	return expectation{}
}

// codeIn is the code of an answer.
func codeIn(f *wire.Frame) wire.Code {
	switch b := f.Body.(type) {
	case *wire.Frame_CommandResult:
		return wire.Code(b.CommandResult.Code)
	case *wire.Frame_TokenUpdated:
		return wire.Code(b.TokenUpdated.Code)
	case *wire.Frame_PresenceList:
		return wire.Code(b.PresenceList.Code)
	case *wire.Frame_Verdict:
		return wire.Code(b.Verdict.Code)
	}
	return 0
}

// actor returns mallory's live session.
func (m *matrixRelay) actor(role wire.Role, protocol string) *testPeer {
	key := fmt.Sprint(role, protocol)
	if m.actors[key] == nil {
		p := m.r.dial(protocol)
		h := listenHello(m.token, 5)
		h.Role = role
		p.send(helloFrame(h))
		if f := p.next(); f.GetWelcome() == nil {
			m.r.t.Fatalf("no Welcome: %v", f)
		}
		m.actors[key] = p
	}
	return m.actors[key]
}

// live sends a frame in a live session and compares what follows with what has to.
func (m *matrixRelay) live(t *testing.T, v wiretest.Variant, role wire.Role, protocol string, stopping bool) {
	t.Helper()
	m.cells++
	p := m.actor(role, protocol)
	want := expectLive(v.Kind, v.Frame, role, m.token, stopping)
	cell := fmt.Sprintf("%v, %v, %s, stopping %v", v, role, protocol, stopping)
	before := m.snapshot()
	if stopping {
		m.stopping(true)
		defer m.stopping(false)
	}
	p.send(v.Copy())
	if want.status != stays {
		m.ended(t, p, cell, want.status)
		delete(m.actors, fmt.Sprint(role, protocol))
		m.unchanged(t, cell, before)
		return
	}
	if want.moved {
		m.arrives(t, cell, v)
	}
	probe := wire.NewSendID()
	p.send(commandFrame(&wire.Command{Id: probe, Target: "nobody"}))
	var got []*wire.Frame
	// What is told later than the probe's result: of bob's answer, and lists, which
	// go out when there is room.
	late := want.answer != "" && (want.moved || want.answer == "PresenceList")
	for probed := false; !probed || late && len(got) == 0; {
		p.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
		f, err := p.read()
		if err != nil {
			t.Fatalf("%s: %v, want it to go on", cell, err)
		}
		switch {
		case f.GetCommandResult().GetId() == probe:
			probed = true
		case f.GetPresenceChange() == nil && f.GetTokenWillExpire() == nil && f.GetAccepted() == nil:
			got = append(got, f)
		}
	}
	switch {
	case want.answer == "" && len(got) > 0:
		t.Errorf("%s: answered with %v", cell, got)
	case want.answer != "" && (len(got) != 1 || kindOf(got[0]) != want.answer || want.codes != nil && !slices.Contains(want.codes, codeIn(got[0]))):
		t.Errorf("%s: answered with %v, want %s with one of %v", cell, got, want.answer, want.codes)
	}
	if want.moved && len(got) == 1 && got[0].GetVerdict() != nil {
		// Otherwise the next offer of this id is answered with the same verdict.
		p.send(&wire.Frame{Body: &wire.Frame_VerdictAck{VerdictAck: &wire.VerdictAck{Transfer: got[0].GetVerdict().Transfer}}})
		if f := m.bob.next(); f.GetVerdictAck() == nil {
			t.Fatalf("%s: bob got %v, want VerdictAck", cell, f)
		}
	}
	m.unchanged(t, cell, before)
}

// arrives lets the calm bob take what mallory has sent to him, and sees who it is from.
func (m *matrixRelay) arrives(t *testing.T, cell string, v wiretest.Variant) {
	t.Helper()
	m.bob.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	f, err := m.bob.read()
	if err != nil {
		t.Fatalf("%s: nothing came to bob: %v", cell, err)
	}
	m.bob.conn.SetReadDeadline(time.Time{})
	var source *wire.Peer
	if c := f.GetCommand(); c != nil {
		source = c.Source
		if c.Ref == v.Frame.GetCommand().GetRef() && c.Ref != 0 {
			t.Errorf("%s: the ref came through", cell)
		}
		m.bob.send(ackFrame(&wire.CommandAck{Ref: c.Ref, Id: c.Id, Outcome: final}))
	} else if o := f.GetOffer(); o != nil {
		source = o.Source
		if o.Transfer == v.Frame.GetOffer().GetTransfer() || o.Ticket == v.Frame.GetOffer().GetTicket() || o.Url == v.Frame.GetOffer().GetUrl() {
			t.Errorf("%s: the sender's transfer, url or ticket came through", cell)
		}
		m.bob.send(&wire.Frame{Body: &wire.Frame_Answer{Answer: &wire.Answer{
			Transfer: o.Transfer, Decision: wire.Decision_DECISION_REFUSE, Code: uint32(wire.PeerRefused)}}})
	}
	if source.GetUser() != "mallory" { // case 36
		t.Errorf("%s: bob got %v, want it from mallory", cell, f)
	}
}

func (m *matrixRelay) stopping(yes bool) {
	m.r.srv.mu.Lock()
	defer m.r.srv.mu.Unlock()
	m.r.srv.ending = yes
}

// ended wants a session to be closed without another word.
func (m *matrixRelay) ended(t *testing.T, p *testPeer, cell string, status int) {
	t.Helper()
	p.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	f, err := p.read()
	for err == nil && f.GetPresenceChange() != nil {
		f, err = p.read()
	}
	if !websocket.IsCloseError(err, status) {
		t.Errorf("%s: got %v, %v; want close %d", cell, f, err, status)
	}
	p.conn.Close()
}

// unchanged wants the calm sessions to be as they were, and to work.
func (m *matrixRelay) unchanged(t *testing.T, cell, before string) {
	t.Helper()
	if after := m.snapshot(); after != before {
		t.Errorf("%s: changed\n%sto\n%s", cell, before, after)
	}
	if m.cells%16 == 0 {
		m.command(t, cell)
	}
}

// gone is a session that ends: its LineOff has been read, its connection is still there.
func (m *matrixRelay) gone(t *testing.T, role wire.Role, protocol string) *testPeer {
	p := m.actor(role, protocol)
	delete(m.actors, fmt.Sprint(role, protocol))
	for _, sess := range m.r.srv.all() {
		if sess.user == "mallory" && sess.role == role && sess.json == p.json {
			sess.end(wire.TokenExpired, "")
		}
	}
	for f := p.next(); f.GetLineOff() == nil; f = p.next() {
	}
	return p
}

// Every frame of session.proto, in every form, in every state, of every role, in both
// subprotocols: it is a legal step, a typed error or a close, and nothing else moves.
func TestEveryFrameInEveryStateOfEveryRole(t *testing.T) { // cases 11, 12, 13, 15 and 36
	m := newMatrixRelay(t)
	all := wiretest.Variants(m.known())
	aimed := slices.DeleteFunc(wiretest.Variants(m.aimed()), func(v wiretest.Variant) bool { return v.Name == "empty" })
	// Beside those, the largest inline content and a buffer that is too large.
	inlined := func(n int) *wire.Frame {
		return &wire.Frame{Body: &wire.Frame_Offer{Offer: &wire.Offer{SendId: wire.NewSendID(), Target: "nobody", Kind: 1, Size: int64(n), Inlined: true, Inline: make([]byte, n)}}}
	}
	all = append(all, wiretest.Variant{Kind: "Offer", Name: "with the largest inline content", Frame: inlined(65536)}, wiretest.Variant{Kind: "Offer", Name: "with inline content too large", Frame: inlined(65537)},
		wiretest.Variant{Kind: "Offer", Name: "of a buffer too large", Frame: &wire.Frame{Body: &wire.Frame_Offer{Offer: &wire.Offer{SendId: wire.NewSendID(), Target: "nobody", Kind: 1, Size: 104857601}}}})
	protocols := []string{wire.ProtoSubprotocol, wire.JSONSubprotocol}
	roles := []wire.Role{wire.Role_ROLE_LISTEN, wire.Role_ROLE_SEND}
	brief := func(v wiretest.Variant) bool { return !v.Odd() }

	t.Run("live", func(t *testing.T) {
		for _, protocol := range protocols {
			for _, role := range roles {
				for _, v := range all {
					m.live(t, v, role, protocol, false)
				}
				for _, v := range aimed {
					m.live(t, v, role, protocol, false)
				}
			}
		}
	})
	t.Run("while the server stops", func(t *testing.T) {
		for _, protocol := range protocols {
			for _, role := range roles {
				for _, v := range append(all[:len(all):len(all)], aimed...) {
					if brief(v) {
						m.live(t, v, role, protocol, true)
					}
				}
			}
		}
	})
	t.Run("before Hello", func(t *testing.T) {
		for _, protocol := range protocols {
			for _, v := range append(all[:len(all):len(all)], aimed...) {
				if v.Kind == "Hello" || brief(v) {
					m.early(t, v, protocol)
				}
			}
		}
	})
	t.Run("behind a refused Hello", func(t *testing.T) {
		for _, protocol := range protocols {
			for _, v := range append(all[:len(all):len(all)], aimed...) {
				if !brief(v) {
					continue
				}
				m.cells++
				before := m.snapshot()
				p := m.r.dial(protocol)
				p.send(helloFrame(&wire.Hello{Token: "x", Role: wire.Role_ROLE_SEND}))
				if f := p.next(); f.GetLineOff() == nil {
					t.Fatalf("got %v, want LineOff", f)
				}
				p.send(v.Copy())
				cell := fmt.Sprintf("%v, behind a refused Hello, %s", v, protocol)
				m.ended(t, p, cell, websocket.ClosePolicyViolation)
				m.unchanged(t, cell, before)
			}
		}
	})
	t.Run("behind LineOff", func(t *testing.T) {
		for _, protocol := range protocols {
			for _, role := range roles {
				for _, v := range append(all[:len(all):len(all)], aimed...) {
					if !brief(v) {
						continue
					}
					m.cells++
					before := m.snapshot()
					p := m.gone(t, role, protocol)
					_ = p.write(v.Copy()) // the line may be closed by now
					cell := fmt.Sprintf("%v, behind LineOff, %v, %s", v, role, protocol)
					m.ended(t, p, cell, websocket.ClosePolicyViolation)
					m.unchanged(t, cell, before)
				}
			}
		}
	})
	m.command(t, "at the end")
	if got := m.r.counter("dian_panics_total"); got != "0" {
		t.Errorf("dian_panics_total = %s", got)
	}
	t.Logf("%d cells", m.cells)
}

// early sends a frame before Hello.
func (m *matrixRelay) early(t *testing.T, v wiretest.Variant, protocol string) {
	t.Helper()
	m.cells++
	before := m.snapshot()
	cell := fmt.Sprintf("%v, before Hello, %s", v, protocol)
	p := m.r.dial(protocol)
	p.send(v.Copy())
	defer p.conn.Close()
	p.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	f, err := p.read()
	switch broken := brokenRules(v.Frame); {
	case v.Kind != "Hello" || tooLongForLogin(t, v.Frame, p.json):
		if !websocket.IsCloseError(err, websocket.ClosePolicyViolation, websocket.CloseMessageTooBig) {
			t.Errorf("%s: got %v, %v; want close 1008", cell, f, err)
		}
	case len(broken) > 0:
		if !slices.Contains(broken, wire.Code(f.GetLineOff().GetCode())) {
			t.Errorf("%s: got %v, %v; want LineOff with one of %v", cell, f, err, broken)
		}
	case v.Frame.GetHello().Token != m.token:
		if wire.Code(f.GetLineOff().GetCode()) != wire.TokenMalformed {
			t.Errorf("%s: got %v, %v; want LineOff(19)", cell, f, err)
		}
	case f.GetWelcome() == nil:
		t.Errorf("%s: got %v, %v; want Welcome", cell, f, err)
	}
	m.unchanged(t, cell, before)
}

// tooLongForLogin reports whether a message is over 16 KiB.
func tooLongForLogin(t *testing.T, f *wire.Frame, json bool) bool {
	t.Helper()
	s := &socket{t: t, json: json}
	return len(s.encode(f)) > 16<<10
}
