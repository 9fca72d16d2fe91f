package natsbus

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
)

func TestFailuresSayNoContent(t *testing.T) {
	notThere := &fs.PathError{Op: "open", Path: password, Err: syscall.ENOENT}
	dial := &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4222}, Err: syscall.ECONNREFUSED}
	for _, test := range []struct {
		err  error
		want failure
	}{
		{nil, failure{level: slog.LevelWarn, kind: "no reason is known"}},
		{nats.ErrAuthorization, failure{level: slog.LevelError, kind: "authorization violation"}},
		{nats.ErrAuthExpired, failure{level: slog.LevelError, kind: "authentication expired"}},
		{nats.ErrStaleConnection, failure{level: slog.LevelWarn, kind: "stale connection"}},
		{io.EOF, failure{level: slog.LevelWarn, kind: "EOF"}},
		{dial, failure{level: slog.LevelWarn, kind: "dial tcp 127.0.0.1:4222: connection refused"}},
		{&net.DNSError{Err: "no such host", Name: "nats.example"}, failure{level: slog.LevelWarn, kind: "lookup nats.example: no such host"}},
		{fmt.Errorf("%w: %w", nats.ErrTLS, x509.UnknownAuthorityError{}), failure{level: slog.LevelError, kind: "tls error: x509: certificate signed by unknown authority"}},
		{fmt.Errorf("nats: %w", notThere), failure{level: slog.LevelError, kind: "a file to log in with cannot be read: no such file or directory"}},
		{errors.New("nats: Maximum Payload Violation"), failure{level: slog.LevelError, kind: "maximum payload violation"}},
		{errors.New(password), failure{level: slog.LevelError, kind: "*errors.errorString"}},
		{
			fmt.Errorf("%w: Permissions Violation for Publish to %q", nats.ErrPermissionViolation, "dian."+password),
			failure{level: slog.LevelError, kind: "permissions violation", action: "publish", prefix: "dian"},
		},
		{
			fmt.Errorf("%w: Permissions Violation for Subscription to %q (sid \"1\")", nats.ErrPermissionViolation, "_INBOX."+password+".*"),
			failure{level: slog.LevelError, kind: "permissions violation", action: "subscribe", prefix: "_INBOX"},
		},
		{nats.ErrPermissionViolation, failure{level: slog.LevelError, kind: "permissions violation", action: "publish"}},
	} {
		if got := failureOf(test.err); got != test.want {
			t.Errorf("failureOf(%v) = %+v, want %+v", test.err, got, test.want)
		}
	}
}

func TestRepeatedFailuresAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		j := newJournal(slog.New(slog.NewTextHandler(&out, nil)))
		for range 25 { // 25 minutes, once a second with a pause of ten minutes
			for range 60 {
				j.failed("lost", io.EOF, 10*time.Minute)
				time.Sleep(time.Second)
			}
		}
		j.failed("refused", io.EOF, time.Minute) // another thing
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(lines) != 4 {
			t.Fatalf("%d lines, want 4:\n%s", len(lines), &out)
		}
		for i, want := range []string{"msg=lost err=EOF", "msg=lost err=EOF more=599", "msg=lost err=EOF more=599", "msg=refused err=EOF"} {
			if !strings.HasSuffix(lines[i], want) {
				t.Errorf("line %d is %q, want %q", i, lines[i], want)
			}
		}
		newJournal(nil).failed("lost", io.EOF, time.Minute)
	})
}

func TestReconnectsComeLessOften(t *testing.T) {
	for round, most := range map[int]time.Duration{
		0: 100 * time.Millisecond, 1: 100 * time.Millisecond, 2: 200 * time.Millisecond, 3: 400 * time.Millisecond,
		5: 1600 * time.Millisecond, 6: 2 * time.Second, 1 << 30: 2 * time.Second,
	} {
		for range 1000 {
			if d := reconnectDelay(round); d < most/2 || d > most {
				t.Errorf("reconnectDelay(%d) = %v, want %v to %v", round, d, most/2, most)
			}
		}
	}
}
