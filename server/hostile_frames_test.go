package server

import (
	"bytes"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/dian-im/dian/internal/wire"
)

// A frameCase is what a client writes, and how that ends.
type frameCase struct {
	name  string
	json  bool
	early bool // before Hello
	sent  []byte
	half  bool // closes its writing half then
	want  int  // a close status, wasCut or stays
}

// stays: the session goes on.
const stays = 0

// frameCases is the table of WebSocket frames (cases 1 to 8, 11 and 18).
func frameCases(t testing.TB) []frameCase {
	binary := func(frames ...*wire.Frame) []byte { return (&socket{t: t}).encode(frames...) }
	text := func(f *wire.Frame) []byte { return (&socket{t: t, json: true}).encode(f) }
	status := &wire.Frame{Body: &wire.Frame_Status{Status: &wire.Status{Busy: true}}}
	good := binary(status)
	goodText := text(status)
	frame := func(op byte, data []byte) []byte { return wsFrame{op: op, data: data}.bytes() }
	part := func(op byte, data []byte) []byte { return wsFrame{op: op, more: true, data: data}.bytes() }
	join := func(parts ...[]byte) []byte { return slices.Concat(parts...) }
	var list []frameCase
	add := func(name string, want int, sent ...[]byte) {
		list = append(list, frameCase{name: name, sent: join(sent...), want: want})
	}
	addText := func(name string, want int, sent ...[]byte) {
		list = append(list, frameCase{name: name, json: true, sent: join(sent...), want: want})
	}

	// What is right.
	add("a message", stays, frame(opBinary, good))
	addText("a text message", stays, frame(opText, goodText))
	add("two frames in a message", stays, frame(opBinary, join(good, good)))
	add("two messages in a write", stays, frame(opBinary, good), frame(opBinary, good))
	add("two fragments", stays, part(opBinary, good[:2]), frame(opContinue, good[2:]))
	addText("two text fragments", stays, part(opText, goodText[:5]), frame(opContinue, goodText[5:]))
	add("an empty fragment at the beginning", stays, part(opBinary, nil), frame(opContinue, good))
	add("an empty fragment at the end", stays, part(opBinary, good), frame(opContinue, nil))
	add("fragments of a byte", stays, byteFragments(opBinary, good)...)
	addText("text fragments of a byte", stays, byteFragments(opText, goodText)...)
	addText("a character over two fragments", stays, part(opText, []byte("{\"x\":\"\xe7\x82")), frame(opContinue, []byte("\xb9\"}")))
	add("a ping", stays, frame(opPing, nil))
	add("a ping with 125 bytes", stays, frame(opPing, make([]byte, 125)))
	add("a pong nobody asked for", stays, frame(opPong, []byte("x")))
	add("a ping between fragments", stays, part(opBinary, good[:2]), frame(opPing, []byte("x")), frame(opContinue, good[2:]))
	add("a pong between fragments", stays, part(opBinary, good[:2]), frame(opPong, nil), frame(opContinue, good[2:]))
	add("pings and pongs between fragments of a byte", stays, byteFragments(opBinary, good, frame(opPing, nil), frame(opPong, nil))...)
	add("50 pings at once", stays, bytes.Repeat(frame(opPing, []byte("x")), 50))
	add("320 fragments", stays, part(opBinary, good), bytes.Repeat(part(opContinue, nil), 318), frame(opContinue, nil))
	add("320 fragments, twice", stays, bytes.Repeat(join(part(opBinary, good), bytes.Repeat(part(opContinue, nil), 318), frame(opContinue, nil)), 2))
	add("a mask of zeros", stays, append([]byte{0x82, 0x80 | byte(len(good)), 0, 0, 0, 0}, good...))
	unknown := []byte{0xBA, 0x03, 2, 8, 1}
	add("an unknown frame", stays, frame(opBinary, append([]byte{byte(len(unknown))}, unknown...)))
	addText("an unknown frame in JSON", stays, frame(opText, []byte(`{"teleport":{"to":"mars"}}`)))
	addText("an empty object", stays, frame(opText, []byte(`{}`)))
	largest := append(largestUnknown(wire.FrameBytes), largestUnknown(wire.MessageBytes-wire.FrameBytes-3-3)...)
	add("the largest message", stays, frame(opBinary, largest))
	addText("the largest text message", stays, frame(opText, append([]byte(`{}`), bytes.Repeat([]byte(" "), wire.MessageBytes-2)...)))

	// Message types, framing and content.
	add("text in a binary session", 1003, frame(opText, goodText))
	addText("binary in a text session", 1003, frame(opBinary, good))
	add("text in fragments in a binary session", 1003, part(opText, goodText[:3]), frame(opContinue, goodText[3:]))
	addText("binary in fragments in a text session", 1003, part(opBinary, good[:2]), frame(opContinue, good[2:]))
	add("empty text in a binary session", 1003, frame(opText, nil))
	add("an empty message", 1007, frame(opBinary, nil))
	addText("an empty text message", 1007, frame(opText, nil))
	add("an empty message in fragments", 1007, part(opBinary, nil), frame(opContinue, nil))
	add("length zero", 1007, frame(opBinary, []byte{0}))
	add("a length that is not minimal", 1007, frame(opBinary, []byte{0x82, 0x00, 0x42, 0x00}))
	add("a length of one byte more", 1007, frame(opBinary, append([]byte{byte(len(good))}, good[1:len(good)-1]...)))
	add("a length over the limit", 1007, frame(opBinary, []byte{0x81, 0x80, 0x0A, 0}))
	add("length 2^63", 1007, frame(opBinary, []byte{0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01}))
	add("length 2^64-1", 1007, frame(opBinary, []byte{0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01}))
	add("a length of eleven bytes", 1007, frame(opBinary, bytes.Repeat([]byte{0x80}, 11)))
	add("half a length", 1007, frame(opBinary, []byte{0x80}))
	add("a good frame and half a frame", 1007, frame(opBinary, append(bytes.Clone(good), 9, 1)))
	add("no protobuf", 1007, frame(opBinary, []byte{3, 0xFF, 0xFF, 0xFF}))
	add("a protobuf group", 1007, frame(opBinary, []byte{2, 0x0B, 0x0B}))
	add("a user that is not UTF-8", 1007, frame(opBinary, []byte{7, 0x52, 5, 0x12, 3, 'a', 0xFF, 'b'}))
	for name, content := range map[string]string{
		"no JSON": `{x}`, "half a JSON": `{"ping":{}`, "a JSON list": `[]`, "a JSON text": `"ping"`, "JSON null": `null`, "two JSON values": `{}{}`,
		"a JSON number": `1`, "1e999": `{"commandAck":{"ref":1e999}}`, "a number over 64 bits": `{"commandAck":{"ref":"18446744073709551616"}}`,
		"a negative unsigned": `{"commandAck":{"ref":"-1"}}`, "a fraction": `{"status":{"doNotDisturb":0.5}}`, "2^31 in 32 bits": `{"status":{"doNotDisturb":2147483648}}`,
		"a repeated key": `{"ping":{},"ping":{}}`, "two bodies": `{"ping":{},"pong":{}}`, "a text for an object": `{"ping":"x"}`, "no base64": `{"command":{"data":"*"}}`,
		"JSON 17 deep": strings.Repeat(`{"a":`, 17), "lists 17 deep": strings.Repeat(`[`, 17), "JSON 100,000 deep": strings.Repeat(`{"a":`, 50_000),
		"a byte order mark": "\ufeff{}", "UTF-16": "{\x00}\x00", "a NUL behind": "{}\x00",
		"invalid UTF-8": "{\"x\":\"\xff\"}", "an overlong character": "{\"x\":\"\xc0\xaf\"}", "half a surrogate": "{\"x\":\"\xed\xa0\x80\"}", "a cut character": "{\"x\":\"\xe7\x82\"}", "above Unicode": "{\"x\":\"\xf4\x90\x80\x80\"}",
	} {
		addText(name, 1007, frame(opText, []byte(content)))
	}
	addText("a cut character in fragments", 1007, part(opText, []byte("{\"x\":\"\xe7")), frame(opContinue, []byte("\x82\"}")))
	addText("a text of 200 KB as a number", 1007, frame(opText, []byte(`{"commandAck":{"ref":`+strings.Repeat("9", 200_000)+`}}`)))

	// Too much (cases 1, 3 and 4).
	add("a message one byte too large", 1009, frame(opBinary, make([]byte, wire.MessageBytes+1)))
	addText("a text message one byte too large", 1009, frame(opText, bytes.Repeat([]byte(" "), wire.MessageBytes+1)))
	add("1 GiB announced", 1009, wsFrame{op: opBinary, length: []byte{127, 0, 0, 0, 0, 0x40, 0, 0, 0}}.bytes())
	add("2^63-1 announced", 1009, wsFrame{op: opBinary, length: []byte{127, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}}.bytes())
	add("2^63-1 announced in a continuation", 1009, part(opBinary, good), wsFrame{op: opContinue, length: []byte{127, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}}.bytes())
	add("2^63 announced", 1002, wsFrame{op: opBinary, length: []byte{127, 0x80, 0, 0, 0, 0, 0, 0, 0}}.bytes())
	add("2^64-1 announced", 1002, wsFrame{op: opBinary, length: bytes.Repeat([]byte{0xFF}, 9)}.bytes())
	add("endless continuations", 1009, part(opBinary, make([]byte, 16<<10)), bytes.Repeat(part(opContinue, make([]byte, 16<<10)), 20))
	add("321 fragments", 1008, part(opBinary, good), bytes.Repeat(part(opContinue, nil), 319), frame(opContinue, nil))
	add("endless empty continuations", 1008, part(opBinary, nil), bytes.Repeat(part(opContinue, nil), 5000))
	add("endless continuations of a byte", 1008, part(opBinary, []byte{0}), bytes.Repeat(part(opContinue, []byte{0}), 5000))
	addText("endless empty text continuations", 1008, part(opText, nil), bytes.Repeat(part(opContinue, nil), 5000))
	add("a flood of pings", 1008, bytes.Repeat(frame(opPing, []byte("x")), 5000))
	add("a flood of pongs", 1008, bytes.Repeat(frame(opPong, nil), 5000))
	add("a flood of pings in a message", 1008, part(opBinary, good), bytes.Repeat(frame(opPing, nil), 5000))
	ping := binary(&wire.Frame{Body: &wire.Frame_Ping{Ping: &wire.Ping{}}})
	add("a flood of Ping frames", 1008, frame(opBinary, bytes.Repeat(ping, 5000)))
	add("a flood of Ping frames, one each", 1008, bytes.Repeat(frame(opBinary, ping), 5000))
	addText("a flood of Pong frames", 1008, bytes.Repeat(frame(opText, []byte(`{"pong":{}}`)), 5000))

	// RFC 6455, section 5.2: bits, opcodes, masks, lengths.
	for rsv := byte(1); rsv < 8; rsv++ {
		add(fmt.Sprintf("reserved bits %03b", rsv), 1002, wsFrame{op: opBinary, rsv: rsv, data: good}.bytes())
	}
	addText("compressed text", 1002, wsFrame{op: opText, rsv: 4, data: []byte{0xAA, 0x56, 0x05, 0x00}}.bytes())
	for name, op := range map[string]byte{"continuation": opContinue, "ping": opPing, "pong": opPong, "close": opClose} {
		add("reserved bit 100 in a "+name, 1002, part(opBinary, good), wsFrame{op: op, rsv: 4}.bytes())
	}
	for _, op := range []byte{3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF} {
		add(fmt.Sprintf("opcode %X", op), 1002, frame(op, nil))
		add(fmt.Sprintf("opcode %X in a message", op), 1002, part(opBinary, good), frame(op, []byte("x")))
	}
	for name, op := range map[string]byte{"message": opBinary, "ping": opPing, "pong": opPong, "close": opClose} {
		add("a "+name+" without a mask", 1002, wsFrame{op: op, plain: true, data: closeData(1000, "")}.bytes())
	}
	add("a continuation without a mask", 1002, part(opBinary, good[:2]), wsFrame{op: opContinue, plain: true, data: good[2:]}.bytes())
	add("length 0 in 2 bytes", 1002, wsFrame{op: opBinary, length: []byte{126, 0, 0}}.bytes())
	add("length 125 in 2 bytes", 1002, wsFrame{op: opBinary, length: []byte{126, 0, 125}, data: make([]byte, 125)}.bytes())
	add("length 5 in 8 bytes", 1002, wsFrame{op: opBinary, length: []byte{127, 0, 0, 0, 0, 0, 0, 0, 5}, data: good}.bytes())
	add("length 65535 in 8 bytes", 1002, wsFrame{op: opBinary, length: []byte{127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF}, data: make([]byte, 65535)}.bytes())
	add("a ping's length in 2 bytes", 1002, wsFrame{op: opPing, length: []byte{126, 0, 1}, data: []byte("x")}.bytes())

	// Fragmentation, section 5.4.
	add("a continuation of nothing", 1002, frame(opContinue, good))
	add("a continuation of nothing that goes on", 1002, part(opContinue, good))
	add("a continuation behind the end", 1002, part(opBinary, good[:2]), frame(opContinue, good[2:]), frame(opContinue, good))
	add("a message in a message", 1002, part(opBinary, good[:2]), frame(opBinary, good))
	add("a text in a message", 1002, part(opBinary, good[:2]), frame(opText, goodText))
	add("a beginning in a message", 1002, part(opBinary, good[:2]), part(opBinary, good))
	for name, op := range map[string]byte{"ping": opPing, "pong": opPong, "close": opClose} {
		add("a fragmented "+name, 1002, part(op, nil), frame(opContinue, nil))
		add("a fragmented "+name+" in a message", 1002, part(opBinary, good), part(op, nil))
		add("a "+name+" of 126 bytes", 1002, frame(op, append(closeData(1000, ""), make([]byte, 124)...)))
		add("a "+name+" of 64 KiB", 1002, frame(op, make([]byte, 1<<16)))
		add("a "+name+" of 2^63-1 bytes", 1002, wsFrame{op: op, length: []byte{127, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}}.bytes())
	}

	// Closes, sections 5.5.1 and 7.4.
	add("a close without a status", 1000, frame(opClose, nil))
	add("a close of one byte", 1002, frame(opClose, []byte{3}))
	for _, code := range []uint16{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000, 4999} {
		add(fmt.Sprintf("close %d", code), int(code), frame(opClose, closeData(code, "")))
	}
	// 1014 is for gateways, which are no clients.
	for _, code := range []uint16{0, 1, 999, 1004, 1005, 1006, 1014, 1015, 1016, 1100, 1999, 2000, 2999, 5000, 9999, 65535} {
		add(fmt.Sprintf("close %d", code), 1002, frame(opClose, closeData(code, "")))
	}
	add("a close with a reason", 1000, frame(opClose, closeData(1000, "good night 点")))
	add("a close with a reason of 123 bytes", 1000, frame(opClose, closeData(1000, strings.Repeat("x", 123))))
	add("a close with a reason of 124 bytes", 1002, frame(opClose, closeData(1000, strings.Repeat("x", 124))))
	add("a close with a reason that is not UTF-8", 1002, frame(opClose, closeData(1000, "\xff\xfe")))
	add("a close with half a character", 1002, frame(opClose, closeData(1000, "\xe7\x82")))
	add("a close in a message", 1000, part(opBinary, good), frame(opClose, closeData(1000, "")))
	add("a bad close in a message", 1002, part(opBinary, good), frame(opClose, closeData(1005, "")))
	add("a close and more", 1000, frame(opClose, closeData(1000, "")), frame(opBinary, good), frame(opPing, nil))
	add("two closes", 1000, frame(opClose, closeData(1000, "")), frame(opClose, closeData(1001, "")))
	add("a close and garbage", 1000, frame(opClose, closeData(1000, "")), bytes.Repeat([]byte{0xFF}, 100))
	add("garbage", 1002, bytes.Repeat([]byte{0xFF}, 100))
	add("a request in a session", 1002, []byte("GET / HTTP/1.1\r\nHost: relay.example\r\n\r\n"))
	add("zeros", 1002, make([]byte, 100))

	// Ends without a close: at every byte of a small message, half-closed.
	list = append(list, frameCase{name: "half-closed at once", half: true, want: wasCut})
	for _, m := range []struct {
		name string
		json bool
		sent []byte
	}{
		{"a message", false, frame(opBinary, good)}, {"a fragmented message", false, join(part(opBinary, good[:2]), frame(opContinue, good[2:]))},
		{"a text message", true, frame(opText, []byte(`{"pong":{}}`))}, {"a ping", false, frame(opPing, []byte("x"))}, {"a close", false, frame(opClose, closeData(1000, "x"))},
	} {
		for n := 1; n < len(m.sent); n++ {
			list = append(list, frameCase{name: fmt.Sprintf("%s, cut after %d of %d bytes", m.name, n, len(m.sent)),
				json: m.json, sent: m.sent[:n], half: true, want: wasCut})
		}
	}
	list = append(list, frameCase{name: "a whole message, then half-closed", sent: frame(opBinary, good), half: true, want: wasCut})

	// The same before Hello, where there is no answer but the end.
	early := func(name string, want int, sent ...[]byte) {
		list = append(list, frameCase{name: name + " before Hello", early: true, sent: join(sent...), want: want})
	}
	hello := helloFrame(&wire.Hello{Token: "x", Role: wire.Role_ROLE_SEND})
	early("another frame", 1008, frame(opBinary, good))
	early("two frames", 1008, frame(opBinary, binary(hello, status)))
	early("an empty message", 1008, frame(opBinary, nil))
	early("garbage in a message", 1008, frame(opBinary, bytes.Repeat([]byte{0xFF}, 50)))
	early("text", 1008, frame(opText, text(hello)))
	early("a message of 16 KiB and a byte", 1009, frame(opBinary, make([]byte, wire.LoginBytes+1)))
	early("1 GiB announced", 1009, wsFrame{op: opBinary, length: []byte{127, 0, 0, 0, 0, 0x40, 0, 0, 0}}.bytes())
	early("endless continuations", 1009, part(opBinary, make([]byte, 4<<10)), bytes.Repeat(part(opContinue, make([]byte, 4<<10)), 20))
	early("endless empty continuations", 1008, part(opBinary, nil), bytes.Repeat(part(opContinue, nil), 5000))
	early("a flood of pings", 1008, bytes.Repeat(frame(opPing, []byte("x")), 5000))
	early("a flood of pongs", 1008, bytes.Repeat(frame(opPong, []byte("x")), 5000))
	early("a reserved bit", 1002, wsFrame{op: opBinary, rsv: 4, data: good}.bytes())
	early("a reserved opcode", 1002, frame(3, nil))
	early("no mask", 1002, wsFrame{op: opBinary, plain: true, data: good}.bytes())
	early("a length that is not minimal", 1008, wsFrame{op: opBinary, length: []byte{126, 0, 5}, data: good}.bytes())
	early("a close", 1000, frame(opClose, closeData(1000, "")))
	early("a close without a status", 1005, frame(opClose, nil))
	early("a bad close", 1002, frame(opClose, closeData(1005, "")))
	list = append(list,
		frameCase{name: "half-closed before Hello", early: true, half: true, want: 1008},
		frameCase{name: "half a Hello", early: true, sent: frame(opBinary, binary(hello))[:9], half: true, want: 1008})
	return list
}

