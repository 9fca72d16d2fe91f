package server

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

func TestTusUploadReachesReceiver(t *testing.T) {
	for _, tls := range []bool{false, true} {
		for _, size := range []int{0, 1, 4096, 300_000, 3 << 20, 9<<20 + 7} {
			t.Run(fmt.Sprintf("tls=%v/%d", tls, size), func(t *testing.T) {
				rt := newRelayTest(t, tls, nil)
				bob := rt.receiver("bob", placeA)
				content := testContent(size)
				path := rt.create("alice", "bob", size, "filename cGhvdG8uanBn")
				if size > 0 {
					a := rt.want(rt.patch(path, "alice", 0, content), 204)
					if got := a.header.Get("Upload-Offset"); got != strconv.Itoa(size) {
						t.Errorf("Upload-Offset = %s, want %d", got, size)
					}
				}
				if got := bob.content(path); !bytes.Equal(got, content) {
					t.Errorf("receiver has %d bytes, want %d and the same", len(got), size)
				}
				a := rt.want(rt.head(path, "alice"), 200)
				if got := a.header.Get("Upload-Offset"); got != strconv.Itoa(size) {
					t.Errorf("HEAD after the verdict = %s, want %d", got, size)
				}
				if name := bob.part(path).offer.Name; name != "photo.jpg" {
					t.Errorf("name = %q", name)
				}
			})
		}
	}
}

func TestSessionTransferCalmCourse(t *testing.T) {
	rt := newRelayTest(t, false, nil)
	bob := rt.receiver("bob", placeA)
	alice := rt.login("demo", "alice", wire.Role_ROLE_SEND, "")
	content := testContent(2 << 20)
	id := wire.NewSendID()
	offer := &wire.Offer{SendId: id, Target: "bob", Kind: wire.Kind_KIND_FILE, Size: int64(len(content))}
	alice.offer(offer)
	a := alice.accepted()
	if a.Offset != 0 || a.Receipt != wire.Receipt_RECEIPT_STORED || string(a.Peer.Instance) != placeA {
		t.Errorf("Accepted = %v", a)
	}
	done := make(chan answer, 1)
	go func() { done <- rt.patch(a.Url, "alice", 0, content) }()
	alice.finish(a.Transfer)
	v := alice.verdict()
	if v.Code != 0 || v.Receipt != wire.Receipt_RECEIPT_STORED || v.Origin != wire.Origin_ORIGIN_PEER {
		t.Errorf("Verdict = %v", v)
	}
	rt.want(<-done, 204)
	// The verdict was lost: the same offer gets it again, and asks nobody.
	alice.offer(offer)
	if v := alice.verdict(); v.Code != 0 {
		t.Errorf("second verdict = %v", v)
	}
	alice.send(&wire.Frame{Body: &wire.Frame_VerdictAck{VerdictAck: &wire.VerdictAck{Transfer: a.Transfer}}})
	eventually(t, func() bool { p := bob.part(a.Url); bob.mu.Lock(); defer bob.mu.Unlock(); return p.acked })
}

func eventually(t testing.TB, ok func() bool) {
	t.Helper()
	end := time.After(testWait)
	again := time.NewTicker(2 * time.Millisecond)
	defer again.Stop()
	for !ok() {
		select {
		case <-again.C:
		case <-end:
			t.Fatal("did not come true")
		}
	}
}

// uploadAll behaves as a tus client does until the transfer is through.
func (rt *relayTest) uploadAll(path, user string, content []byte, piece int) error {
	for tries := 0; tries < 3*len(content)+20; tries++ {
		a := rt.head(path, user)
		if a.status == 423 {
			continue
		}
		if a.err != nil || a.status != 200 {
			return fmt.Errorf("HEAD = %d %v", a.status, a.err)
		}
		p, _ := strconv.Atoi(a.header.Get("Upload-Offset"))
		if p == len(content) {
			return nil
		}
		a = rt.patch(path, user, p, content[p:min(len(content), p+piece)])
		if a.status != 204 && a.status != 409 && a.status != 423 && a.err == nil {
			return fmt.Errorf("PATCH = %d %s", a.status, a.body)
		}
	}
	return fmt.Errorf("did not end")
}

func TestDownLaneBreaksAtEveryByte(t *testing.T) {
	const size = 40
	rt := newRelayTest(t, false, nil)
	bob := rt.receiver("bob", placeA)
	for cut := range size + 1 {
		bob.mu.Lock()
		bob.cuts = []int{cut}
		bob.mu.Unlock()
		content := testContent(size)
		path := rt.create("alice", "bob", size, "")
		if err := rt.uploadAll(path, "alice", content, size); err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		if !bytes.Equal(bob.content(path), content) {
			t.Fatalf("cut at %d: other content", cut)
		}
	}
}

