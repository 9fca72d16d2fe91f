//go:build !linux

package server

import "net"

// setUserTimeout does nothing here: the heartbeat finds out who has vanished.
func setUserTimeout(net.Conn) {}
