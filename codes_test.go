package dian_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/diantest"
	"github.com/dian-im/dian/internal/memnet"
	"github.com/dian-im/dian/server"
)

// A codeCase is one way to get a code from the real server.
type codeCase struct {
	code   dian.Code
	how    string
	origin dian.Origin
	make   func(t *testing.T) error
}

// codeCases hold every code of docs/protocol.md §10 that can occur.
var codeCases = []codeCase{
	{dian.OK, "a command that arrives", dian.Local, func(t *testing.T) error {
		return couple(t, takesAll).SendCmd("bob", []byte("hello")).Wait(t.Context())
	}},
	{dian.ErrUnknown, "a receiver that refuses without a better code", dian.Peer, func(t *testing.T) error {
		h := dian.Handler{AcceptBuffer: func(o *dian.Offer) { o.Refuse(dian.ErrUnknown, "") }}
		return couple(t, h).SendBuffer("bob", noise(10)).Wait(t.Context())
	}},
	{dian.ErrInternal, "an Authorize hook that fails inside", dian.Server, func(t *testing.T) error {
		relay := diantest.New(t)
		relay.FailNext(dian.ErrInternal)
		return relay.Client("alice").SendCmd("bob", nil).Wait(t.Context())
	}},
	{dian.ErrVersionNotSupported, "a proxy that loses the subprotocol", dian.Server, func(t *testing.T) error {
		relay := diantest.New(t)
		target, err := url.Parse(relay.URL)
		if err != nil {
			t.Fatal(err)
		}
		proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Header.Del("Sec-Websocket-Protocol")
		}})
		defer proxy.Close()
		return login(t, proxy.URL, dian.WithToken(relay.Token("alice")))
	}},
	{dian.ErrBadParameter, "meta of 4,097 bytes", dian.Local, func(t *testing.T) error {
		return couple(t, takesAll).SendBuffer("bob", nil, dian.WithMeta(make([]byte, 4097))).Wait(t.Context())
	}},
	{dian.ErrBadParameter, "a server's URL that is none", dian.Local, func(t *testing.T) error {
		return login(t, "ftp://relay.example.com", dian.WithToken("x"))
	}},
	{dian.ErrBadData, "an HTTP command whose meta is not base64", dian.Server, func(t *testing.T) error {
		relay := diantest.New(t)
		return call(t, relay, http.MethodPost, "/v1/users/bob/commands", "x", "Dian-Meta", "§")
	}},
	{dian.ErrWrongCredentials, "a token source that fails", dian.Local, func(t *testing.T) error {
		fails := func(context.Context) (string, error) { return "", errors.New("the login service is down") }
		return login(t, diantest.New(t).URL, dian.WithTokenSource(fails))
	}},
	{dian.ErrServiceFault, "a login at a server that is stopping", dian.Server, func(t *testing.T) error {
		relay, web := bareRelay(t)
		if err := relay.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		return login(t, web.URL, dian.WithToken(devToken(t, "alice")))
	}},
	{dian.ErrWrongLoginState, "the status of a client that only sends", dian.Local, func(t *testing.T) error {
		return diantest.New(t).Client("alice", dian.WithSendOnly()).SetStatus(true, 0)
	}},
	{dian.ErrWrongLoginState, "an upload that does not begin where the receiver stands", dian.Server, func(t *testing.T) error {
		relay := diantest.New(t)
		relay.Client("bob", dian.WithHandler(takesAll))
		var place string
		if err := tus(t, relay, http.MethodPost, "/v1/users/bob/transfers", "", &place, "Upload-Length", "100"); err != nil {
			t.Fatal(err)
		}
		return tus(t, relay, http.MethodPatch, place, "x", nil,
			"Upload-Offset", "50", "Content-Type", "application/offset+octet-stream")
	}},
	{dian.ErrKicked, "a newer login", dian.Server, func(t *testing.T) error {
		relay := diantest.New(t)
		older := relay.Client("bob")
		relay.Client("bob")
		wait(t, older.Done())
		return older.Err()
	}},
	{dian.ErrNotLoggedIn, "a command after Close", dian.Local, func(t *testing.T) error {
		alice := couple(t, takesAll)
		alice.Close()
		return alice.SendCmd("bob", nil).Wait(t.Context())
	}},
	{dian.ErrTokenExpired, "a token whose time is over", dian.Server, func(t *testing.T) error {
		past := time.Now().Add(-time.Minute).Unix()
		return login(t, ownRelay(t).URL, dian.WithToken(sign(t, ownSecret, map[string]any{"aud": "own", "sub": "alice", "exp": past})))
	}},
	{dian.ErrTokenMalformed, "a token that is none", dian.Server, func(t *testing.T) error {
		return login(t, diantest.New(t).URL, dian.WithToken("nonsense"))
	}},
	{dian.ErrNoSuchApp, "a token of another app", dian.Server, func(t *testing.T) error {
		return login(t, diantest.New(t).URL, dian.WithToken(ownToken(t, "alice", nil)))
	}},
	{dian.ErrTokenRefused, "a token with another key's signature", dian.Server, func(t *testing.T) error {
		later := time.Now().Add(time.Hour).Unix()
		forged := sign(t, "another secret of more than 32 bytes", map[string]any{"aud": "own", "sub": "alice", "exp": later})
		return login(t, ownRelay(t).URL, dian.WithToken(forged))
	}},
	{dian.ErrNoPermission, "a token that may address others", dian.Server, func(t *testing.T) error {
		relay := ownRelay(t)
		alice := relay.Client("alice", dian.WithToken(ownToken(t, "alice", []string{"carol"})))
		return alice.SendFile("bob", writeFile(t, noise(100<<10))).Wait(t.Context())
	}},
	{dian.ErrNoAnswerFromServer, "a server that says nothing", dian.Local, func(t *testing.T) error {
		return loginBeyondUpgrade(t, time.Hour, (*memnet.Conn).StallReads)
	}},
	{dian.ErrTimedOut, "a context that ends first", dian.Local, func(t *testing.T) error {
		return loginBeyondUpgrade(t, time.Second, (*memnet.Conn).StallReads)
	}},
	{dian.ErrConnectFailed, "a port that nobody listens at", dian.Local, func(t *testing.T) error {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		return login(t, "http://"+l.Addr().String(), dian.WithToken("x"))
	}},
	{dian.ErrConnectionClosed, "a server that ends the session in order", dian.Local, func(t *testing.T) error {
		relay, web := bareRelay(t)
		lost := make(chan error, 100)
		_, end := connected(t, web.URL, dian.WithToken(devToken(t, "alice")), dian.WithHandler(dian.Handler{
			NotifyReconnecting: func(r dian.Reconnecting) { lost <- r.Err }}))
		defer end()
		if err := relay.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		return wait(t, lost)
	}},
	{dian.ErrConnectionLost, "a line that does not come back", dian.Local, func(t *testing.T) (err error) {
		relays(t, func(t *testing.T, r *relay) {
			bob := r.connect("bob", dian.WithHandler(dian.Handler{AcceptBuffer: func(*dian.Offer) {}}))
			defer bob.Close()
			alice := r.connect("alice")
			defer alice.Close()
			task := alice.SendBuffer("bob", noise(10))
			time.Sleep(time.Second)
			r.l.Close()
			r.l.CutAll()
			err = task.Wait(t.Context())
		})
		return err
	}},
	{dian.ErrTLSFault, "a certificate that nobody has signed", dian.Local, func(t *testing.T) error {
		relay, err := server.New(server.DevConfig())
		if err != nil {
			t.Fatal(err)
		}
		web := httptest.NewUnstartedServer(relay)
		web.Config.ErrorLog = log.New(io.Discard, "", 0) // it would tell of the handshake
		web.StartTLS()
		defer web.Close()
		return login(t, web.URL, dian.WithToken(devToken(t, "alice")), dian.WithTLSConfig(&tls.Config{}))
	}},
	{dian.ErrPeerBusy, "a receiver whose queue is full", dian.Peer, func(t *testing.T) error {
		hold := make(chan struct{})
		defer close(hold)
		alice := couple(t, dian.Handler{NotifyCmdData: func(dian.CmdData) { <-hold }})
		for range 1024 {
			alice.SendCmd("bob", nil)
		}
		return alice.SendCmd("bob", nil).Wait(t.Context())
	}},
	{dian.ErrPeerOffline, "a user who is not there", dian.Server, func(t *testing.T) error {
		return diantest.New(t).Client("alice").SendCmd("bob", nil).Wait(t.Context())
	}},
	{dian.ErrPeerNoAnswer, "a handler that does not return", dian.Server, func(t *testing.T) (err error) {
		relays(t, func(t *testing.T, r *relay) {
			hold := make(chan struct{})
			bob := r.connect("bob", dian.WithHandler(dian.Handler{
				HandleCmd: func(dian.CmdData) ([]byte, error) { <-hold; return nil, nil }}))
			defer bob.Close()
			defer close(hold)
			alice := r.connect("alice")
			defer alice.Close()
			err = alice.SendCmd("bob", nil).Wait(t.Context())
		})
		return err
	}},
	{dian.ErrPeerRefused, "a receiver without a handler", dian.Peer, func(t *testing.T) error {
		return couple(t, dian.Handler{}).SendCmd("bob", nil).Wait(t.Context())
	}},
	{dian.ErrSendFailed, "a proxy that takes no upload", dian.Local, func(t *testing.T) error {
		alice := couple(t, takesAll, dian.WithHTTPClient(&http.Client{Transport: tooLarge{}}))
		return alice.SendFile("bob", writeFile(t, noise(100<<10))).Wait(t.Context())
	}},
	{dian.ErrCommandTooLarge, "65,537 bytes over HTTP", dian.Server, func(t *testing.T) error {
		return call(t, diantest.New(t), http.MethodPost, "/v1/users/bob/commands", strings.Repeat("x", 65_537))
	}},
	{dian.ErrCommandTooLarge, "a command of 65,537 bytes", dian.Local, func(t *testing.T) error {
		return unsent(t, func(alice *dian.Client) *dian.Task { return alice.SendCmd("bob", make([]byte, 65_537)) })
	}},
	{dian.ErrBufferTooLarge, "a buffer of 104,857,601 bytes", dian.Local, func(t *testing.T) error {
		return unsent(t, func(alice *dian.Client) *dian.Task { return alice.SendBuffer("bob", make([]byte, 104_857_601)) })
	}},
	{dian.ErrBufferTooLarge, "a reader of 104,857,601 bytes as a buffer", dian.Local, func(t *testing.T) error {
		return unsent(t, func(alice *dian.Client) *dian.Task {
			return alice.SendReader("bob", pattern{104_857_601}, 104_857_601, dian.AsBuffer())
		})
	}},
	{dian.ErrBadTarget, "malformed targets", dian.Local, func(t *testing.T) error { return malformed(t, sendEverything) }},
	{dian.ErrBadTarget, "malformed users in a question", dian.Local, func(t *testing.T) error {
		return malformed(t, func(alice *dian.Client, user string) error {
			_, err := alice.UserStatus(context.Background(), user)
			return err
		})
	}},
	{dian.ErrBadTarget, "a malformed target over HTTP", dian.Server, func(t *testing.T) error {
		return call(t, diantest.New(t), http.MethodPost, "/v1/users/a%0D%0Ab/commands", "x")
	}},
	{dian.ErrFileError, "a folder", dian.Local, func(t *testing.T) error {
		return couple(t, takesAll).SendFile("bob", t.TempDir()).Wait(t.Context())
	}},
	{dian.ErrBadSendID, "a cancel of nothing", dian.Local, func(t *testing.T) error {
		told := make(chan dian.CancelResult, 1)
		alice := couple(t, takesAll, dian.WithHandler(dian.Handler{CancelSendResult: func(r dian.CancelResult) { told <- r }}))
		alice.CancelSend("01890a5d-ac96-774b-bcce-b302099a8057")
		return wait(t, told).Err
	}},
	{dian.ErrBadSendID, "an id that is no UUID", dian.Local, func(t *testing.T) error {
		return couple(t, takesAll).SendCmd("bob", nil, dian.WithSendID("01890A5D-AC96-774B-BCCE-B302099A8057")).Wait(t.Context())
	}},
	{dian.ErrBadSendID, "an id that is under way", dian.Local, func(t *testing.T) error {
		alice := couple(t, dian.Handler{AcceptBuffer: func(*dian.Offer) {}})
		id := dian.WithSendID("01890a5d-ac96-774b-bcce-b302099a8057")
		alice.SendBuffer("bob", nil, id)
		return alice.SendBuffer("bob", nil, id).Wait(t.Context())
	}},
	{dian.ErrBadSendID, "another place than the one that may take it", dian.Server, func(t *testing.T) error {
		return couple(t, takesAll).SendBuffer("bob", nil, dian.WithInstance([16]byte{1})).Wait(t.Context())
	}},
	{dian.ErrCancelled, "a task that is cancelled before its turn", dian.Local, func(t *testing.T) error {
		alice := couple(t, dian.Handler{AcceptFile: func(*dian.Offer) {}}, dian.WithParallel(1))
		alice.SendReader("bob", pattern{1 << 20}, 1<<20)
		task := alice.SendReader("bob", pattern{1 << 20}, 1<<20)
		task.Cancel()
		return task.Wait(t.Context())
	}},
	{dian.ErrCancelled, "a receiver that cancels", dian.Peer, func(t *testing.T) error {
		h := dian.Handler{AcceptFile: func(o *dian.Offer) { o.Cancel() }}
		return couple(t, h).SendReader("bob", pattern{1 << 20}, 1<<20).Wait(t.Context())
	}},
	{dian.ErrDigestMismatch, "a PUT with another digest", dian.Server, func(t *testing.T) error {
		relay := diantest.New(t)
		relay.Client("bob", dian.WithHandler(takesAll))
		return call(t, relay, http.MethodPut, "/v1/users/bob/files/x", strings.Repeat("x", 100<<10),
			"Repr-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(make([]byte, 32))+":")
	}},
	{dian.ErrDigestMismatch, "a bit that flips on the way (case 82)", dian.Peer, func(t *testing.T) error {
		var flips atomic.Int64
		alice := couple(t, takesAll, dialing(func(c net.Conn) net.Conn { return &flipping{Conn: c, flips: &flips} }))
		err := alice.SendReader("bob", pattern{300 << 10}, 300<<10).Wait(t.Context())
		if flips.Load() == 0 {
			t.Error("no bit was flipped")
		}
		return err
	}},
	{dian.ErrOverLimit, "more transfers than the server allows", dian.Server, func(t *testing.T) error {
		relay := diantest.New(t, func(cfg *server.Config) { cfg.Limits.User.Transfers = 1 })
		offers := make(chan *dian.Offer, 1)
		relay.Client("bob", dian.WithHandler(dian.Handler{AcceptFile: func(o *dian.Offer) { offers <- o }}))
		alice := relay.Client("alice")
		alice.SendReader("bob", pattern{1 << 20}, 1<<20)
		wait(t, offers)
		return alice.SendReader("bob", pattern{1 << 20}, 1<<20).Wait(t.Context())
	}},
	{dian.ErrNoSpace, "a receiver's writer without space", dian.Peer, func(t *testing.T) error {
		h := dian.Handler{AcceptFile: func(o *dian.Offer) { o.AcceptWriter(fullWriter{}) }}
		return couple(t, h).SendReader("bob", pattern{1 << 20}, 1<<20).Wait(t.Context())
	}},
	{dian.ErrFileNotFound, "a file that is not there", dian.Local, func(t *testing.T) error {
		return couple(t, takesAll).SendFile("bob", filepath.Join(t.TempDir(), "none")).Wait(t.Context())
	}},
	{dian.ErrFileRead, "a link that leads to itself", dian.Local, func(t *testing.T) error {
		path := filepath.Join(t.TempDir(), "loop")
		if err := os.Symlink(path, path); err != nil {
			t.Fatal(err)
		}
		return couple(t, takesAll).SendFile("bob", path).Wait(t.Context())
	}},
	{dian.ErrFileRead, "a reader that fails half way", dian.Local, func(t *testing.T) error {
		err := couple(t, takesAll).SendReader("bob", failing{pattern{8 << 20}, 4 << 20}, 8<<20).Wait(t.Context())
		if !errors.Is(err, errBroken) {
			t.Errorf("%v, want it to wrap %v", err, errBroken)
		}
		return err
	}},
	{dian.ErrFileRead, "a reader of few bytes that fails", dian.Local, func(t *testing.T) error {
		return couple(t, takesAll).SendReader("bob", failing{pattern{100}, 50}, 100).Wait(t.Context())
	}},
	{dian.ErrFileWrite, "a receiver's writer that fails", dian.Peer, func(t *testing.T) error {
		h := dian.Handler{AcceptFile: func(o *dian.Offer) { o.AcceptWriter(brokenWriter{}) }}
		return couple(t, h).SendReader("bob", pattern{1 << 20}, 1<<20).Wait(t.Context())
	}},
	{dian.ErrFileWrite, "a receive folder that is a file", dian.Local, func(t *testing.T) error {
		relay := diantest.New(t)
		return login(t, relay.URL, dian.WithToken(relay.Token("alice")), dian.WithReceiveDir(writeFile(t, nil)))
	}},
	{dian.ErrFileTooLarge, "a file over the server's limit", dian.Local, func(t *testing.T) error {
		relay := diantest.New(t, func(cfg *server.Config) { cfg.MaxFileBytes = 1000 })
		relay.Client("bob", dian.WithHandler(takesAll))
		alice := relay.Client("alice")
		mustEnd(t, alice.SendFile("bob", writeFile(t, noise(1000))), dian.OK)
		return alice.SendFile("bob", writeFile(t, noise(1001))).Wait(t.Context())
	}},
	{dian.ErrFileTooLarge, "a PUT over the server's limit", dian.Server, func(t *testing.T) error {
		relay := diantest.New(t, func(cfg *server.Config) { cfg.MaxFileBytes = 1000 })
		relay.Client("bob", dian.WithHandler(takesAll))
		return call(t, relay, http.MethodPut, "/v1/users/bob/files/x", strings.Repeat("x", 1001))
	}},
}

