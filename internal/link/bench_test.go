package link

import (
	"context"
	"net"
	"runtime"
	"testing"

	"github.com/dian-im/dian/internal/wire"
)

type tcp struct{ net.Listener }

func (l tcp) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
}

func loopback(b testing.TB) tcp {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	return tcp{l}
}

func command100() *wire.Frame {
	return &wire.Frame{Body: &wire.Frame_Command{Command: &wire.Command{
		Id: "01890a5d-ac96-774b-bcce-b302099a8057", Target: "bob", Stream: 1 << 60, Seq: 1, Floor: 1,
		Data: make([]byte, 100),
	}}}
}

// send waits for room, as a sender with backpressure would.
func send(b *testing.B, l *Link, f *wire.Frame) {
	for {
		err := l.Send(f)
		if err == nil {
			return
		}
		if err != ErrFull {
			b.Fatal(err)
		}
		runtime.Gosched()
	}
}

// BenchmarkOneWay sends commands of 100 bytes over loopback TCP, as fast as
// they are taken.
func BenchmarkOneWay(b *testing.B) {
	for _, mode := range []struct {
		name string
		json bool
	}{{"binary", false}, {"json", true}} {
		b.Run(mode.name, func(b *testing.B) {
			near, far := sockets(b, loopback(b))
			all := make(chan struct{})
			n := 0
			want := -1
			there := New(far, Config{JSON: mode.json, Handle: func(f *wire.Frame) error {
				if n++; f.GetCommand().GetSeq() == 2 {
					want = n
					close(all)
				}
				return nil
			}})
			here := New(near, Config{JSON: mode.json, Handle: ignore})
			hereEnd, thereEnd := run(b, here), run(b, there)
			f := command100()
			b.ReportAllocs()
			b.SetBytes(100)
			for b.Loop() {
				send(b, here, f)
			}
			f.GetCommand().Seq = 2
			send(b, here, f)
			<-all
			if want < 2 {
				b.Fatal("nothing arrived")
			}
			b.StopTimer()
			here.Close(nil, 1000)
			<-hereEnd
			<-thereEnd
		})
	}
}

// BenchmarkRoundTrip keeps 256 commands in flight to a far end that answers each.
func BenchmarkRoundTrip(b *testing.B) {
	near, far := sockets(b, loopback(b))
	var there *Link
	there = New(far, Config{Handle: func(f *wire.Frame) error {
		c := f.GetCommand()
		return there.Send(&wire.Frame{Body: &wire.Frame_CommandAck{CommandAck: &wire.CommandAck{Ref: c.Ref, Id: c.Id, Outcome: 1}}})
	}})
	inFlight := make(chan struct{}, 256)
	here := New(near, Config{Handle: func(*wire.Frame) error { <-inFlight; return nil }})
	hereEnd, thereEnd := run(b, here), run(b, there)
	f := command100()
	b.ReportAllocs()
	for b.Loop() {
		inFlight <- struct{}{}
		send(b, here, f)
	}
	for range cap(inFlight) {
		inFlight <- struct{}{}
	}
	b.StopTimer()
	here.Close(nil, 1000)
	<-hereEnd
	<-thereEnd
}

// BenchmarkSend is the cost of Send alone, without a connection.
func BenchmarkSend(b *testing.B) {
	near, _, _ := memPair(b)
	l := New(near, Config{Handle: ignore, QueueBytes: 1 << 30, QueueFrames: 1 << 30})
	f := command100()
	b.ReportAllocs()
	for b.Loop() {
		if err := l.Send(f); err != nil {
			b.Fatal(err)
		}
		if l.out.frames == 1000 {
			l.out.reset()
		}
	}
}
