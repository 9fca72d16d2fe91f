package server

import (
	"net/http"
	"net/netip"
)

// peerAddr returns the address that a request came from, as the audit and the
// admin listener show it: without its port, and "" if it is no IP address.
func peerAddr(r *http.Request) string {
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return ""
	}
	return at.Addr().Unmap().WithZone("").String()
}
