//go:build !unix

package main

import "os"

// notifyReload does nothing: there is no such signal here, only a restart.
func notifyReload(chan<- os.Signal) {}
