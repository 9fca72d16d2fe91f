package server

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/dian-im/dian/internal/wire"
)

// A handshakeCase is what a client writes first, and the status of the answer.
type handshakeCase struct {
	name   string
	sent   []byte
	status int // 0: the connection is closed without an answer
}

// noAnswer is the status of handshakeCases whose connection is closed without one.
const noAnswer = 0

// handshakeCases is the table of handshakes (cases 5, 6, 9, 14, 114).
func handshakeCases() []handshakeCase {
	const proto = wire.ProtoSubprotocol
	good := string(upgradeRequest(proto))
	with := func(changes ...string) []byte { return upgradeRequest(proto, changes...) }
	line := func(text string) []byte { return []byte(strings.Replace(good, "GET /v1/session HTTP/1.1", text, 1)) }
	list := []handshakeCase{
		{"good", with(), 101},
		{"json", upgradeRequest(wire.JSONSubprotocol), 101},
		{"header names in lower case", []byte(strings.ReplaceAll(strings.ReplaceAll(good, "Sec-WebSocket", "sec-websocket"), "Upgrade:", "upgrade:")), 101},
		{"no space behind the colons", []byte(strings.ReplaceAll(good, ": ", ":")), 101},
		{"line feeds alone", []byte(strings.ReplaceAll(good, "\r\n", "\n")), 101},

		// Headers missing, wrong, twice.
		{"no Host", with("Host", "-"), 400},
		{"Host twice", with("+Host", "relay.example"), 400},
		{"Host with a space", with("Host", "relay example"), 400},
		{"no Connection", with("Connection", "-"), 400},
		{"Connection: close", with("Connection", "close"), 400},
		{"Connection: keep-alive, Upgrade", with("Connection", "keep-alive, Upgrade"), 101},
		{"Connection in two lines", with("Connection", "keep-alive", "+Connection", "upgrade"), 101},
		{"Connection: upgraded", with("Connection", "upgraded"), 400},
		{"no Upgrade", with("Upgrade", "-"), 400},
		{"Upgrade: WebSocket", with("Upgrade", "WebSocket"), 101},
		{"Upgrade: h2c", with("Upgrade", "h2c"), 400},
		{"Upgrade: h2c, websocket", with("Upgrade", "h2c, websocket"), 101},
		{"Upgrade: websocket/13", with("Upgrade", "websocket/13"), 400},
		{"no version", with("Sec-WebSocket-Version", "-"), 400},
		{"version empty", with("Sec-WebSocket-Version", ""), 400},
		{"version 0", with("Sec-WebSocket-Version", "0"), 400},
		{"version 8", with("Sec-WebSocket-Version", "8"), 400},
		{"version 12", with("Sec-WebSocket-Version", "12"), 400},
		{"version 14", with("Sec-WebSocket-Version", "14"), 400},
		{"version 013", with("Sec-WebSocket-Version", "013"), 400},
		{"version 13.0", with("Sec-WebSocket-Version", "13.0"), 400},
		{"versions 8, 13", with("Sec-WebSocket-Version", "8, 13"), 400},
		{"version twice", with("+Sec-WebSocket-Version", "13"), 400},
		{"no key", with("Sec-WebSocket-Key", "-"), 400},
		{"key empty", with("Sec-WebSocket-Key", ""), 400},
		{"key of 15 bytes", with("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25j"), 400},
		{"key of 17 bytes", with("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZSE="), 400},
		{"key not base64", with("Sec-WebSocket-Key", "!!!!!!!!!!!!!!!!!!!!!!=="), 400},
		{"key in base64url", with("Sec-WebSocket-Key", "________________-_____=="), 400},
		{"key of 8 KiB", with("Sec-WebSocket-Key", strings.Repeat("A", 8<<10)), 400},
		{"key twice", with("+Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="), 400},
		{"key twice, the same", with("+Sec-WebSocket-Key", socketKey), 400},
		{"a cookie and other headers", with("Cookie", "a=b", "X-Forwarded-For", "10.0.0.1", "User-Agent", "x", "Pragma", "no-cache"), 101},
		{"a token in Authorization counts for nothing", with("Authorization", "Bearer nonsense"), 101},
		{"accept of a server", with("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), 101},
		{"method override to DELETE", with("X-HTTP-Method-Override", "DELETE"), 101}, // only of a POST

		// Subprotocols.
		{"no subprotocol", with("Sec-WebSocket-Protocol", "-"), 400},
		{"subprotocol empty", with("Sec-WebSocket-Protocol", ""), 400},
		{"subprotocol unknown", with("Sec-WebSocket-Protocol", "chat"), 400},
		{"subprotocol of version 2", with("Sec-WebSocket-Protocol", "dian.v2.proto"), 400},
		{"subprotocol in capitals", with("Sec-WebSocket-Protocol", "DIAN.V1.PROTO"), 400},
		{"subprotocol with a parameter", with("Sec-WebSocket-Protocol", "dian.v1.proto;q=1"), 400},
		{"subprotocols in spaces", with("Sec-WebSocket-Protocol", "dian.v1.proto dian.v1.json"), 400},
		{"known behind unknown", with("Sec-WebSocket-Protocol", "chat, superchat ,dian.v1.proto"), 101},
		{"known before empty", with("Sec-WebSocket-Protocol", "dian.v1.proto,,"), 101},
		{"a thousand subprotocols", with("Sec-WebSocket-Protocol", strings.Repeat("chat,", 1000)+"dian.v1.proto"), 101},
		{"both, binary first", with("Sec-WebSocket-Protocol", "dian.v1.proto, dian.v1.json"), 101},
		{"in the second of two lines", with("Sec-WebSocket-Protocol", "chat", "+Sec-WebSocket-Protocol", "dian.v1.proto"), 101},
		{"twice", with("Sec-WebSocket-Protocol", "dian.v1.proto, dian.v1.proto"), 101},

		// Extensions: none is ever agreed on (switched looks).
		{"permessage-deflate", with("Sec-WebSocket-Extensions", "permessage-deflate"), 101},
		{"permessage-deflate with parameters", with("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits; server_no_context_takeover; server_max_window_bits=8"), 101},
		{"deflate of WebKit", with("Sec-WebSocket-Extensions", "x-webkit-deflate-frame"), 101},
		{"extensions in two lines", with("Sec-WebSocket-Extensions", "permessage-deflate", "+Sec-WebSocket-Extensions", "permessage-bzip2"), 101},
		{"broken extensions", with("Sec-WebSocket-Extensions", `;;=,"`), 101},
		{"extensions of 8 KiB", with("Sec-WebSocket-Extensions", strings.Repeat("a;b=c,", 8<<10/6)), 101},

		// Origins.
		{"own origin", with("Origin", "http://relay.example"), 101},
		{"own origin in capitals", with("Origin", "HTTP://Relay.Example"), 101},
		{"own origin behind TLS", with("Origin", "https://relay.example"), 101},
		{"allowed origin", with("Origin", "https://app.example.com"), 101},
		{"allowed origin with a slash", with("Origin", "https://app.example.com/"), 403},
		{"foreign origin", with("Origin", "https://evil.example"), 403},
		{"null origin", with("Origin", "null"), 403},
		{"empty origin", with("Origin", ""), 403},
		{"sub-domain", with("Origin", "http://x.relay.example"), 403},
		{"own name as prefix", with("Origin", "http://relay.example.evil.example"), 403},
		{"own name as user", with("Origin", "http://relay.example@evil.example"), 403},
		{"own name with another port", with("Origin", "http://relay.example:81"), 403},
		{"own name with a dot", with("Origin", "http://relay.example."), 403},
		{"own name and a path", with("Origin", "http://relay.example/v1"), 403},
		{"another scheme", with("Origin", "file://relay.example"), 403},
		{"no scheme", with("Origin", "relay.example"), 403},
		{"two origins in a line", with("Origin", "http://relay.example https://evil.example"), 403},
		{"two origins in two lines", with("Origin", "http://relay.example", "+Origin", "https://evil.example"), 403},
		{"own origin twice", with("Origin", "http://relay.example", "+Origin", "http://relay.example"), 403},

		// The request line.
		{"HTTP/1.0", line("GET /v1/session HTTP/1.0"), 400},
		{"HTTP/1.2", line("GET /v1/session HTTP/1.2"), 101},
		{"HTTP/2.0", line("GET /v1/session HTTP/2.0"), 505},
		{"HTTP/0.9", line("GET /v1/session"), 400},
		{"HEAD", line("HEAD /v1/session HTTP/1.1"), 400},
		{"POST", line("POST /v1/session HTTP/1.1"), 405},
		{"PUT", line("PUT /v1/session HTTP/1.1"), 405},
		{"DELETE", line("DELETE /v1/session HTTP/1.1"), 405},
		{"OPTIONS", line("OPTIONS /v1/session HTTP/1.1"), 405},
		{"TRACE", line("TRACE /v1/session HTTP/1.1"), 405},
		{"method in lower case", line("get /v1/session HTTP/1.1"), 405},
		{"no method", line(" /v1/session HTTP/1.1"), 400},
		{"a query", line("GET /v1/session?token=x HTTP/1.1"), 101},
		{"an absolute target", line("GET http://relay.example/v1/session HTTP/1.1"), 101},
		{"the other host in the target", line("GET http://evil.example/v1/session HTTP/1.1"), 101},
		{"a slash more", line("GET /v1/session/ HTTP/1.1"), 404},
		{"two slashes", line("GET //v1/session HTTP/1.1"), 404},
		{"dots", line("GET /v1/../v1/session HTTP/1.1"), 404},
		{"capitals", line("GET /V1/Session HTTP/1.1"), 404},
		{"version 2", line("GET /v2/session HTTP/1.1"), 404},
		{"another route", line("GET /v1/users HTTP/1.1"), 401},
		{"a NUL in the target", line("GET /v1/session%00 HTTP/1.1"), 404},
		{"a bad escape", line("GET /v1/session%zz HTTP/1.1"), 400},
		{"target of 8 KiB", line("GET /v1/session?" + strings.Repeat("a", 8<<10) + " HTTP/1.1"), 101},

		// Bodies.
		{"an empty body", with("Content-Length", "0"), 101},
		{"a body that does not come", with("Content-Length", "5"), 400},
		{"a body", append(with("Content-Length", "5"), "hello"...), 400},
		{"a chunked body", append(with("Transfer-Encoding", "chunked"), "0\r\n\r\n"...), 400},
		{"both lengths", append(with("Transfer-Encoding", "chunked", "Content-Length", "5"), "0\r\n\r\n"...), 400},
		{"two lengths", with("Content-Length", "5", "+Content-Length", "6"), 400},
		{"a negative length", with("Content-Length", "-1"), 400},
		{"an unknown coding", with("Transfer-Encoding", "gzip"), 501},
		{"Expect: 100-continue", with("Expect", "100-continue"), 101},
		{"Expect: something else", with("Expect", "tea"), 417},
		{"a frame right behind the handshake", append(with(), wsFrame{op: opPing}.bytes()...), noAnswer},
		{"a request right behind the handshake", append(with(), "GET /healthz HTTP/1.1\r\nHost: relay.example\r\n\r\n"...), noAnswer},

		// What is no request.
		{"headers of 64 KiB", with("X-Long", strings.Repeat("a", 64<<10)), 431},
		{"ten thousand headers", with("X-Long", strings.Repeat("a\r\nX-Long: ", 10_000)), 431},
		{"a header without a colon", with("X-A", "b\r\nnonsense"), 400},
		{"a header without a name", with("X-A", "b\r\n: x"), 400},
		{"a name with a space", with("X A", "b"), 400},
		{"a space before the colon", with("X-A ", "b"), 400},
		{"a folded header", with("X-A", "b\r\n c"), 101},
		{"a NUL in a value", with("X-A", "b\x00c"), 400},
		{"a carriage return in a value", with("X-A", "b\rc"), 400},
		{"TLS", []byte("\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n"), 400},
		{"the preface of HTTP/2", []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 404},
		{"zeros", append(make([]byte, 100), "\r\n\r\n"...), 400},
		{"a WebSocket frame", append(wsFrame{op: opText, data: []byte("{}")}.bytes(), "\r\n\r\n"...), 400},
	}
	return list
}

func TestEveryHandshakeGetsItsAnswer(t *testing.T) {
	r := tcpRelay(t, func(c *Config) { c.Origins = []string{"https://app.example.com"} })
	base := newBaseline(r)
	defer base.check(t, "at the end")
	names := map[string]bool{}
	for _, c := range handshakeCases() {
		if names[c.name] {
			t.Errorf("two cases are named %q", c.name)
		}
		names[c.name] = true
		t.Run(c.name, func(t *testing.T) {
			s := r.socket()
			s.t = t
			defer s.conn.Close()
			s.write(c.sent)
			if c.status == http.StatusSwitchingProtocols {
				want := wire.ProtoSubprotocol
				if bytes.Contains(c.sent, []byte("Protocol: "+wire.JSONSubprotocol)) {
					want = wire.JSONSubprotocol
				}
				s.switched(want)
				s.conn.Close()
				base.check(t, c.name)
				return
			}
			method, _, _ := strings.Cut(string(c.sent), " ")
			resp, err := s.answer(method)
			if c.status == noAnswer {
				if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("answered %v, %v; want the end", resp, err)
				}
				base.check(t, c.name)
				return
			}
			if err != nil || resp.StatusCode != c.status {
				t.Fatalf("answered %v, %v; want %d", resp, err, c.status)
			}
			// Whatever comes to a handler of ours is answered by a problem document.
			if kind := resp.Header.Get("Content-Type"); kind != "application/problem+json" && !strings.HasPrefix(kind, "text/plain") && c.status != 417 {
				t.Errorf("Content-Type %q", kind)
			}
			s.conn.Close()
			base.check(t, c.name)
		})
	}
	t.Logf("%d handshakes", len(names))
}
