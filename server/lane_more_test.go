package server

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

func TestPatchOfUnknownLength(t *testing.T) {
	for _, bounded := range []int64{0, 70_000, 1 << 20} {
		rt := newRelayTest(t, false, nil)
		bob := rt.receiver("bob", placeA)
		bob.bounded = bounded
		content := testContent(600_001)
		path := rt.create("alice", "bob", len(content), "")
		at := 0
		for _, end := range []int{250_000, len(content)} {
			r := rt.request("PATCH", path, "alice", struct{ io.Reader }{bytes.NewReader(content[at:end])}, "Upload-Offset", fmt.Sprint(at))
			if a := rt.want(rt.do(r), 204); a.header.Get("Upload-Offset") != fmt.Sprint(end) {
				t.Errorf("ranges of %d: Upload-Offset %s, want %d", bounded, a.header.Get("Upload-Offset"), end)
			}
			at = end
		}
		if !bytes.Equal(bob.content(path), content) {
			t.Errorf("ranges of %d: other content", bounded)
		}
		// More than the size that was announced is not taken.
		path = rt.create("alice", "bob", 100, "")
		r := rt.request("PATCH", path, "alice", struct{ io.Reader }{bytes.NewReader(content[:200])}, "Upload-Offset", "0")
		rt.do(r)
		eventually(t, func() bool { return len(bob.content(path)) == 100 })
	}
}

// TestExpectIsAnsweredOnTakenConnections has a client that sends nothing of its
// body before it is told to go on.
func TestExpectIsAnsweredOnTakenConnections(t *testing.T) {
	rt := newRelayTest(t, false, nil)
	bob := rt.receiver("bob", placeA)
	content := testContent(4 << 20)
	path := rt.create("alice", "bob", len(content), "")
	conn, err := net.Dial("tcp", rt.http.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(testWait))
	fmt.Fprintf(conn, "PATCH %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nTus-Resumable: 1.0.0\r\nContent-Type: %s\r\n"+
		"Upload-Offset: 0\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n",
		path, conn.RemoteAddr(), tokenOf(t, "demo", "alice"), tusContentType, len(content))
	in := bufio.NewReader(conn)
	if line, err := in.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("got %q (%v), want 100 Continue", line, err)
	}
	if line, err := in.ReadString('\n'); err != nil || line != "\r\n" {
		t.Fatalf("got %q (%v) behind it", line, err)
	}
	if _, err := conn.Write(content); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(in, nil)
	if err != nil || res.StatusCode != 204 {
		t.Fatalf("answer %v (%v), want 204", res, err)
	}
	if !bytes.Equal(bob.content(path), content) {
		t.Error("other content")
	}
}

// plainWriter is what a middleware leaves of a ResponseWriter that it wraps.
type plainWriter struct{ w http.ResponseWriter }

func (p plainWriter) Header() http.Header         { return p.w.Header() }
func (p plainWriter) Write(b []byte) (int, error) { return p.w.Write(b) }
func (p plainWriter) WriteHeader(status int)      { p.w.WriteHeader(status) }
func (p plainWriter) Flush()                      { p.w.(http.Flusher).Flush() }

func TestMiddlewareMayHideConnections(t *testing.T) {
	for _, hidden := range []string{"GET", "PATCH", "GET and PATCH"} {
		rt := newRelayTest(t, false, nil)
		rt.wrap = func(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
			if strings.HasPrefix(r.URL.Path, lanePathPrefix) && strings.Contains(hidden, r.Method) {
				return plainWriter{w}
			}
			return w
		}
		bob := rt.receiver("bob", placeA)
		content := testContent(4 << 20)
		path := rt.create("alice", "bob", len(content), "")
		rt.want(rt.patch(path, "alice", 0, content), 204)
		if !bytes.Equal(bob.content(path), content) {
			t.Errorf("%s hidden: other content", hidden)
		}
	}
}