// impossible are the codes of docs/protocol.md that this version never gives by itself.
var impossible = map[dian.Code]string{
	dian.ErrNoSuchUser:   "there is no register of users: who is not there is offline",
	dian.ErrNotDecrypted: "reserved: nothing is encrypted from end to end yet",
}

func TestEveryCodeOccursOrHasAReason(t *testing.T) {
	covered := map[dian.Code]bool{}
	for _, c := range codeCases {
		covered[c.code] = true
		if impossible[c.code] != "" {
			t.Errorf("%v is impossible and is made by %s", c.code, c.how)
		}
	}
	listed := protocolCodes(t)
	for _, code := range listed {
		if !covered[code] && impossible[code] == "" {
			t.Errorf("%v of docs/protocol.md has neither a case nor a reason", code)
		}
		delete(covered, code)
	}
	for code := range covered {
		t.Errorf("%v is not in docs/protocol.md", code)
	}
	for _, c := range codeCases {
		t.Run(fmt.Sprintf("%d %s", c.code, c.how), func(t *testing.T) {
			err := c.make(t)
			if c.code == dian.OK {
				if err != nil {
					t.Errorf("got %v, want nil", err)
				}
				return
			}
			e, ok := errors.AsType[*dian.Error](err)
			if !ok || !errors.Is(err, c.code) || dian.CodeOf(err) != c.code || e.Origin != c.origin {
				t.Errorf("got %v (%+v), want %v of origin %v", err, e, c.code, c.origin)
			}
		})
	}
}

