package cluster

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/dian-im/dian/internal/wire"
)

var secret = []byte("0123456789abcdef")

func packetOf(t testing.TB, c *Codec, subject string, node NodeID, number uint64, all ...proto.Message) []byte {
	t.Helper()
	p := Begin(nil)
	var err error
	for _, m := range all {
		if p, err = Append(p, m); err != nil {
			t.Fatal(err)
		}
	}
	c.Seal(p, subject, node, number)
	return p
}

func TestPacketComesOutAsItWentIn(t *testing.T) {
	c := NewCodec("main", secret)
	want := []*Message{
		{Body: &Message_Beat{Beat: &Beat{Url: "http://10.0.0.1:7701", Lines: []*Line{{Node: 1, Number: 1 << 60}}}}},
		{Body: &Message_Deliver{Deliver: &Deliver{App: "app", Frame: bytes.Repeat([]byte{7}, wire.CommandBytes)}}},
		{Body: &Message_Leaving{Leaving: &Leaving{}}},
	}
	p := packetOf(t, c, c.All(), 9, 1<<40|3, want[0], want[1], want[2])
	node, number, rest, err := c.Clone().Open(p, c.All())
	if err != nil || node != 9 || number != 1<<40|3 {
		t.Fatalf("Open = %v, %d, %v", node, number, err)
	}
	for i, w := range want {
		var m Message
		if rest, err = Next(rest, &m); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(w, &m, protocmp.Transform()); diff != "" {
			t.Errorf("message %d (-want +got):\n%s", i, diff)
		}
	}
	if len(rest) != 0 {
		t.Errorf("%d bytes are left", len(rest))
	}
}

// Whatever is changed in a packet, and wherever else it is said, it does not count.
func TestPacketThatWasChangedIsRefused(t *testing.T) {
	c := NewCodec("main", secret)
	p := packetOf(t, c, c.All(), 9, 1, &Message{Body: &Message_Kick{Kick: &Kick{App: "app", User: "bob"}}})
	for i := range p {
		for bit := range 8 {
			q := bytes.Clone(p)
			q[i] ^= 1 << bit
			if _, _, _, err := c.Open(q, c.All()); err == nil {
				t.Fatalf("bit %d of byte %d", bit, i)
			}
		}
	}
	for n := range p {
		if _, _, _, err := c.Open(p[:n], c.All()); err == nil {
			t.Errorf("the first %d bytes", n)
		}
	}
	if _, _, _, err := c.Open(append(bytes.Clone(p), 0), c.All()); err == nil {
		t.Error("a byte more")
	}
	if _, _, _, err := c.Open(p, c.Node(9)); !errors.Is(err, ErrForged) {
		t.Errorf("at another subject: %v", err)
	}
	for _, other := range []*Codec{NewCodec("other", secret), NewCodec("main", []byte("0123456789abcdeg"))} {
		if _, _, _, err := other.Open(p, c.All()); !errors.Is(err, ErrForged) {
			t.Errorf("of another cluster: %v", err)
		}
	}
	if _, _, _, err := c.Open(p, c.All()); err != nil {
		t.Errorf("unchanged: %v", err)
	}
}

// Users' and apps' ids never get into a subject (case 20).
func TestSubjectsHoldNoNames(t *testing.T) {
	c := NewCodec("main", secret)
	seen := map[string]Place{}
	for _, p := range []Place{
		{"app", "bob"}, {"app", "bob.*"}, {"app", ">"}, {"app", "a b\r\nPUB x 1"}, {"appb", "ob"}, {"app", ""}, {"", "app"},
		{"a", "b"}, {"ab", ""}, {"app", strings.Repeat("x", 1024)}, {"app", "\u202e"},
	} {
		s := c.User(p)
		token := strings.TrimPrefix(s, "dian.main.user.")
		if len(token) != 22 || strings.Trim(token, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
			t.Errorf("%q has the subject %q", p, s)
		}
		if other, there := seen[s]; there {
			t.Errorf("%q and %q have the same subject", p, other)
		}
		seen[s] = p
	}
	if NewCodec("main", []byte("0123456789abcdeg")).User(Place{"app", "bob"}) == c.User(Place{"app", "bob"}) {
		t.Error("who does not know the secret can find a user's subject")
	}
}

