package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMemoryIsWhatTheGroupsAllow(t *testing.T) {
	machine := memoryOf(t.TempDir())
	if machine <= 0 {
		t.Fatalf("the machine has %d bytes", machine)
	}
	for name, c := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"version 2":           {map[string]string{"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "1000000\n"}, 1000000},
		"a group above":       {map[string]string{"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/memory.max": "2000000\n"}, 2000000},
		"seen from inside":    {map[string]string{"proc/self/cgroup": "0::/../x\n", "sys/fs/cgroup/memory.max": "3000000\n"}, 3000000},
		"version 1":           {map[string]string{"proc/self/cgroup": "5:memory:/a\n4:cpu:/b\n", "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "4000000\n"}, 4000000},
		"more than there is":  {map[string]string{"proc/self/cgroup": "5:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, machine},
		"no limit":            {map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, machine},
		"cannot be made out ": {map[string]string{"proc/self/cgroup": "nonsense\n", "sys/fs/cgroup/memory.max": "12\n"}, machine},
	} {
		root := t.TempDir()
		for file, text := range c.files {
			file = filepath.Join(root, file)
			if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := memoryOf(root); got != c.want {
			t.Errorf("%s: %d bytes, want %d", name, got, c.want)
		}
	}
}
