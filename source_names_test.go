package dian_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/diantest"
	"github.com/dian-im/dian/internal/filename/names"
	"github.com/dian-im/dian/server"
)

// logBook is a log that any goroutine writes to.
type logBook struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBook) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// Every hostile name, through everything of the SDK that tells or writes it: offers,
// callbacks, the receive folder, AcceptTo, SaveAs, errors and logs (cases 57 to 63, 68).
func TestHostileNamesThroughTheSDK(t *testing.T) {
	book := &logBook{}
	logger := dian.WithLogger(slog.New(slog.NewTextHandler(book, &slog.HandlerOptions{Level: slog.LevelDebug})))
	relay := diantest.New(t, func(cfg *server.Config) { cfg.Logger = slog.New(slog.NewTextHandler(book, nil)) })
	top := t.TempDir()
	at := func(name string) string { return filepath.Join(top, name) }
	for _, name := range []string{"in", "to", "saved"} {
		if err := os.Mkdir(at(name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(at("x"), []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	in := newInbound()
	h := in.handler()
	var offered sync.Map
	h.AcceptFile = func(o *dian.Offer) {
		offered.Store(o.SendID, [2]string{o.Name, o.SafeName})
		switch o.Size % 3 {
		case 0:
			o.Accept()
		case 1:
			o.AcceptTo(at("to"))
		default:
			o.AcceptTo(at("nowhere/" + o.SafeName)) // which fails, and stays where it is
		}
	}
	h.AcceptBuffer = func(o *dian.Offer) { o.Refuse(4711, o.Name) }
	relay.Client("bob", dian.WithHandler(h), dian.WithReceiveDir(at("in")), logger)
	alice := relay.Client("alice", logger)
	for i, row := range names.All(t) {
		if !utf8.ValidString(row.In) || len(row.In) > 1<<10 {
			r := mustEnd(t, alice.SendReader("bob", strings.NewReader(""), 0, dian.WithName(row.In)), dian.ErrBadParameter)
			if raw := names.Raw(r.Err.Error()); len(raw) > 0 {
				t.Errorf("%s: the error has %U", row.Name, raw)
			}
			continue
		}
		text := fmt.Sprintf("%d %s", i, strings.Repeat("x", i%3))
		task := alice.SendReader("bob", strings.NewReader(text), int64(len(text)), dian.WithName(row.In))
		mustEnd(t, task, dian.OK)
		f := wait(t, in.files)
		if got, _ := offered.Load(task.ID()); got != [2]string{row.In, row.Safe} || f.Name != row.In || f.SafeName != row.Safe {
			t.Errorf("%s: offered as %q, told as %q and %q", row.Name, got, f.Name, f.SafeName)
		}
		for _, broken := range names.Broken(f.SafeName) {
			t.Errorf("%s: the safe name %q %s", row.Name, f.SafeName, broken)
		}
		dir, base := filepath.Split(f.Path)
		switch len(text) % 3 {
		case 1:
			if filepath.Clean(dir) != at("to") || base != row.Safe {
				t.Errorf("%s: accepted to %q", row.Name, f.Path)
			}
		default:
			if filepath.Clean(dir) != at("in") || len(base) != 37 {
				t.Errorf("%s: received at %q", row.Name, f.Path)
			}
			path, err := f.SaveAs(at("saved"))
			if path != filepath.Join(at("saved"), row.Safe) || err != nil {
				t.Errorf("%s: saved as %q, %v", row.Name, path, err)
			}
			f.Path = path
		}
		if got, err := os.ReadFile(f.Path); string(got) != text || err != nil {
			t.Errorf("%s: %q has %q, %v", row.Name, f.Path, got, err)
		}
		if err := os.Remove(f.Path); err != nil {
			t.Error(err)
		}
		// A refusal's text is the peer's, too.
		r := mustEnd(t, alice.SendBuffer("bob", nil, dian.WithName(row.In)), 4711)
		if raw := names.Raw(r.Err.Error()); len(raw) > 0 {
			t.Errorf("%s: the refusal reads %q", row.Name, r.Err.Error())
		}
	}
	for _, dir := range []string{"to", "saved"} {
		if left, err := os.ReadDir(at(dir)); err != nil || len(left) > 0 {
			t.Errorf("%s has %v, %v", dir, left, err)
		}
	}
	if all, err := os.ReadDir(top); err != nil || len(all) != 4 {
		t.Errorf("beside the folders there is %v, %v", all, err)
	}
	if got, err := os.ReadFile(at("x")); string(got) != "precious" || err != nil {
		t.Errorf("the file outside has %q, %v", got, err)
	}
	text := book.text()
	for i, line := range strings.Split(text, "\n") {
		if raw := names.Raw(line); len(raw) > 0 {
			t.Errorf("line %d of the log has %U: %q", i, raw, line)
		}
	}
	if !strings.Contains(text, "file stays in the receive folder") {
		t.Error("the log does not tell of files that could not be put where they belong")
	}
	if strings.Contains(text, "nowhere") || strings.Contains(text, top) {
		t.Error("the log has paths")
	}
	for _, row := range names.All(t) {
		for _, name := range []string{row.In, row.Safe} {
			if len(name) >= 8 && name != "unnamed" && strings.Contains(text, name) {
				t.Errorf("%s: the log has the name %q", row.Name, name)
			}
		}
	}
}

// What this machine says of a path is fit for a terminal, whoever named the file.
func TestLocalErrorsAreFitForATerminal(t *testing.T) {
	alice := diantest.New(t).Client("alice")
	none := filepath.Join(t.TempDir(), "none") + "/"
	for _, row := range names.All(t) {
		if len(row.In) > 4_000 {
			continue
		}
		path := none + row.In // not cleaned: a way back out of it is none
		r := mustEndOneOf(t, alice.SendFile("bob", path), dian.ErrFileNotFound, dian.ErrFileRead, dian.ErrBadParameter)
		if raw := names.Raw(r.Err.Error()); len(raw) > 0 {
			t.Errorf("%s: %U in %q", row.Name, raw, r.Err.Error())
		}
	}
}
