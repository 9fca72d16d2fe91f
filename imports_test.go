package dian

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/dian-im/dian"

// An arrow that must not exist: files of a package, or of anything below it, do
// not import what is forbidden or anything below that.
type noArrow struct {
	from, to string // paths in the module ("" is its root), or of other modules
	below    bool   // from covers the packages below it too
	tests    bool   // test files are held to it as well
	reason   string
}

// The arrows of the layout: cmd/dian joins all parts, nothing points back. A new
// one is a decision and changes this table in the same commit.
var noArrows = []noArrow{
	{"", "server", false, false, "the SDK is linked into programs that never serve"},
	{"", "cmd", false, true, "nothing points back to the command line"},
	{"", "diantest", false, false, "diantest builds on the SDK"},
	{"", "internal/bus", false, true, "how nodes talk is the server's alone"},
	{"", "github.com/nats-io", false, true, "the SDK never reaches NATS"},
	{"", "github.com/prometheus", false, false, "metrics are the server's"},
	{"", "github.com/golang-jwt", false, false, "the SDK does not judge tokens"},
	{"server", "", true, false, "the server does not know the SDK"},
	{"server", "internal/inbox", true, true, "the server stores no content"},
	{"server", "cmd", true, true, "nothing points back to the command line"},
	{"server", "diantest", true, false, "diantest builds on the server"},
	{"server", "github.com/nats-io", true, true, "only internal/bus/natsbus imports nats.go"},
	{"cmd", "github.com/nats-io", true, true, "only internal/bus/natsbus imports nats.go"},
	{"internal", "server", true, false, "inner packages do not know who builds on them"},
	{"internal", "cmd", true, true, "inner packages do not know who builds on them"},
	{"internal/wire", "net", true, false, "the wire does no I/O"},
	{"internal/wire", "os", true, false, "the wire does no I/O"},
	{"internal/wire", "time", true, false, "the wire has no clock"},
	{"internal/wire", "github.com/gorilla", true, false, "frames are cut without a connection"},
	{"internal/transfer", "net", true, false, "state machines do no I/O"},
	{"internal/transfer", "os", true, false, "state machines do no I/O"},
	{"internal/transfer", "sync", true, false, "state machines have no goroutines"},
	{"internal/transfer", "context", true, false, "state machines do not wait"},
	{"internal/transfer", "internal/link", true, false, "state machines do no I/O"},
	{"internal/command", "net", true, false, "state machines do no I/O"},
	{"internal/command", "os", true, false, "state machines do no I/O"},
	{"internal/command", "sync", true, false, "state machines have no goroutines"},
	{"internal/command", "context", true, false, "state machines do not wait"},
	{"internal/command", "internal/link", true, false, "state machines do no I/O"},
	{"internal/inbox", "internal/link", true, false, "disk and line do not know each other"},
	{"internal/inbox", "net", true, false, "the disk does not know the line"},
	{"internal/link", "internal/transfer", true, false, "a link knows frames, not what they mean"},
	{"internal/link", "internal/inbox", true, false, "disk and line do not know each other"},
	{"internal/memnet", "internal/wire", true, true, "a network knows bytes alone"},
	{"", "internal/memdisk", false, false, "a disk that forgets is for tests"},
	{"cmd", "internal/memdisk", true, false, "a disk that forgets is for tests"},
	{"server", "internal/memdisk", true, true, "the server stores no content"},
	{"", "internal/wiretest", false, false, "odd frames are for tests"},
	{"cmd", "internal/wiretest", true, false, "odd frames are for tests"},
	{"server", "internal/wiretest", true, false, "odd frames are for tests"},
	{"", "internal/sim", false, true, "a simulator is for its own tests"},
	{"cmd", "internal/sim", true, true, "a simulator is for its own tests"},
	{"server", "internal/sim", true, true, "a simulator is for its own tests"},
	{"internal/disk", "os", true, false, "an interface does no I/O"},
}

// The root package reaches of internal only what STYLE's arrows show. Inner
// packages do not import it, except those that hold tests.
var (
	rootMay   = []string{"internal/transfer", "internal/command", "internal/inbox", "internal/link", "internal/wire", "internal/x3b", "internal/cork", "internal/unsent"}
	mayUseSDK = []string{"cmd", "diantest", "examples", "internal/servertest", "bench", "test"}
)

func TestImportsFollowTheArrows(t *testing.T) {
	seen := 0
	err := fs.WalkDir(os.DirFS("."), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			switch base := path.Base(name); {
			case name == ".":
			case base == "testdata", base == "node_modules", strings.HasPrefix(base, "."), name == "bench", name == "test", name == "sdk":
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		seen++
		folder := path.Dir(name)
		if folder == "." {
			folder = ""
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range file.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			for _, broken := range brokenBy(folder, imported, strings.HasSuffix(name, "_test.go")) {
				t.Errorf("%s imports %s: %s", name, imported, broken)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 20 {
		t.Errorf("%d files looked at: is this the module's root?", seen)
	}
}

// brokenBy returns the reasons why a file of folder may not import a package.
func brokenBy(folder, imported string, test bool) []string {
	var reasons []string
	own, isOwn := strings.CutPrefix(imported, module)
	own = strings.TrimPrefix(own, "/")
	for _, a := range noArrows {
		if test && !a.tests || !(folder == a.from || a.below && within(folder, a.from)) {
			continue
		}
		switch {
		case a.to == "" && isOwn && own == "",
			a.to != "" && isOwn && within(own, a.to),
			a.to != "" && !isOwn && within(imported, a.to):
			reasons = append(reasons, a.reason)
		}
	}
	if test || !isOwn {
		return reasons
	}
	if folder == "" && strings.HasPrefix(own, "internal/") && !withinAny(own, rootMay) {
		reasons = append(reasons, "the SDK builds on "+strings.Join(rootMay, ", ")+" alone")
	}
	if own == "" && !withinAny(folder, mayUseSDK) {
		reasons = append(reasons, "only "+strings.Join(mayUseSDK, ", ")+" build on the SDK")
	}
	return reasons
}

func within(name, folder string) bool {
	return name == folder || strings.HasPrefix(name, folder+"/")
}

func withinAny(name string, folders []string) bool {
	for _, f := range folders {
		if within(name, f) {
			return true
		}
	}
	return false
}

func TestArrowsAreFound(t *testing.T) {
	for _, x := range []struct {
		folder, imported string
		test, bad        bool
	}{
		{"", module + "/server", false, true},
		{"", module + "/server", true, false},
		{"", module + "/internal/link", false, false},
		{"", module + "/internal/memnet", false, true},
		{"server", module, false, true},
		{"server/sub", module + "/internal/inbox", false, true},
		{"internal/bus", module, false, true},
		{"cmd/dian", module, false, false},
		{"internal/wire", "net/http", false, true},
		{"internal/wire", "network", false, false},
		{"cmd/dian", "github.com/nats-io/nats.go", false, true},
	} {
		if got := len(brokenBy(x.folder, x.imported, x.test)) > 0; got != x.bad {
			t.Errorf("%q imports %s (test %v): found %v, want %v", x.folder, x.imported, x.test, got, x.bad)
		}
	}
}