// brokenBody is a body that ends early.
type brokenBody struct {
	io.Reader
	then chan struct{}
}

func (b *brokenBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		if b.then != nil {
			<-b.then
		}
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func TestUpLaneBreaksAtEveryByte(t *testing.T) {
	const size = 24
	rt := newRelayTest(t, false, nil)
	bob := rt.receiver("bob", placeA)
	for cut := range size {
		content := testContent(size)
		path := rt.create("alice", "bob", size, "")
		r := rt.request("PATCH", path, "alice", &brokenBody{Reader: bytes.NewReader(content[:cut])}, "Upload-Offset", "0")
		r.ContentLength = size
		rt.do(r)
		if err := rt.uploadAll(path, "alice", content, size); err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		if !bytes.Equal(bob.content(path), content) {
			t.Fatalf("cut at %d: other content", cut)
		}
	}
}

func TestLargeTransferResumes(t *testing.T) {
	for _, c := range []struct{ tls, http2 bool }{{false, false}, {true, false}, {true, true}} {
		rt := newRelayTestHTTP(t, c.tls, c.http2, nil)
		bob := rt.receiver("bob", placeA)
		bob.cuts = []int{3 << 20, 100, 5<<20 + 1}
		content := testContent(16 << 20)
		path := rt.create("alice", "bob", len(content), "")
		if err := rt.uploadAll(path, "alice", content, len(content)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(bob.content(path), content) {
			t.Error("other content")
		}
	}
}

func TestPiecesAndBoundedRanges(t *testing.T) {
	rt := newRelayTest(t, false, nil)
	bob := rt.receiver("bob", placeA)
	bob.bounded = 70_000
	content := testContent(1_000_000)
	path := rt.create("alice", "bob", len(content), "")
	if err := rt.uploadAll(path, "alice", content, 300_000); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(bob.content(path), content) {
		t.Error("other content")
	}
}

func TestSenderBehindIsDroppedAndAheadIsRefused(t *testing.T) {
	rt := newRelayTest(t, false, nil)
	bob := rt.receiver("bob", placeA)
	content := testContent(1000)
	path := rt.create("alice", "bob", 1000, "")
	rt.want(rt.patch(path, "alice", 0, content[:600]), 204)
	rt.want(rt.patch(path, "alice", 700, content[700:]), 409) // P > N
	rt.want(rt.patch(path, "alice", 100, content[100:]), 204) // P < N
	if !bytes.Equal(bob.content(path), content) {
		t.Error("other content")
	}
}

func TestNewerUpLaneDisplacesStalledOne(t *testing.T) {
	rt := newRelayTest(t, false, nil)
	bob := rt.receiver("bob", placeA)
	content := testContent(4 << 20)
	path := rt.create("alice", "bob", len(content), "")
	body := &brokenBody{Reader: bytes.NewReader(content[:2<<20]), then: make(chan struct{})}
	var stalled sync.WaitGroup
	stalled.Go(func() {
		r := rt.request("PATCH", path, "alice", body, "Upload-Offset", "0")
		r.ContentLength = int64(len(content))
		rt.do(r)
	})
	eventually(t, func() bool { return len(bob.content(path)) == 2<<20 })
	begun := time.Now()
	if err := rt.uploadAll(path, "alice", content, len(content)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("took %v beside a stalled lane", took)
	}
	close(body.then)
	stalled.Wait()
	if !bytes.Equal(bob.content(path), content) {
		t.Error("other content")
	}
}

func TestSmallFilesDoNotWait(t *testing.T) {
	rt := newRelayTest(t, false, nil)
	bob := rt.receiver("bob", placeA)
	put := func(to string, status int) time.Duration {
		begun := time.Now()
		for i := range 200 {
			rt.want(rt.do(rt.request("PUT", "/v1/users/"+to+"/files/small", "alice", bytes.NewReader(testContent(100+i)))), status)
		}
		return time.Since(begun)
	}
	// What a machine takes for as many requests that are refused at once.
	refused := put("nobody", 404)
	if took := put("bob", 200); took > 5*time.Second && took > 20*refused {
		t.Errorf("200 small files took %v, 200 refused ones %v", took, refused)
	}
	bob.mu.Lock()
	defer bob.mu.Unlock()
	if bob.verdicts < 200 {
		t.Errorf("%d verdicts, want 200", bob.verdicts)
	}
}

func TestNewerDownLaneDisplacesStalledOne(t *testing.T) {
	for _, c := range []struct{ tls, http2 bool }{{false, false}, {true, false}, {true, true}} {
		rt := newRelayTestHTTP(t, c.tls, c.http2, nil)
		bob := rt.receiver("bob", placeA)
		bob.noLanes = true
		content := testContent(24 << 20) // more than all buffers on the way
		path := rt.create("alice", "bob", len(content), "")
		p := bob.part(path)
		res, err := rt.http.Client().Do(rt.request("GET", path, "", nil, "Authorization", "Ticket "+p.ticket, "Range", "bytes=0-"))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close() // and reads nothing
		done := make(chan answer, 1)
		go func() { done <- rt.patch(path, "alice", 0, content) }()
		eventually(t, func() bool {
			tr := rt.srv.transfers.find(strings.TrimPrefix(path, lanePathPrefix))
			tr.mu.Lock()
			defer tr.mu.Unlock()
			return tr.m.At() > 100_000
		})
		bob.mu.Lock()
		bob.noLanes = false
		bob.lane(p)
		bob.mu.Unlock()
		if a := <-done; a.status != 409 && a.err == nil {
			t.Errorf("PATCH into the stalled lane = %d %s", a.status, a.body)
		}
		if err := rt.uploadAll(path, "alice", content, len(content)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(bob.content(path), content) {
			t.Error("other content")
		}
	}
}

// BenchmarkLane moves 64 MiB through a pair of lanes, and beside it through a bare
// relay that does nothing but io.Copy between two connections of the same kind.
func BenchmarkLane(b *testing.B) {
	const size = 64 << 20
	for _, tls := range []bool{false, true} {
		name := map[bool]string{false: "plain", true: "tls"}[tls]
		b.Run(name+"/dian", func(b *testing.B) {
			rt := newRelayTest(b, tls, nil)
			alice := rt.login("demo", "alice", wire.Role_ROLE_SEND, "")
			bob := rt.login("demo", "bob", wire.Role_ROLE_LISTEN, placeA)
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				alice.offer(fileOffer(size))
				o := bob.next(func(f *wire.Frame) bool { return f.GetOffer() != nil }).GetOffer()
				bob.send(&wire.Frame{Body: &wire.Frame_Answer{Answer: &wire.Answer{
					Transfer: o.Transfer, Decision: wire.Decision_DECISION_ACCEPT, Receipt: wire.Receipt_RECEIPT_HANDED}}})
				a := alice.accepted()
				var down sync.WaitGroup
				down.Go(func() {
					res, err := rt.http.Client().Do(rt.request("GET", o.Url, "", nil, "Authorization", "Ticket "+o.Ticket))
					if err != nil {
						b.Error(err)
						return
					}
					defer res.Body.Close()
					if n, err := io.CopyBuffer(onlyWriter{io.Discard}, res.Body, make([]byte, 256<<10)); n != size || err != nil {
						b.Errorf("%d bytes: %v", n, err)
					}
					bob.send(&wire.Frame{Body: &wire.Frame_Verdict{Verdict: &wire.Verdict{Transfer: o.Transfer}}})
				})
				r := rt.request("PATCH", a.Url, "alice", io.LimitReader(zeros{}, size), "Upload-Offset", "0")
				r.ContentLength = size
				rt.want(rt.do(r), 204)
				down.Wait()
				alice.send(&wire.Frame{Body: &wire.Frame_VerdictAck{VerdictAck: &wire.VerdictAck{Transfer: a.Transfer}}})
			}
		})
		b.Run(name+"/bare", func(b *testing.B) {
			type sink struct {
				w    io.Writer
				done chan struct{}
			}
			sinks := make(chan sink)
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == "GET" {
					w.Header().Set("Content-Length", strconv.Itoa(size))
					_ = http.NewResponseController(w).Flush()
					to := sink{w, make(chan struct{})}
					sinks <- to
					<-to.done
					return
				}
				to := <-sinks
				_, _ = io.CopyBuffer(onlyWriter{to.w}, r.Body, make([]byte, 256<<10))
				close(to.done)
			})
			srv := httptest.NewUnstartedServer(h)
			if tls {
				srv.StartTLS()
			} else {
				srv.Start()
			}
			defer srv.Close()
			b.SetBytes(size)
			for b.Loop() {
				var down sync.WaitGroup
				down.Go(func() {
					res, err := srv.Client().Get(srv.URL)
					if err != nil {
						b.Error(err)
						return
					}
					defer res.Body.Close()
					_, _ = io.CopyBuffer(onlyWriter{io.Discard}, res.Body, make([]byte, 256<<10))
				})
				r, _ := http.NewRequest("PATCH", srv.URL, io.LimitReader(zeros{}, size))
				r.ContentLength = size
				res, err := srv.Client().Do(r)
				if err != nil {
					b.Fatal(err)
				}
				res.Body.Close()
				down.Wait()
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

type onlyWriter struct{ io.Writer }
