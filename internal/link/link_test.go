package link

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/dian-im/dian/internal/wire"
)

func TestFramesArriveInOrder(t *testing.T) {
	for _, json := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			near, far, _ := memPair(t)
			const n = 3000
			all := make(chan struct{})
			next := int64(0)
			there := New(far, Config{JSON: json, Handle: func(f *wire.Frame) error {
				if got := f.GetReceived().GetOffset(); got != next {
					t.Errorf("json %v: got frame %d, want %d", json, got, next)
				}
				if next++; next == n {
					close(all)
				}
				return nil
			}})
			here := New(near, Config{JSON: json, Handle: ignore})
			hereEnd, thereEnd := run(t, here), run(t, there)
			for i := range int64(n) {
				if err := here.Send(received(i)); err != nil {
					t.Fatalf("Send %d: %v", i, err)
				}
			}
			<-all
			if f, b := here.Queued(); f != 0 || b != 0 {
				t.Errorf("Queued = %d frames, %d bytes after all of them arrived", f, b)
			}
			here.Close(nil, websocket.CloseNormalClosure)
			if err := <-hereEnd; !errors.Is(err, ErrClosed) {
				t.Errorf("Run here = %v, want ErrClosed", err)
			}
			if err := <-thereEnd; !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
				t.Errorf("Run there = %v, want close 1000", err)
			}
		})
	}
}

func TestQueuedFramesShareMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far, _ := memPair(t)
		l := New(near, Config{Handle: ignore})
		const n = 4000
		for i := range int64(n) { // before Run, so that all of it is queued
			if err := l.Send(received(i)); err != nil {
				t.Fatal(err)
			}
		}
		big := &wire.Frame{Body: &wire.Frame_Command{Command: &wire.Command{Data: make([]byte, wire.CommandBytes)}}}
		if err := l.Send(big); err != nil {
			t.Fatal(err)
		}
		_, bytes := l.Queued()
		ended := run(t, l)
		got, messages := 0, 0
		for got < n+1 {
			_, msg, err := far.ReadMessage()
			if err != nil {
				t.Fatal(err)
			}
			messages++
			for _, err := range wire.Frames(msg) {
				if err != nil {
					t.Fatal(err)
				}
				got++
			}
		}
		if most := bytes/(60<<10) + 1; messages > most {
			t.Errorf("%d frames of %d bytes came in %d messages, want at most %d", got, bytes, messages, most)
		}
		far.Close()
		<-ended
	})
}

func TestFullQueueIsAnErrorNotAWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, _, _ := memPair(t)
		command := &wire.Frame{Body: &wire.Frame_Command{Command: &wire.Command{Data: make([]byte, 1000)}}}
		tests := []struct {
			name   string
			cfg    Config
			frame  *wire.Frame
			frames int
		}{
			{"frames", Config{QueueFrames: 10}, received(1), 10},
			{"bytes", Config{QueueBytes: 5100}, command, 5},
			{"bytes, JSON", Config{QueueBytes: 5100, JSON: true}, command, 3},
			{"one is always taken", Config{QueueBytes: 10}, command, 1},
			{"one is always taken, JSON", Config{QueueBytes: 10, JSON: true}, command, 1},
		}
		for _, tt := range tests {
			tt.cfg.Handle = ignore
			l := New(near, tt.cfg)
			taken := 0
			var err error
			for ; err == nil && taken <= 100; taken++ {
				err = l.Send(tt.frame)
			}
			if frames, _ := l.Queued(); taken-1 != tt.frames || frames != tt.frames || err != ErrFull {
				t.Errorf("%s: %d frames taken, %d queued, %v, want %d and ErrFull", tt.name, taken-1, frames, err, tt.frames)
			}
		}
	})
}

func TestSendRefusesWhatCannotBeEncoded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, _, _ := memPair(t)
		l := New(near, Config{Handle: ignore})
		huge := &wire.Frame{Body: &wire.Frame_Command{Command: &wire.Command{Data: make([]byte, wire.FrameBytes)}}}
		if err := l.Send(huge); !errors.Is(err, wire.ErrTooLarge) {
			t.Errorf("Send of a huge frame: %v, want ErrTooLarge", err)
		}
		if err := l.Send(&wire.Frame{}); !errors.Is(err, wire.ErrEmpty) {
			t.Errorf("Send of an empty frame: %v, want ErrEmpty", err)
		}
		if f, b := l.Queued(); f != 0 || b != 0 {
			t.Errorf("Queued = %d, %d after refusals", f, b)
		}
	})
}

func TestSilentPeerIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far, _ := memPair(t)
		go io.Copy(io.Discard, far.NetConn()) // reads and never writes
		start := time.Now()
		err := New(near, Config{Heartbeat: 30 * time.Second, Handle: ignore}).Run(t.Context())
		if !errors.Is(err, ErrSilent) || time.Since(start) != time.Minute {
			t.Errorf("Run = %v after %v, want ErrSilent after 1m0s", err, time.Since(start))
		}
	})
}

func TestHeartbeatKeepsAnIdleLinkUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far, _ := memPair(t)
		frames := 0
		count := func(*wire.Frame) error { frames++; return nil }
		here := New(near, Config{Heartbeat: 25 * time.Second, Handle: count})
		there := New(far, Config{Heartbeat: time.Hour, Handle: count}) // only answers
		hereEnd, thereEnd := run(t, here), run(t, there)
		time.Sleep(24 * time.Hour)
		if here.Err() != nil || there.Err() != nil {
			t.Errorf("after a day: %v and %v, want both in service", here.Err(), there.Err())
		}
		here.Close(nil, websocket.CloseNormalClosure)
		<-hereEnd
		<-thereEnd
		if frames != 0 {
			t.Errorf("Handle got %d frames, want none of Ping and Pong", frames)
		}
	})
}

func TestBlackholeIsFoundByBothSides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far, below := memPair(t)
		here := New(near, Config{Heartbeat: 10 * time.Second, Handle: ignore})
		there := New(far, Config{Heartbeat: 10 * time.Second, Handle: ignore})
		hereEnd, thereEnd := run(t, here), run(t, there)
		synctest.Wait()
		below.Blackhole()
		start := time.Now()
		for _, end := range []<-chan error{hereEnd, thereEnd} {
			if err := <-end; !errors.Is(err, ErrSilent) || time.Since(start) > 20*time.Second {
				t.Errorf("Run = %v after %v, want ErrSilent within 20s", err, time.Since(start)) // case 88
			}
		}
	})
}

func TestCloseDeliversQueueAndLineOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far, _ := memPair(t)
		here := New(near, Config{Handle: ignore})
		var got []*wire.Frame
		there := New(far, Config{Handle: func(f *wire.Frame) error { got = append(got, f); return nil }})
		hereEnd, thereEnd := run(t, here), run(t, there)
		start := time.Now()
		for i := range int64(2000) {
			here.Send(received(i))
		}
		here.Close(lineOff(wire.Kicked), websocket.ClosePolicyViolation)
		here.Close(lineOff(wire.TokenExpired), websocket.CloseGoingAway) // too late to count
		if err := here.Send(received(0)); err != ErrClosed {
			t.Errorf("Send after Close: %v, want ErrClosed", err)
		}
		if err := <-thereEnd; !websocket.IsCloseError(err, websocket.ClosePolicyViolation) {
			t.Errorf("Run there = %v, want close 1008", err)
		}
		if err := <-hereEnd; err != ErrClosed || time.Since(start) != 0 {
			t.Errorf("Run here = %v after %v, want ErrClosed at once", err, time.Since(start))
		}
		if n := len(got); n != 2001 || got[n-1].GetLineOff().GetCode() != uint32(wire.Kicked) {
			t.Errorf("%d frames arrived, want 2000 and LineOff 10 behind them", n)
		}
	})
}

func TestCloseIsBounded(t *testing.T) {
	tests := []struct {
		name string
		harm func(far *websocket.Conn, below interface{ Stall() })
		most time.Duration
	}{
		{"peer does not answer the close", func(far *websocket.Conn, _ interface{ Stall() }) {
			go io.Copy(io.Discard, far.NetConn())
		}, closeTime},
		{"peer does not read", func(*websocket.Conn, interface{ Stall() }) {}, closeTime},
		{"network is stalled", func(_ *websocket.Conn, below interface{ Stall() }) { below.Stall() }, closeTime},
		{"peer is gone", func(far *websocket.Conn, _ interface{ Stall() }) { far.Close() }, 0},
	}
	for _, tt := range tests { // case 8
		synctest.Test(t, func(t *testing.T) {
			near, far, below := memPair(t)
			tt.harm(far, below)
			l := New(near, Config{Handle: ignore})
			ended := run(t, l)
			data := make([]byte, wire.CommandBytes)
			for range 4 { // more than the connection holds
				l.Send(&wire.Frame{Body: &wire.Frame_Command{Command: &wire.Command{Data: data}}})
			}
			start := time.Now()
			l.Close(lineOff(wire.Kicked), websocket.ClosePolicyViolation)
			err := <-ended
			if took := time.Since(start); took > tt.most {
				t.Errorf("%s: Run = %v after %v, want at most %v", tt.name, err, took, tt.most)
			}
			<-l.Done()
		})
	}
}

func TestContextEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far, below := memPair(t)
		below.Stall()
		l := New(near, Config{Handle: ignore})
		ctx, cancel := context.WithCancelCause(t.Context())
		reason := errors.New("enough")
		ended := make(chan error)
		go func() { ended <- l.Run(ctx) }()
		data := make([]byte, wire.CommandBytes)
		for range 3 {
			l.Send(&wire.Frame{Body: &wire.Frame_Command{Command: &wire.Command{Data: data}}})
		}
		synctest.Wait()
		start := time.Now()
		cancel(reason)
		if err := <-ended; err != reason || l.Err() != reason || time.Since(start) != 0 {
			t.Errorf("Run = %v, Err = %v after %v, want the cause at once", err, l.Err(), time.Since(start))
		}
		far.Close()
	})
}

func TestPeerThatReadsNothingIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far, _ := memPair(t)
		l := New(near, Config{Heartbeat: time.Hour, Handle: ignore})
		ended := run(t, l)
		data := make([]byte, wire.CommandBytes)
		for range 4 {
			l.Send(&wire.Frame{Body: &wire.Frame_Command{Command: &wire.Command{Data: data}}})
		}
		start := time.Now()
		err := <-ended
		if err == nil || time.Since(start) != DefaultWriteTimeout {
			t.Errorf("Run = %v after %v, want an error after %v", err, time.Since(start), DefaultWriteTimeout)
		}
		far.Close()
	})
}

func TestHandlersErrorClosesWithItsStatus(t *testing.T) {
	plain := errors.New("no idea")
	refusal := &CloseError{Status: websocket.ClosePolicyViolation, Frame: lineOff(wire.BadParameter), Err: plain}
	tests := []struct {
		err    error
		status int
		frame  bool
	}{
		{plain, websocket.CloseInternalServerErr, false},
		{refusal, websocket.ClosePolicyViolation, true},
	}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			near, far, _ := memPair(t)
			handled := 0
			l := New(near, Config{Handle: func(*wire.Frame) error { handled++; return tt.err }})
			ended := run(t, l)
			// Two frames in one message and one behind it: only the first is handled.
			far.WriteMessage(websocket.BinaryMessage, encoded(t, received(1), received(2)))
			far.WriteMessage(websocket.BinaryMessage, encoded(t, received(3)))
			if tt.frame {
				_, msg, err := far.ReadMessage()
				if f, _, _ := wire.NextBinary(msg); err != nil || f.GetLineOff().GetCode() != uint32(wire.BadParameter) {
					t.Errorf("got %v, %v, want LineOff 5", f, err)
				}
			}
			if _, _, err := far.ReadMessage(); !websocket.IsCloseError(err, tt.status) {
				t.Errorf("peer got %v, want close %d", err, tt.status)
			}
			if err := <-ended; !errors.Is(err, plain) || handled != 1 {
				t.Errorf("Run = %v, %d frames handled, want the handler's error and 1", err, handled)
			}
		})
	}
}

func TestSlowHandlerIsNotSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far, _ := memPair(t)
		here := New(near, Config{Heartbeat: 10 * time.Second, Handle: func(*wire.Frame) error {
			time.Sleep(5 * time.Minute)
			return nil
		}})
		there := New(far, Config{Heartbeat: 10 * time.Second, Handle: ignore})
		hereEnd, thereEnd := run(t, here), run(t, there)
		there.Send(received(1))
		time.Sleep(6 * time.Minute)
		if here.Err() != nil || there.Err() != nil {
			t.Errorf("got %v and %v, want both in service", here.Err(), there.Err())
		}
		there.Close(nil, websocket.CloseNormalClosure)
		<-hereEnd
		<-thereEnd
	})
}

// A client reads Welcome before it has a link, and what the server sends on its
// heels must not be in the same message.
func TestSendAloneSharesNoMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far, _ := memPair(t)
		here := New(near, Config{Handle: ignore})
		if err := here.SendAlone(received(1)); err != nil {
			t.Fatal(err)
		}
		if err := here.Send(received(2)); err != nil {
			t.Fatal(err)
		}
		end := run(t, here)
		f, err := ReadFirst(far, false, wire.MessageBytes, time.Second)
		if err != nil || f.GetReceived().GetOffset() != 1 {
			t.Fatalf("ReadFirst = %v, %v, want the first frame alone", f, err)
		}
		got := make(chan int64, 1)
		there := New(far, Config{Handle: func(f *wire.Frame) error { got <- f.GetReceived().GetOffset(); return nil }})
		thereEnd := run(t, there)
		if offset := <-got; offset != 2 {
			t.Errorf("then came %d, want 2", offset)
		}
		here.Close(nil, websocket.CloseNormalClosure)
		<-end
		<-thereEnd
	})
}
