package server

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestAuditFileIsAppendedAndRotated(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.jsonl")
	if err := os.WriteFile(path, []byte(`{"event":"old"}`+"\n"+`{"event":"cut o`), 0o600); err != nil {
		t.Fatal(err)
	}
	a := startAuditor(t, Audit{File: path}, nil)
	a.add(task(1))
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	eventually(t, func() bool { return strings.Contains(read("audit.jsonl"), `"size":1`) })
	text := read("audit.jsonl")
	if !strings.HasPrefix(text, `{"event":"old"}`+"\n"+`{"event":"cut o`+"\n{") {
		t.Errorf("the half line of a crash is not ended: %q", text)
	}
	if runtime.GOOS != "windows" { // where an open file cannot be moved away
		if err := os.Rename(path, filepath.Join(dir, "audit.1")); err != nil {
			t.Fatal(err)
		}
		if err := a.sink.reopen(); err != nil {
			t.Fatal(err)
		}
		if err := a.sink.reopen(); err != nil { // twice in a row
			t.Fatal(err)
		}
		a.add(task(2))
		eventually(t, func() bool { return strings.Contains(read("audit.jsonl"), `"size":2`) })
		if strings.Contains(read("audit.1"), `"size":2`) || strings.Contains(read("audit.jsonl"), `"size":1`) {
			t.Error("a line is in the wrong file")
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, want 0600 (%v)", info.Mode(), err)
		}
	}
	a.close(t.Context())
	if last := parseAudit(t, read("audit.jsonl")[strings.LastIndex(read("audit.jsonl"), "\n{")+1:]); last[0].Action != "stop" {
		t.Errorf("the last line is %+v", last)
	}
}

func TestAuditDoesNotTearALineOverARotation(t *testing.T) {
	dir := t.TempDir()
	old, err := os.Create(filepath.Join(dir, "old"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "audit.jsonl")
	a := &auditor{log: slog.New(slog.DiscardHandler), stats: testStats(), born: time.Now(), stop: make(chan struct{})}
	torn := &testSink{most: 30, err: errors.New("no space")}
	a.sink = &auditSink{path: path, file: old, out: torn, again: make(chan struct{})}
	r1, r2 := task(1), task(2)
	a.lines.add(&r1)
	a.lines.add(&r2)
	done := make(chan bool)
	go func() { done <- a.deliver() }()
	eventually(t, func() bool { return len(torn.text()) >= 30 })
	if err := a.sink.reopen(); err != nil {
		t.Fatal(err)
	}
	if !<-done {
		t.Fatal("not delivered")
	}
	a.sink.close()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if lines := parseAudit(t, string(text)); len(lines) != 2 {
		t.Errorf("%d lines in the new file, want both, whole", len(lines))
	}
}

func TestAuditFileThatCannotBeOpenedStopsTheStart(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{dir, filepath.Join(dir, "no", "such", "folder")} {
		cfg := relayConfig()
		cfg.Audit.File = path
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "audit.file: open") {
			t.Errorf("New = %v, want an error about audit.file", err)
		}
	}
}
