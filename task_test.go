package dian

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// Progress rises, comes at most ten times a second, and its last event is the whole.
func TestProgressRisesSlowlyAndEndsWhole(t *testing.T) {
	scripts(t, func(t *testing.T, s *script) {
		type event struct {
			at   time.Duration
			sent int64
		}
		var events []event
		start := time.Now()
		var last []string
		c, _ := s.pair(WithHandler(Handler{
			NotifySendProgress: func(p Progress) {
				if p.Total != 1000 || p.Cookie != "cookie" || p.Target != "bob" {
					t.Errorf("%+v, want total 1000 and the cookie", p)
				}
				events = append(events, event{time.Since(start), p.Sent})
				last = append(last, "progress")
			},
			SendFileResult: func(r Result) {
				if r.Err != nil || r.Cookie != "cookie" || r.Kind != File {
					t.Errorf("%+v, want success with the cookie", r)
				}
				last = append(last, "result")
			},
		}))
		task := newTask(c, File, "bob", newSendOptions([]SendOption{WithCookie("cookie")}))
		for i := range int64(500) {
			task.progress(i, 1000)
			task.progress(i/2, 1000) // never back
			time.Sleep(10 * time.Millisecond)
		}
		task.finish(Result{Size: 1000})
		task.finish(Result{Size: 1000, Err: ErrInternal}) // only the first counts
		c.Close()
		for i := range events[1:] {
			if events[i+1].sent <= events[i].sent {
				t.Fatalf("progress %v does not rise", events)
			}
		}
		for i := range events {
			j := i
			for j < len(events) && events[j].at-events[i].at < time.Second {
				j++
			}
			if j-i > 10 {
				t.Fatalf("%d events within a second", j-i)
			}
		}
		if n := len(events); n < 30 || events[n-1].sent != 1000 {
			t.Errorf("%d events, the last %v; want one every %v and 1000 at the end", n, events[n-1], progressEvery)
		}
		if n := len(last); last[n-1] != "result" || slices.Index(last, "result") != n-1 {
			t.Errorf("the result came before the last progress, or twice")
		}
		if sent, total := task.Progress(); sent != 1000 || total != 1000 || task.State() != TaskDone {
			t.Errorf("Progress = %d, %d in state %v", sent, total, task.State())
		}
	})
}

func TestEmptyContentHasOneProgressEvent(t *testing.T) {
	scripts(t, func(t *testing.T, s *script) {
		var events []Progress
		c, _ := s.pair(WithHandler(Handler{NotifySendProgress: func(p Progress) { events = append(events, p) }}))
		task := newTask(c, Buffer, "bob", sendOptions{})
		task.progress(0, 0)
		task.finish(Result{})
		c.Close()
		if len(events) != 1 || events[0].Sent != 0 || events[0].Total != 0 {
			t.Errorf("events %+v, want the single 0/0", events)
		}
	})
}

// A slow callback does not pile up progress, and the last value is shown all the same.
func TestSlowCallbackSkipsProgress(t *testing.T) {
	scripts(t, func(t *testing.T, s *script) {
		var events []int64
		c, _ := s.pair(WithHandler(Handler{NotifySendProgress: func(p Progress) {
			events = append(events, p.Sent)
			time.Sleep(time.Minute)
		}}))
		task := newTask(c, Buffer, "bob", sendOptions{})
		for i := range int64(100) {
			task.progress(i+1, 100)
			time.Sleep(time.Second)
		}
		task.finish(Result{Size: 100})
		c.Close()
		if len(events) > 4 || events[len(events)-1] != 100 {
			t.Errorf("events %v, want a few and 100 as the last", events)
		}
	})
}

