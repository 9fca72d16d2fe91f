package server

import (
	"bytes"
	"encoding/base64"
	"log/slog"
	"mime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/dian-im/dian/internal/filename/names"
)

// lockedBuffer is a log that any goroutine writes to.
type lockedBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) text() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// Whoever saves a down-lane under the name that its head gives writes no other file
// than one of the folder chosen (case 58). The log has no names.
func TestDownloadsAreNamedSafely(t *testing.T) {
	var logged lockedBuffer
	rt := newRelayTest(t, false, func(cfg *Config) {
		cfg.Limits.User.Transfers, cfg.Limits.User.Offers = 4*2000, 4*2000 // of which one sender has a quarter
		cfg.Logger = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	bob := rt.receiver("bob", placeA)
	bob.noLanes = true
	for _, row := range names.All(t) {
		if len(row.In) > 6_000 {
			continue // longer than a header may be
		}
		a := rt.do(rt.request("POST", "/v1/users/bob/transfers", "alice", nil, "Upload-Length", "10",
			"Upload-Metadata", "filename "+base64.StdEncoding.EncodeToString([]byte(row.In))))
		if !utf8.ValidString(row.In) || len(row.In) > 1<<10 {
			if a.status != 400 || !strings.Contains(a.body, `"code":5`) && !strings.Contains(a.body, `"code":6`) {
				t.Errorf("%s: %d %s, want a refusal", row.Name, a.status, a.body)
			}
			if raw := names.Raw(strings.TrimSpace(a.body)); len(raw) > 0 {
				t.Errorf("%s: the refusal has %U", row.Name, raw)
			}
			continue
		}
		rt.want(a, 201)
		path := a.header.Get("Location")
		res, err := rt.http.Client().Do(rt.request("GET", path+"?ticket="+bob.part(path).ticket, "", nil))
		if err != nil {
			t.Fatalf("%s: %v", row.Name, err)
		}
		res.Body.Close()
		head := res.Header["Content-Disposition"]
		if len(head) != 1 || len(res.Header["X-Evil"]) > 0 {
			t.Fatalf("%s: Content-Disposition %q of %v", row.Name, head, res.Header)
		}
		for i := range len(head[0]) {
			if c := head[0][i]; c < ' ' || c >= 0x7f {
				t.Errorf("%s: byte %#x in %q", row.Name, c, head[0])
			}
		}
		kind, params, err := mime.ParseMediaType(head[0])
		want := row.Safe
		if row.In == "" {
			want = ""
		}
		if err != nil || kind != "attachment" || params["filename"] != want {
			t.Errorf("%s: %s says %s and %q, %v; want %q", row.Name, head[0], kind, params["filename"], err, want)
		}
		if got := res.Header.Get("Content-Type"); got != "application/octet-stream" {
			t.Errorf("%s: Content-Type %s", row.Name, got)
		}
	}
	text := logged.text()
	for _, row := range names.All(t) {
		if shown := strings.Trim(strconv.Quote(row.In), `"`); len(row.In) >= 8 && (strings.Contains(text, row.In) || strings.Contains(text, shown)) {
			t.Errorf("%s: the name is in the log", row.Name)
		}
	}
	if raw := names.Raw(strings.ReplaceAll(text, "\n", "")); len(raw) > 0 {
		t.Errorf("the log has %d bytes, and %U", len(text), raw)
	}
}
