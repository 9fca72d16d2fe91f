package server

import (
	"bytes"
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/dian-im/dian/internal/wire"
)

// auditedRelay is a relay in a bubble whose audit the test reads.
func auditedRelay(t *testing.T, change ...func(*Config)) (*testRelay, *testSink) {
	sink := &testSink{}
	return memRelay(t, append(change, func(c *Config) { c.Audit.Writer = sink })...), sink
}

// tasks ends the relay and returns the lines of its tasks, without times.
func (r *testRelay) tasks(sink *testSink) []auditLine {
	r.t.Helper()
	r.stop()
	return sink.events(r.t, auditTask)
}

// wantTasks compares lines; times and addresses are looked at elsewhere.
func wantTasks(t *testing.T, got []auditLine, want ...auditLine) {
	t.Helper()
	for i := range want {
		want[i].Event = "task"
		if want[i].App == "" {
			want[i].App = "app"
		}
		if want[i].From == "" {
			want[i].From = "alice"
		}
		if want[i].By == "" {
			want[i].By = "relay"
		}
	}
	ignore := cmpopts.IgnoreFields(auditLine{}, "Time", "Ms", "FromAddress", "ToAddress")
	// A result's line may come a moment after its sender has heard.
	sorted := cmpopts.SortSlices(func(a, b auditLine) bool {
		return a.SendID+strconv.Itoa(int(a.Code)) < b.SendID+strconv.Itoa(int(b.Code))
	})
	if diff := cmp.Diff(want, got, ignore, sorted); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

func command(data string) *wire.Command {
	return &wire.Command{Id: wire.NewSendID(), Target: "bob", Data: []byte(data)}
}

// line is what a command of alice to bob has in the audit.
func lineOfCommand(c *wire.Command, change func(*auditLine)) auditLine {
	l := auditLine{To: "bob", Kind: "command", Via: "session", SendID: c.Id, Size: int64(len(c.Data)), Bytes: int64(len(c.Data))}
	if change != nil {
		change(&l)
	}
	return l
}

// ack answers the next command that comes to p.
func (p *testPeer) ack(outcome wire.CommandOutcome, code wire.Code, reply string) *wire.Command {
	p.t.Helper()
	c := p.command()
	p.send(ackFrame(&wire.CommandAck{Ref: c.Ref, Id: c.Id, Outcome: outcome, Code: uint32(code), Reply: []byte(reply), Next: 1}))
	return c
}

func TestAuditOfCommandsThatHaveAResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, sink := auditedRelay(t)
		alice, bob := r.sender("alice"), r.listen("bob")
		done, refused, silent := command("hello"), command("no"), command("slow")
		offline := &wire.Command{Id: wire.NewSendID(), Target: "nobody", Data: []byte("x")}
		bad := &wire.Command{Id: "\x1b[2J", Target: "\u202e.\n", Data: []byte("x")}
		large := command(strings.Repeat("x", wire.CommandBytes+1))
		alice.send(commandFrame(done))
		bob.ack(final, 0, "reply")
		alice.result()
		alice.send(commandFrame(refused))
		bob.ack(final, wire.PeerRefused, "")
		alice.result()
		stop := keepAwake(bob)
		for _, c := range []*wire.Command{offline, bad, large, silent} {
			alice.send(commandFrame(c))
			alice.result() // the last one after 30 s
		}
		got := r.tasks(sink)
		stop()
		peer := func(code int64, reply int64) func(*auditLine) {
			return func(l *auditLine) { l.By, l.Code, l.ReplyBytes = "peer", code, reply }
		}
		nowhere := func(code wire.Code, to, id string) func(*auditLine) {
			return func(l *auditLine) { l.Code, l.Bytes, l.To, l.SendID = int64(code), 0, to, id }
		}
		wantTasks(t, got,
			lineOfCommand(done, peer(0, 5)),
			lineOfCommand(refused, peer(606, 0)),
			lineOfCommand(offline, nowhere(wire.PeerOffline, "nobody", offline.Id)),
			lineOfCommand(bad, nowhere(wire.BadTarget, "", "")), // what is malformed is not written down
			lineOfCommand(large, nowhere(wire.CommandTooLarge, "bob", large.Id)),
			lineOfCommand(silent, func(l *auditLine) { l.Code = int64(wire.PeerNoAnswer) }),
		)
		i := slices.IndexFunc(got, func(l auditLine) bool { return l.SendID == silent.Id })
		if i < 0 || got[i].Ms != 30_000 || got[i].FromAddress == "" || got[i].ToAddress == "" {
			t.Errorf("a command that expired: %+v", got)
		}
	})
}

func TestAuditOfCommandsOverHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, sink := auditedRelay(t)
		bob := r.listen("bob")
		post := func(ctx context.Context, c *wire.Command) {
			req, _ := http.NewRequestWithContext(ctx, "POST", "http://relay.example/v1/users/"+c.Target+"/commands", bytes.NewReader(c.Data))
			req.Header.Set("Authorization", "Bearer "+r.token("alice"))
			req.Header.Set("Dian-Send-Id", c.Id)
			if resp, err := r.web.Do(req); err == nil {
				resp.Body.Close()
			}
		}
		done, large, broken, gone := command("hello"), command(strings.Repeat("x", wire.CommandBytes+1)), command("lost"), command("bye")
		offline := &wire.Command{Id: wire.NewSendID(), Target: "nobody", Data: []byte("x")}
		answered := make(chan struct{})
		start := func(ctx context.Context, c *wire.Command) {
			go func() { post(ctx, c); answered <- struct{}{} }()
		}
		start(t.Context(), done)
		bob.ack(final, 0, "reply")
		<-answered
		post(t.Context(), offline)
		post(t.Context(), large)
		ctx, cancel := context.WithCancel(t.Context())
		start(ctx, gone) // its client goes before the ack
		bob.command()
		cancel()
		<-answered
		start(t.Context(), broken)
		bob.command()
		bob.conn.Close()
		<-answered
		synctest.Wait()
		noAnswer := func(l *auditLine) { l.Via, l.Code = "post", int64(wire.PeerNoAnswer) }
		wantTasks(t, r.tasks(sink),
			lineOfCommand(done, func(l *auditLine) { l.Via, l.By, l.ReplyBytes = "post", "peer", 5 }),
			lineOfCommand(offline, func(l *auditLine) { l.Via, l.Code, l.Bytes, l.To = "post", int64(wire.PeerOffline), 0, "nobody" }),
			lineOfCommand(large, func(l *auditLine) { l.Via, l.Code, l.Bytes, l.Size = "post", int64(wire.CommandTooLarge), 0, 0 }),
			lineOfCommand(gone, noAnswer),
			lineOfCommand(broken, noAnswer),
		)
	})
}

// TestAuditOfACommandThatIsSentAgain: whatever breaks in between, one line.
func TestAuditOfACommandThatIsSentAgain(t *testing.T) {
	peerOK := func(l *auditLine) { l.By = "peer" }
	resentOK := func(l *auditLine) { l.By, l.Resent = "peer", true }
	t.Run("gap", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r, sink := auditedRelay(t)
			alice, bob := r.sender("alice"), r.listen("bob")
			c := command("hello")
			c.Stream, c.Seq, c.Floor = 1, 2, 1
			for range 3 {
				alice.send(commandFrame(c))
				bob.ack(gap, 0, "")
				alice.result()
			}
			alice.send(commandFrame(c))
			bob.ack(final, 0, "")
			alice.result()
			wantTasks(t, r.tasks(sink), lineOfCommand(c, peerOK))
		})
	})
	t.Run("the receiver's line broke", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r, sink := auditedRelay(t)
			alice, bob := r.sender("alice"), r.listen("bob")
			c := command("hello")
			alice.send(commandFrame(c))
			bob.command()
			bob.conn.Close()
			if got := alice.result(); got.Outcome != lost {
				t.Fatalf("result %v, want lost", got)
			}
			bob = r.listen("bob")
			c.Resent = true
			alice.send(commandFrame(c))
			bob.ack(final, 0, "")
			alice.result()
			wantTasks(t, r.tasks(sink), lineOfCommand(c, resentOK))
		})
	})
	t.Run("the sender's line broke", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r, sink := auditedRelay(t)
			alice, bob := r.sender("alice"), r.listen("bob")
			c := command("hello")
			for range 3 { // each time its result finds nobody
				alice.send(commandFrame(c))
				got := bob.command()
				alice.conn.Close()
				synctest.Wait()
				bob.send(ackFrame(&wire.CommandAck{Ref: got.Ref, Id: got.Id, Outcome: final}))
				synctest.Wait()
				alice = r.sender("alice")
				c.Resent = true
			}
			alice.send(commandFrame(c))
			bob.ack(final, 0, "")
			alice.result()
			c.Resent = false
			wantTasks(t, r.tasks(sink), lineOfCommand(c, peerOK))
		})
	})
	t.Run("refused the second time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r, sink := auditedRelay(t)
			alice, bob := r.sender("alice"), r.listen("bob")
			c := command("hello")
			alice.send(commandFrame(c))
			bob.command()
			bob.conn.Close()
			alice.result()
			c.Resent = true
			alice.send(commandFrame(c))
			alice.finalCode(c.Id, wire.PeerOffline)
			got := r.tasks(sink) // what bob was served is not forgotten
			wantTasks(t, got, lineOfCommand(c, func(l *auditLine) { l.Resent, l.Code = true, 603 }))
			if len(got) == 1 && got[0].ToAddress == "" {
				t.Error("the address that it went to is missing")
			}
		})
	})
	t.Run("another result the second time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r, sink := auditedRelay(t)
			alice, bob := r.sender("alice"), r.listen("bob")
			c := command("hello")
			alice.send(commandFrame(c))
			got := bob.command()
			alice.conn.Close()
			synctest.Wait()
			bob.send(ackFrame(&wire.CommandAck{Ref: got.Ref, Id: got.Id, Outcome: final}))
			synctest.Wait()
			alice = r.sender("alice")
			c.Resent = true
			alice.send(commandFrame(c))
			bob.ack(final, wire.PeerNoAnswer, "") // the receiver has restarted
			alice.result()
			wantTasks(t, r.tasks(sink), lineOfCommand(c, peerOK),
				lineOfCommand(c, func(l *auditLine) { l.By, l.Resent, l.Code = "peer", true, 604 }))
		})
	})
}

