package main

import (
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// memoryOf returns how many bytes of memory this process may use, as its control
// groups and the machine say; 0 if that is not known. root is "/".
func memoryOf(root string) int64 {
	var least int64
	note := func(n int64) {
		if n > 0 && (least == 0 || n < least) {
			least = n
		}
	}
	var machine unix.Sysinfo_t
	if unix.Sysinfo(&machine) == nil {
		note(int64(uint64(machine.Totalram) * uint64(machine.Unit)))
	}
	groups, _ := os.ReadFile(path.Join(root, "proc/self/cgroup"))
	for line := range strings.Lines(string(groups)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		top, file := "sys/fs/cgroup", "memory.max"
		switch {
		case parts[1] == "memory":
			top, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		case parts[1] != "":
			continue
		}
		// Every group above bounds it as well. In a container the path may be one
		// outside of it; then only the top is there.
		for group := path.Clean("/" + parts[2]); ; group = path.Dir(group) {
			text, _ := os.ReadFile(path.Join(root, top, group, file))
			n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64) // "max" is none
			if err == nil {
				note(n)
			}
			if group == "/" {
				break
			}
		}
	}
	return least
}
