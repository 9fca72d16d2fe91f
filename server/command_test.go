package server

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/dian-im/dian/internal/wire"
)

const (
	final = wire.CommandOutcome_COMMAND_OUTCOME_FINAL
	gap   = wire.CommandOutcome_COMMAND_OUTCOME_GAP
	lost  = wire.CommandOutcome_COMMAND_OUTCOME_LOST
)

func TestCommandAndReplyPassUntouched(t *testing.T) { // case 36
	r := tcpRelay(t)
	alice, bob := r.listen("alice"), r.dial(wire.JSONSubprotocol)
	bob.send(helloFrame(listenHello(r.token("bob"), 7)))
	if bob.next().GetWelcome() == nil {
		t.Fatal("no Welcome")
	}
	sent := &wire.Command{
		Id: wire.NewSendID(), Target: "bob", Stream: 1<<64 - 1, Seq: 9, Floor: 3, Resent: true,
		Data: []byte{0, 255, 1}, Meta: []byte("meta"), Header: []byte("header"),
		Source: &wire.Peer{User: "mallory", Instance: instanceOf(66)}, Ref: 12345, // forged
	}
	alice.send(commandFrame(sent))
	got := bob.command()
	if got.Ref == 12345 || got.Ref == 0 {
		t.Errorf("ref = %d, want the server's", got.Ref)
	}
	ref := got.Ref
	sent.Source, sent.Ref = &wire.Peer{User: "alice", Instance: instanceOf(1)}, ref
	if diff := cmp.Diff(sent, got, protocmp.Transform()); diff != "" {
		t.Errorf("command (-want +got):\n%s", diff)
	}
	bob.send(ackFrame(&wire.CommandAck{Ref: ref, Id: sent.Id, Outcome: gap, Next: 4}))
	want := &wire.CommandResult{Id: sent.Id, Outcome: gap, Next: 4, Origin: wire.Origin_ORIGIN_PEER}
	if diff := cmp.Diff(want, alice.result(), protocmp.Transform()); diff != "" {
		t.Errorf("gap (-want +got):\n%s", diff)
	}
	alice.send(commandFrame(sent))
	got = bob.command()
	reply := bytes.Repeat([]byte{7}, wire.ReplyBytes)
	bob.send(ackFrame(&wire.CommandAck{Ref: got.Ref, Id: sent.Id, Outcome: final, Code: 606, Detail: "no", Reply: reply, Header: []byte("h")}))
	want = &wire.CommandResult{Id: sent.Id, Outcome: final, Code: 606, Detail: "no", Reply: reply, Header: []byte("h"), Origin: wire.Origin_ORIGIN_PEER}
	if diff := cmp.Diff(want, alice.result(), protocmp.Transform()); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
}

func TestCommandsKeepTheirOrder(t *testing.T) {
	r := tcpRelay(t)
	alice, bob := r.sender("alice"), r.listen("bob")
	const n = 2000
	go func() {
		for i := range n {
			alice.send(commandFrame(&wire.Command{Id: wire.NewSendID(), Target: "bob", Stream: 1, Seq: uint64(i + 1), Floor: 1}))
		}
	}()
	for i := range n {
		c := bob.command()
		if c.Seq != uint64(i+1) {
			t.Fatalf("seq %d after %d", c.Seq, i)
		}
		bob.send(ackFrame(&wire.CommandAck{Ref: c.Ref, Id: c.Id, Outcome: final}))
	}
	for range n {
		if got := alice.result(); got.Code != 0 {
			t.Fatalf("result %v", got)
		}
	}
	if got := r.counter(`dian_commands_total{result="0"}`); got != fmt.Sprint(n) {
		t.Errorf("counted %s commands, want %d", got, n)
	}
	for _, name := range []string{"dian_commands_pending", `dian_limit_used{limit="queued_bytes"}`} {
		if got := r.counter(name); got != "0" {
			t.Errorf("%s = %s at the end", name, got)
		}
	}
}

