package server

import (
	"net/http"
	"net/netip"
)

// clientAddr returns the address of the client that a request comes from: that of
// its connection, or what trusted proxies say of it. Limits, logs and whoever else
// wants to know ask nobody but this. It is not valid if the connection has no IP
// address.
//
// Only a proxy that Config.TrustedProxies lists is listened to. A client can send
// any header it likes, so if what is said cannot be read, or two headers say
// different things, the connection's address counts.
func (s *Server) clientAddr(r *http.Request) netip.Addr {
	if c := carriedFrom(r); c != nil {
		return c.client // another node has asked its own connection
	}
	at := addrOf(r.RemoteAddr)
	trusted := s.quota.policy.Load().trusted
	if len(trusted) == 0 || !within(trusted, at) {
		return at
	}
	// Both have the nearest hop at the right.
	xff, there := hopsOf(r.Header["X-Forwarded-For"], forwardedList)
	forwarded, thereToo := hopsOf(r.Header["Forwarded"], forwardedElements)
	switch {
	case !there && !thereToo:
		return at
	case !thereToo:
		return farthest(xff, at, trusted)
	case !there:
		return farthest(forwarded, at, trusted)
	}
	if a := farthest(xff, at, trusted); a == farthest(forwarded, at, trusted) {
		return a
	}
	return at
}

// farthest follows the hops from the connection outwards as long as the next one
// was told by somebody who is trusted. A hop that cannot be read is not valid, and
// nothing beyond it can be believed.
func farthest(hops []netip.Addr, at netip.Addr, trusted []netip.Prefix) netip.Addr {
	client := at
	for i := len(hops) - 1; i >= 0 && within(trusted, client); i-- {
		if client = hops[i]; !client.IsValid() {
			return at
		}
	}
	return client
}

// addrOf reads host:port. What is no IP address is not valid.
func addrOf(hostPort string) netip.Addr {
	at, err := netip.ParseAddrPort(hostPort)
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap().WithZone("")
}

// addressText is an address as the audit and the admin listener show it: "" if it
// is not valid.
func addressText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// countedAs returns the address under which a client is counted: of IPv6 the /64
// that one customer has. Those that have none count together.
func countedAs(a netip.Addr) netip.Addr {
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}
