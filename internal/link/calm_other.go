//go:build !linux

package link

import "net"

// A calm tells whether a small write on a connection is sure not to wait. Here it
// cannot be known.
type calm struct{}

func calmOf(net.Conn) *calm { return nil }

func (*calm) room(int) int { return 0 }