// A cancel has its own answer, which comes before the task's result.
func TestCancelIsToldBeforeTheResult(t *testing.T) {
	scripts(t, func(t *testing.T, s *script) {
		var told []string
		c, p := s.pair(WithHandler(Handler{
			CancelSendResult: func(r CancelResult) {
				told = append(told, strings.TrimSpace("cancel "+CodeOf(r.Err).Error()))
			},
			SendBufferResult: func(r Result) { told = append(told, "result "+CodeOf(r.Err).Error()) },
		}))
		done := func(want ...string) {
			t.Helper()
			c.events.wait()
			if !slices.Equal(told, want) {
				t.Errorf("told %q, want %q", told, want)
			}
			told = nil
		}
		none := "cancel " + ErrBadSendID.Error()
		c.CancelSend("00000000-0000-7000-8000-000000000000")
		done(none)

		cmd := c.SendCmd("bob", nil)
		cmd.Cancel()
		done(none)
		p.ok(p.command())
		if err := cmd.Wait(t.Context()); err != nil {
			t.Errorf("command after a cancel: %v", err)
		}

		for _, r := range []struct {
			result error
			want   []string
		}{
			{localError("", "", ErrCancelled, "", nil), []string{"cancel " + OK.Error(), "result " + ErrCancelled.Error()}},
			{nil, []string{none, "result " + OK.Error()}},
			{localError("", "", ErrDigestMismatch, "", nil), []string{none, "result " + ErrDigestMismatch.Error()}},
		} {
			task := newTask(c, Buffer, "bob", sendOptions{})
			if !task.cancelAsked() {
				t.Fatal("task is done already")
			}
			task.finish(Result{Err: r.result})
			done(r.want...)
			task.Cancel() // too late
			done(none)
		}
		c.Close()
	})
}

func TestWaitInsideACallback(t *testing.T) {
	scripts(t, func(t *testing.T, s *script) {
		errs := make(chan error, 1)
		var c *Client
		ready := make(chan struct{})
		c, p := s.pair(WithHandler(Handler{
			HandleCmd: func(CmdData) ([]byte, error) {
				<-ready
				task := c.SendCmd("bob", nil)
				errs <- task.Wait(t.Context())
				return nil, nil
			},
		}))
		close(ready)
		defer c.Close()
		p.send(&wire.Frame{Body: &wire.Frame_Command{Command: &wire.Command{
			Id: wire.NewSendID(), Source: &wire.Peer{User: "bob"}, Ref: 1}}})
		p.ok(p.command())
		if err := <-errs; err != nil {
			t.Errorf("Wait = %v", err)
		}
		if a := p.next().GetCommandAck(); a.GetRef() != 1 || a.GetCode() != 0 {
			t.Errorf("ack %v, want 0 for ref 1", a)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := c.SendCmd("bob", nil).Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Wait = %v, want the context's end", err)
		}
	})
}

func TestTasksAreCheckedBeforeAnythingIsSent(t *testing.T) {
	scripts(t, func(t *testing.T, s *script) {
		results := 0
		c, p := s.pair(WithHandler(Handler{SendCmdResult: func(Result) { results++ }}))
		defer c.Close()
		busy := c.SendCmd("bob", nil)
		p.command()
		for _, x := range []struct {
			name string
			task *Task
			want Code
		}{
			{"empty target", c.SendCmd("", nil), ErrBadTarget},
			{"target with a control character", c.SendCmd("bob\n", nil), ErrBadTarget},
			{"long target", c.SendCmd(strings.Repeat("b", 129), nil), ErrBadTarget},
			{"large data", c.SendCmd("bob", make([]byte, 65537)), ErrCommandTooLarge},
			{"large meta", c.SendCmd("bob", nil, WithMeta(make([]byte, 4097))), ErrBadParameter},
			{"no UUID", c.SendCmd("bob", nil, WithSendID("x")), ErrBadSendID},
			{"id in use", c.SendCmd("bob", nil, WithSendID(busy.ID())), ErrBadSendID},
			{"name that is not UTF-8", newTask(c, File, "bob", sendOptions{name: "\xff"}), ErrBadParameter},
			{"long type", newTask(c, File, "bob", sendOptions{typ: strings.Repeat("t", 256)}), ErrBadParameter},
		} {
			select {
			case <-x.task.Done():
			default:
				t.Errorf("%s: not done", x.name)
			}
			if err := x.task.Wait(t.Context()); CodeOf(err) != x.want {
				t.Errorf("%s: %v, want %v", x.name, err, x.want)
			}
		}
		c.events.wait()
		if results != 7 {
			t.Errorf("%d results, want 7", results)
		}
		if len(p.frames) != 0 {
			t.Errorf("%d frames were sent", len(p.frames))
		}
		largest := c.SendCmd("bob", make([]byte, 65536), WithMeta(make([]byte, 4096)))
		p.ok(p.command())
		if err := largest.Wait(t.Context()); err != nil {
			t.Errorf("the largest command: %v", err)
		}
	})
}
