package dian

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dian-im/dian/internal/command"
	"github.com/dian-im/dian/internal/wire"
)

func (p *scripted) deliver(c *wire.Command) {
	p.t.Helper()
	c.Id = wire.NewSendID()
	p.send(&wire.Frame{Body: &wire.Frame_Command{Command: c}})
}

func (p *scripted) ack() *wire.CommandAck {
	p.t.Helper()
	f := p.next()
	if f.GetCommandAck() == nil {
		p.t.Fatalf("frame %v, want an ack", f)
	}
	return f.GetCommandAck()
}

func TestCommandIsAckedWhenQueued(t *testing.T) {
	scripts(t, func(t *testing.T, s *script) {
		hold := make(chan struct{})
		var got []string
		c, p := s.pair(WithHandler(Handler{NotifyCmdData: func(m CmdData) {
			<-hold
			got = append(got, m.Source+":"+string(m.Data)+string(m.Meta))
		}}))
		for i := range uint64(command.MaxQueued + 2) {
			p.deliver(&wire.Command{Source: &wire.Peer{User: "bob"}, Ref: i + 1, Stream: 9, Seq: i + 1, Floor: 1,
				Data: fmt.Append(nil, i), Meta: []byte("m")})
		}
		for i := range uint64(command.MaxQueued + 2) {
			a := p.ack()
			want := OK
			if i == command.MaxQueued {
				want = ErrPeerBusy
			}
			if i == command.MaxQueued+1 { // behind the one that was not taken
				if a.Outcome != wire.CommandOutcome_COMMAND_OUTCOME_GAP || a.Next != command.MaxQueued+1 {
					t.Errorf("ack %v, want GAP(%d)", a, command.MaxQueued+1)
				}
			} else if a.Ref != i+1 || Code(a.Code) != want {
				t.Errorf("ack %v of command %d, want %v", a, i+1, want)
			}
		}
		close(hold)
		c.Close()
		if len(got) != command.MaxQueued || got[0] != "bob:0m" || got[command.MaxQueued-1] != fmt.Sprintf("bob:%dm", command.MaxQueued-1) {
			t.Errorf("%d commands handled", len(got))
		}
	})
}

func TestAckHandledWaitsForTheHandler(t *testing.T) {
	scripts(t, func(t *testing.T, s *script) {
		hold := make(chan struct{})
		c, p := s.pair(WithAckHandled(), WithHandler(Handler{NotifyCmdData: func(CmdData) { <-hold }}))
		defer c.Close()
		p.deliver(&wire.Command{Source: &wire.Peer{User: "bob"}, Ref: 1})
		synctest.Wait()
		if len(p.frames) != 0 {
			t.Error("acked before the handler has returned")
		}
		close(hold)
		if a := p.ack(); a.Ref != 1 || a.Code != 0 {
			t.Errorf("ack %v, want 0", a)
		}
	})
}

func TestHandlerDecidesTheResult(t *testing.T) {
	scripts(t, func(t *testing.T, s *script) {
		var reply []byte
		var err error
		c, p := s.pair(WithHandler(Handler{HandleCmd: func(CmdData) ([]byte, error) { return reply, err }}))
		defer c.Close()
		for _, x := range []struct {
			reply  string
			err    error
			code   Code
			detail string
		}{
			{"yes", nil, OK, ""},
			{"", ErrNoSpace, ErrNoSpace, ""},
			{"lost", errors.New("secret path"), ErrPeerRefused, ""},
			{"", fmt.Errorf("x: %w", &Error{Code: 4711, Detail: strings.Repeat("é", 300)}), 4711, strings.Repeat("é", 256)},
			{"", OK, ErrPeerRefused, ""},
			{strings.Repeat("r", 65536), nil, OK, ""},
			{strings.Repeat("r", 65537), nil, ErrCommandTooLarge, "the reply is too large"},
		} {
			reply, err = []byte(x.reply), x.err
			p.deliver(&wire.Command{Source: &wire.Peer{User: "bob"}, Ref: 1})
			a := p.ack()
			want := x.reply
			if x.code != OK {
				want = ""
			}
			if Code(a.Code) != x.code || a.Detail != x.detail || string(a.Reply) != want {
				t.Errorf("reply of %d bytes, %v: acked %d %q and %d bytes", len(x.reply), x.err, a.Code, a.Detail, len(a.Reply))
			}
		}
	})
}

func TestCommandsWithoutAHandlerAreRefused(t *testing.T) {
	scripts(t, func(t *testing.T, s *script) {
		c, p := s.pair()
		defer c.Close()
		p.deliver(&wire.Command{Source: &wire.Peer{User: "bob"}, Ref: 1})
		if a := p.ack(); Code(a.Code) != ErrPeerRefused {
			t.Errorf("ack %v, want %v", a, ErrPeerRefused)
		}
		p.deliver(&wire.Command{Source: &wire.Peer{User: "bob"}, Ref: 2, Stream: 1}) // seq 0
		if a := p.ack(); Code(a.Code) != ErrBadParameter {
			t.Errorf("ack %v, want %v", a, ErrBadParameter)
		}
	})
}