func TestKickRevokesTheDownLane(t *testing.T) {
	rt := newRelayTest(t, false, nil)
	bob := rt.receiver("bob", placeA)
	bob.noLanes = true
	content := testContent(4 << 20)
	path := rt.create("alice", "bob", len(content), "")
	get := func() *http.Request {
		return rt.request("GET", path, "", nil, "Authorization", "Ticket "+bob.part(path).ticket)
	}
	res, err := rt.http.Client().Do(get())
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("%v: %v", res, err)
	}
	defer res.Body.Close()
	rt.receiver("bob", placeB) // elsewhere
	if n, err := io.Copy(io.Discard, res.Body); err == nil {
		t.Errorf("the lane ended well, after %d bytes", n)
	}
	rt.want(rt.do(get()), 404)

	// The same place that is back before its old line was missed keeps its lane.
	rt = newRelayTest(t, false, nil)
	bob = rt.receiver("bob", placeA)
	bob.noLanes = true
	path = rt.create("alice", "bob", len(content), "")
	if res, err = rt.http.Client().Do(get()); err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	rt.login("demo", "bob", wire.Role_ROLE_LISTEN, placeA)
	go rt.patch(path, "alice", 0, content)
	if got, err := io.ReadAll(res.Body); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes: %v", len(got), err)
	}
}

// TestLanesLiveAsLongAsTheToken has two sessions whose tokens end after 10 s, with
// a lane each, and one of them updates its token.
func TestLanesLiveAsLongAsTheToken(t *testing.T) { // case 29
	const ttl = 10 * time.Second
	for _, update := range []string{"nobody", "alice", "bob", "both"} {
		synctest.Test(t, func(t *testing.T) {
			r := memRelay(t)
			short := func(user string) string { return relayToken(t, "app", user, ttl, nil, nil) }
			long := func(user string) string { return relayToken(t, "app", user, time.Hour, nil, nil) }
			token := short("alice")
			alice, bob := r.hello(sendHello(token)), r.hello(listenHello(short("bob"), 1))
			alice.send(&wire.Frame{Body: &wire.Frame_Offer{Offer: fileOffer(1000)}})
			o := bob.skipTo(func(f *wire.Frame) bool { return f.GetOffer() != nil }).GetOffer()
			bob.send(&wire.Frame{Body: &wire.Frame_Answer{Answer: &wire.Answer{Transfer: o.Transfer, Decision: wire.Decision_DECISION_ACCEPT}}})
			alice.skipTo(func(f *wire.Frame) bool { return f.GetAccepted() != nil })

			down, up := make(chan error, 1), make(chan int, 1)
			go func() {
				req, _ := http.NewRequest("GET", "http://relay.example"+o.Url, nil)
				req.Header.Set("Authorization", "Ticket "+o.Ticket)
				res, err := r.web.Do(req)
				if err == nil {
					_, err = io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
				down <- err
			}()
			body, feed := io.Pipe()
			go func() {
				req, _ := http.NewRequest("PATCH", "http://relay.example"+o.Url, body)
				for name, value := range map[string]string{"Authorization": "Bearer " + token, "Tus-Resumable": "1.0.0",
					"Content-Type": tusContentType, "Upload-Offset": "0"} {
					req.Header.Set(name, value)
				}
				req.ContentLength = 1000
				res, err := r.web.Do(req)
				if err != nil {
					up <- 0
					return
				}
				res.Body.Close()
				up <- res.StatusCode
			}()
			feed.Write(make([]byte, 500))
			for name, p := range map[string]*testPeer{"alice": alice, "bob": bob} {
				if update == name || update == "both" {
					p.send(&wire.Frame{Body: &wire.Frame_UpdateToken{UpdateToken: &wire.UpdateToken{Token: long(name)}}})
					p.skipTo(func(f *wire.Frame) bool { return f.GetTokenUpdated() != nil })
				}
			}
			time.Sleep(ttl + time.Second)
			synctest.Wait()
			ended := func() string {
				return fmt.Sprintf("up %v, down %v", len(up) > 0, len(down) > 0)
			}
			// Without its down-lane the up-lane ends too (409).
			want := map[string]string{"nobody": "up true, down true", "alice": "up true, down true",
				"bob": "up true, down false", "both": "up false, down false"}[update]
			if got := ended(); got != want {
				t.Errorf("%s updated: ended are %s; want %s", update, got, want)
			}
			if update == "bob" {
				if status := <-up; status != 401 {
					t.Errorf("the up-lane of a token that is over: %d, want 401", status)
				}
				up <- 0
			}
			feed.CloseWithError(io.ErrUnexpectedEOF)
			r.stop()
			<-up
			<-down
		})
	}
}

// skipTo is next for a frame that fits, passing over others.
func (p *testPeer) skipTo(fits func(*wire.Frame) bool) *wire.Frame {
	p.t.Helper()
	for {
		if f := p.next(); fits(f) {
			return f
		}
	}
}
