package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
)

// machine says what this is measured on.
func machine() string {
	model := runtime.GOARCH
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	var memory syscall.Sysinfo_t
	_ = syscall.Sysinfo(&memory) // 0 says that it is not known
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return fmt.Sprintf("%d × %s, %d GiB, %s %s", runtime.NumCPU(), model,
		(uint64(memory.Totalram)*uint64(memory.Unit)+1<<29)>>30, runtime.GOOS, strings.TrimSpace(string(release)))
}

// commit is what of Dian is measured.
func commit() string {
	out, err := exec.Command("git", "-C", "..", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// versions are those of all that Dian is compared with.
func versions() []string {
	list := []string{runtime.Version()}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if slices.Contains([]string{
				"github.com/nats-io/nats-server/v2", "github.com/nats-io/nats.go", "github.com/pion/webrtc/v4",
				"github.com/eclipse/paho.mqtt.golang",
			}, m.Path) {
				list = append(list, m.Path+" "+m.Version)
			}
		}
	}
	if out, err := exec.Command("go", "list", "-m", "github.com/schollz/croc/v10").Output(); err == nil {
		list = append(list, strings.TrimSpace(string(out)))
	}
	for _, command := range [][]string{{"ssh", "-V"}, {"mosquitto", "-h"}} {
		path, err := findProgram(command[0])
		if err != nil {
			continue // its rows say that it is not installed
		}
		out, _ := exec.Command(path, command[1:]...).CombinedOutput() // mosquitto's help ends with a status
		first, _, _ := strings.Cut(string(out), "\n")
		list = append(list, strings.TrimSpace(first))
	}
	return list
}

// findProgram looks into the folders of system programs too.
func findProgram(name string) (string, error) {
	for _, candidate := range []string{name, "/usr/sbin/" + name, "/usr/local/sbin/" + name} {
		if path, err := exec.LookPath(candidate); err == nil {
			return path, nil
		}
	}
	return "", missing(name + " is not installed")
}
