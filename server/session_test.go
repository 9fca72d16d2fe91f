package server

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"math"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/dian-im/dian/internal/wire"
)

// rawToken signs claims that Mint would not make.
func rawToken(t testing.TB, claims string) string {
	t.Helper()
	enc := base64.RawURLEncoding.EncodeToString
	body := enc([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + enc([]byte(claims))
	mac := hmac.New(sha256.New, relayKey.Secret.bytes())
	mac.Write([]byte(body))
	return body + "." + enc(mac.Sum(nil))
}

func TestEveryFrameInEveryRole(t *testing.T) { // cases 12 and 13
	r := tcpRelay(t)
	// Who may send what; all else is a protocol error. Ping and Pong are the link's.
	both := map[string]bool{"UpdateToken": true, "Command": true, "PresenceQuery": true, "PresenceSubscribe": true,
		"Offer": true, "Finish": true, "VerdictAck": true, "Cancel": true, "Ping": true, "Pong": true}
	listening := map[string]bool{"CommandAck": true, "Status": true, "Answer": true, "Received": true, "Verdict": true, "Standing": true}
	for _, role := range []wire.Role{wire.Role_ROLE_LISTEN, wire.Role_ROLE_SEND} {
		for _, f := range everyFrame() {
			name := kindOf(f)
			allowed := both[name] || role == wire.Role_ROLE_LISTEN && listening[name]
			p := r.hello(&wire.Hello{Token: r.token("alice"), Role: role, Instance: instanceOf(1)})
			p.send(f)
			if !allowed {
				p.ended(websocket.CloseProtocolError)
				continue
			}
			if strings.Contains(" CommandAck Finish VerdictAck Cancel Answer Received Verdict Standing ", " "+name+" ") {
				continue // empty ones break rules of their own; what counts is that nothing panics
			}
			id := wire.NewSendID()
			p.send(commandFrame(&wire.Command{Id: id, Target: "nobody"}))
			for answer := p.next(); answer.GetCommandResult().GetId() != id; answer = p.next() {
			}
		}
	}
	if got := r.counter("dian_panics_total"); got != "0" {
		t.Errorf("dian_panics_total = %s", got)
	}
}

// kindOf is a frame's kind as a word: "Hello".
func kindOf(f *wire.Frame) string {
	name := string(f.ProtoReflect().WhichOneof(f.ProtoReflect().Descriptor().Oneofs().Get(0)).Message().Name())
	return name
}

func TestUnknownFramesAndFieldsAreIgnored(t *testing.T) { // case 16
	r := tcpRelay(t)
	p := r.listen("alice")
	// A frame of field 55, and a Ping with an unknown field.
	if err := p.conn.WriteMessage(websocket.BinaryMessage, []byte{
		5, 0xBA, 0x03, 2, 8, 1, // length 5: field 55, length 2
		4, 0x42, 2, 0x50, 7, // length 4: ping {10: 7}
	}); err != nil {
		t.Fatal(err)
	}
	p.send(commandFrame(&wire.Command{Id: wire.NewSendID(), Target: "alice"}))
	p.command()
}

func TestBrokenMessagesEndTheSession(t *testing.T) { // cases 1, 3, 5, 6, 15 and 18
	deep := []byte(strings.Repeat(`{"a":`, 10_000))
	long := binary.AppendUvarint(nil, math.MaxUint64)
	for name, c := range map[string]struct {
		json   bool
		raw    []byte // written below the WebSocket, or
		kind   int    // as a message of this kind
		data   []byte
		status int
	}{
		"frame length over the message": {kind: websocket.BinaryMessage, data: []byte{200, 1, 1}, status: websocket.CloseInvalidFramePayloadData},
		"frame length 2^64-1":           {kind: websocket.BinaryMessage, data: long, status: websocket.CloseInvalidFramePayloadData},
		"frame length zero":             {kind: websocket.BinaryMessage, data: []byte{0}, status: websocket.CloseInvalidFramePayloadData},
		"not minimal length":            {kind: websocket.BinaryMessage, data: []byte{0x82, 0x00, 0x42, 0x00}, status: websocket.CloseInvalidFramePayloadData},
		"not protobuf":                  {kind: websocket.BinaryMessage, data: []byte{3, 0xFF, 0xFF, 0xFF}, status: websocket.CloseInvalidFramePayloadData},
		"text in a binary session":      {kind: websocket.TextMessage, data: []byte("{}"), status: websocket.CloseUnsupportedData},
		"binary in a text session":      {json: true, kind: websocket.BinaryMessage, data: []byte{1}, status: websocket.CloseUnsupportedData},
		"deep JSON":                     {json: true, kind: websocket.TextMessage, data: deep, status: websocket.CloseInvalidFramePayloadData},
		"1e999":                         {json: true, kind: websocket.TextMessage, data: []byte(`{"commandAck":{"ref":1e999}}`), status: websocket.CloseInvalidFramePayloadData},
		"repeated key":                  {json: true, kind: websocket.TextMessage, data: []byte(`{"ping":{},"ping":{}}`), status: websocket.CloseInvalidFramePayloadData},
		"message too large":             {kind: websocket.BinaryMessage, data: make([]byte, wire.MessageBytes+1), status: websocket.CloseMessageTooBig},
		"length 2^63-1":                 {raw: []byte{0x82, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0}, status: websocket.CloseMessageTooBig},
		"length with its top bit":       {raw: []byte{0x82, 0xFF, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, status: websocket.CloseProtocolError},
		"compressed":                    {raw: []byte{0xC2, 0x81, 0, 0, 0, 0, 0}, status: websocket.CloseProtocolError},
		"not masked":                    {raw: []byte{0x82, 0x01, 0}, status: websocket.CloseProtocolError},
		"reserved opcode":               {raw: []byte{0x83, 0x80, 0, 0, 0, 0}, status: websocket.CloseProtocolError},
		"fragmented ping":               {raw: []byte{0x09, 0x80, 0, 0, 0, 0}, status: websocket.CloseProtocolError},
	} {
		t.Run(name, func(t *testing.T) {
			r := tcpRelay(t)
			protocol := wire.ProtoSubprotocol
			if c.json {
				protocol = wire.JSONSubprotocol
			}
			p := r.dial(protocol)
			p.send(helloFrame(listenHello(r.token("alice"), 1)))
			if p.next().GetWelcome() == nil {
				t.Fatal("no Welcome")
			}
			var err error
			if c.raw != nil {
				_, err = p.conn.NetConn().Write(c.raw)
			} else {
				err = p.conn.WriteMessage(c.kind, c.data)
			}
			if err != nil {
				t.Fatal(err)
			}
			p.ended(c.status)
		})
	}
}

func TestEndlessContinuationsEndTheSession(t *testing.T) { // cases 3 and 4
	r := tcpRelay(t)
	p := r.listen("alice")
	conn := p.conn.NetConn()
	write := func(b []byte) bool { _, err := conn.Write(b); return err == nil }
	piece := append([]byte{0x00, 0xFE, 0x40, 0x00, 0, 0, 0, 0}, make([]byte, 0x4000)...)
	first := append([]byte{0x02}, piece[1:]...)
	for n := 0; write(first) && n < 1000; n++ {
		first = piece
	}
	p.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if f, err := p.read(); err == nil {
		t.Errorf("got %v, want the end", f)
	}
	r.listen("alice") // the server lives
}

func TestMessageInManyFragmentsEndsTheSession(t *testing.T) { // case 4
	for name, piece := range map[string][]byte{"empty": {0x00, 0x80, 0, 0, 0, 0}, "tiny": {0x00, 0x81, 0, 0, 0, 0, 1}} {
		synctest.Test(t, func(t *testing.T) {
			r := memRelay(t)
			flood, alice, bob := r.listen("mallory"), r.sender("alice"), r.listen("bob")
			conn := flood.conn.NetConn()
			var flooding sync.WaitGroup
			sent := 0
			flooding.Go(func() {
				first := append([]byte{0x02}, piece[1:]...)
				for {
					if _, err := conn.Write(first); err != nil {
						return
					}
					first = piece
					sent++
					time.Sleep(time.Millisecond)
				}
			})
			for range 10 {
				id := wire.NewSendID()
				alice.send(commandFrame(&wire.Command{Id: id, Target: "bob"}))
				bob.send(ackFrame(&wire.CommandAck{Ref: bob.command().Ref, Id: id, Outcome: final}))
				if got := alice.result(); got.Id != id || got.Code != 0 {
					t.Errorf("%s: beside the flood: %v", name, got)
				}
				time.Sleep(100 * time.Millisecond)
			}
			flood.ended(websocket.ClosePolicyViolation)
			flood.conn.Close()
			flooding.Wait()
			// As many fragments as one message may have, and what it wrote until it read the close.
			if sent < 300 || sent > 2000 {
				t.Errorf("%s: closed after %d fragments", name, sent)
			}
		})
	}
}

func TestPanicEndsOneSessionOnly(t *testing.T) { // rule R23
	r := tcpRelay(t, func(c *Config) {
		c.Authorize = func(_ context.Context, a Action) error {
			if a.Target == "boom" {
				panic("a bug of the operator's")
			}
			return nil
		}
	})
	p, other := r.listen("alice"), r.listen("bob")
	p.send(commandFrame(&wire.Command{Id: wire.NewSendID(), Target: "boom"}))
	p.ended(websocket.CloseInternalServerErr)
	req, err := http.NewRequest("GET", "http://relay.example/v1/users/boom", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+r.token("alice"))
	if resp, err := r.web.Do(req); err == nil {
		resp.Body.Close()
		t.Errorf("answered %d", resp.StatusCode)
	}
	other.send(commandFrame(&wire.Command{Id: wire.NewSendID(), Target: "bob"}))
	other.command()
	if got := r.counter("dian_panics_total"); got == "0" || got == "" {
		t.Errorf("dian_panics_total = %s", got)
	}
}

func TestClientThatDoesNotReadIsEnded(t *testing.T) { // cases 45 and 49
	synctest.Test(t, func(t *testing.T) {
		r := memRelay(t, func(c *Config) { c.Limits.User.QueuedBytes = 512 << 10 })
		p := r.listen("alice")
		// Its own commands are refused, and it reads none of the refusals.
		p.conn.SetWriteDeadline(time.Now().Add(time.Minute))
		var msg []byte
		for range 500 {
			msg, _ = wire.AppendBinary(msg, commandFrame(&wire.Command{Id: wire.NewSendID(), Target: "nobody"}))
		}
		for range 1000 {
			if p.conn.WriteMessage(websocket.BinaryMessage, msg) != nil {
				break
			}
		}
		synctest.Wait()
		if got := r.srv.stateOf("app", "alice"); got.Status != statusOffline {
			t.Errorf("still %v", got)
		}
		p.conn.Close()
	})
}

func TestShutdownIsAnnouncedAndOrderly(t *testing.T) { // case 101
	synctest.Test(t, func(t *testing.T) {
		r := memRelay(t)
		p := r.listen("alice")
		half := r.dial(wire.ProtoSubprotocol) // not logged in
		go r.stop()
		if g := p.next().GetGoAway(); g == nil || g.DelayMs != uint32(goAwayDelay.Milliseconds()) {
			t.Errorf("GoAway %v", g)
		}
		p.ended(websocket.CloseServiceRestart)
		half.conn.SetReadDeadline(time.Now().Add(time.Minute))
		if f, err := half.read(); err == nil {
			t.Errorf("got %v", f)
		}
		r.stopped()
		if err := r.srv.Shutdown(context.Background()); err != nil {
			t.Errorf("second Shutdown = %v", err)
		}
	})
}

// stopped waits until Shutdown is through.
func (r *testRelay) stopped() { <-r.srv.ended }

func TestStoppingServerTakesNobody(t *testing.T) {
	r := tcpRelay(t)
	half := r.dial(wire.ProtoSubprotocol)
	r.srv.mu.Lock()
	r.srv.ending = true
	r.srv.mu.Unlock()
	half.send(helloFrame(listenHello(r.token("alice"), 1)))
	half.lineOff(wire.ServiceFault)
	for _, path := range []string{"/readyz", "/v1/session"} {
		resp, body := r.do("GET", path, "", nil)
		wantProblem(t, resp, body, http.StatusServiceUnavailable, wire.ServiceFault)
	}
	resp, body := r.do("POST", "/v1/users/bob/commands", r.token("alice"), nil)
	wantProblem(t, resp, body, http.StatusServiceUnavailable, wire.ServiceFault)
	if resp, _ := r.do("GET", "/healthz", "", nil); resp.StatusCode != http.StatusOK {
		t.Errorf("healthz = %d", resp.StatusCode)
	}
}

func TestShutdownGivesUpWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv, err := New(relayConfig())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := srv.Shutdown(ctx); err != context.Canceled {
			t.Errorf("Shutdown = %v, want context.Canceled", err)
		}
	})
}
