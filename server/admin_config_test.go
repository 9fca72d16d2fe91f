package server

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestAuditAndAdminSettingsOfFileAndEnvironment(t *testing.T) {
	const file = `
admin_listen: run/admin.sock
admin_token_file: admin.token
admin_client_ca: ca.pem
admin_pprof: true
revocations_file: revocations
audit:
  file: audit.jsonl
  when_failing: fail
  queue: 1000
  user_key_file: key
  no_addresses: true
`
	env := map[string]string{}
	src := noFiles()
	src.dir = filepath.FromSlash("/etc/dian")
	src.env = func(name string) (string, bool) { v, ok := env[name]; return v, ok }
	in := func(name string) string { return filepath.Join(src.dir, filepath.FromSlash(name)) }
	cfg, err := src.parse([]byte(file))
	if err != nil {
		t.Fatal(err)
	}
	admin := Admin{Listen: in("run/admin.sock"), TokenFile: in("admin.token"), ClientCAFile: in("ca.pem"), Pprof: true}
	if got := cfg.Admin; got.Listen != admin.Listen || got.TokenFile != admin.TokenFile || got.ClientCAFile != admin.ClientCAFile || !got.Pprof {
		t.Errorf("admin = %+v, want %+v", got, admin)
	}
	a := cfg.Audit
	if a.File != in("audit.jsonl") || a.WhenFailing != AuditFail || a.Queue != 1000 || a.UserKeyFile != in("key") || !a.NoAddresses ||
		cfg.RevocationsFile != in("revocations") {
		t.Errorf("audit = %+v, revocations %q", a, cfg.RevocationsFile)
	}

	env = map[string]string{
		"DIAN_ADMIN_LISTEN": "127.0.0.1:7702", "DIAN_ADMIN_TOKEN_FILE": "here", "DIAN_ADMIN_PPROF": "false", "DIAN_REVOCATIONS_FILE": "there",
		"DIAN_AUDIT_FILE": "-", "DIAN_AUDIT_QUEUE": "99", "DIAN_AUDIT_USER_KEY": "of the environment", "DIAN_AUDIT_WHEN_FAILING": "drop",
	}
	if cfg, err = src.parse([]byte(file)); err != nil {
		t.Fatal(err)
	}
	a = cfg.Audit
	if cfg.Admin.Listen != "127.0.0.1:7702" || cfg.Admin.TokenFile != "here" || cfg.Admin.ClientCAFile != in("ca.pem") || cfg.Admin.Pprof ||
		cfg.RevocationsFile != "there" || a.File != "-" || a.Queue != 99 || a.WhenFailing != AuditDrop ||
		string(a.UserKey.bytes()) != "of the environment" || a.UserKeyFile != in("key") {
		t.Errorf("with the environment: admin %+v, audit %+v, revocations %q", cfg.Admin, a, cfg.RevocationsFile)
	}

	// What stands for itself is no file.
	env = map[string]string{}
	cfg, err = src.parse([]byte("admin_listen: localhost:7702\naudit: {file: '-'}"))
	if err != nil || cfg.Admin.Listen != "localhost:7702" || cfg.Audit.File != "-" || cfg.RevocationsFile != "" {
		t.Errorf("admin %+v, audit %+v (%v)", cfg.Admin, cfg.Audit, err)
	}
	for text, want := range map[string]string{
		"audit: x": "write keys and values below it", "audit: {files: x}": `unknown key "files"`, "audit: {queue: many}": "write a whole number",
		"admin_listn: x": `unknown key "admin_listn"`, "audit: {user_key: [hunter2]}": "a secret must be a text",
	} {
		if _, err := src.parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestAuditSettingsAreChecked(t *testing.T) {
	sink := &testSink{}
	for want, a := range map[string]Audit{
		"there is a Writer already": {File: "x", Writer: sink},
		"neither drop nor fail":     {Writer: sink, WhenFailing: "explode"},
		"audit.queue: 15 is out":    {Writer: sink, Queue: 15},
		"audit.queue: -1 is out":    {Writer: sink, Queue: -1},
		"audit.queue: 10000001 is":  {Writer: sink, Queue: maxAuditQueue + 1},
		"nothing that could fail":   {WhenFailing: AuditFail},
		"use at least 32":           {Writer: sink, UserKey: NewSecret([]byte("hunter2"))},
		"audit.user_key_file: read": {Writer: sink, UserKeyFile: filepath.Join(t.TempDir(), "nothing")},
		"audit.user_key already":    {Writer: sink, UserKey: relayKey.Secret, UserKeyFile: "x"},
		"":                          {Writer: sink, WhenFailing: AuditDrop, Queue: minAuditQueue, UserKey: relayKey.Secret},
	} {
		cfg := relayConfig()
		cfg.Audit = a
		err := cfg.Check()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("Check = %v, want %q", err, want)
		}
	}
}

// TestAdminTokenFileIsReadAtTheStart, so a wrong name is found then.
func TestAdminTokenFileIsReadAtTheStart(t *testing.T) {
	cfg := relayConfig()
	cfg.Admin.TokenFile = filepath.Join(t.TempDir(), "nothing")
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "admin_token_file: read") {
		t.Errorf("New = %v", err)
	}
}
