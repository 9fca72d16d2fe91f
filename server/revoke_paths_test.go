package server

import (
	"bytes"
	"net/http"
	"strings"

	"github.com/dian-im/dian/internal/wire"
)

// revokePaths are all ways to have something done, each with the token that is
// revoked (case 41).
var revokePaths = []struct {
	name string
	run  func(v *revoker)
}{
	{"login", func(v *revoker) {
		v.revoke("alice")
		for _, role := range []wire.Role{wire.Role_ROLE_LISTEN, wire.Role_ROLE_SEND} {
			if c := v.hello(v.token("alice"), role, placeB); c.refused != wire.TokenRefused {
				v.t.Errorf("login as %v: %d, want 21", role, c.refused)
			}
		}
		for _, lift := range v.lifts {
			lift()
		}
		if c := v.hello(v.token("alice"), wire.Role_ROLE_SEND, ""); c.refused != 0 {
			v.t.Errorf("login after the lift: %d", c.refused)
		}
	}},
	{"live sessions", func(v *revoker) {
		listens := v.hello(v.token("alice"), wire.Role_ROLE_LISTEN, placeB)
		sends := v.hello(v.token("alice"), wire.Role_ROLE_SEND, "")
		v.revoke("alice")
		v.lineOff(listens)
		v.lineOff(sends)
		if v.srv.listener("demo", "alice") != nil {
			v.t.Error("alice can still be found")
		}
		sends.offer(fileOffer(10)) // what it still sends comes to nothing
		sends.send(commandFrame(&wire.Command{Id: wire.NewSendID(), Target: "bob"}))
		carol := v.hello(v.newer("carol"), wire.Role_ROLE_SEND, "")
		carol.send(commandFrame(&wire.Command{Id: wire.NewSendID(), Target: "nobody"}))
		carol.next(func(f *wire.Frame) bool { return f.GetCommandResult() != nil }) // time has passed
		if v.anyPath() != "" || v.srv.commands.pending.Load() != 0 {
			v.t.Error("bob has an offer, or a command")
		}
	}},
	{"a session whose token was updated to it", func(v *revoker) {
		c := v.hello(v.newer("alice"), wire.Role_ROLE_SEND, "")
		c.send(&wire.Frame{Body: &wire.Frame_UpdateToken{UpdateToken: &wire.UpdateToken{Token: v.token("alice")}}})
		if f := c.next(func(f *wire.Frame) bool { return f.GetTokenUpdated() != nil }); f.GetTokenUpdated().Code != 0 {
			v.t.Fatalf("update: %v", f)
		}
		v.revoke("alice")
		v.lineOff(c)
	}},
	{"an update to it", func(v *revoker) {
		if v.kind.user {
			return // the session ends already
		}
		c := v.hello(v.newer("alice"), wire.Role_ROLE_SEND, "")
		v.revoke("alice")
		c.send(&wire.Frame{Body: &wire.Frame_UpdateToken{UpdateToken: &wire.UpdateToken{Token: v.token("alice")}}})
		if f := c.next(func(f *wire.Frame) bool { return f.GetTokenUpdated() != nil }); wire.Code(f.GetTokenUpdated().Code) != wire.TokenRefused {
			v.t.Errorf("update: %v, want 21", f)
		}
	}},
	{"requests", func(v *revoker) {
		path := v.create(10)
		v.want(v.do(patchOf(v, path, 0, strings.NewReader("abc"))), 204)
		v.revoke("alice")
		for _, r := range []*http.Request{
			v.as("alice", "POST", "/v1/users/bob/commands", strings.NewReader("x")),
			v.as("alice", "GET", "/v1/users", nil),
			v.as("alice", "GET", "/v1/users/bob", nil),
			v.as("alice", "POST", "/v1/users/bob/transfers", nil, "Upload-Length", "3"),
			v.as("alice", "PUT", "/v1/users/bob/files/x", strings.NewReader("x")),
			patchOf(v, path, 3, strings.NewReader("defghij")),
			v.as("alice", "DELETE", path, nil),
			v.as("alice", "POST", path, nil, "X-HTTP-Method-Override", "DELETE"),
		} {
			a := v.do(r)
			v.refused(a)
		}
		v.want(v.do(v.as("alice", "HEAD", path, nil)), 401) // it has no body
		if got := string(v.bob.content(path)); got != "abc" || v.bob.part(path).canceled {
			v.t.Errorf("bob has %q", got)
		}
	}},
	{"a posted command that waits for its result", func(v *revoker) {
		done := v.waiting(v.as("alice", "POST", "/v1/users/bob/commands", strings.NewReader("x")))
		eventually(v.t, func() bool { return v.srv.commands.pending.Load() == 1 })
		v.revoke("alice")
		v.refused(<-done)
		if n := v.srv.commands.pending.Load(); n != 0 {
			v.t.Errorf("%d commands are pending", n)
		}
	}},
	{"a posted command whose body is under way", func(v *revoker) {
		rest := make(chan []byte, 1)
		r := v.as("alice", "POST", "/v1/users/bob/commands", &lateBody{now: bytes.NewReader([]byte("x")), rest: rest})
		r.ContentLength = 2
		seen := make(chan struct{})
		v.wrap = func(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
			r.Body = &toldBody{r.Body, seen}
			return w
		}
		done := v.waiting(r)
		<-seen
		v.revoke("alice")
		rest <- []byte("y")
		close(rest)
		v.refused(<-done)
		v.wrap = nil
		carol := v.hello(v.newer("carol"), wire.Role_ROLE_SEND, "")
		carol.offer(fileOffer(1))
		v.offered() // comes behind what was there before
		v.bob.set(func() {
			if v.bob.commands != 0 {
				v.t.Error("bob has the command of a sender that was revoked before it was whole")
			}
		})
	}},
	{"a creation that waits for its answer", func(v *revoker) {
		v.bob.set(func() { v.bob.hold = true })
		done := v.waiting(v.as("alice", "POST", "/v1/users/bob/transfers", nil, "Upload-Length", "3"))
		v.offered()
		v.revoke("alice")
		v.refused(<-done)
		// Its sender does not know its URL.
		eventually(v.t, func() bool { v.bob.mu.Lock(); defer v.bob.mu.Unlock(); return v.bob.partLocked().canceled })
	}},
	{"a PUT that waits for its answer", func(v *revoker) {
		v.bob.set(func() { v.bob.hold = true })
		done := v.waiting(v.as("alice", "PUT", "/v1/users/bob/files/x", strings.NewReader("x")))
		v.offered()
		v.revoke("alice")
		v.refused(<-done)
	}},
	{"an empty PUT that waits for its verdict", func(v *revoker) {
		v.bob.set(func() { v.bob.silent = true })
		done := v.waiting(v.as("alice", "PUT", "/v1/users/bob/files/x", nil, "Content-Length", "0"))
		v.offered()
		v.revoke("alice")
		v.refused(<-done)
	}},
	{"a HEAD that waits for the receiver", func(v *revoker) {
		v.bob.set(func() { v.bob.noLanes = true })
		path := v.create(10)
		v.bob.leave(v.relayTest)
		begun := make(chan struct{})
		v.wrap = func(w http.ResponseWriter, _ *http.Request) http.ResponseWriter { close(begun); return w }
		done := v.waiting(v.as("alice", "HEAD", path, nil))
		<-begun
		v.revoke("alice")
		v.want(<-done, 401)
	}},
	{"a PATCH that waits for the receiver's lane", func(v *revoker) {
		v.bob.set(func() { v.bob.noLanes = true })
		path := v.create(10)
		done := v.waiting(patchOf(v, path, 0, strings.NewReader("0123456789")))
		eventually(v.t, func() bool { return v.hasUp(path) })
		v.revoke("alice")
		v.refused(<-done)
	}},
	{"a PATCH that waits for the verdict", func(v *revoker) {
		v.bob.set(func() { v.bob.silent = true })
		path := v.create(10)
		done := v.waiting(patchOf(v, path, 0, strings.NewReader("0123456789")))
		eventually(v.t, func() bool { return len(v.bob.content(path)) == 10 })
		v.revoke("alice")
		v.refused(<-done)
	}},
	{"a PATCH that runs, copied", func(v *revoker) { runningPatch(v, 1000) }},
	{"a PATCH that runs, spliced", func(v *revoker) { runningPatch(v, 4<<20) }},
	{"a PUT that runs", func(v *revoker) {
		done, rest := v.half(v.as("alice", "PUT", "/v1/users/bob/files/x", nil), v.anyPath, testContent(1000))
		v.revoke("alice")
		v.refused(<-done)
		close(rest)
	}},
	{"a creation with upload that runs", func(v *revoker) {
		r := v.as("alice", "POST", "/v1/users/bob/transfers", nil, "Upload-Length", "1000", "Content-Type", tusContentType)
		done, rest := v.half(r, v.anyPath, testContent(1000))
		v.revoke("alice")
		v.refused(<-done)
		close(rest)
	}},
	{"the receiver's lane and ticket", func(v *revoker) {
		if v.kind.key {
			return // see TestReloadEndsLanesOfKeysThatAreGone
		}
		path := v.create(1000)
		ticket := v.bob.part(path).ticket
		done, rest := v.half(patchOf(v, path, 0, nil), func() string { return path }, testContent(1000))
		v.revoke("bob")
		v.bob.lanes.Wait() // its lane has ended, and its ticket opens no other
		if a := <-done; a.status != 409 {
			v.t.Errorf("the sender's lane: %d %s, want 409", a.status, a.body)
		}
		close(rest)
		v.want(v.do(v.request("GET", path, "", nil, "Authorization", "Ticket "+ticket)), 404)
	}},
	{"the receiver's lane after its session", func(v *revoker) {
		if v.kind.key {
			return
		}
		path := v.create(1000)
		ticket := v.bob.part(path).ticket
		done, rest := v.half(patchOf(v, path, 0, nil), func() string { return path }, testContent(1000))
		v.bob.leave(v.relayTest)
		v.revoke("bob")
		v.bob.lanes.Wait()
		<-done
		close(rest)
		v.want(v.do(v.request("GET", path, "", nil, "Authorization", "Ticket "+ticket)), 404)
	}},
	{"a receiver cannot be reached", func(v *revoker) {
		if v.kind.key {
			return // see TestReloadEndsSessionsOfKeysThatAreGone
		}
		v.revoke("bob")
		v.lineOffOf(v.bob)
		alice := v.hello(v.newer("alice"), wire.Role_ROLE_SEND, "")
		alice.offer(fileOffer(10))
		if got := alice.verdict(); wire.Code(got.Code) != wire.PeerOffline {
			v.t.Errorf("an offer: %v, want 603", got)
		}
	}},
	{"what is rebuilt after a restart", func(v *revoker) {
		if v.kind.key {
			return // the config of the next life says it, see TestReload…
		}
		path := v.create(10)
		v.want(v.do(patchOf(v, path, 0, strings.NewReader("abc"))), 204)
		v.revoke("alice")
		v.restart()
		v.bob.attach(v.relayTest, placeA)
		v.want(v.do(v.as("alice", "HEAD", path, nil)), 401)
		v.refused(v.do(patchOf(v, path, 3, strings.NewReader("defghij"))))
		v.refused(v.do(v.as("alice", "DELETE", path, nil)))
		if c := v.hello(v.token("alice"), wire.Role_ROLE_SEND, ""); c.refused != wire.TokenRefused {
			v.t.Errorf("login after a restart: %d, want 21", c.refused)
		}
		if got := string(v.bob.content(path)); got != "abc" || v.bob.part(path).canceled {
			v.t.Errorf("bob has %q", got)
		}
	}},
}

func runningPatch(v *revoker, size int) {
	path := v.create(size)
	done, rest := v.half(patchOf(v, path, 0, nil), func() string { return path }, testContent(size))
	v.revoke("alice")
	v.refused(<-done)
	close(rest)
	if n := len(v.bob.content(path)); n != size/2 {
		v.t.Errorf("bob has %d bytes, want %d", n, size/2)
	}
}