func TestReplyReachesTheSender(t *testing.T) {
	scripts(t, func(t *testing.T, s *script) {
		c, p := s.pair()
		defer c.Close()
		task := c.SendCmd("bob", []byte("question"))
		cmd := p.command()
		p.send(&wire.Frame{Body: &wire.Frame_CommandResult{CommandResult: &wire.CommandResult{
			Id: cmd.Id, Outcome: wire.CommandOutcome_COMMAND_OUTCOME_FINAL, Reply: []byte("answer"), Origin: wire.Origin_ORIGIN_PEER}}})
		if err := task.Wait(t.Context()); err != nil || string(task.Result().Reply) != "answer" {
			t.Errorf("result %+v, want the reply", task.Result())
		}
		task = c.SendCmd("bob", nil)
		p.result(p.command(), wire.CommandOutcome_COMMAND_OUTCOME_FINAL, ErrPeerOffline, wire.Origin_ORIGIN_SERVER)
		err := task.Wait(t.Context())
		if e, _ := errors.AsType[*Error](err); !errors.Is(err, ErrPeerOffline) || e.Origin != Server || e.Peer != "bob" {
			t.Errorf("result %#v, want 603 from the server", err)
		}
	})
}

func TestWaitForPeerTriesAgain(t *testing.T) {
	scripts(t, func(t *testing.T, s *script) {
		c, p := s.pair()
		defer c.Close()
		start := time.Now()
		task := c.SendCmd("bob", nil, WithWaitForPeer(time.Minute))
		for _, code := range []Code{ErrPeerOffline, ErrOverLimit, ErrPeerOffline, ErrOverLimit} { // 603 is limited, too
			p.result(p.command(), wire.CommandOutcome_COMMAND_OUTCOME_FINAL, code, wire.Origin_ORIGIN_SERVER)
		}
		if cmd := p.command(); cmd.Resent {
			t.Error("sent again as if it may have arrived")
		} else {
			p.ok(cmd)
		}
		if err := task.Wait(t.Context()); err != nil || time.Since(start) != 7500*time.Millisecond {
			t.Errorf("result %v after %v, want success after 0.5 + 1 + 2 + 4 s", err, time.Since(start))
		}
	})
}

// What is not to wait is told at once, and at the end of a wait its last refusal.
func TestOverLimitIsAResult(t *testing.T) {
	scripts(t, func(t *testing.T, s *script) {
		c, p := s.pair()
		defer c.Close()
		task := c.SendCmd("bob", nil)
		p.result(p.command(), wire.CommandOutcome_COMMAND_OUTCOME_FINAL, ErrOverLimit, wire.Origin_ORIGIN_SERVER)
		if err := task.Wait(t.Context()); CodeOf(err) != ErrOverLimit {
			t.Errorf("result %v, want 1111", err)
		}
		start := time.Now()
		task = c.SendCmd("bob", nil, WithWaitForPeer(time.Minute))
		go func() {
			for f := range p.frames {
				p.result(f.GetCommand(), wire.CommandOutcome_COMMAND_OUTCOME_FINAL, ErrOverLimit, wire.Origin_ORIGIN_SERVER)
			}
		}()
		if err := task.Wait(t.Context()); CodeOf(err) != ErrOverLimit || time.Since(start) != time.Minute {
			t.Errorf("result %v after %v, want 1111 after 1m0s", err, time.Since(start))
		}
		close(p.frames)
	})
}

func TestErrorUnwrapsToCodeAndCause(t *testing.T) {
	err := error(localError("send file", "bob", ErrFileNotFound, "", fs.ErrNotExist))
	if !errors.Is(err, ErrFileNotFound) || !errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrFileRead) {
		t.Errorf("%v does not unwrap to its code and cause alone", err)
	}
	for _, x := range []struct {
		err  error
		want Code
	}{
		{nil, OK}, {err, ErrFileNotFound}, {fmt.Errorf("x: %w", err), ErrFileNotFound},
		{ErrPeerOffline, ErrPeerOffline}, {fs.ErrNotExist, ErrUnknown},
	} {
		if got := CodeOf(x.err); got != x.want {
			t.Errorf("CodeOf(%v) = %v, want %v", x.err, got, x.want)
		}
	}
	if got, want := ErrPeerOffline.Error(), "603: peer offline"; got != want {
		t.Errorf("Error = %q, want %q", got, want)
	}
	hostile := (&Error{Op: "send file", Peer: "bob\u202e", Origin: Peer, Code: 4711, Detail: "\x1b[2J"}).Error()
	if strings.ContainsAny(hostile, "\x1b\u202e") || !strings.Contains(hostile, "4711") {
		t.Errorf("Error = %q, want it quoted", hostile)
	}
}
