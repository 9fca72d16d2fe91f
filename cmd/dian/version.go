package main

import (
	"runtime"
	"runtime/debug"
	"strings"
)

// versionCmd is `dian version`.
type versionCmd struct{}

// Run prints the version, what it was built from and with.
func (versionCmd) Run(con *console) error {
	con.say("dian %s %s %s/%s", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return nil
}

// version returns the module's version and, as far as the build knows them, the
// commit and its time.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "(unknown)"
	}
	settings := make(map[string]string)
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	parts := []string{info.Main.Version}
	if parts[0] == "" {
		parts[0] = "(devel)"
	}
	if revision := settings["vcs.revision"]; revision != "" {
		if revision = revision[:min(12, len(revision))]; settings["vcs.modified"] == "true" {
			revision += "+changes"
		}
		parts = append(parts, revision)
	}
	if at := settings["vcs.time"]; at != "" {
		parts = append(parts, at)
	}
	return strings.Join(parts, " ")
}
