package dian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dian-im/dian/internal/wire"
	"github.com/dian-im/dian/internal/wiretest"
)

// A hostile server sends every frame, in every form, in every state of a client
// (cases 13, 15 and 16). The client must not panic, hang or grow.

// listening connects a client that receives to s. Whatever host its lanes are for,
// s is dialled; strangers counts the dials for another one.
func (s *script) listening(dir string, strangers *atomic.Int64, opts ...Option) (*Client, error) {
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		if !strings.HasPrefix(address, "relay.mem:") {
			strangers.Add(1)
		}
		return s.l.DialContext(ctx, network, address)
	}
	return Connect(s.t.Context(), "http://relay.mem", append([]Option{
		WithToken("t"), WithReceiveDir(dir), WithHTTPClient(&http.Client{Transport: &http.Transport{DialContext: dial}}),
	}, opts...)...)
}

// everything is a Handler that takes what comes.
func everything() Handler {
	return Handler{
		NotifyCmdData: func(CmdData) {}, NotifyBufferData: func(BufferData) {}, NotifyFileData: func(FileData) {},
		NotifyCancelSend: func(CancelNotice) {}, NotifyUserStatus: func([]UserStatus) {}, NotifyTokenWillExpire: func(time.Time) {},
		NotifySendProgress: func(Progress) {}, NotifyReconnecting: func(Reconnecting) {}, NotifyLineOff: func(error) {},
	}
}

// serverKnown is what a server's frames are filled with.
func serverKnown() map[string]any {
	return map[string]any{
		"id": wire.NewSendID(), "send_id": wire.NewSendID(), "target": "alice", "user": "bob", "app": "demo",
		"instance": bytes.Repeat([]byte{3}, 16), "transfer": "T-1", "url": "/v1/transfers/T-1", "ticket": "K",
		"stream": uint64(5), "seq": uint64(7), "floor": uint64(7), "size": int64(10), "offset": int64(5), "inline": []byte{}, "algorithm": "x3b",
		"Welcome.user": "alice",
	}
}

// A target of the attack: a client in some state, and the server's end of its session.
type prey struct {
	t *testing.T
	s *script
	c *Client
	p *scripted

	dir, file string
	busy      bool
	known     map[string]any
	frames    []wiretest.Variant // of known
	strangers atomic.Int64
}

// catch makes a new client, with work under way if it is to be busy.
func (x *prey) catch() {
	var err error
	if x.c, err = x.s.listening(x.dir, &x.strangers, WithHandler(everything()), WithResumeWindow(time.Minute)); err != nil {
		x.t.Fatal(err)
	}
	x.p = x.s.session()
	x.work()
}

// work gives it something to do, and learns the ids of that.
func (x *prey) work() {
	x.known = serverKnown()
	defer func() { x.frames = wiretest.Variants(x.known) }()
	if !x.busy {
		return
	}
	x.c.SendCmd("bob", []byte("x"))
	x.c.SendFile("bob", x.file)
	go x.c.UserStatus(x.c.ctx)
	x.p.send(&wire.Frame{Body: &wire.Frame_Offer{Offer: &wire.Offer{
		SendId: wire.NewSendID(), Source: &wire.Peer{User: "bob"}, Kind: wire.Kind_KIND_FILE, Size: 100, Transfer: "T-1", Url: "/v1/transfers/T-1", Ticket: "K"}}})
	for range 4 { // the order is not known
		switch b := x.p.next().Body.(type) {
		case *wire.Frame_Command:
			x.known["CommandResult.id"] = b.Command.Id
		case *wire.Frame_Offer:
			for _, of := range []string{"Accepted", "Verdict", "Standing"} {
				x.known[of+".send_id"], x.known[of+".transfer"] = b.Offer.SendId, "T-2"
			}
			x.known["Accepted.url"] = "/v1/transfers/T-2"
		case *wire.Frame_PresenceQuery:
			x.known["PresenceList.id"] = b.PresenceQuery.Id
		}
	}
}

