package test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/dian-im/dian/internal/wire"
)

// A socketCase is valid traffic, or a slip that any client could make, and what a
// client has to see.
type socketCase struct {
	name      string
	protocols []string
	steps     []socketStep
	want      []string // "open dian.v1.proto", "Welcome alice", "pong 6869", "closed 1000", "refused 400", …
}

const (
	overProto = wire.ProtoSubprotocol
	overJSON  = wire.JSONSubprotocol
)

// message is a step that sends frames as one message in fragments of so many bytes.
func message(t *testing.T, protocol string, fragment int, frames ...*wire.Frame) socketStep {
	t.Helper()
	var data []byte
	for _, f := range frames {
		var err error
		if protocol == overJSON {
			data, err = wire.AppendJSON(data, f)
		} else {
			data, err = wire.AppendBinary(data, f)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return fragments(data, protocol == overJSON, fragment)
}

func fragments(data []byte, text bool, fragment int) socketStep {
	s := socketStep{Do: "send", Text: text}
	if fragment == 0 || len(data) == 0 {
		s.Parts = []string{hex.EncodeToString(data)}
		return s
	}
	for part := range slices.Chunk(data, fragment) {
		s.Parts = append(s.Parts, hex.EncodeToString(part))
	}
	return s
}

func helloOf(token string, role wire.Role) *wire.Frame {
	h := &wire.Hello{Token: token, Client: "another", Role: role}
	if role == wire.Role_ROLE_LISTEN {
		h.Instance = bytes.Repeat([]byte{7}, wire.InstanceBytes)
	}
	return &wire.Frame{Body: &wire.Frame_Hello{Hello: h}}
}

func commandTo(target string, n int) *wire.Frame {
	return &wire.Frame{Body: &wire.Frame_Command{Command: &wire.Command{
		Id: wire.NewSendID(), Target: target, Data: bytes.Repeat([]byte{'x'}, n)}}}
}

func inlineTo(target string, n int) *wire.Frame {
	return &wire.Frame{Body: &wire.Frame_Offer{Offer: &wire.Offer{SendId: wire.NewSendID(), Target: target,
		Kind: wire.Kind_KIND_BUFFER, Size: int64(n), Inlined: true, Inline: make([]byte, n)}}}
}

// socketCases is the table, for one client that is the users alice-… of it.
func socketCases(t *testing.T, user string) []socketCase {
	aliceToken := token(t, user)
	expect := socketStep{Do: "expect"}
	ping := socketStep{Do: "ping", Data: hex.EncodeToString([]byte("hi"))}
	closing := func(code int, reason string) socketStep { return socketStep{Do: "close", Code: code, Reason: reason} }
	var list []socketCase
	for _, p := range []string{overProto, overJSON} {
		login := message(t, p, 0, helloOf(aliceToken, wire.Role_ROLE_SEND))
		add := func(name string, steps []socketStep, want ...string) {
			list = append(list, socketCase{name + ", " + p, []string{p}, steps, append([]string{"open " + p}, want...)})
		}
		live := func(name string, steps []socketStep, want ...string) {
			add(name, append([]socketStep{login, expect}, steps...), append([]string{"Welcome " + user}, want...)...)
		}
		live("login to send", []socketStep{closing(1000, "")}, "closed 1000")
		add("login to listen", []socketStep{message(t, p, 0, helloOf(aliceToken, wire.Role_ROLE_LISTEN)), expect, closing(1000, "")}, "Welcome "+user, "closed 1000")
		add("login in fragments", []socketStep{message(t, p, 16, helloOf(aliceToken, wire.Role_ROLE_SEND)), expect, closing(1000, "")}, "Welcome "+user, "closed 1000")
		add("pings before the login", []socketStep{ping, ping, login, expect, closing(1000, "")}, "pong 6869", "pong 6869", "Welcome "+user, "closed 1000")
		for _, n := range []int{0, 100, 1 << 10, 1 << 16} {
			live(fmt.Sprintf("a command of %d bytes", n), []socketStep{message(t, p, 0, commandTo("bob", n)), expect, closing(1000, "")}, "CommandResult 0", "closed 1000")
			live(fmt.Sprintf("a command of %d bytes in fragments", n), []socketStep{message(t, p, 512, commandTo("bob", n)), expect, closing(1000, "")}, "CommandResult 0", "closed 1000")
		}
		tiny := message(t, p, 8, commandTo("bob", 10))
		live("a command in tiny fragments", []socketStep{tiny, expect, closing(1000, "")}, "CommandResult 0", "closed 1000")
		tiny.Ping = hex.EncodeToString([]byte("in between"))
		live("pings between fragments", []socketStep{tiny, expect, closing(1000, "")}, "CommandResult 0", "closed 1000")
		live("a command that is too large", []socketStep{message(t, p, 0, commandTo("bob", 1<<16+1)), expect, closing(1000, "")}, "CommandResult 1100", "closed 1000")
		live("a command to nobody", []socketStep{message(t, p, 0, commandTo("nobody", 1)), expect, closing(1000, "")}, "CommandResult 603", "closed 1000")
		live("a command to no name", []socketStep{message(t, p, 0, commandTo("", 1)), expect, closing(1000, "")}, "CommandResult 1102", "closed 1000")
		live("a command to oneself, who listens not", []socketStep{message(t, p, 0, commandTo(user, 1)), expect, closing(1000, "")}, "CommandResult 603", "closed 1000")
		live("pings", []socketStep{ping, ping, ping, closing(1000, "")}, "pong 6869", "pong 6869", "pong 6869", "closed 1000")
		live("a Ping frame", []socketStep{message(t, p, 0, &wire.Frame{Body: &wire.Frame_Ping{Ping: &wire.Ping{}}}), expect, closing(1000, "")}, "Pong", "closed 1000")
		live("who is there", []socketStep{message(t, p, 0, &wire.Frame{Body: &wire.Frame_PresenceQuery{PresenceQuery: &wire.PresenceQuery{Id: 5, Users: []string{"bob"}}}}), expect, closing(1000, "")},
			"PresenceList 0", "closed 1000")
		// With content the receiver's progress may come before its verdict, or with it.
		live("an empty buffer", []socketStep{message(t, p, 0, inlineTo("bob", 0)), expect, closing(1000, "")}, "Verdict 0", "closed 1000")
		live("a buffer to nobody", []socketStep{message(t, p, 0, inlineTo("nobody", 1<<16)), expect, closing(1000, "")}, "Verdict 603", "closed 1000")
		live("a buffer to nobody in fragments", []socketStep{message(t, p, 1000, inlineTo("nobody", 1<<16)), expect, closing(1000, "")}, "Verdict 603", "closed 1000")
		for _, code := range []int{1000, 1001, 3000, 4000, 4999} {
			live(fmt.Sprintf("close %d", code), []socketStep{closing(code, "")}, fmt.Sprint("closed ", code))
		}
		live("a close with the longest reason", []socketStep{closing(1000, strings.Repeat("x", 123))}, "closed 1000")
		live("a close without a status", []socketStep{closing(0, "")}, "closed 1000")
		add("a close before the login", []socketStep{closing(1000, "")}, "closed 1000")
		wrong := fragments([]byte("{}"), p == overProto, 0)
		live("the other message type", []socketStep{wrong, {Do: "closed"}}, "closed 1003")
		live("the other message type in fragments", []socketStep{fragments([]byte("{    }"), p == overProto, 2), {Do: "closed"}}, "closed 1003")
		live("no frame", []socketStep{fragments([]byte("nonsense"), p == overJSON, 0), {Do: "closed"}}, "closed 1007")
		live("a message too large", []socketStep{fragments(make([]byte, wire.MessageBytes+1), p == overJSON, 0), {Do: "closed"}}, "closed 1009")
		live("a message too large, in fragments", []socketStep{fragments(make([]byte, wire.MessageBytes+1), p == overJSON, 4096), {Do: "closed"}}, "closed 1009")
		live("a second Hello", []socketStep{login, {Do: "closed"}}, "closed 1002")
		live("a frame of the server", []socketStep{message(t, p, 0, &wire.Frame{Body: &wire.Frame_GoAway{GoAway: &wire.GoAway{}}}), {Do: "closed"}}, "closed 1002")
		add("a bad token", []socketStep{message(t, p, 0, helloOf("nonsense", wire.Role_ROLE_SEND)), expect, {Do: "closed"}}, "LineOff 19", "closed 1008")
		add("no Hello", []socketStep{message(t, p, 0, commandTo("bob", 1)), {Do: "closed"}}, "closed 1008")
	}
	login := message(t, overProto, 0, helloOf(aliceToken, wire.Role_ROLE_SEND))
	largest := append([]byte(`{}`), bytes.Repeat([]byte(" "), wire.MessageBytes-2)...)
	return append(list,
		socketCase{"three frames in a message", []string{overProto}, []socketStep{login, expect, message(t, overProto, 0, commandTo("nobody", 1), commandTo("", 1)), expect, closing(1000, "")},
			[]string{"open " + overProto, "Welcome " + user, "CommandResult 603, CommandResult 1102", "closed 1000"}},
		socketCase{"the largest message", []string{overJSON}, []socketStep{message(t, overJSON, 0, helloOf(aliceToken, wire.Role_ROLE_SEND)), expect, fragments(largest, true, 0), ping, closing(1000, "")},
			[]string{"open " + overJSON, "Welcome " + user, "pong 6869", "closed 1000"}},
		socketCase{"the largest message in fragments", []string{overJSON}, []socketStep{message(t, overJSON, 0, helloOf(aliceToken, wire.Role_ROLE_SEND)), expect, fragments(largest, true, 2048), ping, closing(1000, "")},
			[]string{"open " + overJSON, "Welcome " + user, "pong 6869", "closed 1000"}},
		socketCase{"both subprotocols", []string{overJSON, overProto}, []socketStep{closing(1000, "")}, []string{"open " + overJSON, "closed 1000"}},
		socketCase{"a known and an unknown subprotocol", []string{"chat", overProto}, []socketStep{login, expect, closing(1000, "")}, []string{"open " + overProto, "Welcome " + user, "closed 1000"}},
		socketCase{"an unknown subprotocol", []string{"chat"}, nil, []string{"refused 400"}},
		socketCase{"no subprotocol", nil, nil, []string{"refused 400"}},
	)
}

// told is what a sight says, without what differs from run to run.
func told(t *testing.T, protocol string, s sight) string {
	t.Helper()
	switch s.Kind {
	case "open":
		if s.Reason != "" {
			return "open with extensions " + s.Reason
		}
		return "open " + s.Data
	case "refused", "closed":
		return fmt.Sprintf("%s %d%s", s.Kind, s.Code, s.Reason)
	case "pong":
		return "pong " + s.Data
	case "message":
	default:
		return s.Kind
	}
	if s.Text != (protocol == overJSON) {
		return "a message of the wrong type"
	}
	var frames []*wire.Frame
	if s.Text {
		f, err := wire.DecodeJSON(unhex(s.Data))
		if err != nil {
			return err.Error()
		}
		frames = append(frames, f)
	} else {
		for f, err := range wire.Frames(unhex(s.Data)) {
			if err != nil {
				return err.Error()
			}
			frames = append(frames, f)
		}
	}
	var words []string
	for _, f := range frames {
		switch b := f.Body.(type) {
		case *wire.Frame_Welcome:
			words = append(words, "Welcome "+b.Welcome.User)
		case *wire.Frame_LineOff:
			words = append(words, fmt.Sprint("LineOff ", b.LineOff.Code))
		case *wire.Frame_CommandResult:
			words = append(words, fmt.Sprint("CommandResult ", b.CommandResult.Code))
		case *wire.Frame_PresenceList:
			words = append(words, fmt.Sprint("PresenceList ", b.PresenceList.Code))
		case *wire.Frame_Verdict:
			words = append(words, fmt.Sprint("Verdict ", b.Verdict.Code))
		case *wire.Frame_Pong:
			words = append(words, "Pong")
		default:
			words = append(words, fmt.Sprintf("%T", b))
		}
	}
	return strings.Join(words, ", ")
}

// Three WebSocket libraries that know nothing of each other see the same.
func TestOtherWebSocketClientsSeeTheSame(t *testing.T) {
	t.Setenv("DIAN_HEARTBEAT", "25s") // no Ping of the server comes between
	r := startRelay(t)
	listen(t, r.url, "bob", t.TempDir())
	url := "ws" + strings.TrimPrefix(r.url, "http") + "/v1/session"
	for _, name := range slices.Sorted(maps.Keys(socketClients)) {
		t.Run(name, func(t *testing.T) {
			cases := socketCases(t, "alice-"+strings.ReplaceAll(name, " ", "-"))
			var jobs []socketJob
			for _, c := range cases {
				jobs = append(jobs, socketJob{c.name, url, c.protocols, c.steps})
			}
			seen := socketClients[name](t, jobs)
			for _, c := range cases {
				var got []string
				for _, s := range seen[c.name] {
					got = append(got, told(t, strings.TrimPrefix(c.want[0], "open "), s))
				}
				if !slices.Equal(got, c.want) {
					t.Errorf("%s: %q, want %q", c.name, got, c.want)
				}
			}
			t.Logf("%d cases", len(cases))
		})
	}
}
