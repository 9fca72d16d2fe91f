package server

import (
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"
)

// maxAliases bounds the aliases that are remembered.
const maxAliases = 8192

// auditLines turns records into lines. The writer's goroutine owns it.
type auditLines struct {
	key         Secret
	noAddresses bool
	aliases     map[place]string // of key, for users of late
	buf         []byte
}

// user is how a user appears.
func (l *auditLines) user(app, user string) string {
	if l.key.IsZero() || user == "" {
		return user
	}
	at := place{app, user}
	alias, ok := l.aliases[at]
	if !ok {
		if l.aliases == nil || len(l.aliases) >= maxAliases {
			l.aliases = map[place]string{}
		}
		alias = AuditAlias(l.key, app, user)
		l.aliases[at] = alias
	}
	return alias
}

func (l *auditLines) address(address string) string {
	if l.noAddresses {
		return ""
	}
	return address
}

// add appends one line.
func (l *auditLines) add(r *auditRecord) {
	l.buf = append(l.buf, `{"time":"`...)
	l.buf = r.at.UTC().AppendFormat(l.buf, "2006-01-02T15:04:05.000Z07:00")
	l.buf = append(l.buf, `","event":"`...)
	event := auditTask
	if r.act != nil {
		event = r.act.event
	}
	l.buf = append(l.buf, event...)
	l.buf = append(l.buf, '"')
	if r.act != nil {
		l.act(r.act, r.at)
	} else {
		l.task(&r.task, r.at)
	}
	l.buf = append(l.buf, "}\n"...)
}

func (l *auditLines) task(t *taskRecord, at time.Time) {
	l.text("app", t.app)
	l.text("from", l.user(t.app, t.from))
	l.text("to", l.user(t.app, t.to))
	l.text("kind", t.kind)
	l.text("via", t.via)
	l.text("sendId", t.sendID)
	l.number("size", t.size)
	l.number("bytes", t.passed)
	l.number("code", int64(t.code))
	if t.peer {
		l.text("by", "peer")
	} else {
		l.text("by", "relay")
	}
	l.some("receipt", t.receipt)
	l.some("outcome", t.outcome)
	if t.replied > 0 {
		l.number("replyBytes", t.replied)
	}
	l.flag("resent", t.resent)
	l.flag("had", t.had)
	l.number("ms", max(0, at.Sub(t.begun).Milliseconds()))
	l.some("fromAddress", l.address(t.fromAddress))
	l.some("toAddress", l.address(t.toAddress))
}

func (l *auditLines) act(r *actRecord, at time.Time) {
	l.some("action", r.action)
	l.some("app", r.app)
	l.some("user", l.user(r.app, r.user))
	l.some("role", r.role)
	if r.session != 0 {
		l.number("session", int64(r.session))
	}
	switch r.event {
	case auditLogin, auditLogout, auditAdmin:
		l.number("code", int64(r.code))
	case auditLost:
		l.number("lines", int64(r.gap.lines))
		l.number("refusedTasks", int64(r.gap.tasks))
		l.number("refusedLogins", int64(r.gap.refused))
	}
	l.some("target", r.target)
	if r.count != 0 {
		l.number("count", r.count)
	}
	if !r.begun.IsZero() {
		l.number("ms", max(0, at.Sub(r.begun).Milliseconds()))
	}
	l.some("by", r.by)
	l.some("address", l.address(r.address))
}

func (l *auditLines) name(name string) {
	l.buf = append(l.buf, `,"`...)
	l.buf = append(l.buf, name...)
	l.buf = append(l.buf, `":`...)
}

func (l *auditLines) text(name, value string) {
	l.name(name)
	l.buf = appendJSON(l.buf, value)
}

func (l *auditLines) some(name, value string) {
	if value != "" {
		l.text(name, value)
	}
}

func (l *auditLines) number(name string, value int64) {
	l.name(name)
	l.buf = strconv.AppendInt(l.buf, value, 10)
}

func (l *auditLines) flag(name string, value bool) {
	if value {
		l.name(name)
		l.buf = append(l.buf, "true"...)
	}
}

// appendJSON appends s as a JSON text without characters that do something to a
// terminal or cannot be seen (case 59). What is not UTF-8 becomes U+FFFD.
func appendJSON(b []byte, s string) []byte {
	b = append(b, '"')
	for i := 0; i < len(s); {
		if c := s[i]; c < utf8.RuneSelf {
			switch {
			case c == '"' || c == '\\':
				b = append(b, '\\', c)
			case c < ' ' || c == 0x7F:
				b = appendEscape(b, rune(c))
			default:
				b = append(b, c)
			}
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		i += n
		switch {
		case r < 0x10000 && hidden(r):
			b = appendEscape(b, r)
		case hidden(r):
			r -= 0x10000
			b = appendEscape(appendEscape(b, 0xD800+r>>10), 0xDC00+r&0x3FF)
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return append(b, '"')
}

func appendEscape(b []byte, unit rune) []byte {
	const digits = "0123456789abcdef"
	return append(b, '\\', 'u', digits[unit>>12&15], digits[unit>>8&15], digits[unit>>4&15], digits[unit&15])
}

// hidden reports whether r shows nothing, or does something instead.
func hidden(r rune) bool {
	return !unicode.IsPrint(r) || r == 0x2800 || unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}
