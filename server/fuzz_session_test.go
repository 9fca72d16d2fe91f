package server

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/dian-im/dian/internal/wire"
)

// FuzzHandshake: who is let in has shaken hands as RFC 6455 wants it, and everybody
// else gets a problem document.
func FuzzHandshake(f *testing.F) {
	f.Add("Upgrade", "websocket", "13", socketKey, "dian.v1.proto", "", "")
	f.Add("keep-alive, upgrade", "h2c, WebSocket", "13", socketKey, "x, dian.v1.json", "https://relay.example", "permessage-deflate")
	f.Add("Upgrade", "websocket", "8", "AA==", "dian.v1.proto", "http://evil.example", "")
	f.Add("close", "websocket", "13", socketKey+" ", "dian.v1", "null", "x")
	f.Fuzz(func(t *testing.T, connection, upgrade, version, key, protocol, origin, extensions string) {
		if len(connection)+len(upgrade)+len(version)+len(key)+len(protocol)+len(origin)+len(extensions) > 20_000 {
			return
		}
		onIsland(t, func(w *island) {
			before := w.snapshot()
			s := w.r.socket()
			s.conn.SetDeadline(time.Now().Add(5 * time.Second))
			var text strings.Builder
			text.WriteString("GET /v1/session HTTP/1.1\r\nHost: relay.example\r\n")
			for name, value := range map[string]string{"Connection": connection, "Upgrade": upgrade, "Sec-WebSocket-Version": version, "Sec-WebSocket-Key": key,
				"Sec-WebSocket-Protocol": protocol, "Origin": origin, "Sec-WebSocket-Extensions": extensions} {
				if value = header(value); value != "" {
					text.WriteString(name + ": " + value + "\r\n")
				}
			}
			s.write([]byte(text.String() + "\r\n"))
			resp, err := s.answer(http.MethodGet)
			if resp == nil {
				t.Fatalf("no answer: %v", err)
			}
			if resp.StatusCode != http.StatusSwitchingProtocols {
				told, _ := readAll(resp)
				w.answered(resp, told, before, w.mallory())
				return
			}
			trim := func(v string) string { return strings.Trim(header(v), " \t") }
			nonce, err := base64.StdEncoding.DecodeString(trim(key))
			has := func(list, word string) bool { return strings.Contains(strings.ToLower(list), word) }
			if trim(version) != "13" || err != nil || len(nonce) != 16 || !has(connection, "upgrade") || !has(upgrade, "websocket") ||
				!strings.Contains(protocol, resp.Header.Get("Sec-WebSocket-Protocol")) || resp.Header.Get("Sec-WebSocket-Protocol") == "" ||
				resp.Header.Get("Sec-WebSocket-Extensions") != "" || trim(origin) != "" && !strings.EqualFold(trim(origin), "http://relay.example") && !strings.EqualFold(trim(origin), "https://relay.example") {
				t.Errorf("%q was let in: %v", text.String(), resp.Header)
			}
			w.heard("fuzz", before, w.mallory())
		})
	})
}

// messagesOf splits a fuzzer's input at line breaks.
func messagesOf(script string) []string {
	all := strings.Split(script, "\n")
	return all[:min(len(all), 20)]
}

// FuzzFirstMessage: before Welcome nothing counts but a Hello with a good token, which
// the fuzzer has not.
func FuzzFirstMessage(f *testing.F) {
	f.Add(true, `{"hello":{"token":"e30.e30.e30","role":"ROLE_SEND"}}`)
	f.Add(true, `{"command":{"id":"x","target":"bob"}}`)
	f.Add(true, strings.Repeat(`{"hello":`, 20))
	f.Add(false, "\x03\x0a\x01\x00")
	f.Add(false, string([]byte{0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01}))
	f.Fuzz(func(t *testing.T, json bool, message string) {
		if len(message) > 20_000 {
			return
		}
		onIsland(t, func(w *island) {
			before := w.snapshot()
			protocol, kind := wire.ProtoSubprotocol, websocket.BinaryMessage
			if json {
				protocol, kind = wire.JSONSubprotocol, websocket.TextMessage
			}
			p := w.r.dial(protocol)
			_ = p.conn.WriteMessage(kind, []byte(message))
			p.conn.SetReadDeadline(time.Now().Add(time.Minute))
			f, err := p.read()
			if err == nil && f.GetLineOff().GetCode() != 0 {
				f, err = p.read()
			}
			if !websocket.IsCloseError(err, websocket.ClosePolicyViolation, websocket.CloseMessageTooBig, websocket.CloseProtocolError) {
				t.Errorf("got %v, %v, want the end", f, err)
			}
			w.heard("fuzz", before, w.mallory())
		})
	})
}