func TestMessagesThatAreNone(t *testing.T) {
	for _, bad := range [][]byte{{}, {0x80}, {5, 1}, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, {1, 0xff}} {
		var m Message
		if _, err := Next(bad, &m); !errors.Is(err, ErrPacket) {
			t.Errorf("%x: %v", bad, err)
		}
	}
	if _, err := Append(nil, &Message{}); err == nil {
		t.Error("a message without a body is appended")
	}
	long := &Message{Body: &Message_Beat{Beat: &Beat{Url: strings.Repeat("x", MaxMessage)}}}
	if _, err := Append(nil, long); err == nil {
		t.Error("a message that is too long is appended")
	}
}

// The longest that a client may send fits a message.
func TestLongestFramesFit(t *testing.T) {
	big := func(n int) []byte { return bytes.Repeat([]byte{1}, n) }
	name := strings.Repeat("名", wire.UserChars)
	offer := &wire.Offer{
		SendId: wire.NewSendID(), Target: name, Source: &wire.Peer{User: name, Instance: big(16)}, Kind: wire.Kind_KIND_FILE, Size: 1 << 62,
		Name: string(big(wire.NameBytes)), Type: string(big(wire.TypeBytes)), Meta: big(wire.MetaBytes), Header: big(wire.HeaderBytes),
		Inlined: true, Inline: big(wire.InlineBytes), Transfer: string(big(wire.TransferBytes)),
	}
	source := &wire.Peer{User: name, Instance: big(16)}
	command := &wire.Command{Id: wire.NewSendID(), Target: name, Source: source, Data: big(wire.CommandBytes), Meta: big(wire.MetaBytes), Header: big(wire.HeaderBytes)}
	result := &wire.CommandResult{Id: wire.NewSendID(), Reply: big(wire.ReplyBytes), Header: big(wire.HeaderBytes), Detail: string(big(wire.DetailBytes))}
	if _, err := AppendDeliver(nil, name, 1<<60, 1<<60, name, &wire.Frame{Body: &wire.Frame_Command{Command: command}}); err != nil {
		t.Errorf("command: %v", err)
	}
	if _, err := AppendDelivered(nil, 1<<60, 1<<60, &wire.Frame{Body: &wire.Frame_CommandResult{CommandResult: result}}); err != nil {
		t.Errorf("result: %v", err)
	}
	for _, m := range []*Message{
		{Body: &Message_Sending{Sending: &Sending{App: name, User: name, Frame: &wire.Frame{Body: &wire.Frame_Offer{Offer: offer}}}}},
	} {
		if _, err := Append(nil, m); err != nil {
			t.Errorf("%T: %v", m.Body, err)
		}
	}
}

