package server

import (
	"strings"
	"unicode/utf8"

	"github.com/dian-im/dian/internal/wire"
)

// What docs/protocol.md says of the fields of frames that clients send, written down
// once more and apart from package wire. A rule gives the code of its breach.

type breaches []wire.Code

func (b *breaches) when(broken bool, code wire.Code) {
	if broken {
		*b = append(*b, code)
	}
}

func (b *breaches) size(n, limit int, code wire.Code) { b.when(n > limit, code) }

// goodUser is a rough idea of §2: what the variants' names are tells it apart.
func goodUser(s string) bool {
	return s != "" && utf8.RuneCountInString(s) <= 128 && s != "." && s != ".." &&
		!strings.ContainsAny(s, "\x00\u202e\u200b\u0301\r\n") && strings.TrimSpace(s) == s
}

func goodUUID(s string) bool {
	return len(s) == 36 && s[8] == '-' && s[23] == '-' && strings.ToLower(s) == s && strings.Trim(s, "0123456789abcdef-") == ""
}

func (b *breaches) transfer(id string) { b.when(id == "" || len(id) > 2048, wire.BadParameter) }

func (b *breaches) either(sendID, transfer string) {
	b.when(sendID != "" && !goodUUID(sendID), wire.BadSendID)
	b.when(sendID == "" && transfer == "" || len(transfer) > 2048, wire.BadParameter)
}

func (b *breaches) digest(d *wire.Digest) {
	if d == nil {
		return
	}
	b.when(!(d.Algorithm == "x3b" && len(d.Value) == 16 || d.Algorithm == "sha-256" && len(d.Value) == 32), wire.BadParameter)
}

// brokenRules are the breaches in a frame of a client.
func brokenRules(f *wire.Frame) (b breaches) {
	const bad = wire.BadParameter
	switch x := f.Body.(type) {
	case *wire.Frame_Hello:
		h := x.Hello
		b.size(len(h.Token), 8192, wire.TokenMalformed)
		b.size(len(h.Client), 128, bad)
		b.when(h.Role != wire.Role_ROLE_LISTEN && h.Role != wire.Role_ROLE_SEND, bad)
		b.when(len(h.Instance) != 16 && !(len(h.Instance) == 0 && h.Role != wire.Role_ROLE_LISTEN), bad)
		b.size(len(h.Capabilities), 32, bad)
		for _, c := range h.Capabilities {
			b.size(len(c), 64, bad)
		}
		b.when(h.LastEpoch > 1<<62, bad) // no server ever gave that
	case *wire.Frame_UpdateToken:
		b.size(len(x.UpdateToken.Token), 8192, wire.TokenMalformed)
	case *wire.Frame_Command:
		c := x.Command
		b.when(!goodUser(c.Target), wire.BadTarget)
		b.size(len(c.Data), 65536, wire.CommandTooLarge)
		b.when(!goodUUID(c.Id), bad)
		b.when(c.Stream == 0 && (c.Seq != 0 || c.Floor != 0), bad)
		b.when(c.Stream != 0 && (c.Floor < 1 || c.Floor > c.Seq || c.Seq+1 == 0), bad)
		b.size(len(c.Meta), 4096, bad)
		b.size(len(c.Header), 4096, bad)
	case *wire.Frame_CommandAck:
		a := x.CommandAck
		b.when(!goodUUID(a.Id), bad)
		b.when(a.Outcome != 1 && a.Outcome != 2, bad)
		b.size(len(a.Reply), 65536, bad)
		b.size(len(a.Detail), 512, bad)
		b.size(len(a.Header), 4096, bad)
	case *wire.Frame_PresenceQuery:
		b.users(x.PresenceQuery.Users)
	case *wire.Frame_PresenceSubscribe:
		if !x.PresenceSubscribe.Stop {
			b.users(x.PresenceSubscribe.Users)
		}
	case *wire.Frame_Offer:
		o := x.Offer
		b.when(!goodUser(o.Target), wire.BadTarget)
		b.when(!goodUUID(o.SendId), wire.BadSendID)
		b.when(o.Kind != 1 && o.Kind != 2, bad)
		b.when(o.Size < 0, bad)
		b.when(o.Kind == 1 && o.Size > 104857600, wire.BufferTooLarge)
		b.when(o.Inlined && int64(len(o.Inline)) != o.Size || !o.Inlined && len(o.Inline) > 0, bad)
		b.size(len(o.Inline), 65536, bad)
		b.size(len(o.Name), 1024, bad)
		b.size(len(o.Type), 255, bad)
		b.size(len(o.Meta), 4096, bad)
		b.size(len(o.Header), 4096, bad)
		b.when(len(o.Instance) != 0 && len(o.Instance) != 16, bad)
		b.digest(o.Digest)
	case *wire.Frame_Answer:
		a := x.Answer
		b.transfer(a.Transfer)
		b.when(a.Decision < 1 || a.Decision > 3, bad)
		b.when(a.Decision == 2 && a.Code == 0, bad)
		b.when(a.Offset < 0, bad)
		b.when(a.Receipt < 0 || a.Receipt > 2, bad)
		b.size(len(a.Detail), 512, bad)
		b.size(len(a.Header), 4096, bad)
	case *wire.Frame_Received:
		b.transfer(x.Received.Transfer)
		b.when(x.Received.Offset < 0, bad)
	case *wire.Frame_Finish:
		b.transfer(x.Finish.Transfer)
		b.digest(x.Finish.Digest)
	case *wire.Frame_Verdict:
		v := x.Verdict
		b.either(v.SendId, v.Transfer)
		b.when(v.Receipt < 0 || v.Receipt > 2 || v.Origin < 0 || v.Origin > 2, bad)
		b.size(len(v.Detail), 512, bad)
		b.size(len(v.Header), 4096, bad)
	case *wire.Frame_VerdictAck:
		b.transfer(x.VerdictAck.Transfer)
	case *wire.Frame_Cancel:
		b.either(x.Cancel.SendId, x.Cancel.Transfer)
	case *wire.Frame_Standing:
		s := x.Standing
		b.either(s.SendId, s.Transfer)
		b.when(s.State < 1 || s.State > 4, bad)
		b.when(s.Offset < 0 || s.Size < 0 || s.State == 2 && s.Offset > s.Size, bad)
		b.when(s.Receipt < 0 || s.Receipt > 2, bad)
		b.size(len(s.Detail), 512, bad)
	}
	return b
}

func (b *breaches) users(users []string) {
	b.size(len(users), 1000, wire.BadParameter)
	for _, u := range users {
		b.when(!goodUser(u), wire.BadTarget)
	}
}
