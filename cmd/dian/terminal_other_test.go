//go:build !linux

package main

import "github.com/rogpeppe/go-internal/testscript"

// cmdTerminal is for scripts that begin with [!linux] stop.
func cmdTerminal(ts *testscript.TestScript, _ bool, _ []string) {
	ts.Fatalf("no terminal on this system")
}
