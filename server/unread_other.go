//go:build !linux

package server

import "net"

// boundUnread and freeUnread are for Linux.
func boundUnread(*net.TCPConn) {}
func freeUnread(*net.TCPConn)  {}
