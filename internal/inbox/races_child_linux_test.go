package inbox

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// child runs the swapping in another process, until stop.
func (a *arena) child(t *testing.T, what string) (stop func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestRaceChild$", "-test.timeout=60m")
	cmd.Env = append(os.Environ(), "DIAN_RACE_CHILD="+what, "DIAN_RACE_TOP="+a.top)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); line != "ready\n" {
		t.Errorf("the other process says %q, %v", line, err)
	}
	return func() {
		in.Close()
		rest, _ := io.ReadAll(lines)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the other process: %v\n%s", err, rest)
		}
	}
}

// TestRaceChild is what the other process of the race tests runs; by itself it has
// nothing to do.
func TestRaceChild(t *testing.T) {
	top, what := os.Getenv("DIAN_RACE_TOP"), os.Getenv("DIAN_RACE_CHILD")
	if top == "" {
		return
	}
	a := &arena{top: top, swaps: shared(t, filepath.Join(top, "swaps"))}
	if what == "save" {
		if err := saveChild(t, a); err != nil {
			t.Error(err)
		}
		return
	}
	ended := make(chan struct{})
	go func() { defer close(ended); io.Copy(io.Discard, os.Stdin) }()
	random := rand.New(rand.NewPCG(11, 12))
	swap := map[string]func() error{
		"names": func() error { return a.disturb(a.at("parent", "inbox"), ours, random) },
		"temps": func() error { return a.disturb(a.at("dest"), temporary, random) },
	}[what]
	if what == "folder" {
		inbox := a.swappedPath(t, a.at("parent"), "inbox", func(at string) error { return os.Symlink(a.at("victim", "inbox"), at) })
		swap = func() error { return inbox(random) }
	}
	fmt.Println("ready")
	for {
		select {
		case <-ended:
			return
		default:
		}
		if swap() == nil {
			a.swaps.Add(1)
		}
	}
}
