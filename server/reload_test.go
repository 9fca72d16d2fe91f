package server

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// newKey is one that a reload brings, or takes away.
var newKey = Key{ID: "2", Algorithm: HS256, Secret: NewSecret([]byte("abcdefghijklmnopqrstuvwxyz012345"))}

func newKeyToken(t testing.TB, app, user string) string {
	t.Helper()
	token, err := Mint(newKey, app, user, time.Hour, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestReloadEndsSessionsOfKeysThatAreGone(t *testing.T) { // case 30
	r := tcpRelay(t, func(c *Config) { c.Apps[0].Keys = append(c.Apps[0].Keys, newKey) })
	alice := r.listen("alice")
	other := r.hello(listenHello(relayToken(t, "other", "carol", time.Hour, nil, nil), 1))
	bob := r.hello(listenHello(newKeyToken(t, "app", "bob"), 1))
	next := relayConfig()
	next.Apps[0].Keys = []Key{newKey}
	next.Apps = next.Apps[:1]
	if err := r.srv.Reload(next); err != nil {
		t.Fatal(err)
	}
	alice.lineOff(wire.TokenRefused)
	other.lineOff(wire.TokenRefused) // its app is gone
	bob.send(commandFrame(&wire.Command{Id: wire.NewSendID(), Target: "bob"}))
	bob.command()
	if r.srv.listener("app", "alice") != nil {
		t.Error("alice can still be found")
	}
	late := r.dial(wire.ProtoSubprotocol)
	late.send(helloFrame(listenHello(r.token("dave"), 1)))
	late.lineOff(wire.TokenRefused)
	if err := r.srv.Reload(Config{}); err == nil {
		t.Error("a config without apps was taken")
	}
}

// reloadTest is a relay with both keys, of which keep stays after reload.
func reloadTest(t *testing.T) (rt *relayTest, reload func(keep Key, change func(*App))) {
	rt = newRelayTest(t, false, func(c *Config) { c.Apps[0].Keys = append(c.Apps[0].Keys, newKey) })
	return rt, func(keep Key, change func(*App)) {
		t.Helper()
		cfg := DevConfig()
		cfg.Apps[0].Keys = []Key{keep}
		if change != nil {
			change(&cfg.Apps[0])
		}
		if err := rt.srv.Reload(cfg); err != nil {
			t.Fatal(err)
		}
	}
}

// halfway begins to upload content with alice's token of newKey and returns when
// bob has half of it; rest lets the body go on with what it is given.
func (rt *relayTest) halfway(bob *diskReceiver, path string, content []byte) (done <-chan answer, rest chan []byte) {
	rt.t.Helper()
	rest = make(chan []byte, 1)
	answered := make(chan answer, 1)
	half := len(content) / 2
	r := rt.request("PATCH", path, "", &lateBody{now: bytes.NewReader(content[:half]), rest: rest},
		"Upload-Offset", "0", "Authorization", "Bearer "+newKeyToken(rt.t, "demo", "alice"))
	r.ContentLength = int64(len(content))
	go func() { answered <- rt.do(r) }()
	eventually(rt.t, func() bool { return len(bob.content(path)) == half })
	return answered, rest
}

// lateBody gets what follows its first part later; a closed channel ends it.
type lateBody struct {
	now  *bytes.Reader
	rest chan []byte
}

func (b *lateBody) Read(p []byte) (int, error) {
	if b.now.Len() == 0 {
		b.now = bytes.NewReader(<-b.rest)
	}
	return b.now.Read(p)
}

func TestReloadEndsLanesOfKeysThatAreGone(t *testing.T) { // case 30
	for _, size := range []int{1000, 4 << 20} { // copied, and spliced
		rt, reload := reloadTest(t)
		bob := rt.receiver("bob", placeA)
		content := testContent(size)
		path := rt.create("alice", "bob", size, "")
		done, rest := rt.halfway(bob, path, content)
		reload(devKey(), nil) // the sender's is gone
		if a := rt.want(<-done, 401); !strings.Contains(a.body, `"code":21`) {
			t.Errorf("answer %s, want code 21", a.body)
		}
		close(rest)
		if err := rt.uploadAll(path, "alice", content, size); err != nil || !bytes.Equal(bob.content(path), content) {
			t.Errorf("the transfer does not go on with another token: %v", err)
		}

		rt, reload = reloadTest(t)
		bob = rt.receiver("bob", placeA)
		path = rt.create("alice", "bob", size, "")
		done, rest = rt.halfway(bob, path, content)
		reload(newKey, nil) // the receiver's is gone
		bob.lanes.Wait()    // its lane has ended, and its ticket opens no other
		rt.want(<-done, 409)
		close(rest)
	}
}

func TestReloadKeepsLanesOfKeysThatStay(t *testing.T) {
	rt, _ := reloadTest(t)
	bob := rt.receiver("bob", placeA)
	content := testContent(4 << 20)
	path := rt.create("alice", "bob", len(content), "")
	done, rest := rt.halfway(bob, path, content)
	cfg := DevConfig()
	cfg.Apps[0].Keys = append(cfg.Apps[0].Keys, newKey)
	if err := rt.srv.Reload(cfg); err != nil {
		t.Fatal(err)
	}
	rest <- content[len(content)/2:]
	close(rest)
	rt.want(<-done, 204)
	if !bytes.Equal(bob.content(path), content) {
		t.Error("other content")
	}
}

func TestReloadTakesTheAppsFileLimitOver(t *testing.T) {
	rt, reload := reloadTest(t)
	rt.receiver("bob", placeA)
	alice := rt.login("demo", "alice", wire.Role_ROLE_SEND, "")
	running := fileOffer(1000)
	alice.offer(running)
	alice.accepted()
	reload(devKey(), func(a *App) { a.MaxFileBytes = 100 })
	alice.offer(fileOffer(101))
	if v := alice.verdict(); wire.Code(v.Code) != wire.FileTooLarge {
		t.Errorf("a file over the new limit: %v", v)
	}
	alice.offer(fileOffer(100))
	alice.accepted()
	alice.offer(running) // what is under way goes on
	alice.accepted()
	later := rt.login("demo", "alice", wire.Role_ROLE_SEND, "")
	if got := later.welcome.GetLimits().GetFileBytes(); got != 100 {
		t.Errorf("Welcome says %d, want 100", got)
	}
}
