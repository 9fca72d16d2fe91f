package link

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/dian-im/dian/internal/wire"
)

// A raw masked WebSocket frame of a client, payload as it is (mask 0).
func raw(first byte, length int, payload []byte) []byte {
	b := []byte{first}
	switch {
	case length < 126:
		b = append(b, 0x80|byte(length))
	case length < 1<<16:
		b = append(b, 0x80|126, byte(length>>8), byte(length))
	default:
		b = append(b, 0x80|127, 0, 0, 0, 0, byte(length>>24), byte(length>>16), byte(length>>8), byte(length))
	}
	b = append(b, 0, 0, 0, 0)
	return append(b, payload...)
}

func TestBrokenMessagesCloseWithTheirStatus(t *testing.T) {
	nested := bytes.Repeat([]byte{'['}, 1000)
	tests := []struct {
		name   string
		json   bool
		sent   []byte
		status int
	}{
		{"text in a binary session", false, raw(0x81, 2, []byte("{}")), 1003},
		{"binary in a JSON session", true, raw(0x82, 2, []byte{1, 1}), 1003},
		{"not a frame", false, raw(0x82, 3, []byte{2, 0xff, 0xff}), 1007},
		{"empty message", false, raw(0x82, 0, nil), 1007},
		{"zero length", false, raw(0x82, 1, []byte{0}), 1007},
		{"not JSON", true, raw(0x81, 3, []byte("{x}")), 1007},
		{"not UTF-8", true, raw(0x81, 3, []byte("\"\xff\"")), 1007},
		{"nested JSON", true, raw(0x81, len(nested), nested), 1007},
		{"announces too much", false, raw(0x82, 1<<30, nil), 1009},
		{"continues too long", false, bytes.Join([][]byte{
			raw(0x02, 60000, make([]byte, 60000)), raw(0x00, wire.MessageBytes, nil)}, nil), 1009},
		{"top bit of the length", false, append([]byte{0x82, 0xff}, bytes.Repeat([]byte{0xff}, 12)...), 1002},
		{"compressed", false, raw(0xc2, 1, []byte{1}), 1002},
		{"reserved opcode", false, raw(0x83, 0, nil), 1002},
		{"no mask", false, []byte{0x82, 1, 1}, 1002},
		{"continuation of nothing", false, raw(0x80, 0, nil), 1002},
		{"long ping", false, raw(0x89, 126, make([]byte, 126)), 1002},
		{"bad close code", false, raw(0x88, 2, []byte{0, 1}), 1002},
	}
	for _, tt := range tests { // cases 1, 3, 5, 6, 18
		synctest.Test(t, func(t *testing.T) {
			far, near, _ := memPair(t) // the server's end is tested
			handled := 0
			l := New(near, Config{JSON: tt.json, Handle: func(*wire.Frame) error { handled++; return nil }})
			ended := run(t, l)
			start := time.Now()
			go far.NetConn().Write(tt.sent)
			_, _, err := far.ReadMessage()
			if !websocket.IsCloseError(err, tt.status) {
				t.Errorf("%s: peer got %v, want close %d", tt.name, err, tt.status)
			}
			far.Close()
			if err := <-ended; !errors.Is(err, ErrProtocol) || handled != 0 || time.Since(start) > closeTime {
				t.Errorf("%s: Run = %v after %v, %d frames handled, want ErrProtocol", tt.name, err, time.Since(start), handled)
			}
		})
	}
}

func TestDrippingMessageIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // case 2
		far, near, below := memPair(t)
		l := New(near, Config{Handle: ignore})
		ended := run(t, l)
		time.Sleep(10 * time.Second) // the watch is armed for much later
		start := time.Now()
		stop := make(chan struct{})
		go func() {
			defer close(stop)
			_, err := below.Write(raw(0x82, 100_000, nil))
			for err == nil { // a byte a second, and a ping as a sign of life
				time.Sleep(time.Second)
				_, err = below.Write([]byte{0})
			}
		}()
		err := <-ended
		if !errors.Is(err, ErrSlow) || time.Since(start) != messageTime {
			t.Errorf("Run = %v after %v, want ErrSlow after %v", err, time.Since(start), messageTime)
		}
		far.Close()
		<-stop
	})
}