// protocolCodes reads the table of docs/protocol.md §10.
func protocolCodes(t *testing.T) []dian.Code {
	t.Helper()
	page, err := os.ReadFile("docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(page), "\n## 10 Codes")
	if !found {
		t.Fatal("docs/protocol.md has no section 10")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var codes []dian.Code
	for line := range strings.Lines(section) {
		for i, cell := range strings.Split(line, "|") {
			if n, err := strconv.ParseUint(strings.TrimSpace(cell), 10, 32); err == nil && i%2 == 1 {
				codes = append(codes, dian.Code(n))
			}
		}
	}
	if len(codes) < 40 {
		t.Fatalf("docs/protocol.md §10 has %d codes: %v", len(codes), codes)
	}
	return codes
}

// A file that changes while it is sent is never delivered (case 72).
func TestChangedSourceNeverArrives(t *testing.T) {
	const size = 6 << 20
	for how, change := range map[string]func(path string) error{
		"grown": func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteString("more")
			return err
		},
		"shrunk": func(path string) error { return os.Truncate(path, size/2) },
		"rewritten in place": func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteAt([]byte("other"), 100)
			return err
		},
		"replaced": func(path string) error {
			other := path + ".new"
			if err := os.WriteFile(other, noise(size), 0o600); err != nil {
				return err
			}
			return os.Rename(other, path)
		},
		"deleted": os.Remove,
	} {
		for _, when := range []string{"while it is sent", "while it waits for its turn"} {
			t.Run(how+" "+when, func(t *testing.T) {
				relay := diantest.New(t)
				in, dir := newInbound(), t.TempDir()
				offers := make(chan *dian.Offer, 10)
				h := in.handler()
				h.AcceptFile = func(o *dian.Offer) { offers <- o }
				bob := relay.Client("bob", dian.WithReceiveDir(dir), dian.WithHandler(h))
				gate := &gatedWrites{left: 1 << 20, reached: make(chan struct{}), open: make(chan struct{})}
				alice := relay.Client("alice", dian.WithParallel(1), dialing(gate.wrap))
				path := writeFile(t, noise(size))
				if err := os.Chtimes(path, time.Time{}, time.Now().Add(-time.Hour)); err != nil {
					t.Fatal(err)
				}
				var task, blocker *dian.Task
				if when == "while it is sent" {
					task = alice.SendFile("bob", path)
					wait(t, offers).Accept()
					wait(t, gate.reached)
				} else {
					blocker = alice.SendReader("bob", pattern{100 << 10}, 100<<10)
					wait(t, offers)
					task = alice.SendFile("bob", path)
				}
				if err := change(path); err != nil {
					t.Fatal(err)
				}
				if when != "while it is sent" {
					blocker.Cancel()
				}
				gate.release()
				r := mustEndOneOf(t, task, dian.ErrFileError, dian.ErrFileNotFound)
				if dian.CodeOf(r.Err) == dian.ErrFileNotFound && (how != "deleted" || when == "while it is sent") {
					t.Errorf("%v, want %v", r.Err, dian.ErrFileError)
				}
				if when == "while it is sent" {
					if n := wait(t, in.cancels); n.SendID != task.ID() || n.Source != "alice" {
						t.Errorf("the receiver was told %+v", n)
					}
				}
				bob.Close()
				if len(in.files) > 0 {
					t.Errorf("a file came: %+v", <-in.files)
				}
				nothingKept(t, dir)
			})
		}
	}
}