// mess sends messages in a session of mallory's and sees that the victims, and the
// server, are none the worse.
func (w *island) mess(protocol string, role wire.Role, kind int, messages []string) {
	a, before := w.mallory(), w.snapshot()
	x := &isolationRun{island: w, a: a}
	i := x.session(role, protocol)
	for _, m := range messages {
		i.writing.Lock()
		_ = i.conn.WriteMessage(kind, []byte(m))
		i.writing.Unlock()
	}
	synctest.Wait()
	time.Sleep(time.Second) // presence
	synctest.Wait()
	got, err := i.told()
	told, _, _, _ := framesText(got)
	w.secret("fuzz", told)
	w.heard("fuzz", before, a)
	if err != nil && !websocket.IsCloseError(err, 1000, 1002, 1003, 1005, 1007, 1008, 1009) {
		w.t.Errorf("ended with %v", err)
	}
	if n := len(w.r.srv.all()); n > 3 {
		w.t.Errorf("%d sessions", n)
	}
	i.conn.Close()
	x.session(wire.Role_ROLE_LISTEN, wire.JSONSubprotocol).conn.Close() // it still takes some
}

// FuzzSession is a listening session's sequence of frames, in JSON; see fill for what
// it may name.
func FuzzSession(f *testing.F) {
	for _, id := range []string{"{session}", "{web}", "AQIA"} {
		f.Add(fmt.Sprintf(`{"answer":{"transfer":%q,"decision":"DECISION_ACCEPT","offset":"5"}}`, id) + "\n" +
			fmt.Sprintf(`{"received":{"transfer":%q,"offset":"9223372036854775807"}}`, id) + "\n" + fmt.Sprintf(`{"verdict":{"transfer":%q}}`, id))
		f.Add(fmt.Sprintf(`{"cancel":{"transfer":%q}}`, id) + "\n" + fmt.Sprintf(`{"finish":{"transfer":%q}}`, id) + "\n" +
			fmt.Sprintf(`{"standing":{"transfer":%q,"state":"TRANSFER_STATE_UNKNOWN"}}`, id) + "\n" + fmt.Sprintf(`{"verdictAck":{"transfer":%q}}`, id))
	}
	f.Add(`{"cancel":{"sendId":"{send}"}}` + "\n" + `{"offer":{"sendId":"{websend}","target":"bob","kind":"KIND_FILE","size":"10","source":{"user":"alice"}}}`)
	f.Add(`{"commandAck":{"ref":"{ref}","id":"{command}","outcome":"COMMAND_OUTCOME_FINAL"}}` + "\n" + `{"command":{"id":"{command}","target":"bob","source":{"user":"alice"}}}`)
	f.Add(`{"presenceSubscribe":{"id":"1"}}` + "\n" + `{"status":{"busy":true}}` + "\n" + `{"presenceQuery":{"users":["bob","alice"]}}` + "\n" + `{"updateToken":{"token":"{token}"}}`)
	f.Add(`{"hello":{"token":"{token}","role":"ROLE_LISTEN"}}` + "\n" + `{"x":1}` + "\n" + `{"ping":{}}`)
	f.Fuzz(func(t *testing.T, script string) {
		if len(script) > 20_000 {
			return
		}
		onIsland(t, func(w *island) {
			w.mess(wire.JSONSubprotocol, wire.Role_ROLE_LISTEN, websocket.TextMessage, messagesOf(w.fill(script)))
		})
	})
}

// FuzzSessionBinary is a sending session's messages, as bytes.
func FuzzSessionBinary(f *testing.F) {
	id := "00000000-0000-4000-8000-000000000000"
	for _, frames := range [][]*wire.Frame{
		{commandFrame(&wire.Command{Id: id, Target: "bob", Data: []byte("x")}), {Body: &wire.Frame_Cancel{Cancel: &wire.Cancel{SendId: id}}}},
		{{Body: &wire.Frame_Offer{Offer: &wire.Offer{SendId: id, Target: "bob", Kind: 1, Size: 1, Inlined: true, Inline: []byte("x")}}}, {Body: &wire.Frame_Finish{Finish: &wire.Finish{Transfer: "x"}}}},
		{{Body: &wire.Frame_PresenceQuery{PresenceQuery: &wire.PresenceQuery{Id: 1}}}, {Body: &wire.Frame_Welcome{Welcome: &wire.Welcome{}}}},
	} {
		var message []byte
		for _, f := range frames {
			message, _ = wire.AppendBinary(message, f)
		}
		f.Add(string(message))
	}
	f.Fuzz(func(t *testing.T, script string) {
		if len(script) > 20_000 {
			return
		}
		onIsland(t, func(w *island) {
			w.mess(wire.ProtoSubprotocol, wire.Role_ROLE_SEND, websocket.BinaryMessage, messagesOf(script))
		})
	})
}
