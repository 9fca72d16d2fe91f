package inbox

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// A folder that was closed can be opened at once, although other programs are being
// started at that moment, each of which has all files of this process open for a while.
func TestClosedFolderIsFreeWhileProgramsStart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "in")
	done := make(chan struct{})
	starting := make(chan struct{})
	for range 4 {
		go func() {
			defer func() { starting <- struct{}{} }()
			for {
				select {
				case <-done:
					return
				default:
					_ = exec.Command("true").Run()
				}
			}
		}()
	}
	for i := range 150 {
		b, err := Open(dir, Options{})
		if err != nil {
			t.Errorf("opened %d times: %v", i, err)
			break
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	close(done)
	for range 4 {
		<-starting
	}
}