// nothingKept wants neither a file nor a part of one in a receive folder.
func nothingKept(t *testing.T, dir string) {
	t.Helper()
	for _, ending := range []string{"*.file", "*.part"} {
		if left, _ := filepath.Glob(filepath.Join(dir, ending)); len(left) > 0 {
			t.Errorf("left in the receive folder: %v", left)
		}
	}
}

func mustEndOneOf(t *testing.T, task *dian.Task, want ...dian.Code) dian.Result {
	t.Helper()
	wait(t, task.Done())
	r := task.Result()
	for _, code := range want {
		if dian.CodeOf(r.Err) == code {
			return r
		}
	}
	t.Errorf("result is %v, want one of %v", r.Err, want)
	return r
}

// What the cases are made of.

// takesAll accepts everything and looks at nothing.
var takesAll = dian.Handler{
	NotifyCmdData:    func(dian.CmdData) {},
	NotifyBufferData: func(dian.BufferData) {},
	NotifyFileData:   func(dian.FileData) {},
}

// couple is a relay with bob, who has h, and alice, who is returned.
func couple(t *testing.T, h dian.Handler, alice ...dian.Option) *dian.Client {
	t.Helper()
	relay := diantest.New(t, hasty)
	relay.Client("bob", dian.WithHandler(h))
	return relay.Client("alice", alice...)
}

