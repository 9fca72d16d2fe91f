package server

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dian-im/dian/internal/wire"
)

// canary is what must not come out anywhere but where it belongs.
const canary = "c4nary"

// TestNothingLeaks puts a canary into everything that is not for the operator's eyes
// and does one of each thing, with the log at its most talkative: log, audit, metrics,
// admin answers and the file of revocations have none of it, whether things go well,
// are refused or hit a bug (cases 31, 113).
func TestNothingLeaks(t *testing.T) {
	dir := t.TempDir()
	secret := NewSecret([]byte(canary + "-secret-of-at-least-32-bytes-----"))
	adminToken := canary + "-admin-token-of-at-least-32-characters"
	key := Key{ID: "k", Algorithm: HS256, Secret: secret}
	var log testSink
	sink := &testSink{}
	explode := false
	rt := newRelayTest(t, false, func(c *Config) {
		c.Apps[0].Keys = append(c.Apps[0].Keys, key)
		c.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		c.Audit = Audit{Writer: sink, UserKey: NewSecret([]byte(canary + "-audit-key-of-at-least-32-bytes"))}
		c.Admin = Admin{Token: NewSecret([]byte(adminToken)), Pprof: true}
		c.RevocationsFile = filepath.Join(dir, "revocations")
		c.Authorize = func(_ context.Context, a Action) error {
			if a.Target == "forbidden" {
				return fmt.Errorf("%s: a program's reason", canary)
			}
			if explode {
				panic(canary + " in a panic")
			}
			return nil
		}
	})
	token, err := Mint(key, "demo", "alice", 3600e9, nil, []string{"*"})
	if err != nil {
		t.Fatal(err)
	}
	signature := token[strings.LastIndexByte(token, '.')+1:]
	bob := rt.receiver("bob", placeA)
	alice := rt.hello(token, wire.Role_ROLE_SEND, "")
	var ids []string
	var answers bytes.Buffer

	// Things go well, in every form.
	o := fileOffer(20)
	o.Name, o.Type, o.Meta, o.Header = canary+".txt", "text/"+canary, []byte(canary), []byte(canary)
	alice.offer(o)
	a := alice.accepted()
	alice.finish(a.Transfer)
	rt.want(rt.do(rt.request("PATCH", a.Url, "", strings.NewReader(canary+"-content-of-20"), "Upload-Offset", "0", "Authorization", "Bearer "+token)), 204)
	alice.verdict()
	inline := fileOffer(int64(len(canary)))
	inline.Inlined, inline.Inline, inline.Name = true, []byte(canary), canary
	alice.offer(inline)
	alice.verdict()
	put := func(user, target string) answer {
		return rt.do(rt.request("PUT", "/v1/users/"+target+"/files/"+canary+".txt", user, strings.NewReader(canary),
			"Content-Type", "text/"+canary, "Dian-Meta", b64(canary)))
	}
	rt.want(put("alice", "bob"), 200)
	rt.create("alice", "bob", 3, "filename "+b64(canary)+",meta "+b64(canary)+","+canary+" "+b64(canary))
	c := &wire.Command{Id: wire.NewSendID(), Target: "bob", Data: []byte(canary), Meta: []byte(canary), Header: []byte(canary)}
	line := bob.conn
	go func() {
		// bob's reader has no commands: its line breaks before the ack, and it comes back.
		eventually(t, func() bool { return rt.srv.commands.pending.Load() == 1 })
		line.Close()
	}()
	alice.send(commandFrame(c))
	alice.next(func(f *wire.Frame) bool { return f.GetCommandResult() != nil })
	eventually(t, func() bool { return rt.srv.listener("demo", "bob") == nil })
	bob.attach(rt, placeA)
	ids = append(ids, o.SendId, inline.SendId, c.Id)

	// Things are refused.
	bob.set(func() { bob.refuse = uint32(wire.PeerRefused) }) // with a detail
	rt.want(put("alice", "bob"), 403)
	rt.want(put("alice", "forbidden"), 403)
	alice.send(commandFrame(&wire.Command{Id: canary, Target: canary + "\n", Data: []byte(canary)}))
	alice.next(func(f *wire.Frame) bool { return f.GetCommandResult() != nil })
	for _, path := range []string{"/v1/transfers/" + canary, "/v1/" + canary, "/v1/users?ticket=" + canary} {
		rt.do(rt.request("GET", path, "", nil, "Authorization", "Bearer "+canary, "X-"+canary, canary))
	}
	rt.hello(canary, wire.Role_ROLE_SEND, "")
	rt.hello(token[:len(token)-10]+canary+"xxxx", wire.Role_ROLE_SEND, "")
	rt.want(rt.do(rt.request("GET", "/v1/users", "", nil, "Authorization", "Bearer "+token+canary)), 401)
	alice.send(&wire.Frame{Body: &wire.Frame_UpdateToken{UpdateToken: &wire.UpdateToken{Token: canary + "." + canary + "." + canary}}})
	alice.next(func(f *wire.Frame) bool { return f.GetTokenUpdated() != nil })

	// A bug, in a request and in a session.
	explode = true
	rt.do(rt.request("POST", "/v1/users/bob/commands", "", strings.NewReader(canary), "Authorization", "Bearer "+token))
	dave := rt.login("demo", "dave", wire.Role_ROLE_SEND, "")
	dave.send(commandFrame(c))
	if _, err := dave.tryNext(testWait, func(*wire.Frame) bool { return false }); err == nil || err.Error() != "session ended" {
		t.Errorf("after a bug: %v, want the session's end", err)
	}
	explode = false
	if got := rt.counter("dian_panics_total"); got != "2" {
		t.Errorf("%s bugs were caught, want 2: this test has not come where it wants", got)
	}

	// The operator sees and acts.
	call := func(method, path, body string, want int) {
		t.Helper()
		w := httptest.NewRecorder()
		rt.srv.AdminHandler().ServeHTTP(w, adminRequest(method, path, adminToken, body))
		if w.Code != want {
			t.Errorf("%s %s = %d %s", method, path, w.Code, w.Body)
		}
		fmt.Fprintf(&answers, "%v%s", w.Result().Header, w.Body)
	}
	call("GET", "/admin/v1/sessions", "", 200)
	call("GET", "/admin/v1/transfers", "", 200)
	call("POST", "/admin/v1/revocations", `{"token":"`+canary+`"}`, 401)
	call("POST", "/admin/v1/revocations", `{"token":"`+token+`"}`, 201)
	call("POST", "/admin/v1/revocations", `{"`+canary+`":"`+canary+`"}`, 400)
	call("POST", "/admin/v1/kick", `"`+canary+`"`, 400)
	call("POST", "/admin/v1/kick", `{"app":"demo","user":"bob"}`, 200)
	call("POST", "/admin/v1/cancel", `{"sendId":"`+canary+`"}`, 404)
	call("DELETE", "/admin/v1/revocations/"+canary, "", 400)
	call("GET", "/admin/v1/revocations?"+canary+"="+canary, "", 400)
	call("GET", "/admin/v1/revocations", "", 200)
	call("GET", "/debug/pprof/goroutine?debug=2", "", 200)
	call("GET", "/debug/pprof/heap?debug=1", "", 200)
	call("GET", "/debug/pprof/"+canary, "", 400)
	w := httptest.NewRecorder()
	rt.srv.AdminHandler().ServeHTTP(w, adminRequest("GET", "/admin/v1/sessions", canary, ""))
	answers.Write(w.Body.Bytes())
	metrics := rt.want(rt.do(rt.request("GET", "/metrics", "", nil)), 200).body
	rt.stop()
	kept, err := os.ReadFile(filepath.Join(dir, "revocations"))
	if err != nil {
		t.Fatal(err)
	}

	outputs := map[string]string{
		"log": log.text(), "audit": sink.text(), "metrics": metrics, "admin": answers.String(), "revocations": string(kept),
		"config": fmt.Sprintf("%v %+v %#v", rt.srv.cfg, rt.srv.cfg, rt.srv.cfg),
	}
	for name, text := range outputs {
		if len(text) < 100 {
			t.Errorf("%s has only %d bytes: this test looks at nothing", name, len(text))
		}
		text = strings.ToLower(text)
		for _, form := range []string{canary, b64(canary), base64.RawURLEncoding.EncodeToString([]byte(canary)), hex.EncodeToString([]byte(canary)), signature} {
			form = strings.ToLower(strings.TrimRight(form, "="))
			if at := strings.Index(text, form); at >= 0 {
				t.Errorf("%s has %q: …%q…", name, form, text[max(0, at-100):min(len(text), at+100)])
			}
		}
	}
	// What belongs into the audit is there, and nowhere does a user's name stand.
	for _, id := range ids {
		if !strings.Contains(outputs["audit"], id) {
			t.Errorf("the audit has no line of %s", id)
		}
		for _, name := range []string{"log", "metrics", "revocations"} {
			if strings.Contains(outputs[name], id) {
				t.Errorf("%s has the sendID %s", name, id)
			}
		}
	}
	for name, text := range outputs {
		for _, user := range []string{"alice", "bob", "dave"} {
			if strings.Contains(text, user) && name != "admin" {
				t.Errorf("%s has the user %s", name, user)
			}
		}
	}
}

// counter reads one metric of the relay.
func (rt *relayTest) counter(name string) string {
	rt.t.Helper()
	for line := range strings.Lines(rt.want(rt.do(rt.request("GET", "/metrics", "", nil)), 200).body) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
