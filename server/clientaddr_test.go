package server

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
)

// addrServer is no more of a Server than clientAddr needs.
func addrServer(t testing.TB, trusted ...string) *Server {
	cfg := relayConfig()
	cfg.TrustedProxies = trusted
	if err := cfg.Check(); err != nil {
		t.Fatal(err)
	}
	s := &Server{cfg: cfg}
	s.quota.init(&cfg)
	return s
}

func TestClientAddressIsWhatTrustedProxiesSay(t *testing.T) {
	s := addrServer(t, "10.0.0.0/8", "2001:db8:aa::/48")
	const proxy, stranger = "10.0.0.1:1000", "198.51.100.7:1000"
	header := func(pairs ...string) http.Header {
		h := http.Header{}
		for i := 0; i < len(pairs); i += 2 {
			h.Add(pairs[i], pairs[i+1])
		}
		return h
	}
	xff := func(values ...string) http.Header {
		h := http.Header{}
		for _, v := range values {
			h.Add("X-Forwarded-For", v)
		}
		return h
	}
	forwarded := func(values ...string) http.Header {
		h := http.Header{}
		for _, v := range values {
			h.Add("Forwarded", v)
		}
		return h
	}
	for _, c := range []struct {
		name, from string
		header     http.Header
		want       string
	}{
		{"no header", stranger, nil, "198.51.100.7"},
		{"no header of a proxy", proxy, nil, "10.0.0.1"},
		{"forged by a stranger", stranger, xff("192.0.2.1"), "198.51.100.7"},
		{"forged by a stranger, RFC 7239", stranger, forwarded("for=192.0.2.1"), "198.51.100.7"},
		{"forged with a proxy's address", stranger, xff("192.0.2.1, 10.0.0.1"), "198.51.100.7"},
		{"one proxy", proxy, xff("192.0.2.1"), "192.0.2.1"},
		{"what the client sent itself", proxy, xff("203.0.113.9, 192.0.2.1"), "192.0.2.1"},
		{"two proxies", proxy, xff("203.0.113.9, 192.0.2.1, 10.9.9.9"), "192.0.2.1"},
		{"two lines", proxy, xff("203.0.113.9", "192.0.2.1"), "192.0.2.1"},
		{"two lines, the nearer a proxy", proxy, xff("192.0.2.1", "10.2.2.2"), "192.0.2.1"},
		{"all are proxies", proxy, xff("10.1.1.1, 10.2.2.2"), "10.1.1.1"},
		{"rubbish behind the client", proxy, xff("<script>, 192.0.2.1"), "192.0.2.1"},
		{"rubbish behind a proxy", proxy, xff("192.0.2.1, rubbish, 10.2.2.2"), "10.0.0.1"},
		{"rubbish", proxy, xff("rubbish"), "10.0.0.1"},
		{"empty", proxy, xff(""), "10.0.0.1"},
		{"an empty hop", proxy, xff("192.0.2.1,"), "10.0.0.1"},
		{"with a port", proxy, xff("192.0.2.1:4711"), "192.0.2.1"},
		{"IPv6", proxy, xff("2001:db8:1:2:3::4"), "2001:db8:1:2:3::4"},
		{"IPv6 with a port", proxy, xff("[2001:db8::4]:4711"), "2001:db8::4"},
		{"IPv6 in brackets", proxy, xff("[2001:db8::4]"), "2001:db8::4"},
		{"IPv4 in brackets", proxy, xff("[192.0.2.1]"), "10.0.0.1"},
		{"IPv4 in IPv6", proxy, xff("::ffff:192.0.2.1"), "192.0.2.1"},
		{"a zone", proxy, xff("fe80::1%eth0"), "10.0.0.1"},
		{"a name", proxy, xff("localhost"), "10.0.0.1"},
		{"IPv4 proxy over IPv6", "[::ffff:10.0.0.1]:1", xff("192.0.2.1"), "192.0.2.1"},
		{"IPv6 proxy", "[2001:db8:aa::1]:1", xff("192.0.2.1"), "192.0.2.1"},
		{"no IP address", "@", xff("192.0.2.1"), "invalid IP"},
		{"hops to the limit", proxy, xff("192.0.2.1" + strings.Repeat(",10.0.0.2", 31)), "192.0.2.1"},
		{"more hops than are looked at", proxy, xff("192.0.2.1" + strings.Repeat(",10.0.0.2", 32)), "10.0.0.1"},
		{"many hops of the client's", proxy, xff(strings.Repeat("203.0.113.9,", 500) + "192.0.2.1"), "192.0.2.1"},
		{"too long", proxy, xff(strings.Repeat("203.0.113.9,", 1000) + "192.0.2.1"), "10.0.0.1"},

		{"RFC 7239", proxy, forwarded("for=192.0.2.1"), "192.0.2.1"},
		{"RFC 7239 with all there is", proxy, forwarded(`by=10.0.0.1;FOR="192.0.2.1:80";proto=https;host=a.example`), "192.0.2.1"},
		{"RFC 7239, two elements", proxy, forwarded(`for=203.0.113.9, for="[2001:db8::4]:80"`), "2001:db8::4"},
		{"RFC 7239, two lines", proxy, forwarded("for=192.0.2.1", "for=10.3.3.3"), "192.0.2.1"},
		{"RFC 7239, a quoted comma", proxy, forwarded(`for=203.0.113.9;host="a,for=192.0.2.1"`), "203.0.113.9"},
		{"RFC 7239, a quoted quote", proxy, forwarded(`host="\",for=192.0.2.1";for=203.0.113.9`), "203.0.113.9"},
		{"RFC 7239, quoted pairs", proxy, forwarded(`for="192.0.2\.1"`), "192.0.2.1"},
		{"RFC 7239, hidden", proxy, forwarded("for=_hidden"), "10.0.0.1"},
		{"RFC 7239, unknown", proxy, forwarded("for=unknown"), "10.0.0.1"},
		{"RFC 7239, hidden behind the client", proxy, forwarded("for=_hidden, for=192.0.2.1"), "192.0.2.1"},
		{"RFC 7239, no for", proxy, forwarded("by=10.0.0.1"), "10.0.0.1"},
		{"RFC 7239, for twice", proxy, forwarded("for=192.0.2.1;for=192.0.2.2"), "10.0.0.1"},
		{"RFC 7239, open quote", proxy, forwarded(`for="192.0.2.1`), "10.0.0.1"},
		{"RFC 7239, ends in an escape", proxy, forwarded(`for="192.0.2.1\`), "10.0.0.1"},
		{"RFC 7239, text behind a quote", proxy, forwarded(`for="192.0.2.1"x`), "10.0.0.1"},
		{"RFC 7239, no value", proxy, forwarded("for="), "10.0.0.1"},
		{"RFC 7239, empty", proxy, forwarded(""), "10.0.0.1"},
		{"RFC 7239, one line malformed", proxy, forwarded("for=192.0.2.1", "for", "for=10.3.3.3"), "10.0.0.1"},
		{"RFC 7239, a malformed line behind the client", proxy, forwarded("for", "for=192.0.2.1"), "192.0.2.1"},
		{"RFC 7239, bare IPv6", proxy, forwarded(`for=2001:db8::4`), "10.0.0.1"}, // it has to be quoted

		{"both say the same", proxy, header("X-Forwarded-For", "192.0.2.1", "Forwarded", "for=192.0.2.1"), "192.0.2.1"},
		{"both contradict", proxy, header("X-Forwarded-For", "192.0.2.1", "Forwarded", "for=192.0.2.2"), "10.0.0.1"},
		{"one of both is rubbish", proxy, header("X-Forwarded-For", "192.0.2.1", "Forwarded", "rubbish"), "10.0.0.1"},
		{"other headers", proxy, header("X-Real-Ip", "192.0.2.1", "X-Client-Ip", "192.0.2.1"), "10.0.0.1"},
	} {
		r := &http.Request{RemoteAddr: c.from, Header: c.header}
		if got := s.clientAddr(r); got.String() != c.want {
			t.Errorf("%s: %v, want %s", c.name, got, c.want)
		}
	}
	r := &http.Request{RemoteAddr: proxy, Header: xff("192.0.2.1")}
	if got := addrServer(t).clientAddr(r); got.String() != "10.0.0.1" {
		t.Errorf("without trusted proxies: %v", got)
	}
}

func TestAddressesCountByTheirOwner(t *testing.T) {
	for a, b := range map[string]string{
		"192.0.2.1:1":             "[::ffff:192.0.2.1]:2",
		"[2001:db8:1:2::1]:1":     "[2001:db8:1:2:ffff::9]:2",
		"[fe80::1%eth0]:1":        "[fe80::1%eth1]:1",
		"@":                       "",
		"[2001:db8:1:2::1]:65535": "[2001:db8:1:2::]:1",
	} {
		if countedAs(addrOf(a)) != countedAs(addrOf(b)) {
			t.Errorf("%q and %q are two", a, b)
		}
	}
	for a, b := range map[string]string{"192.0.2.1:1": "192.0.2.2:1", "[2001:db8:1:2::1]:1": "[2001:db8:1:3::1]:1"} {
		if countedAs(addrOf(a)) == countedAs(addrOf(b)) {
			t.Errorf("%q and %q are one", a, b)
		}
	}
}

func FuzzForwarded(f *testing.F) {
	s := addrServer(f, "10.0.0.0/8")
	f.Add("198.51.100.7, 192.0.2.1", "")
	f.Add("", `for="[2001:db8::1]:80";proto=https, for=10.1.1.1`)
	f.Add("192.0.2.1", "for=192.0.2.1")
	f.Add(",,,[::1]:80", `for="\"`)
	f.Fuzz(func(t *testing.T, xff, forwarded string) {
		h := http.Header{}
		if xff != "" {
			h["X-Forwarded-For"] = strings.Split(xff, "\n")
		}
		if forwarded != "" {
			h["Forwarded"] = strings.Split(forwarded, "\n")
		}
		// A stranger is not listened to, whatever it says.
		if got := s.clientAddr(&http.Request{RemoteAddr: "198.51.100.7:1", Header: h}); got.String() != "198.51.100.7" {
			t.Fatalf("a stranger is %v", got)
		}
		got := s.clientAddr(&http.Request{RemoteAddr: "10.0.0.1:1", Header: h})
		if !got.IsValid() || got.Zone() != "" || got.Is4In6() {
			t.Fatalf("the client is %v", got)
		}
		// What the client writes in front of a proxy's own word does not count.
		h = http.Header{"X-Forwarded-For": append(h["X-Forwarded-For"], "192.0.2.1")}
		if got := s.clientAddr(&http.Request{RemoteAddr: "10.0.0.1:1", Header: h}); got != netip.MustParseAddr("192.0.2.1") {
			t.Fatalf("behind X-Forwarded-For %q the client is %v", xff, got)
		}
		h = http.Header{"Forwarded": append(strings.Split(forwarded, "\n"), "for=192.0.2.1")}
		if got := s.clientAddr(&http.Request{RemoteAddr: "10.0.0.1:1", Header: h}); got != netip.MustParseAddr("192.0.2.1") {
			t.Fatalf("behind Forwarded %q the client is %v", forwarded, got)
		}
	})
}
