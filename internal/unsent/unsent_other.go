//go:build !linux

package unsent

import "net"

// Bound is for Linux.
func Bound(net.Conn) {}