// TestAuditOfACommandWithoutResult: who breaks off in the right moment has a line all
// the same.
func TestAuditOfACommandWithoutResult(t *testing.T) {
	for _, outcome := range []string{outcomeLost, outcomeGap} {
		synctest.Test(t, func(t *testing.T) {
			r, sink := auditedRelay(t)
			alice, bob := r.sender("alice"), r.listen("bob")
			c, other := command("hello"), command("something else")
			other.Id = c.Id
			alice.send(commandFrame(c))
			if outcome == outcomeGap {
				bob.ack(gap, 0, "")
			} else {
				bob.command()
				bob.conn.Close()
			}
			alice.result()
			begun := time.Now()
			if outcome == outcomeLost {
				bob = r.listen("bob")
			}
			alice.send(commandFrame(other)) // the same id for other content hides nothing
			bob.ack(final, 0, "")
			alice.result()
			stop := keepAwake(alice, bob)
			time.Sleep(auditOpenTime - time.Minute)
			if n := len(sink.events(t, auditTask)); n != 1 {
				t.Errorf("%d lines before the time, want 1", n)
			}
			time.Sleep(2 * time.Minute)
			got := sink.events(t, auditTask)
			stop()
			wantTasks(t, got, lineOfCommand(other, func(l *auditLine) { l.By = "peer" }),
				lineOfCommand(c, func(l *auditLine) { l.Code, l.Outcome = 604, outcome }))
			for _, l := range got {
				if l.Time.Sub(begun).Abs() > time.Second {
					t.Errorf("the line says %v, and it happened at %v", l.Time, begun)
				}
			}
			r.stop()
		})
	}
}

// keepAwake answers pings until the test goes on.
func keepAwake(peers ...*testPeer) (stop func()) {
	done := make(chan struct{})
	for _, p := range peers {
		go func() {
			for {
				if _, err := p.read(); err != nil {
					done <- struct{}{}
					return
				}
			}
		}()
	}
	return func() {
		for _, p := range peers {
			p.conn.Close()
		}
		for range peers {
			<-done
		}
	}
}

func TestAuditOfCommandsAtTheRelaysEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, sink := auditedRelay(t)
		alice, bob := r.sender("alice"), r.listen("bob")
		c := command("hello")
		alice.send(commandFrame(c))
		bob.command()
		wantTasks(t, r.tasks(sink), lineOfCommand(c, func(l *auditLine) { l.Code, l.Outcome = 604, outcomeLost }))
		lines := sink.lines(t)
		if last := lines[len(lines)-1]; last.Action != "stop" {
			t.Errorf("the last line is %+v", last)
		}
	})
}

func TestAuditRefusesCommandsWhenItFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &testSink{}
		r := memRelay(t, func(c *Config) { c.Audit = Audit{Writer: sink, WhenFailing: AuditFail} })
		alice, bob := r.sender("alice"), r.listen("bob")
		running := command("running")
		alice.send(commandFrame(running))
		got := bob.command()
		sink.set(func(s *testSink) { s.err = http.ErrAbortHandler })
		alice.send(commandFrame(&wire.Command{Id: wire.NewSendID(), Target: "nobody"})) // a line that cannot be written
		alice.result()
		time.Sleep(time.Second)
		refused := command("refused")
		alice.send(commandFrame(refused))
		alice.finalCode(refused.Id, wire.ServiceFault)
		for range 10 { // refused for another reason: no lines that take the room of what runs
			alice.send(commandFrame(&wire.Command{Id: wire.NewSendID(), Target: "\n"}))
			alice.result()
		}
		resp, body := r.do("POST", "/v1/users/bob/commands", r.token("alice"), strings.NewReader("x"))
		wantProblem(t, resp, body, http.StatusServiceUnavailable, wire.ServiceFault)
		bob.send(ackFrame(&wire.CommandAck{Ref: got.Ref, Id: got.Id, Outcome: final})) // what runs ends well
		if res := alice.result(); res.Code != 0 || res.Id != running.Id {
			t.Errorf("the running command: %v", res)
		}
		sink.set(func(s *testSink) { s.err = nil })
		stop := keepAwake(bob)
		time.Sleep(10 * time.Second)
		stop()
		synctest.Wait()
		resp, body = r.do("POST", "/v1/users/bob/commands", r.token("alice"), strings.NewReader("x"))
		wantProblem(t, resp, body, http.StatusNotFound, wire.PeerOffline) // not 8 any more
		r.stop()
		var ids []string
		for _, l := range sink.events(t, auditTask) {
			ids = append(ids, l.SendID)
		}
		if len(ids) != 3 || !slices.Contains(ids, running.Id) {
			t.Errorf("tasks %v, want the running one of three", ids)
		}
		if lost := sink.events(t, auditLost); len(lost) != 1 || lost[0].RefusedTasks != 12 {
			t.Errorf("lost = %+v, want twelve refused tasks", lost)
		}
	})
}