func TestPingFloodIsClosed(t *testing.T) {
	floods := map[string]func(t *testing.T, far *websocket.Conn) error{
		"frames": func(t *testing.T, far *websocket.Conn) error {
			return far.WriteMessage(websocket.BinaryMessage, encoded(t, pingFrame))
		},
		"frames, many in a message": func(t *testing.T, far *websocket.Conn) error {
			return far.WriteMessage(websocket.BinaryMessage, bytes.Repeat(encoded(t, pingFrame), 1000))
		},
		"WebSocket pings": func(t *testing.T, far *websocket.Conn) error {
			return far.WriteControl(websocket.PingMessage, []byte("x"), time.Now().Add(time.Minute))
		},
		"WebSocket pongs": func(t *testing.T, far *websocket.Conn) error {
			return far.WriteControl(websocket.PongMessage, nil, time.Now().Add(time.Minute))
		},
	}
	for name, flood := range floods { // case 7
		synctest.Test(t, func(t *testing.T) {
			far, near, _ := memPair(t)
			ended := run(t, New(near, Config{Handle: ignore}))
			stopped := make(chan struct{})
			go func() {
				defer close(stopped)
				for flood(t, far) == nil {
					time.Sleep(10 * time.Millisecond)
				}
			}()
			var err error
			for err == nil {
				_, _, err = far.NextReader()
			}
			if !websocket.IsCloseError(err, websocket.ClosePolicyViolation) {
				t.Errorf("%s: peer got %v, want close 1008", name, err)
			}
			far.Close()
			<-stopped
			if err := <-ended; !errors.Is(err, ErrFlood) {
				t.Errorf("%s: Run = %v, want ErrFlood", name, err)
			}
		})
	}
}

func TestPingsOfAnHonestPeerAreAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		far, near, _ := memPair(t)
		ended := run(t, New(near, Config{Handle: ignore}))
		pongs := 0
		far.SetPongHandler(func(data string) error {
			if data != "hi" {
				t.Errorf("pong %q, want hi", data)
			}
			pongs++
			return nil
		})
		for range 5 {
			far.WriteControl(websocket.PingMessage, []byte("hi"), time.Now().Add(time.Second))
			far.WriteMessage(websocket.BinaryMessage, encoded(t, pingFrame))
			_, msg, err := far.ReadMessage()
			if f, _, _ := wire.NextBinary(msg); err != nil || f.GetPong() == nil {
				t.Fatalf("got %v, %v, want Pong", f, err)
			}
			time.Sleep(10 * time.Second)
		}
		far.WriteMessage(websocket.CloseMessage, nil)
		if _, _, err := far.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
			t.Errorf("after a close without status: %v, want 1000", err)
		}
		if err := <-ended; !websocket.IsCloseError(err, websocket.CloseNoStatusReceived) {
			t.Errorf("Run = %v, want the peer's close", err)
		}
		if pongs != 5 {
			t.Errorf("%d WebSocket pongs for 5 pings", pongs)
		}
	})
}

func TestUnknownFramesAreIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // case 16
		far, near, _ := memPair(t)
		got := make(chan *wire.Frame, 2)
		ended := run(t, New(near, Config{Handle: func(f *wire.Frame) error { got <- f; return nil }}))
		unknown := []byte{3, 0x9a, 0x06, 0x00} // field 99, empty
		far.WriteMessage(websocket.BinaryMessage, append(unknown, encoded(t, received(7))...))
		if f := <-got; f.GetReceived().GetOffset() != 7 {
			t.Errorf("got %v, want the frame behind the unknown one", f)
		}
		far.Close()
		<-ended
	})
}

func TestCutIsAnErrorAtBothEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // case 90: at every byte of a message
		size := len(encoded(t, received(1)))
		for n := range size + 6 {
			near, far, below := memPair(t)
			handled := 0
			hereEnd := run(t, New(near, Config{Handle: ignore}))
			thereEnd := run(t, New(far, Config{Handle: func(*wire.Frame) error { handled++; return nil }}))
			below.CutAfter(int64(n))
			below.Write(raw(0x82, size, encoded(t, received(1))))
			if err := <-thereEnd; err == nil || errors.Is(err, ErrProtocol) {
				t.Errorf("cut after %d bytes: Run there = %v, want a network error", n, err)
			}
			if err := <-hereEnd; err == nil {
				t.Errorf("cut after %d bytes: Run here = nil", n)
			}
			if handled != 0 {
				t.Errorf("cut after %d bytes: a frame was handled", n)
			}
		}
	})
}

func TestHalfClosedPeerIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // case 8
		far, near, below := memPair(t)
		ended := run(t, New(near, Config{Handle: ignore}))
		below.CloseWrite()
		if err := <-ended; err == nil || errors.Is(err, ErrProtocol) {
			t.Errorf("Run = %v, want a network error", err)
		}
		if _, err := io.ReadAll(far.NetConn()); err != nil {
			t.Errorf("the other half: %v, want its end", err)
		}
	})
}

func TestFirstFrameIsBounded(t *testing.T) {
	hello := &wire.Frame{Body: &wire.Frame_Hello{Hello: &wire.Hello{Token: "t"}}}
	big := &wire.Frame{Body: &wire.Frame_Hello{Hello: &wire.Hello{Token: string(make([]byte, wire.LoginBytes))}}}
	tests := []struct {
		name string
		json bool
		sent func(t *testing.T) []byte
		good bool
	}{
		{"one frame", false, func(t *testing.T) []byte { b := encoded(t, hello); return raw(0x82, len(b), b) }, true},
		{"JSON", true, func(*testing.T) []byte { return raw(0x81, 21, []byte(`{"hello":{"token":1}}`)) }, false},
		{"two frames", false, func(t *testing.T) []byte { b := encoded(t, hello, hello); return raw(0x82, len(b), b) }, false},
		{"too large", false, func(t *testing.T) []byte { b := encoded(t, big); return raw(0x82, len(b), b) }, false},
		{"wrong type", false, func(*testing.T) []byte { return raw(0x81, 2, []byte("{}")) }, false},
		{"half a frame", false, func(t *testing.T) []byte { return raw(0x82, 9, []byte{8}) }, false},
		{"nothing", false, func(*testing.T) []byte { return nil }, false},
	}
	for _, tt := range tests { // cases 10, 11
		synctest.Test(t, func(t *testing.T) {
			far, near, below := memPair(t)
			below.Write(tt.sent(t))
			start := time.Now()
			f, err := ReadFirst(near, tt.json, wire.LoginBytes, 10*time.Second)
			if (err == nil) != tt.good || tt.good && f.GetHello().GetToken() != "t" || time.Since(start) > 10*time.Second {
				t.Errorf("%s: ReadFirst = %v, %v after %v", tt.name, f, err, time.Since(start))
			}
			Refuse(near, tt.json, lineOff(wire.TokenRefused), websocket.ClosePolicyViolation)
			if took := time.Since(start); took > 12*time.Second {
				t.Errorf("%s: freed after %v", tt.name, took)
			}
			far.Close()
		})
	}
}

func TestRefusalArrives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		far, near, _ := memPair(t)
		go Refuse(near, false, lineOff(wire.TokenExpired), websocket.ClosePolicyViolation)
		f, err := ReadFirst(far, false, wire.MessageBytes, time.Second)
		if err != nil || f.GetLineOff().GetCode() != uint32(wire.TokenExpired) {
			t.Errorf("ReadFirst = %v, %v, want LineOff 18", f, err)
		}
		if _, _, err := far.NextReader(); !websocket.IsCloseError(err, websocket.ClosePolicyViolation) {
			t.Errorf("then %v, want close 1008", err)
		}
	})
}