// connected logs in at any URL. end closes the client.
func connected(t *testing.T, at string, opts ...dian.Option) (c *dian.Client, end func()) {
	t.Helper()
	c, err := dian.Connect(t.Context(), at, append([]dian.Option{dian.WithReceiveDir(t.TempDir())}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return c, func() { c.Close() }
}

// login logs in and out and returns why that failed.
func login(t *testing.T, at string, opts ...dian.Option) error {
	t.Helper()
	c, err := dian.Connect(t.Context(), at, append([]dian.Option{dian.WithReceiveDir(t.TempDir())}, opts...)...)
	if err == nil {
		c.Close()
	}
	return err
}

// loginBeyondUpgrade logs in on a connection that has a fault from the end of the
// WebSocket upgrade on, with a context that ends after d.
func loginBeyondUpgrade(t *testing.T, d time.Duration, fault func(*memnet.Conn)) (err error) {
	t.Helper()
	relays(t, func(t *testing.T, r *relay) {
		dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := r.l.Dial(ctx)
			if err != nil {
				return nil, err
			}
			return &upgraded{Conn: c.(*memnet.Conn), fault: fault}, nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		_, err = dian.Connect(ctx, "http://127.0.0.1:7700", dian.WithToken(devToken(t, "alice")), dian.WithSendOnly(),
			dian.WithHTTPClient(&http.Client{Transport: &http.Transport{DialContext: dial}}))
		r.l.CutAll()
	})
	return err
}

// upgraded is a connection that breaks when it has become a WebSocket.
type upgraded struct {
	*memnet.Conn
	fault func(*memnet.Conn)
}

func (u *upgraded) Read(p []byte) (int, error) {
	n, err := u.Conn.Read(p)
	if bytes.Contains(p[:n], []byte("101 Switching Protocols")) {
		u.fault(u.Conn)
	}
	return n, err
}

// bareRelay is a server that the test may shut down.
func bareRelay(t *testing.T) (*server.Server, *httptest.Server) {
	t.Helper()
	cfg := server.DevConfig()
	hasty(&cfg)
	relay, err := server.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(relay)
	t.Cleanup(func() {
		relay.Shutdown(context.Background())
		web.CloseClientConnections()
		web.Close()
	})
	return relay, web
}

func devToken(t *testing.T, user string) string {
	t.Helper()
	token, err := server.DevToken(user)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

const ownSecret = "a secret of the test's own, of 32 bytes and more"

func ownKey() server.Key {
	return server.Key{Algorithm: server.HS256, Secret: server.NewSecret([]byte(ownSecret))}
}

// ownRelay has, besides the app of diantest, the app "own", whose key the test knows.
func ownRelay(t *testing.T) *diantest.Server {
	t.Helper()
	return diantest.New(t, func(cfg *server.Config) {
		cfg.Apps = append(cfg.Apps, server.App{ID: "own", Keys: []server.Key{ownKey()}})
	})
}

func ownToken(t *testing.T, user string, send []string) string {
	t.Helper()
	token, err := server.Mint(ownKey(), "own", user, time.Hour, send, nil)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// sign makes an HS256 token of any claims.
func sign(t *testing.T, secret string, claims map[string]any) string {
	t.Helper()
	body, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + base64.RawURLEncoding.EncodeToString(body)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// call does an HTTP request as alice and makes an error of a problem document.
func call(t *testing.T, relay *diantest.Server, method, path, body string, header ...string) error {
	t.Helper()
	return tus(t, relay, method, path, body, nil, header...)
}

// tus is call for an upload; place gets the Location of a new one.
func tus(t *testing.T, relay *diantest.Server, method, path, body string, place *string, header ...string) error {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, relay.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+relay.Token("alice"))
	request.Header.Set("Tus-Resumable", "1.0.0")
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode < 300 {
		if place != nil {
			*place = response.Header.Get("Location")
		}
		return nil
	}
	var problem struct {
		Code   dian.Code
		Detail string
	}
	if err := json.Unmarshal(text, &problem); err != nil {
		t.Fatalf("HTTP %d: %q is no problem document: %v", response.StatusCode, text, err)
	}
	return &dian.Error{Op: method, Origin: dian.Server, Code: problem.Code, Detail: problem.Detail}
}

// dialing wraps every connection of a client.
func dialing(wrap func(net.Conn) net.Conn) dian.Option {
	return dian.WithHTTPClient(&http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return wrap(c), nil
		},
	}})
}

// unsent gives a client a task and sees that no byte leaves it and no question
// reaches the server.
func unsent(t *testing.T, send func(alice *dian.Client) *dian.Task) error {
	t.Helper()
	var asked, wrote atomic.Int64
	relay := diantest.New(t, func(cfg *server.Config) {
		cfg.Authorize = func(context.Context, server.Action) error { asked.Add(1); return nil }
	})
	relay.Client("bob", dian.WithHandler(takesAll))
	alice := relay.Client("alice", dialing(func(c net.Conn) net.Conn { return &counting{c, &wrote} }))
	mustEnd(t, alice.SendCmd("bob", nil), dian.OK)
	asks, bytes := asked.Load(), wrote.Load()
	if asks != 1 || bytes == 0 {
		t.Errorf("a command took %d questions and %d bytes", asks, bytes)
	}
	err := send(alice).Wait(t.Context())
	if asked.Load() != asks || wrote.Load() != bytes {
		t.Errorf("%d questions and %d bytes left the client", asked.Load()-asks, wrote.Load()-bytes)
	}
	mustEnd(t, alice.SendCmd("bob", nil), dian.OK) // it was not in the way of the next one
	return err
}

// counting counts what is written.
type counting struct {
	net.Conn
	n *atomic.Int64
}

func (c *counting) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p))) // before: its answer may be here when Write returns
	return c.Conn.Write(p)
}

