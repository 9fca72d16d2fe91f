package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func wanted(path string) record {
	return record{Server: "http://relay", App: "demo", User: "alice", Target: "bob", Path: path, Source: source{Size: 5, Modified: 1, Inode: 2}}
}

func mustOpen(t *testing.T, j *journal, want record, now time.Time) *entry {
	t.Helper()
	e, err := j.open(want, now)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestUnfinishedSendGoesOnUnderItsID(t *testing.T) {
	j, now := &journal{t.TempDir()}, time.Now()
	first := mustOpen(t, j, wanted("/a"), now)
	id, resumed := first.id()
	if resumed {
		t.Error("a first send goes on with nothing")
	}
	if _, err := j.open(wanted("/a"), now); !errors.Is(err, errSending) {
		t.Errorf("a second process at the same time gets %v, want errSending", err)
	}
	first.close() // as the kernel does for a killed process

	for name, change := range map[string]func(*record){
		"target": func(r *record) { r.Target = "carol" }, "user": func(r *record) { r.User = "eve" },
		"server": func(r *record) { r.Server = "http://other" }, "path": func(r *record) { r.Path = "/b" },
	} {
		other := wanted("/a")
		change(&other)
		e := mustOpen(t, j, other, now)
		if got, resumed := e.id(); resumed || got == id {
			t.Errorf("with another %s it goes on with the same id", name)
		}
		e.close()
	}
	again := mustOpen(t, j, wanted("/a"), now.Add(23*time.Hour))
	if got, resumed := again.id(); got != id || !resumed {
		t.Errorf("id %s, resumed %v; want %s, true", got, resumed, id)
	}
	again.close()
	back := mustOpen(t, j, wanted("/a"), now.Add(22*time.Hour)) // the clock was set back (case 94)
	if got, resumed := back.id(); got != id || !resumed {
		t.Errorf("an hour earlier: id %s, resumed %v; want %s, true", got, resumed, id)
	}
	back.close()
	if e := mustOpen(t, j, wanted("/a"), now.Add(48*time.Hour)); e.resumed {
		t.Error("it goes on after more than a day")
	}
}

func TestChangedFileIsSentAnew(t *testing.T) {
	for name, change := range map[string]func(*source){
		"size": func(s *source) { s.Size++ }, "mtime": func(s *source) { s.Modified++ },
		"inode": func(s *source) { s.Inode++ }, "ctime": func(s *source) { s.Changed++ }, "device": func(s *source) { s.Device++ },
	} {
		j, now := &journal{t.TempDir()}, time.Now()
		mustOpen(t, j, wanted("/a"), now).close()
		changed := wanted("/a")
		change(&changed.Source)
		if e := mustOpen(t, j, changed, now); e.resumed {
			t.Errorf("another %s: the send goes on", name)
		}
	}
}

func TestFinishedSendLeavesNothing(t *testing.T) {
	j := &journal{t.TempDir()}
	e := mustOpen(t, j, wanted("/a"), time.Now())
	e.forget()
	e.close()
	if left, _ := os.ReadDir(j.dir); len(left) != 0 {
		t.Errorf("%v is left", left)
	}
}

func TestDamagedJournalIsNoObstacle(t *testing.T) {
	for name, content := range map[string]string{
		"empty": "", "torn": `{"sendId":"0199`, "no id": `{}`, "hostile id": `{"sendId":"../../x"}`,
	} {
		j, now := &journal{t.TempDir()}, time.Now()
		e := mustOpen(t, j, wanted("/a"), now)
		e.close()
		if err := os.WriteFile(e.path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if e := mustOpen(t, j, wanted("/a"), now); e.resumed {
			t.Errorf("%s: the send goes on", name)
		}
	}
}

func TestCleanRemovesOnlyItsOwnOldFiles(t *testing.T) {
	j, now := &journal{t.TempDir()}, time.Now()
	old, held := mustOpen(t, j, wanted("/old"), now), mustOpen(t, j, wanted("/held"), now)
	old.close()
	stranger := filepath.Join(j.dir, "notes.json")
	if err := os.WriteFile(stranger, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	before := now.Add(-25 * time.Hour)
	for _, path := range []string{old.path, held.path, stranger} {
		if err := os.Chtimes(path, before, before); err != nil {
			t.Fatal(err)
		}
	}
	j.clean(now)
	for path, want := range map[string]bool{old.path: false, held.path: true, stranger: true} {
		if _, err := os.Lstat(path); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", path, err == nil, want)
		}
	}
}
