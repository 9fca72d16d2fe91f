package server

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

// auditStdout as Audit.File is standard output.
const auditStdout = "-"

// AuditPolicy says what happens when audit lines cannot be written.
type AuditPolicy string

// The policies. AuditDrop is the default.
const (
	AuditDrop AuditPolicy = "drop" // go on; lines that find no room are lost, and counted
	AuditFail AuditPolicy = "fail" // refuse new tasks with code 8 until they can be
)

// Audit says where a line goes for each finished task, login and act of an
// operator; docs/audit.md says what is in it, and what is not. The zero value
// keeps no record.
//
// Lines wait in a queue and are written by a goroutine of their own, many at a
// time: a slow sink slows nobody. What happens when the queue is full or the sink
// fails is WhenFailing's to say.
type Audit struct {
	// File is appended to; it is made with mode 0600. ReopenAudit opens it anew.
	// "-" is standard output.
	File string

	// Writer gets the lines instead of a file: whole lines, several in one call,
	// from one goroutine. It must not keep the slice. After an error, or a short
	// write, it gets the rest again. The server does not close it.
	Writer io.Writer

	// WhenFailing is AuditDrop or AuditFail; empty is AuditDrop.
	WhenFailing AuditPolicy

	// Queue is how many lines may wait, 16 to 10 million; default 65536. A line
	// takes about 300 bytes while it waits.
	Queue int

	// UserKey hides user ids: a line has the AuditAlias of each. 32 bytes or more.
	// UserKeyFile names a file that holds it instead; one line break at its end
	// does not count.
	UserKey     Secret
	UserKeyFile string

	// NoAddresses leaves IP addresses away.
	NoAddresses bool
}

// AuditAlias returns what stands for a user in the audit when Audit.UserKey is set:
// HMAC-SHA-256 over app, a zero byte and user. Who has the key can look for
// somebody; who has not cannot tell who it is.
func AuditAlias(key Secret, app, user string) string {
	mac := hmac.New(sha256.New, key.bytes())
	io.WriteString(mac, app+"\x00"+user)
	return "hmac:" + hex.EncodeToString(mac.Sum(nil))
}

// enabled reports whether there is a sink.
func (a *Audit) enabled() bool { return a.File != "" || a.Writer != nil }

// key returns the key for aliases, or none.
func (a *Audit) key() (Secret, error) {
	key := a.UserKey
	if a.UserKeyFile != "" {
		if !key.IsZero() {
			return Secret{}, errors.New("audit.user_key_file: there is audit.user_key already; give one")
		}
		var err error
		if key, err = (configSource{read: readKeyFile}).secretFile(a.UserKeyFile); err != nil {
			return Secret{}, fmt.Errorf("audit.user_key_file: %w", err)
		}
	}
	if n := len(key.bytes()); n > 0 && n < minSecretBytes {
		return Secret{}, fmt.Errorf("audit.user_key: it has %d bytes; use at least %d (openssl rand -base64 48)", n, minSecretBytes)
	}
	return key, nil
}

// Bounds of Audit.Queue.
const (
	minAuditQueue     = 16
	maxAuditQueue     = 10_000_000
	defaultAuditQueue = 65_536
)

func (a *Audit) check() error {
	if _, err := a.key(); err != nil {
		return err
	}
	switch {
	case a.File != "" && a.Writer != nil:
		return errors.New("audit.file: there is a Writer already; give one")
	case a.WhenFailing != "" && a.WhenFailing != AuditDrop && a.WhenFailing != AuditFail:
		return fmt.Errorf("audit.when_failing: %.40q is neither drop nor fail", string(a.WhenFailing))
	case a.Queue != 0 && (a.Queue < minAuditQueue || a.Queue > maxAuditQueue):
		return fmt.Errorf("audit.queue: %d is out of range; use %d to %d, or leave it away for its default", a.Queue, minAuditQueue, maxAuditQueue)
	case a.WhenFailing == AuditFail && !a.enabled():
		return errors.New("audit.when_failing: there is nothing that could fail; set audit.file")
	}
	return nil
}

// auditFile is its form in the config file.
type auditFile struct {
	File        string     `yaml:"file"`
	WhenFailing string     `yaml:"when_failing"`
	Queue       int        `yaml:"queue"`
	UserKey     secretText `yaml:"user_key"`
	UserKeyFile string     `yaml:"user_key_file"`
	NoAddresses bool       `yaml:"no_addresses"`
}

func (f auditFile) settings() Audit {
	return Audit{
		File: f.File, WhenFailing: AuditPolicy(f.WhenFailing), Queue: f.Queue,
		UserKey: f.UserKey.Secret, UserKeyFile: f.UserKeyFile, NoAddresses: f.NoAddresses,
	}
}