// malformed gives send every user id that is none (case 20), and returns the last error.
func malformed(t *testing.T, send func(alice *dian.Client, user string) error) (last error) {
	t.Helper()
	alice := couple(t, takesAll)
	for _, user := range []string{
		"", "bob\r\nX: y", "bob\n", "\rbob", "bob\x00", "\x00", "\u202Ebob", "b\u200Bob", "bob\u2028", "\uFEFFbob",
		" bob", "bob ", "\u00A0bob", ".", "..", "bob\xff", "bo\u0308b", "e\u0301", "\x1b[31mbob", "bob\u0085", "\uFFFF",
		strings.Repeat("x", 129), strings.Repeat("ä", 129), strings.Repeat("x", 1024), strings.Repeat("x", 1<<20),
	} {
		err := send(alice, user)
		if dian.CodeOf(err) != dian.ErrBadTarget {
			t.Errorf("%.40q: %v, want %v", user, err, dian.ErrBadTarget)
			continue
		}
		if text := err.Error(); strings.ContainsAny(text, "\r\n\x00\x1b") || strings.Contains(text, "\u202E") || strings.Contains(text, "\u200B") {
			t.Errorf("%.40q: the error's text is not fit for a terminal: %q", user, text)
		}
		last = err
	}
	for _, user := range []string{strings.Repeat("ä", 128), "a.b*c>d/e@f", "..."} { // good ones
		if err := send(alice, user); dian.CodeOf(err) == dian.ErrBadTarget {
			t.Errorf("%.40q: %v", user, err)
		}
	}
	return last
}

