//go:build !linux

package test

func serveNames() int { return 2 }
