package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sort"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/dian-im/dian/internal/wire"
)

// isolationActors are all who act, in one app.
func (w *island) actors(app string) []isolationActor {
	token := func(a isolationActor) isolationActor {
		a.app = app
		if a.token == "" {
			a.token = relayToken(w.t, app, a.user, 9000*time.Hour, claimOf(a.send), claimOf(a.see))
		}
		return a
	}
	forged, err := Mint(Key{Algorithm: HS256, Secret: NewSecret([]byte("another secret of some 32 bytes!"))}, app, "alice", time.Hour, nil, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	list := []isolationActor{
		{name: "another user", user: "mallory", send: "*", see: "*"},
		{name: "one who may not see", user: "trudy", send: "*"},
		{name: "one who may send to bob alone", user: "sam", send: "bob"},
		{name: "one who may see bob alone", user: "sid", see: "bob"},
		{name: "one who may only see", user: "sue", see: "*"},
		{name: "one who may nothing", user: "nell"},
		{name: "one whom the operator forbids everything", user: "hal", send: "*", see: "*", banned: true},
		{name: "one named like alice", user: "Alice", send: "*", see: "*"},
		{name: "one named like bob", user: "b\u043eb", send: "*", see: "*"},
		{name: "bob, elsewhere", user: "bob", send: "*", see: "*"},
		{name: "alice without a good signature", user: "alice", token: forged, refused: wire.TokenRefused},
		{name: "alice of yesterday", user: "alice", token: relayToken(w.t, app, "alice", time.Second, nil, []string{"*"}), refused: wire.TokenExpired},
		{name: "bob of yesterday", user: "bob", token: relayToken(w.t, app, "bob", time.Second, nil, []string{"*"}), refused: wire.TokenExpired},
		{name: "somebody with garbage", user: "alice", token: "e30.e30.e30", refused: wire.TokenRefused},
	}
	if app == victimApp {
		list = append(list, isolationActor{name: "nobody in particular", refused: wire.NotLoggedIn})
	} else {
		list = append(list, isolationActor{name: "alice of another app", user: "alice", send: "*", see: "*"})
	}
	for i := range list {
		if list[i].refused != wire.NotLoggedIn {
			list[i] = token(list[i])
		}
		list[i].app = app
	}
	if len(list) != isolationActorCount {
		w.t.Fatalf("%d actors", len(list))
	}
	return list
}

// claimOf is the claim with one pattern, or with none.
func claimOf(pattern string) []string {
	if pattern == "" {
		return []string{}
	}
	return []string{pattern}
}

const isolationActorCount = 15

// An isolationRun is what one actor does on one island.
type isolationRun struct {
	*island
	a     isolationActor
	cells int
	same  map[string]string // what is told of what is not there, or must not be known
	which map[string]string // and in which cell
}

// blind wants all answers of a shape to look alike.
func (x *isolationRun) blind(p isolationProbe, w wantedCell, cell, told string) {
	x.t.Helper()
	key := fmt.Sprint(p.shape, w.status, w.code, w.frames, w.close)
	told = byChance.ReplaceAllString(told, "<any>")
	before, known := x.same[key]
	if !known {
		x.same[key], x.which[key] = told, cell
		return
	}
	if told != before {
		x.t.Errorf("%s: %q, but %s: %q", cell, told, x.which[key], before)
	}
}

// all takes one probe after the other.
func (x *isolationRun) all(probes []isolationProbe, one func(isolationProbe)) {
	for _, p := range probes {
		one(p)
	}
}

// request is a cell of HTTP.
func (x *isolationRun) request(p isolationProbe) {
	x.t.Helper()
	x.cells++
	before := x.snapshot()
	cell := fmt.Sprintf("%s in %s: %v", x.a.name, x.a.app, p)
	req, err := http.NewRequest(p.method, "http://relay.example"+p.path, strings.NewReader(p.body))
	if err != nil {
		x.t.Fatal(err)
	}
	if x.a.token != "" {
		req.Header.Set("Authorization", "Bearer "+x.a.token)
	}
	for i := 0; i < len(p.headers); i += 2 {
		req.Header.Set(p.headers[i], p.headers[i+1])
	}
	resp, err := x.r.web.Do(req)
	if err != nil {
		x.t.Fatalf("%s: %v", cell, err)
	}
	told, body := readAll(resp)
	synctest.Wait()
	w := x.a.wantHTTP(p)
	var doc struct {
		Code  *wire.Code
		Users []userState
		userState
	}
	_ = json.Unmarshal([]byte(body), &doc)
	if doc.User != "" {
		doc.Users = []userState{doc.userState}
	}
	var users []string
	for _, u := range doc.Users {
		users = append(users, fmt.Sprintf("%s=%d", u.User, u.Status))
	}
	switch {
	case !slices.Contains(w.status, resp.StatusCode),
		len(w.code) > 0 && p.method != http.MethodHead && (doc.Code == nil || !slices.Contains(w.code, *doc.Code)),
		!slices.Equal(users, w.users):
		x.t.Errorf("%s: answered %s, want %v %v %v", cell, told, w.status, w.code, w.users)
	case w.blind:
		x.blind(p, w, cell, told)
	}
	x.secret(cell, told)
	x.calm(cell, before, x.a, w.reaches)
}

// session logs the actor in.
func (x *isolationRun) session(role wire.Role, protocol string) *islander {
	x.t.Helper()
	p := x.r.dial(protocol)
	p.send(helloFrame(&wire.Hello{Token: x.a.token, Role: role, Instance: x.a.place()}))
	f := p.next()
	if p.welcome = f.GetWelcome(); p.welcome.GetUser() != x.a.user || p.welcome.GetApp() != x.a.app {
		x.t.Fatalf("%s: no Welcome: %v", x.a.name, f)
	}
	return newIslander(p)
}

// frames sends every message in a session, each a cell.
func (x *isolationRun) frames(role wire.Role, protocol string) {
	listening := role == wire.Role_ROLE_LISTEN
	i := x.session(role, protocol)
	tokens := map[string]string{"its own": relayToken(x.t, x.a.app, x.a.user, 9500*time.Hour, claimOf(x.a.send), claimOf(x.a.see))}
	for _, app := range []string{victimApp, "other"} {
		for _, user := range []string{"alice", "bob", x.a.user} {
			if app != x.a.app || user != x.a.user {
				tokens[user+" of "+app] = relayToken(x.t, app, user, 9900*time.Hour, nil, []string{"*"})
			}
		}
	}
	for _, p := range x.messages(x.a, tokens) {
		x.cells++
		before := x.snapshot()
		cell := fmt.Sprintf("%s in %s, %v, %s: %v", x.a.name, x.a.app, role, protocol, p)
		w := x.a.wantFrame(p, listening)
		i.send(p.frame)
		synctest.Wait()
		if kind := kindOf(p.frame); kind == "PresenceQuery" || kind == "PresenceSubscribe" || kind == "UpdateToken" {
			time.Sleep(time.Second) // their rates are not what is tested
			synctest.Wait()
		}
		got, err := i.told()
		told, kinds, code, users := framesText(got)
		switch {
		case w.close != 0:
			if !websocket.IsCloseError(err, w.close) || len(got) > 0 {
				x.t.Errorf("%s: got %v, %v; want close %d", cell, got, err, w.close)
			}
		case err != nil:
			x.t.Errorf("%s: ended with %v", cell, err)
		case kinds != w.frames, len(w.code) > 0 && !slices.Contains(w.code, code), len(w.users)+len(users) > 0 && !slices.Equal(users, w.users):
			x.t.Errorf("%s: answered %v, want %q %v %v", cell, got, w.frames, w.code, w.users)
		}
		if w.blind {
			x.blind(p, w, cell, told)
		}
		x.secret(cell, strings.ReplaceAll(told, base64Text(string(x.a.place())), "<its own place>"))
		x.calm(cell, before, x.a, w.reaches)
		if err != nil {
			i.conn.Close()
			i = x.session(role, protocol)
		}
		if s := p.frame.GetPresenceSubscribe(); s != nil {
			x.watches(i, cell, s, w)
		}
	}
	i.conn.Close()
	synctest.Wait()
}

// watches sees what a subscription brings when bob's state changes, and that nothing
// comes behind its end.
func (x *isolationRun) watches(i *islander, cell string, s *wire.PresenceSubscribe, w wantedCell) {
	x.t.Helper()
	change := func(busy bool) (changes int) {
		x.bob.send(&wire.Frame{Body: &wire.Frame_Status{Status: &wire.Status{Busy: busy}}})
		time.Sleep(time.Second)
		synctest.Wait()
		got, _ := i.told()
		for _, f := range got {
			changes += len(f.GetPresenceChange().GetUsers())
		}
		if _, kinds, _, _ := framesText(got); kinds != "" && kinds != "PresenceChange" {
			x.t.Errorf("%s: then came %v", cell, got)
		}
		return changes
	}
	want := 0
	if slices.Equal(w.code, []wire.Code{0}) && x.a.app == victimApp && x.a.maySee("bob") && (len(s.Users) == 0 || slices.Contains(s.Users, "bob")) {
		want = 1
	}
	if n := change(true); n != want {
		x.t.Errorf("%s: %d changes of bob were told, want %d", cell, n, want)
	}
	i.send(&wire.Frame{Body: &wire.Frame_PresenceSubscribe{PresenceSubscribe: &wire.PresenceSubscribe{Id: 6, Users: s.Users, Stop: true}}})
	synctest.Wait()
	i.told()
	if n := change(false); n != 0 {
		x.t.Errorf("%s: %d changes of bob were told behind its end", cell, n)
	}
}

// framesText is what some frames say.
func framesText(got []*wire.Frame) (told, kinds string, code wire.Code, users []string) {
	var names, texts []string
	for _, f := range got {
		names = append(names, kindOf(f))
		if c := codeIn(f); c != 0 {
			code = c
		}
		for _, p := range f.GetPresenceList().GetUsers() {
			users = append(users, fmt.Sprintf("%s=%d", p.User, p.Status))
		}
		text, _ := wire.EncodeJSON(f)
		texts = append(texts, string(text))
	}
	sort.Strings(names)
	sort.Strings(users)
	return strings.Join(texts, "\n"), strings.Join(names, " "), code, users
}

// Everybody beside the victims tries everything, on every path: it gets what its token
// allows and nothing else, is not told what there is, and the victims' work goes on.
func TestIsolation(t *testing.T) { // cases 20, 36, 37, 38, 39, 40 and 41
	cells, violations := 0, t.Failed
	paths := []struct {
		name string
		run  func(x *isolationRun)
	}{
		{"HTTP", func(x *isolationRun) { x.all(x.requests(x.a), x.request) }},
		{"a session, to send", func(x *isolationRun) { x.frames(wire.Role_ROLE_SEND, wire.ProtoSubprotocol) }},
		{"a session in JSON", func(x *isolationRun) { x.frames(wire.Role_ROLE_LISTEN, wire.JSONSubprotocol) }},
	}
	for _, app := range []string{victimApp, "other"} {
		for n := range isolationActorCount {
			for _, path := range paths {
				t.Run(fmt.Sprint(app, n, path.name), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						w := newIsland(t)
						defer w.end()
						x := &isolationRun{island: w, a: w.actors(app)[n], same: map[string]string{}, which: map[string]string{}}
						time.Sleep(2 * time.Second) // yesterday is over
						if x.a.banned {
							w.banned = x.a.user
						}
						switch {
						case path.name != "HTTP" && x.a.refused != 0: // TestEveryTokenAtEveryDoor
						case path.name == "a session in JSON" && x.a.app == victimApp && x.a.user == "bob": // TestNothingOfAnEndedSessionCounts
						default:
							path.run(x)
						}
						w.goOn()
						cells += x.cells
					})
				})
			}
		}
	}
	t.Logf("%d cells", cells)
	if cells < 5000 || violations() {
		t.Errorf("%d cells, want at least 5,000, and no violation", cells)
	}
}
