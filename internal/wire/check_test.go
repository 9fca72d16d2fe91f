package wire

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
)

// with returns a copy of the first sample of this kind, changed.
func with[T any](t *testing.T, get func(*Frame) *T, change func(*T)) *Frame {
	t.Helper()
	for _, s := range samples() {
		if get(s.frame) != nil {
			f := proto.Clone(s.frame).(*Frame)
			change(get(f))
			return f
		}
	}
	t.Fatal("no such sample")
	return nil
}

func TestSamplesAreGood(t *testing.T) {
	for _, s := range samples() {
		var err error
		switch {
		case strings.HasSuffix(s.name, "delivered"), s.frame.GetWelcome() != nil, s.frame.GetCommandResult() != nil:
			err = CheckFromServer(s.frame)
		default:
			err = CheckFromClient(s.frame)
		}
		if err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
	}
}

func TestFieldsAreBounded(t *testing.T) {
	big := func(n int) []byte { return make([]byte, n+1) }
	long := func(n int) string { return strings.Repeat("x", n+1) }
	command := func(change func(*Command)) *Frame { return with(t, (*Frame).GetCommand, change) }
	offer := func(change func(*Offer)) *Frame { return with(t, (*Frame).GetOffer, change) }
	answer := func(change func(*Answer)) *Frame { return with(t, (*Frame).GetAnswer, change) }
	hello := func(change func(*Hello)) *Frame { return with(t, (*Frame).GetHello, change) }
	verdict := func(change func(*Verdict)) *Frame { return with(t, (*Frame).GetVerdict, change) }
	tests := []struct {
		name  string
		frame *Frame
		code  Code
	}{
		{"command data at its limit", command(func(c *Command) { c.Data = make([]byte, CommandBytes) }), OK},
		{"command data", command(func(c *Command) { c.Data = big(CommandBytes) }), CommandTooLarge},
		{"no target", command(func(c *Command) { c.Target = "" }), BadTarget},
		{"malformed target", command(func(c *Command) { c.Target = "a\nb" }), BadTarget},
		{"command id", command(func(c *Command) { c.Id = "1" }), BadSendID},
		{"command meta", command(func(c *Command) { c.Meta = big(MetaBytes) }), BadParameter},
		{"command header", command(func(c *Command) { c.Header = big(HeaderBytes) }), BadParameter},
		{"floor behind seq", command(func(c *Command) { c.Floor = c.Seq + 1 }), BadParameter},
		{"no floor", command(func(c *Command) { c.Floor = 0 }), BadParameter},
		{"last seq", command(func(c *Command) { c.Seq = 1<<64 - 1 }), BadParameter},
		{"seq without stream", command(func(c *Command) { c.Stream = 0 }), BadParameter},
		{"unordered", command(func(c *Command) { c.Stream, c.Seq, c.Floor = 0, 0, 0 }), OK},

		{"offer without a kind", offer(func(o *Offer) { o.Kind = 0 }), BadParameter},
		{"offer of a later kind", offer(func(o *Offer) { o.Kind = 3 }), BadParameter},
		{"offer of a negative kind", offer(func(o *Offer) { o.Kind = -1 }), BadParameter},
		{"negative size", offer(func(o *Offer) { o.Size, o.Inlined, o.Inline = -1, false, nil }), BadParameter},
		{"largest file", offer(func(o *Offer) { o.Size, o.Inlined, o.Inline = 1<<63-1, false, nil }), OK},
		{"buffer", offer(func(o *Offer) { o.Kind, o.Size, o.Inlined, o.Inline = Kind_KIND_BUFFER, BufferBytes+1, false, nil }), BufferTooLarge},
		{"inline", offer(func(o *Offer) { o.Inline, o.Size = big(InlineBytes), InlineBytes+1 }), BadParameter},
		{"inline of another size", offer(func(o *Offer) { o.Size++ }), BadParameter},
		{"inline without saying so", offer(func(o *Offer) { o.Inlined = false }), BadParameter},
		{"empty inline", offer(func(o *Offer) { o.Size, o.Inline = 0, nil }), OK},
		{"name", offer(func(o *Offer) { o.Name = long(NameBytes) }), BadParameter},
		{"type", offer(func(o *Offer) { o.Type = long(TypeBytes) }), BadParameter},
		{"instance", offer(func(o *Offer) { o.Instance = []byte{1} }), BadParameter},
		{"digest algorithm", offer(func(o *Offer) { o.Digest.Algorithm = "md5" }), BadParameter},
		{"digest length", offer(func(o *Offer) { o.Digest.Algorithm = DigestSHA256 }), BadParameter},
		{"no digest", offer(func(o *Offer) { o.Digest = nil }), OK},

		{"negative offset", answer(func(a *Answer) { a.Offset = -1 }), BadParameter},
		{"no decision", answer(func(a *Answer) { a.Decision = 0 }), BadParameter},
		{"refusal with 0", answer(func(a *Answer) { a.Decision = Decision_DECISION_REFUSE }), BadParameter},
		{"answer to nothing", answer(func(a *Answer) { a.Transfer = "" }), BadParameter},
		{"transfer", answer(func(a *Answer) { a.Transfer = long(TransferBytes) }), BadParameter},
		{"answer detail", answer(func(a *Answer) { a.Detail = long(DetailBytes) }), BadParameter},
		{"receipt", answer(func(a *Answer) { a.Receipt = 9 }), BadParameter},

		{"verdict on nothing", verdict(func(v *Verdict) { v.SendId, v.Transfer = "", "" }), BadParameter},
		{"verdict on a transfer", verdict(func(v *Verdict) { v.SendId = "" }), OK},
		{"reply", with(t, (*Frame).GetCommandAck, func(a *CommandAck) { a.Reply = big(ReplyBytes) }), BadParameter},
		{"LOST from a client", with(t, (*Frame).GetCommandAck, func(a *CommandAck) { a.Outcome = 3 }), BadParameter},
		{"confirmed offset", with(t, (*Frame).GetReceived, func(r *Received) { r.Offset = -1 << 63 }), BadParameter},
		{"standing", with(t, (*Frame).GetStanding, func(s *Standing) { s.Offset = s.Size + 1 }), BadParameter},

		{"token", hello(func(h *Hello) { h.Token = long(TokenBytes) }), TokenMalformed},
		{"client", hello(func(h *Hello) { h.Client = long(ClientBytes) }), BadParameter},
		{"no role", hello(func(h *Hello) { h.Role = 0 }), BadParameter},
		{"listen without an instance", hello(func(h *Hello) { h.Instance = nil }), BadParameter},
		{"send without an instance", hello(func(h *Hello) { h.Role, h.Instance = Role_ROLE_SEND, nil }), OK},
		{"capabilities", hello(func(h *Hello) { h.Capabilities = make([]string, Capabilities+1) }), BadParameter},
		{"capability", hello(func(h *Hello) { h.Capabilities = []string{long(CapabilityBytes)} }), BadParameter},

		{"query", &Frame{Body: &Frame_PresenceQuery{&PresenceQuery{Users: make([]string, PresenceUsers+1)}}}, BadParameter},
		{"query of nobody", &Frame{Body: &Frame_PresenceSubscribe{&PresenceSubscribe{Users: []string{""}}}}, BadTarget},
		{"cancel by sendID", &Frame{Body: &Frame_Cancel{&Cancel{SendId: sampleID}}}, OK},
		{"cancel of nothing", &Frame{Body: &Frame_Cancel{&Cancel{}}}, BadParameter},
	}
	for _, tt := range tests {
		err := CheckFromClient(tt.frame)
		if CodeOf(err) != tt.code {
			t.Errorf("%s: %v, want code %d", tt.name, err, tt.code)
		}
	}
}

func TestDeliveredFramesHaveASource(t *testing.T) {
	for _, s := range samples() {
		if !strings.HasSuffix(s.name, "delivered") {
			continue
		}
		f := proto.Clone(s.frame).(*Frame)
		if c := f.GetCommand(); c != nil {
			c.Source = nil
		} else {
			f.GetOffer().Source.User = "a\x00"
		}
		if err := CheckFromServer(f); err == nil {
			t.Errorf("%s without a good source: nil, want a refusal", s.name)
		}
	}
}

func TestEveryCodeHasAText(t *testing.T) {
	seen := map[string]Code{}
	for c := range Code(2000) {
		if !c.Known() {
			continue
		}
		if other, twice := seen[c.String()]; twice {
			t.Errorf("codes %d and %d are both %q", other, c, c)
		}
		seen[c.String()] = c
	}
	if len(seen) != 42 {
		t.Errorf("%d codes, want 42", len(seen))
	}
	if got := PeerOffline.String(); got != "peer offline" {
		t.Errorf("603 is %q", got)
	}
	if got := Code(4711).String(); got != "code 4711" {
		t.Errorf("4711 is %q", got)
	}
}
