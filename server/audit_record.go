package server

import (
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// auditEvent is what a line tells of.
type auditEvent string

// The events; docs/audit.md describes them.
const (
	auditTask   auditEvent = "task"
	auditLogin  auditEvent = "login"
	auditLogout auditEvent = "logout"
	auditAdmin  auditEvent = "admin"
	auditRelay  auditEvent = "relay"
	auditLost   auditEvent = "lost"
)

// Why a task has no result. Such a line is written when none can be expected.
const (
	outcomeLost       = "lost"       // the receiver's line broke before its ack
	outcomeGap        = "gap"        // the receiver wants another command first
	outcomeForgotten  = "forgotten"  // the receiver does not know it (any more), or another place is asked
	outcomeUnfinished = "unfinished" // the relay stops
)

// A taskRecord is what a task's line holds: ids, numbers and addresses, no
// content, names or meta (case 113).
type taskRecord struct {
	app, from, to string // from and to are well-formed user ids, or ""
	sendID        string // well-formed, or ""
	kind, via     string
	size          int64 // of the content
	passed        int64 // content bytes that went out to the receiver
	replied       int64 // bytes of a command's reply
	code          wire.Code
	peer          bool // the code is the receiver's word, not ours
	receipt       string
	outcome       string // "" for a result
	resent, had   bool
	begun         time.Time

	fromAddress, toAddress string
}

// A taskKey names a task for the audit. A sender that uses a sendID for two contents
// has two tasks.
type taskKey struct {
	transferKey
	kind string
	size int64
}

func (r *taskRecord) key() taskKey {
	return taskKey{transferKey{r.app, r.from, r.to, r.sendID}, r.kind, r.size}
}

// An auditRecord is a line before it is written: of a task, or of an act.
type auditRecord struct {
	at   time.Time
	task taskRecord
	act  *actRecord // nil for a task
}

// An actRecord is what other lines hold.
type actRecord struct {
	event auditEvent

	app, user, role, action, target, by, address string
	code                                         wire.Code
	session                                      uint64
	begun                                        time.Time // of the session
	count                                        int64     // of what an act has ended
	gap                                          auditGap
}

// An auditGap is what happened without a line.
type auditGap struct {
	lines   uint64 // found no room
	tasks   uint64 // were refused because lines cannot be written
	refused uint64 // logins: too many at a time
}

func (g *auditGap) add(other auditGap) {
	g.lines += other.lines
	g.tasks += other.tasks
	g.refused += other.refused
}

func (g auditGap) empty() bool { return g == auditGap{} }