// throw sends a frame at the client and sees that it lives, or has ended as it has to.
func (x *prey) throw(v wiretest.Variant, and ...*wire.Frame) {
	x.t.Helper()
	for _, f := range append([]*wire.Frame{v.Copy()}, and...) {
		_ = x.p.l.Send(f) // the frame before may have ended the session
	}
	synctest.Wait()
	x.again(v.String())
}

// again sees that the client has a session, or that its line is off for good; then
// another client takes its place.
func (x *prey) again(cell string) {
	x.t.Helper()
	select {
	case <-x.c.Done():
		x.close(cell)
		x.catch()
		return
	default:
	}
	if x.p.l.Err() == nil {
		return
	}
	select {
	case x.p = <-x.s.sessions:
	case <-x.c.Done():
		x.close(cell)
		x.catch()
	case <-time.After(time.Hour):
		x.t.Fatalf("%s: neither a new session nor the end", cell)
	}
}

// answers sees that a command still gets its result.
func (x *prey) answers(cell string) {
	x.t.Helper()
	x.again(cell)
	task := x.c.SendCmd("carol", []byte("still there?"))
	for {
		select {
		case f := <-x.p.frames:
			if c := f.GetCommand(); c != nil && c.Target == "carol" {
				x.p.ok(c)
				if err := task.Wait(x.t.Context()); err != nil {
					x.t.Errorf("behind %s: the result is %v", cell, err)
				}
				return
			}
		case <-time.After(time.Hour):
			x.t.Fatalf("behind %s: the command was not sent", cell)
		}
	}
}

// close wants Close to return, soon.
func (x *prey) close(cell string) {
	x.t.Helper()
	start := time.Now()
	x.c.Close()
	if took := time.Since(start); took > 10*time.Second {
		x.t.Errorf("behind %s: Close took %v", cell, took)
	}
}

// hostileFile is a file that is too large for its offer.
func hostileFile(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, make([]byte, 200_000), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestNoFrameOfAServerHarmsTheClient(t *testing.T) {
	file := hostileFile(t)
	cells := 0
	for _, busy := range []bool{false, true} {
		for _, state := range []string{"live", "behind LineOff", "behind Welcome"} {
			t.Run(fmt.Sprintf("%s, busy %v", state, busy), func(t *testing.T) {
				scripts(t, func(t *testing.T, s *script) {
					x := &prey{t: t, s: s, dir: t.TempDir(), file: file, busy: busy}
					x.catch()
					for i := range x.frames {
						v := x.frames[i] // of what is under way now
						cells++
						switch state {
						case "live":
							x.throw(v, v.Copy()) // twice, because the second one may be another case
						case "behind LineOff": // one that is not for good
							x.throw(wiretest.Variant{Kind: "LineOff", Frame: lineOffFrame(ErrServiceFault)}, v.Copy())
						case "behind Welcome":
							x.throw(wiretest.Variant{Kind: "Welcome", Frame: welcomeFrame(9)}, v.Copy())
						}
						if i%50 == 0 {
							x.answers(v.String())
						}
						if synctest.Wait(); busy && i%10 == 0 && len(x.c.tasks) == 0 {
							x.work()
						}
					}
					x.answers("all of them")
					x.close("all of them")
					if n := x.strangers.Load(); n > 0 {
						t.Errorf("another host was dialled %d times", n)
					}
				})
			})
		}
	}
	t.Logf("%d cells", cells)
}

func TestNoFirstFrameOfAServerHarmsTheClient(t *testing.T) {
	dir := t.TempDir()
	scripts(t, func(t *testing.T, s *script) {
		all := wiretest.Variants(serverKnown())
		var strangers atomic.Int64
		welcomed := 0
		for _, v := range all {
			s.reply(func(*wire.Hello) *wire.Frame { return v.Copy() })
			c, err := s.listening(dir, &strangers, WithHandler(everything()))
			if (err == nil) != (v.Kind == "Welcome" && wire.CheckWelcome(v.Frame.GetWelcome()) == nil) {
				t.Fatalf("%v: Connect = %v", v, err)
			}
			if err != nil {
				if _, ok := errors.AsType[*Error](err); !ok {
					t.Errorf("%v: %v is no *Error", v, err)
				}
				if synctest.Wait(); v.Kind == "Welcome" {
					s.session() // as it seems to the server
				}
				continue
			}
			welcomed++
			p := s.session()
			task := c.SendCmd("bob", []byte("x"))
			if !task.ended() {
				select {
				case f := <-p.frames:
					p.ok(f.GetCommand())
				case <-time.After(time.Hour):
					t.Fatalf("%v: the command was not sent", v)
				}
			}
			if err := task.Wait(t.Context()); err != nil && !errors.Is(err, ErrCommandTooLarge) {
				t.Errorf("%v: the result of a command is %v", v, err)
			}
			c.Close()
		}
		t.Logf("%d first frames, %d logins", len(all), welcomed)
	})
}

func TestServerThatTalksOnDoesNotDelayClose(t *testing.T) {
	dir := t.TempDir()
	scripts(t, func(t *testing.T, s *script) {
		x := &prey{t: t, s: s, dir: dir}
		x.catch()
		all := wiretest.Variants(x.known)
		stop := make(chan struct{})
		s.running.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
					if v := all[i%len(all)]; v.Kind != "LineOff" && v.Kind != "Welcome" && v.Kind != "Hello" {
						_ = x.p.l.Send(v.Copy())
					}
				}
			}
		})
		time.Sleep(100 * time.Millisecond)
		x.close("a server that talks on")
		close(stop)
	})
}