func sendEverything(alice *dian.Client, user string) error {
	file := alice.SendReader(user, strings.NewReader("x"), 1)
	buffer := alice.SendBuffer(user, []byte("x"))
	command := alice.SendCmd(user, []byte("x"))
	<-file.Done()
	<-buffer.Done()
	<-command.Done()
	a, b, c := file.Result().Err, buffer.Result().Err, command.Result().Err
	if dian.CodeOf(a) != dian.CodeOf(c) || dian.CodeOf(b) != dian.CodeOf(c) {
		return fmt.Errorf("file %v, buffer %v, command %v", a, b, c)
	}
	return c
}

// tooLarge is a proxy that refuses uploads without a word of ours.
type tooLarge struct{}

func (tooLarge) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodPatch {
		return http.DefaultTransport.RoundTrip(r)
	}
	r.Body.Close()
	return &http.Response{StatusCode: http.StatusRequestEntityTooLarge, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Body: io.NopCloser(strings.NewReader("<html>413</html>")), Request: r}, nil
}

// flipping flips one bit in the content of an upload.
type flipping struct {
	net.Conn
	flips *atomic.Int64
	lane  bool
}

func (f *flipping) Write(p []byte) (int, error) {
	if bytes.HasPrefix(p, []byte("PATCH ")) {
		f.lane = true
	} else if f.lane && len(p) > 0 && f.flips.CompareAndSwap(0, 1) {
		p = bytes.Clone(p)
		p[len(p)/2] ^= 1
	}
	return f.Conn.Write(p)
}

var errBroken = errors.New("broken")

// failing is a pattern that cannot be read behind an offset.
type failing struct {
	pattern
	at int64
}

func (f failing) ReadAt(b []byte, off int64) (int, error) {
	if off+int64(len(b)) > f.at {
		return 0, errBroken
	}
	return f.pattern.ReadAt(b, off)
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }

// gatedWrites lets a client write so many bytes, and then nothing until it is opened.
type gatedWrites struct {
	mu      sync.Mutex // guards left
	left    int
	once    sync.Once
	done    sync.Once
	reached chan struct{}
	open    chan struct{}
}

func (g *gatedWrites) wrap(c net.Conn) net.Conn { return &gatedConn{c, g} }

func (g *gatedWrites) release() { g.done.Do(func() { close(g.open) }) }

type gatedConn struct {
	net.Conn
	g *gatedWrites
}

func (c *gatedConn) Write(p []byte) (int, error) {
	c.g.mu.Lock()
	c.g.left -= len(p)
	shut := c.g.left < 0
	c.g.mu.Unlock()
	if shut {
		c.g.once.Do(func() { close(c.g.reached) })
		<-c.g.open
	}
	return c.Conn.Write(p)
}
