package dian_test

import (
	"context"
	"crypto/tls"
	"encoding/base64"
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
