package dian

import (
	"go/version"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

// floor is the oldest Go release that Dian is built with. Older ones let names out of
// an os.Root (CVE-2025-22873, CVE-2026-27139, CVE-2026-32282, CVE-2026-39822) and have
// holes in crypto/tls and net/http (cases 19, 66).
const floor = "go1.26.6"

// Since Go 1.21 the go command refuses a module that wants a newer release than it is,
// or fetches that release. So the go line of go.mod is the floor for everybody who
// builds Dian, or a program with it.
func TestOldGoIsRefused(t *testing.T) {
	line := regexp.MustCompile(`(?m)^go (\S+)$`)
	for _, name := range []string{"go.mod", "tools.mod", "bench/go.mod", "test/go.mod"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if m := line.FindSubmatch(text); m == nil || version.Compare("go"+string(m[1]), floor) < 0 {
			t.Errorf("%s says %q, want %s or newer", name, m, floor)
		}
	}
	if got := runtime.Version(); version.IsValid(got) && version.Compare(got, floor) < 0 {
		t.Errorf("this is %s, want %s or newer", got, floor)
	}
	// That it does refuse: a module of our form that wants a release nobody has yet.
	dir := t.TempDir()
	files := map[string]string{"go.mod": "module floor\n\ngo 1.999.6\n", "main.go": "package main\n\nfunc main() {}\n"}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "out"), ".")
	build.Dir = dir
	build.Env = append(os.Environ(), "GOTOOLCHAIN=local", "GOFLAGS=", "GOWORK=off")
	if out, err := build.CombinedOutput(); err == nil || !strings.Contains(string(out), "requires go >= 1.999.6") {
		t.Errorf("go build of a module for a newer Go: %v\n%s", err, out)
	}
}