func TestBadCommandsAreRefused(t *testing.T) {
	r := tcpRelay(t)
	token := relayToken(t, "app", "alice", time.Hour, []string{"bob", "carol"}, nil)
	alice := r.hello(sendHello(token))
	r.listen("bob")
	r.listen("dave")
	id := wire.NewSendID()
	for _, c := range []struct {
		name string
		c    *wire.Command
		code wire.Code
	}{
		{"offline", &wire.Command{Id: id, Target: "carol"}, wire.PeerOffline},
		{"not allowed", &wire.Command{Id: id, Target: "dave"}, wire.NoPermission},
		{"not allowed, not there", &wire.Command{Id: id, Target: "erin"}, wire.NoPermission}, // case 38
		{"no target", &wire.Command{Id: id}, wire.BadTarget},
		{"bad target", &wire.Command{Id: id, Target: "a\nb"}, wire.BadTarget},
		{"long target", &wire.Command{Id: id, Target: strings.Repeat("x", 129)}, wire.BadTarget},
		{"too large", &wire.Command{Id: id, Target: "bob", Data: make([]byte, wire.CommandBytes+1)}, wire.CommandTooLarge},
		{"long meta", &wire.Command{Id: id, Target: "bob", Meta: make([]byte, wire.MetaBytes+1)}, wire.BadParameter},
		{"long header", &wire.Command{Id: id, Target: "bob", Header: make([]byte, wire.HeaderBytes+1)}, wire.BadParameter},
		{"seq without stream", &wire.Command{Id: id, Target: "bob", Seq: 1}, wire.BadParameter},
		{"floor above seq", &wire.Command{Id: id, Target: "bob", Stream: 1, Seq: 1, Floor: 2}, wire.BadParameter},
		{"seq wraps", &wire.Command{Id: id, Target: "bob", Stream: 1, Seq: 1<<64 - 1, Floor: 1}, wire.BadParameter},
		{"bad id", &wire.Command{Id: "x", Target: "bob"}, wire.BadParameter},
		{"long id", &wire.Command{Id: strings.Repeat("y", 1000), Target: "bob"}, wire.BadParameter},
	} {
		t.Run(c.name, func(t *testing.T) {
			alice.send(commandFrame(c.c))
			alice.finalCode(c.c.Id[:min(len(c.c.Id), 36)], c.code)
		})
	}
}

func TestAppsNeverMeet(t *testing.T) { // case 37
	r := tcpRelay(t)
	bob := r.listen("bob")
	stranger := r.hello(listenHello(relayToken(t, "other", "bob", time.Hour, nil, []string{"*"}), 2)) // kicks nobody
	alice := r.hello(sendHello(relayToken(t, "other", "alice", time.Hour, nil, []string{"*"})))
	id := wire.NewSendID()
	alice.send(commandFrame(&wire.Command{Id: id, Target: "bob"}))
	if c := stranger.command(); c.Id != id {
		t.Errorf("got %v", c)
	}
	r.hello(sendHello(r.token("carol"))).send(commandFrame(&wire.Command{Id: id, Target: "bob"}))
	if c := bob.command(); c.Source.User != "carol" {
		t.Errorf("bob of the other app got %v", c)
	}
	alice.send(commandFrame(&wire.Command{Id: id, Target: "carol"}))
	alice.finalCode(id, wire.PeerOffline)
}

func TestAckOfTheWrongPartyIsIgnored(t *testing.T) { // cases 16 and 39
	r := tcpRelay(t)
	alice, bob, eve := r.listen("alice"), r.listen("bob"), r.listen("eve")
	id := wire.NewSendID()
	alice.send(commandFrame(&wire.Command{Id: id, Target: "bob"}))
	c := bob.command()
	eve.send(ackFrame(&wire.CommandAck{Ref: c.Ref, Id: id, Outcome: final, Code: 666}))
	bob.send(ackFrame(&wire.CommandAck{Ref: c.Ref, Id: wire.NewSendID(), Outcome: final, Code: 666}),
		ackFrame(&wire.CommandAck{Ref: c.Ref + 1<<slotBits, Id: id, Outcome: final, Code: 666}),
		ackFrame(&wire.CommandAck{Ref: 1<<64 - 1, Id: id, Outcome: final, Code: 666}),
		ackFrame(&wire.CommandAck{Ref: c.Ref, Id: id, Outcome: final}),
		ackFrame(&wire.CommandAck{Ref: c.Ref, Id: id, Outcome: final, Code: 666})) // the second word on it
	if got := alice.result(); got.Code != 0 {
		t.Errorf("result %v", got)
	}
	// Eve's is on its own connection; her next command comes after it.
	eve.send(commandFrame(&wire.Command{Id: id, Target: "alice"}))
	if got := alice.next().GetCommand(); got.GetSource().GetUser() != "eve" {
		t.Errorf("got %v", got)
	}
	if got := r.counter(`dian_frames_ignored_total{frame="command_ack"}`); got != "5" {
		t.Errorf("%s acks ignored, want 5", got)
	}
}

func TestBrokenAckEndsTheReceiver(t *testing.T) {
	r := tcpRelay(t)
	alice, bob := r.listen("alice"), r.listen("bob")
	id := wire.NewSendID()
	alice.send(commandFrame(&wire.Command{Id: id, Target: "bob"}))
	c := bob.command()
	bob.send(ackFrame(&wire.CommandAck{Ref: c.Ref, Id: id, Outcome: lost})) // the server's to say
	bob.ended(1002)
	if got := alice.result(); got.Outcome != lost {
		t.Errorf("result %v, want LOST", got)
	}
}

func TestCommandWithoutAckTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := memRelay(t)
		alice, bob := r.listen("alice"), r.listen("bob")
		answered := make(chan struct{})
		go func() { // bob keeps his line and says nothing
			defer close(answered)
			for {
				if _, err := bob.read(); err != nil {
					return
				}
			}
		}()
		start := time.Now()
		ids := []string{wire.NewSendID(), wire.NewSendID()}
		alice.send(commandFrame(&wire.Command{Id: ids[0], Target: "bob"}))
		time.Sleep(5 * time.Second)
		alice.send(commandFrame(&wire.Command{Id: ids[1], Target: "bob"}))
		for i, id := range ids {
			alice.finalCode(id, wire.PeerNoAnswer)
			if took, want := time.Since(start), 30*time.Second+time.Duration(i)*5*time.Second; took < want || took > want+time.Second {
				t.Errorf("604 after %v, want %v", took, want)
			}
		}
		if n := r.srv.commands.pending.Load(); n != 0 {
			t.Errorf("%d commands are still counted", n)
		}
		bob.conn.Close()
		<-answered
	})
}

func TestPostedCommand(t *testing.T) {
	r := tcpRelay(t)
	bob := r.listen("bob/ü")
	token := r.token("alice")
	id := wire.NewSendID()
	const path = "/v1/users/bob%2F%C3%BC/commands"
	answer := func(a *wire.CommandAck) {
		c := bob.command()
		if c.Stream != 0 || c.Source.User != "alice" || string(c.Data) != "data" || string(c.Meta) != "meta" {
			t.Errorf("command %v", c)
		}
		a.Ref, a.Id = c.Ref, c.Id
		bob.send(ackFrame(a))
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		answer(&wire.CommandAck{Outcome: final, Reply: []byte("reply")})
		answer(&wire.CommandAck{Outcome: final, Code: 606, Detail: "not today"})
		answer(&wire.CommandAck{Outcome: final, Code: 4711})
		answer(&wire.CommandAck{Outcome: gap, Next: 3})
	}()
	post := func() (*http.Response, string) {
		return r.do("POST", path, token, strings.NewReader("data"), "Dian-Send-Id", id, "Dian-Meta", base64.StdEncoding.EncodeToString([]byte("meta")))
	}
	resp, body := post()
	if resp.StatusCode != 200 || body != "reply" || resp.Header.Get("Dian-Send-Id") != id || resp.Header.Get("Dian-Code") != "0" ||
		resp.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%d %q %v", resp.StatusCode, body, resp.Header)
	}
	resp, body = post()
	wantProblem(t, resp, body, http.StatusForbidden, wire.PeerRefused)
	resp, body = post()
	if resp.StatusCode != 422 || !strings.Contains(body, `"code":4711`) {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	resp, body = post()
	wantProblem(t, resp, body, 422, wire.PeerNoAnswer)
	<-done
}

func TestBadPostsAreRefused(t *testing.T) {
	r := tcpRelay(t)
	token := relayToken(t, "app", "alice", time.Hour, []string{"bob", "carol"}, nil)
	r.listen("dave")
	for _, c := range []struct {
		name, path, token, body string
		headers                 []string
		status                  int
		code                    wire.Code
	}{
		{"no token", "bob", "", "", nil, 401, wire.NotLoggedIn},
		{"bad token", "bob", "x.y.z", "", nil, 401, wire.TokenMalformed},
		{"offline", "bob", token, "", nil, 404, wire.PeerOffline},
		{"not allowed", "dave", token, "", nil, 403, wire.NoPermission},
		{"bad target", "a%0Ab", token, "", nil, 400, wire.BadTarget},
		{"too large", "bob", token, strings.Repeat("x", wire.CommandBytes+1), nil, 413, wire.CommandTooLarge},
		{"bad meta", "bob", token, "", []string{"Dian-Meta", "!!"}, 400, wire.BadData},
		{"bad id", "bob", token, "", []string{"Dian-Send-Id", "1"}, 400, wire.BadParameter},
	} {
		resp, body := r.do("POST", "/v1/users/"+c.path+"/commands", c.token, strings.NewReader(c.body), c.headers...)
		if !t.Run(c.name, func(t *testing.T) { wantProblem(t, resp, body, c.status, c.code) }) {
			continue
		}
	}
}

func TestPostIsAnsweredWhenTheReceiverGoes(t *testing.T) {
	r := tcpRelay(t)
	bob := r.listen("bob")
	go func() {
		bob.command()
		bob.conn.Close()
	}()
	resp, body := r.do("POST", "/v1/users/bob/commands", r.token("alice"), nil)
	wantProblem(t, resp, body, 422, wire.PeerNoAnswer)
}

func TestPostThatIsGivenUpIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := memRelay(t)
		bob := r.listen("bob")
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, "POST", "http://relay.example/v1/users/bob/commands", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+r.token("alice"))
		go func() {
			bob.command()
			cancel()
		}()
		if resp, err := r.web.Do(req); err == nil {
			resp.Body.Close()
			t.Errorf("answered %d", resp.StatusCode)
		}
		synctest.Wait()
		if n := r.srv.commands.pending.Load(); n != 0 {
			t.Errorf("%d commands wait", n)
		}
	})
}