// flood sends n frames as fast as the client takes them.
func (p *scripted) flood(n int, frame func(i int) *wire.Frame) {
	p.t.Helper()
	for i := range n {
		for p.l.Send(frame(i)) != nil {
			if p.l.Err() != nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
	synctest.Wait()
}

// offerOf is an offer of a buffer inside its frame, with an id of its own.
func offerOf(i int, content []byte) *wire.Frame {
	return &wire.Frame{Body: &wire.Frame_Offer{Offer: &wire.Offer{
		SendId: fmt.Sprintf("00000000-0000-4000-8000-%012x", i), Source: &wire.Peer{User: "bob"}, Kind: wire.Kind_KIND_BUFFER,
		Size: int64(len(content)), Inlined: true, Inline: content, Transfer: fmt.Sprint("T-", i), Url: "/v1/transfers/T", Ticket: "K"}}}
}

// verdictAck acknowledges a verdict, so that the client may forget it.
func (p *scripted) verdictAck(f *wire.Frame) {
	if v := f.GetVerdict(); v != nil {
		_ = p.l.Send(&wire.Frame{Body: &wire.Frame_VerdictAck{VerdictAck: &wire.VerdictAck{Transfer: v.Transfer}}})
	}
}

// drained counts the frames of a kind that have come, and forgets them.
func (p *scripted) drained(count func(*wire.Frame) bool) (n int) {
	for {
		select {
		case f := <-p.frames:
			if count(f) {
				n++
			}
		default:
			return n
		}
	}
}

// What others send waits for a slow application, and then it is not taken: buffers,
// files and cancels are as bounded as commands are.
func TestSlowApplicationBoundsWhatIsReceived(t *testing.T) {
	scripts(t, func(t *testing.T, s *script) {
		var strangers atomic.Int64
		h := everything()
		goOn := make(chan struct{})
		told := 0
		h.NotifyBufferData = func(BufferData) { <-goOn; told++ }
		c, err := s.listening(t.TempDir(), &strangers, WithHandler(h), WithResumeWindow(24*time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		p := s.session()
		const n = 3 * receiveMost
		kept := func(f *wire.Frame) bool {
			p.verdictAck(f)
			return f.GetVerdict() != nil && f.GetVerdict().Code == 0
		}
		first := 0
		p.flood(n, func(i int) *wire.Frame {
			if i%500 == 0 {
				synctest.Wait()
				first += p.drained(kept)
			}
			return offerOf(i, []byte("x"))
		})
		first += p.drained(kept)
		if first > untoldMost {
			t.Errorf("%d buffers were taken while the application took none, want at most %d", first, untoldMost)
		}
		close(goOn)
		synctest.Wait()
		if second := p.drained(kept); told != first+second || second == 0 {
			t.Errorf("then %d more were taken, and %d told", second, told)
		}
	})
}

func TestSlowApplicationBoundsTheBytesOfBuffers(t *testing.T) {
	scripts(t, func(t *testing.T, s *script) {
		var strangers atomic.Int64
		h := everything()
		goOn := make(chan struct{})
		var told int
		h.NotifyBufferData = func(d BufferData) { <-goOn; told += len(d.Data) }
		c, err := s.listening(t.TempDir(), &strangers, WithHandler(h))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.in.memory = &budget{free: 1 << 20}
		p := s.session()
		content := make([]byte, wire.InlineBytes)
		p.flood(100, func(i int) *wire.Frame { return offerOf(i, content) })
		kept := func(f *wire.Frame) bool { return f.GetVerdict() != nil && f.GetVerdict().Code == 0 }
		if got := p.drained(kept); got == 0 || got*len(content) > 1<<20 {
			t.Errorf("%d buffers of 64 KiB were taken, want as many as 1 MiB holds", got)
		}
		close(goOn)
		synctest.Wait()
		if told != 100*len(content) {
			t.Errorf("then %d bytes were told, want all", told)
		}
	})
}

func TestFloodsOfAServerAreBounded(t *testing.T) {
	for _, tt := range []struct {
		name    string
		handler func(h *Handler, block <-chan struct{})
		source  bool
		frame   func(i int) *wire.Frame
		held    func(c *Client) int // what must not grow
		most    int
	}{
		{"offers that nobody answers", func(h *Handler, block <-chan struct{}) { h.AcceptBuffer = func(*Offer) {} }, false,
			func(i int) *wire.Frame { return offerOf(i, nil) }, func(c *Client) int { return len(c.in.all) }, receiveMost},
		{"questions about transfers", nil, false, func(i int) *wire.Frame {
			return &wire.Frame{Body: &wire.Frame_Query{Query: &wire.Query{Transfer: fmt.Sprint("T-", i), SendId: wire.NewSendID(), Source: &wire.Peer{User: "bob"}}}}
		}, func(c *Client) int { return len(c.in.all) + len(c.in.names) }, receiveMost + knownNames},
		{"cancels", nil, false, func(i int) *wire.Frame {
			return &wire.Frame{Body: &wire.Frame_Cancel{Cancel: &wire.Cancel{Transfer: fmt.Sprint("T-", i), SendId: wire.NewSendID()}}}
		}, func(c *Client) int { return len(c.in.all) + len(c.in.names) }, receiveMost + knownNames},
		{"offers and their cancels", func(h *Handler, block <-chan struct{}) { h.NotifyCancelSend = func(CancelNotice) { <-block } }, false, func(i int) *wire.Frame {
			if i%2 == 0 {
				f := offerOf(i, nil)
				f.GetOffer().Inlined, f.GetOffer().Size = false, 10
				return f
			}
			synctest.Wait() // it is accepted
			return &wire.Frame{Body: &wire.Frame_Cancel{Cancel: &wire.Cancel{Transfer: fmt.Sprint("T-", i-1)}}}
		}, func(c *Client) int { return len(c.in.all) + len(c.events.queue) }, receiveMost + untoldMost},
		{"commands", func(h *Handler, block <-chan struct{}) { h.NotifyCmdData = func(CmdData) { <-block } }, false, func(i int) *wire.Frame {
			return &wire.Frame{Body: &wire.Frame_Command{Command: &wire.Command{Id: wire.NewSendID(), Source: &wire.Peer{User: "bob"}, Stream: uint64(i + 1), Seq: 1, Floor: 1}}}
		}, func(c *Client) int { return len(c.events.queue) }, 1024},
		{"ends of the token", func(h *Handler, block <-chan struct{}) { h.NotifyTokenWillExpire = func(time.Time) { <-block } }, false, func(i int) *wire.Frame {
			return &wire.Frame{Body: &wire.Frame_TokenWillExpire{TokenWillExpire: &wire.TokenWillExpire{TokenExpiresMs: int64(i)}}}
		}, func(c *Client) int { return len(c.events.queue) }, 2},
		{"ends of the token, with a source", nil, true, func(i int) *wire.Frame {
			return &wire.Frame{Body: &wire.Frame_TokenWillExpire{TokenWillExpire: &wire.TokenWillExpire{TokenExpiresMs: int64(i)}}}
		}, func(*Client) int { return runtime.NumGoroutine() }, 100},
		{"presence", func(h *Handler, block <-chan struct{}) { h.NotifyUserStatus = func([]UserStatus) { <-block } }, false, func(i int) *wire.Frame {
			return &wire.Frame{Body: &wire.Frame_PresenceChange{PresenceChange: &wire.PresenceChange{Users: []*wire.Presence{{User: fmt.Sprint("u", i%100)}}}}}
		}, func(c *Client) int { return len(c.events.queue) + len(c.presence.news) }, 102},
		{"results of nothing", nil, false, func(int) *wire.Frame {
			return &wire.Frame{Body: &wire.Frame_CommandResult{CommandResult: &wire.CommandResult{Id: wire.NewSendID(), Outcome: 1}}}
		}, func(c *Client) int { return len(c.events.queue) + len(c.tasks) }, 0},
		{"verdicts of nothing", nil, false, func(i int) *wire.Frame {
			return &wire.Frame{Body: &wire.Frame_Verdict{Verdict: &wire.Verdict{SendId: wire.NewSendID(), Transfer: fmt.Sprint("T-", i)}}}
		}, func(c *Client) int { return len(c.out.all) + len(c.out.byTransfer) }, 0},
		{"acceptances of nothing", nil, false, func(i int) *wire.Frame {
			return &wire.Frame{Body: &wire.Frame_Accepted{Accepted: &wire.Accepted{SendId: wire.NewSendID(), Transfer: fmt.Sprint("T-", i), Peer: &wire.Peer{User: "bob"}}}}
		}, func(c *Client) int { return len(c.out.all) + len(c.out.byTransfer) }, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			scripts(t, func(t *testing.T, s *script) {
				var strangers atomic.Int64
				blocked := make(chan struct{})
				h := everything()
				if tt.handler != nil {
					tt.handler(&h, blocked)
				}
				opts := []Option{WithHandler(h)}
				if tt.source {
					first := true
					opts = append(opts, WithTokenSource(func(ctx context.Context) (string, error) {
						if first {
							first = false
							return "t", nil
						}
						<-blocked
						return "", errors.New("late")
					}))
				}
				c, err := s.listening(t.TempDir(), &strangers, opts...)
				if err != nil {
					t.Fatal(err)
				}
				p := s.session()
				most := 0
				n := 10_000
				if tt.most > n/2 {
					n *= 2
				}
				p.flood(n, func(i int) *wire.Frame {
					if i%1000 == 999 {
						synctest.Wait()
						p.drained(func(f *wire.Frame) bool { p.verdictAck(f); return false })
						synctest.Wait()
						most = max(most, tt.held(c))
					}
					return tt.frame(i)
				})
				if most = max(most, tt.held(c)); most > tt.most {
					t.Errorf("%d are held, want at most %d", most, tt.most)
				}
				close(blocked)
				c.Close()
			})
		})
	}
}