// What a node of version 1 has said is still understood, field by field: neighbouring
// versions work together (case 101). DIAN_RECORD=1 writes the recording anew, which only
// a new version of the packets may need.
func TestRecordedPackets(t *testing.T) {
	c := NewCodec("main", secret)
	frame := &wire.Frame{Body: &wire.Frame_Cancel{Cancel: &wire.Cancel{SendId: "s", Transfer: "t"}}}
	want := []*Message{
		{Body: &Message_Beat{Beat: &Beat{Url: "u", Name: "n", Version: "v", Lines: []*Line{{Node: 1, Number: 2}}}}},
		{Body: &Message_Users{Users: &Users{Page: 1, Last: true, Nonce: 3, Users: []*User{
			{App: "a", User: "u", Instance: []byte("i"), Epoch: 4, Busy: true, DoNotDisturb: -5, Gone: true},
		}}}},
		{Body: &Message_Leaving{Leaving: &Leaving{}}},
		{Body: &Message_Kick{Kick: &Kick{App: "a", User: "u"}}},
		{Body: &Message_Revocations{Revocations: &Revocations{Entries: [][]byte{[]byte("{}")}, Lifted: []string{"l"}}}},
		{Body: &Message_Resync{Resync: &Resync{Nonce: 6}}},
		{Body: &Message_Broken{Broken: &Broken{}}},
		{Body: &Message_Deliver{Deliver: &Deliver{App: "a", Epoch: 7, Route: 8, Address: "ip", Frame: []byte{2, 0x52, 0}}}},
		{Body: &Message_Delivered{Delivered: &Delivered{Route: 10, Ref: 11, Frame: []byte{2, 0x62, 0}}}},
		{Body: &Message_Sending{Sending: &Sending{Session: 13, App: "a", User: "u", Instance: []byte("i"), Address: "ip", TokenExpiresMs: 14, Frame: frame}}},
		{Body: &Message_Told{Told: &Told{Session: 15, Frame: frame}}},
		{Body: &Message_SenderToken{SenderToken: &SenderToken{Session: 16, TokenExpiresMs: 17}}},
		{Body: &Message_SenderGone{SenderGone: &SenderGone{Session: 18, Kicked: true}}},
	}
	const file = "testdata/packet-v1.hex"
	if os.Getenv("DIAN_RECORD") != "" {
		var all []proto.Message
		for _, m := range want {
			all = append(all, m)
		}
		text := hex.EncodeToString(packetOf(t, c, c.All(), 19, 20, all...))
		if err := os.WriteFile(file, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	packet, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	node, number, rest, err := c.Open(packet, c.All())
	if err != nil || node != 19 || number != 20 {
		t.Fatalf("Open = %v, %d, %v", node, number, err)
	}
	for i := 0; len(rest) > 0; i++ {
		var m Message
		if rest, err = Next(rest, &m); err != nil {
			t.Fatal(err)
		}
		if i >= len(want) {
			t.Fatalf("%v more than was said", &m)
		}
		if diff := cmp.Diff(want[i], &m, protocmp.Transform()); diff != "" {
			t.Errorf("message %d (-want +got):\n%s", i, diff)
		}
	}
	if kinds := (&Message{}).ProtoReflect().Descriptor().Fields().Len(); kinds != len(want) {
		t.Errorf("%d kinds of messages, %d are recorded: add the new ones at the end", kinds, len(want))
	}
}

// A node of the next version may say more than this one knows.
func TestUnknownMessagesAndFieldsArePassedOver(t *testing.T) {
	unknown := []byte{0xfa, 0x3f, 2, 'h', 'i'} // field 1023
	var m Message
	rest, err := Next(append([]byte{byte(len(unknown))}, unknown...), &m)
	if err != nil || m.Body != nil || len(rest) != 0 {
		t.Errorf("an unknown message: %v, %v", &m, err)
	}
}

func FuzzPacket(f *testing.F) {
	c := NewCodec("main", secret)
	f.Add(packetOf(f, c, c.All(), 9, 1, &Message{Body: &Message_Leaving{Leaving: &Leaving{}}}))
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, packet []byte) {
		if _, _, _, err := c.Open(packet, c.All()); err == nil && packet[0] != packetVersion {
			t.Error("another version is taken")
		}
		if len(packet) >= HeadBytes { // as if its MAC fitted
			for rest := packet[HeadBytes:]; len(rest) > 0; {
				var m Message
				var err error
				if rest, err = Next(rest, &m); err != nil {
					return
				}
				if _, err := Append(nil, &m); err != nil && proto.Size(&m) > 0 && proto.Size(&m) <= MaxMessage {
					t.Errorf("what was read cannot be written: %v", err)
				}
			}
		}
	})
}