// byteFragments is a message in fragments of a byte, with something between them.
func byteFragments(op byte, data []byte, between ...[]byte) [][]byte {
	var out [][]byte
	for i := range data {
		out = append(out, wsFrame{op: op, more: i < len(data)-1, data: data[i : i+1]}.bytes())
		op = opContinue
		if i < len(data)-1 {
			out = append(out, between...)
		}
	}
	return out
}

// largestUnknown is a frame of n bytes, without the three of its length, of a kind
// that nobody knows.
func largestUnknown(n int) []byte {
	head := func(b []byte, n int) []byte { return append(b, byte(n)|0x80, byte(n>>7)|0x80, byte(n>>14)) }
	body := head([]byte{0xBA, 0x03}, n-5)
	return append(head(nil, n), append(body, make([]byte, n-5)...)...)
}

func TestEveryFrameGetsItsEnd(t *testing.T) {
	r := tcpRelay(t, fastRates)
	base := newBaseline(r)
	defer base.check(t, "at the end")
	names := map[string]bool{}
	cases := frameCases(t)
	for _, c := range cases {
		if names[c.name] {
			t.Errorf("two cases are named %q", c.name)
		}
		names[c.name] = true
		t.Run(c.name, func(t *testing.T) {
			protocol := wire.ProtoSubprotocol
			if c.json {
				protocol = wire.JSONSubprotocol
			}
			s := r.upgraded(protocol)
			s.t = t
			defer s.conn.Close()
			if !c.early {
				s.login(listenHello(r.token("mallory"), 1))
			}
			s.write(c.sent)
			if c.half {
				s.conn.(*net.TCPConn).CloseWrite()
			}
			if c.want == stays {
				id := wire.NewSendID()
				s.send(commandFrame(&wire.Command{Id: id, Target: "nobody"}))
				if f, err := s.next(); f.GetCommandResult().GetId() != id {
					t.Errorf("then %v, %v; want the session to go on", f, err)
				}
				s.conn.Close()
			} else if status, frames := s.end(); status != c.want || len(frames) > 0 {
				t.Errorf("ended with %d behind %d frames, want %d", status, len(frames), c.want)
			}
			base.check(t, c.name)
		})
	}
	t.Logf("%d cases", len(cases))
}
