package cluster

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	"github.com/dian-im/dian/internal/wire"
)

func commandFrame(c *wire.Command) *wire.Frame {
	return &wire.Frame{Body: &wire.Frame_Command{Command: c}}
}

func resultFrame(r *wire.CommandResult) *wire.Frame {
	return &wire.Frame{Body: &wire.Frame_CommandResult{CommandResult: r}}
}

// What is written without package proto is what package proto reads, and the other way
// round.
func TestFastMessagesAreMessages(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text, data := rapid.String(), rapid.SliceOf(rapid.Byte())
		app, address := text.Draw(t, "app"), text.Draw(t, "address")
		epoch, route := rapid.Uint64().Draw(t, "epoch"), rapid.Uint64().Draw(t, "route")
		c := &wire.Command{
			Id: text.Draw(t, "id"), Target: text.Draw(t, "target"), Ref: rapid.Uint64().Draw(t, "ref"),
			Data: data.Draw(t, "data"), Meta: data.Draw(t, "meta"), Resent: rapid.Bool().Draw(t, "resent"),
		}
		if rapid.Bool().Draw(t, "since") { // of which wire's fast form knows nothing
			c.Since = &wire.Moment{Server: 1, Count: 2}
		}
		packet, err := AppendDeliver([]byte("before"), app, epoch, route, address, commandFrame(c))
		if err != nil {
			t.Fatal(err)
		}
		res := &wire.CommandResult{Id: c.Id, Code: 603, Reply: data.Draw(t, "reply")}
		if packet, err = AppendDelivered(packet, route, c.Ref, resultFrame(res)); err != nil {
			t.Fatal(err)
		}
		packet = packet[len("before"):]

		var m Message
		if _, err := Next(packet, &m); err != nil {
			t.Fatal(err)
		}
		d := m.GetDeliver()
		f, _, err := wire.NextBinary(d.GetFrame())
		if err != nil || d.App != app || d.Epoch != epoch || d.Route != route || d.Address != address {
			t.Fatalf("Deliver %v, %v", d, err)
		}
		if diff := cmp.Diff(c, f.GetCommand(), protocmp.Transform(), protocmp.IgnoreEmptyMessages()); diff != "" {
			t.Fatalf("command (-want +got):\n%s", diff)
		}

		var r Reader
		rest, err := r.Next(packet)
		if err != nil || r.Deliver == nil || r.Message != nil {
			t.Fatalf("Next: %v", err)
		}
		if got := r.Deliver; got.App != app || got.Epoch != epoch || got.Route != route || got.Address != address ||
			!proto.Equal(got.Frame.GetCommand(), f.GetCommand()) {
			t.Fatalf("read %+v", got)
		}
		if rest, err = r.Next(rest); err != nil || r.Delivered == nil || len(rest) != 0 {
			t.Fatalf("Next: %v", err)
		}
		if got := r.Delivered; got.Route != route || got.Ref != c.Ref || !proto.Equal(got.Frame.GetCommandResult(), res) && len(res.Reply) > 0 {
			t.Fatalf("read %+v", got)
		}

		again, err := Append(nil, &m) // as another implementation would write it
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Next(again); err != nil || r.Deliver == nil || !proto.Equal(r.Deliver.Frame.GetCommand(), f.GetCommand()) {
			t.Fatalf("of package proto: %v", err)
		}
	})
}

func TestFramesThatDoNotBelongThere(t *testing.T) {
	frame := func(f *wire.Frame) []byte {
		b, err := wire.AppendBinary(nil, f)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	ping := frame(&wire.Frame{Body: &wire.Frame_Ping{Ping: &wire.Ping{}}})
	good := frame(commandFrame(&wire.Command{Id: "x"}))
	for _, bad := range [][]byte{nil, ping, good[:len(good)-1], append(bytes.Clone(good), ping...), {0}, {0xff}} {
		var r Reader
		packet, err := Append(nil, &Message{Body: &Message_Deliver{Deliver: &Deliver{App: "app", Frame: bad}}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Next(packet); !errors.Is(err, ErrPacket) {
			t.Errorf("%x: %v", bad, err)
		}
	}
}

// Between nodes a command costs no memory of its own but what the receiving side keeps.
func TestCommandsBetweenNodesAllocateNothing(t *testing.T) {
	f := commandFrame(&wire.Command{Id: wire.NewSendID(), Target: "bob", Source: &wire.Peer{User: "alice"}, Data: make([]byte, 100)})
	packet := make([]byte, 0, 1<<10)
	var r Reader
	n := testing.AllocsPerRun(100, func() {
		var err error
		if packet, err = AppendDeliver(packet[:0], "app", 1, 2, "192.0.2.1", f); err != nil {
			t.Fatal(err)
		}
		if _, err = r.Next(packet); err != nil {
			t.Fatal(err)
		}
	})
	if n > 1 { // its id, which is kept
		t.Errorf("%v allocations", n)
	}
}

func FuzzReader(f *testing.F) {
	good, err := AppendDeliver(nil, "app", 1, 2, "ip", commandFrame(&wire.Command{Id: "x", Data: []byte("data")}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, packet []byte) {
		var r Reader
		for rest := packet; len(rest) > 0; {
			var err error
			if rest, err = r.Next(rest); err != nil {
				return
			}
			if r.Deliver != nil && r.Deliver.Frame.GetCommand() == nil || r.Delivered != nil && r.Delivered.Frame.GetCommandResult() == nil {
				t.Error("a frame of another kind")
			}
		}
	})
}
