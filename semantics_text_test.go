package dian_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/diantest"
	"github.com/dian-im/dian/server"
)

// Cases 57 to 63: a name is data. It arrives as it was sent, and what is created on
// disk has a safe one and takes nothing's place.
func TestHostileNamesArriveAsData(t *testing.T) {
	names := []string{
		"", ".", "..", "../x", "../../etc/passwd", "/etc/passwd", `C:\x`, `\\server\x`, "x/", "a/b\\c", `..\x`, "%2e%2e%2fx",
		"a\x00b", "\x1b[31mred\x1b[0m", "bell\a", "two\nlines", "cr\rlf", "\u202Egpj.exe", "zero\u200Bwidth", "\uFEFFbom",
		"CON", "nul.txt", "COM1", "COM1 ", "COM¹", "LPT9.tar.gz", "CLOCK$", "dot.", "space ", "a:b", "a?*<>|\"b", "aux.c",
		strings.Repeat("n", 300), strings.Repeat("ä", 500) + ".jpeg", strings.Repeat("x", 1018) + ".jpeg",
		"e\u0301.txt", "\u00e9.txt", "README", "readme", ".partial", ".bashrc", "-rf", "a#b?%41.txt", "~", "$HOME", "`id`", " x",
	}
	relay := diantest.New(t)
	in := newInbound()
	root := t.TempDir()
	saved := filepath.Join(root, "saved")
	if err := os.Mkdir(saved, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "x"), []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	relay.Client("bob", dian.WithHandler(in.handler()), dian.WithReceiveDir(filepath.Join(root, "in")))
	alice := relay.Client("alice")
	contents := map[string]string{}
	for i, name := range slices.Concat(names, names) { // each twice: nothing is replaced
		text := fmt.Sprintf("content %d", i)
		mustEnd(t, alice.SendReader("bob", strings.NewReader(text), int64(len(text)), dian.WithName(name)), dian.OK)
		f := wait(t, in.files)
		if f.Name != name {
			t.Errorf("name %q arrived as %q", name, f.Name)
		}
		if f.SafeName == "" || f.SafeName != filepath.Base(f.SafeName) || len(f.SafeName) > 255 ||
			strings.ContainsAny(f.SafeName, "\x00\x07\x1b\r\n/\\:\u202E\u200B") {
			t.Errorf("name %q has the safe name %q", name, f.SafeName)
		}
		if filepath.Dir(f.Path) != filepath.Join(root, "in") || len(f.Path) > 300 || strings.Contains(filepath.Base(f.Path), "x") {
			t.Errorf("name %q: received at %q", name, f.Path)
		}
		path, err := f.SaveAs(saved)
		if err != nil {
			t.Errorf("name %q: %v", name, err)
			continue
		}
		if filepath.Dir(path) != saved || contents[path] != "" || i < len(names) && contents[path] == "" && !strings.HasPrefix(filepath.Base(path), strings.TrimSuffix(f.SafeName, filepath.Ext(f.SafeName))) {
			t.Errorf("name %q: saved as %q", name, path)
		}
		contents[path] = text
		if _, err := f.SaveAs(saved); err == nil {
			t.Errorf("name %q was saved twice", name)
		}
	}
	for path, want := range contents {
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%q holds %q, %v; want %q", path, got, err, want)
		}
		if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != 0o600 {
			t.Errorf("%q is %v, %v", path, info.Mode(), err)
		}
	}
	if list, _ := os.ReadDir(saved); len(list) != 2*len(names) {
		t.Errorf("%d files are saved, want %d", len(list), 2*len(names))
	}
	if list, _ := os.ReadDir(root); len(list) != 3 {
		t.Errorf("beside the folders there is %v", list)
	}
	if got, _ := os.ReadFile(filepath.Join(root, "x")); string(got) != "untouched" {
		t.Errorf("a file outside of the folder holds %q", got)
	}
	for _, bad := range []string{strings.Repeat("x", 1025), strings.Repeat("x", 5000), "a\xffb"} {
		mustEnd(t, alice.SendReader("bob", strings.NewReader(""), 0, dian.WithName(bad)), dian.ErrBadParameter)
	}
}

// Names of users are as hostile as names of files: errors show them quoted (case 59).
func TestErrorsAreFitForATerminal(t *testing.T) {
	relay := diantest.New(t, func(cfg *server.Config) { cfg.MaxFileBytes = 100 })
	detail := "\x1b[31mred\r\nX: y\u202E"
	relay.Client("bob", dian.WithHandler(dian.Handler{AcceptBuffer: func(o *dian.Offer) { o.Refuse(4711, detail) }}))
	alice := relay.Client("alice")
	r := mustEnd(t, alice.SendBuffer("bob", nil), 4711)
	if e := r.Err.(*dian.Error); e.Detail != detail || e.Origin != dian.Peer {
		t.Errorf("%+v", e)
	}
	if text := r.Err.Error(); strings.ContainsAny(text, "\x1b\r\n\u202E") {
		t.Errorf("%q", text)
	}
}
