package server

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

func lineOf(l *auditLines, r auditRecord) string {
	l.buf = l.buf[:0]
	l.add(&r)
	return string(l.buf)
}

func TestAuditLinesSayExactlyThis(t *testing.T) {
	at := time.Date(2026, 10, 1, 14, 0, 0, 123_999_999, time.FixedZone("somewhere", 2*3600))
	full := taskRecord{
		app: "clinic", from: "alice", to: "bob", sendID: "019c2a5e-7a1b-7c3d-8e4f-0123456789ab", kind: "file", via: viaTus,
		size: 1 << 62, passed: 7, replied: 3, code: 1110, peer: true, receipt: "stored", outcome: outcomeLost, resent: true, had: true,
		begun: at.Add(-1500 * time.Millisecond), fromAddress: "192.0.2.1", toAddress: "2001:db8::1",
	}
	for _, c := range []struct {
		lines  auditLines
		record auditRecord
		want   string
	}{
		{auditLines{}, auditRecord{at: at, task: full}, `{"time":"2026-10-01T12:00:00.123Z","event":"task","app":"clinic","from":"alice","to":"bob","kind":"file","via":"tus",` +
			`"sendId":"019c2a5e-7a1b-7c3d-8e4f-0123456789ab","size":4611686018427387904,"bytes":7,"code":1110,"by":"peer","receipt":"stored","outcome":"lost",` +
			`"replyBytes":3,"resent":true,"had":true,"ms":1500,"fromAddress":"192.0.2.1","toAddress":"2001:db8::1"}`},
		{auditLines{noAddresses: true, key: NewSecret([]byte("key"))}, auditRecord{at: at, task: taskRecord{app: "clinic", from: "alice", begun: at.Add(time.Hour), fromAddress: "192.0.2.1"}},
			`{"time":"2026-10-01T12:00:00.123Z","event":"task","app":"clinic","from":"` + AuditAlias(NewSecret([]byte("key")), "clinic", "alice") +
				`","to":"","kind":"","via":"","sendId":"","size":0,"bytes":0,"code":0,"by":"relay","ms":0}`},
		{auditLines{}, auditRecord{at: at, act: &actRecord{event: auditAdmin, action: "kick", app: "clinic", user: "bob", session: 7, count: 1, by: "ops", address: "::1"}},
			`{"time":"2026-10-01T12:00:00.123Z","event":"admin","action":"kick","app":"clinic","user":"bob","session":7,"code":0,"count":1,"by":"ops","address":"::1"}`},
		{auditLines{}, auditRecord{at: at, act: &actRecord{event: auditLogout, role: "send", user: "bob", code: wire.Kicked, begun: at.Add(-time.Minute)}},
			`{"time":"2026-10-01T12:00:00.123Z","event":"logout","user":"bob","role":"send","code":10,"ms":60000}`},
		{auditLines{}, auditRecord{at: at, act: &actRecord{event: auditLost, gap: auditGap{1, 2, 3}}},
			`{"time":"2026-10-01T12:00:00.123Z","event":"lost","lines":1,"refusedTasks":2,"refusedLogins":3}`},
		{auditLines{}, auditRecord{at: at, act: &actRecord{event: auditRelay, action: "start"}}, `{"time":"2026-10-01T12:00:00.123Z","event":"relay","action":"start"}`},
	} {
		if got := lineOf(&c.lines, c.record); got != c.want+"\n" {
			t.Errorf("got\n%swant\n%s", got, c.want)
		}
	}
}

// TestAuditAliasIsWhatOthersCompute: docs/audit.md shows how with openssl.
func TestAuditAliasIsWhatOthersCompute(t *testing.T) {
	// printf 'clinic\0alice' | openssl dgst -sha256 -hmac 0123456789abcdef0123456789abcdef
	const want = "hmac:a84d483ed59a0ecc2d689cded0486157ba0fe9fb59af832c8db8f3128845c9a4"
	key := NewSecret([]byte("0123456789abcdef0123456789abcdef"))
	if got := AuditAlias(key, "clinic", "alice"); got != want {
		t.Errorf("AuditAlias = %s, want %s", got, want)
	}
	l := auditLines{key: key}
	for range 2 { // computed, and remembered
		if got := l.user("clinic", "alice"); got != want {
			t.Errorf("user = %s, want %s", got, want)
		}
	}
	if l.user("shop", "alice") == want || l.user("clinic", "bob") == want || l.user("clinic", "") != "" {
		t.Error("another user has the same alias, or nobody has one")
	}
	for i := range 3 * maxAliases {
		l.user("clinic", string(rune('a'+i)))
	}
	if len(l.aliases) > maxAliases {
		t.Errorf("%d aliases are remembered", len(l.aliases))
	}
}

// FuzzAuditLine: whatever a peer has put into a name, a line is one line of JSON,
// says the same, and does nothing to a terminal (case 59).
func FuzzAuditLine(f *testing.F) {
	for _, name := range []string{"alice", "a\"b\\c", "x\x00\x1b[2J\n\r\t\x7f", "\u202e\u200b\u2028\u3164\u2800", "\xff\xfe", "日本", "\U000e0001", "\u0085"} {
		f.Add(name, name)
	}
	f.Fuzz(func(t *testing.T, user, address string) {
		var l auditLines
		line := lineOf(&l, auditRecord{task: taskRecord{app: user, from: user, fromAddress: address}})
		if strings.Count(line, "\n") != 1 || !strings.HasSuffix(line, "}\n") {
			t.Fatalf("not one line: %q", line)
		}
		for _, r := range strings.TrimSuffix(line, "\n") {
			if r != '"' && r != '\\' && wire.Quote(string(r)) != `"`+string(r)+`"` { // says another than ours
				t.Fatalf("%q has %U", line, r)
			}
		}
		var got struct{ App, From, FromAddress string }
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if user = strings.ToValidUTF8(user, "\ufffd"); len(got.From) < len(user) && !strings.Contains(got.From, "\ufffd") || got.App != got.From {
			t.Errorf("got %q, want %q", got.From, user)
		}
		if !strings.Contains(user, "\ufffd") && got.From != user {
			t.Errorf("got %q, want %q", got.From, user)
		}
	})
}
