//go:build !linux

package server

import "net"

// boundUnsent is for Linux.
func boundUnsent(*net.TCPConn) {}
