package server

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"
)

// proxyV2 makes a header of version 2.
func proxyV2(versionCommand, family byte, block []byte) string {
	head := append([]byte{}, proxySignature...)
	head = append(head, versionCommand, family)
	head = binary.BigEndian.AppendUint16(head, uint16(len(block)))
	return string(head) + string(block)
}

func v4Block(more string) []byte {
	return append([]byte{192, 0, 2, 1, 10, 0, 0, 1, 0x12, 0x34, 1, 187}, more...)
}

func v6Block() []byte {
	a, b := netip.MustParseAddr("2001:db8::1").As16(), netip.MustParseAddr("2001:db8::2").As16()
	return append(append(a[:], b[:]...), 0x12, 0x34, 1, 187)
}

func TestProxyHeader(t *testing.T) {
	for _, c := range []struct{ name, header, want string }{
		{"version 1", "PROXY TCP4 192.0.2.1 10.0.0.1 4660 443\r\n", "192.0.2.1:4660"},
		{"version 1, IPv6", "PROXY TCP6 2001:db8::1 2001:db8::2 4660 443\r\n", "[2001:db8::1]:4660"},
		{"version 1, longest", "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff1 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff1]:65535"},
		{"version 1, the proxy itself", "PROXY UNKNOWN\r\n", "invalid AddrPort"},
		{"version 1, unknown with addresses", "PROXY UNKNOWN 192.0.2.1 10.0.0.1 1 2\r\n", "invalid AddrPort"},
		{"version 2", proxyV2(0x21, 0x11, v4Block("")), "192.0.2.1:4660"},
		{"version 2, IPv6", proxyV2(0x21, 0x21, v6Block()), "[2001:db8::1]:4660"},
		{"version 2, more than addresses", proxyV2(0x21, 0x11, v4Block("\x04\x00\x02hi")), "192.0.2.1:4660"},
		{"version 2, the proxy itself", proxyV2(0x20, 0x11, v4Block("")), "invalid AddrPort"},
		{"version 2, unspecified", proxyV2(0x21, 0x00, []byte("anything")), "invalid AddrPort"},

		{"none", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "bad"},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03abcdef", "bad"},
		{"lower case", "proxy tcp4 192.0.2.1 10.0.0.1 1 2\r\n", "bad"},
		{"another family", "PROXY UDP4 192.0.2.1 10.0.0.1 1 2\r\n", "bad"},
		{"UNKNOWN with a tail", "PROXY UNKNOWNX\r\n", "bad"},
		{"family and address differ", "PROXY TCP4 2001:db8::1 10.0.0.1 1 2\r\n", "bad"},
		{"family and address differ, IPv6", "PROXY TCP6 192.0.2.1 2001:db8::1 1 2\r\n", "bad"},
		{"a zone", "PROXY TCP6 fe80::1%eth0 2001:db8::1 1 2\r\n", "bad"},
		{"a name", "PROXY TCP4 localhost 10.0.0.1 1 2\r\n", "bad"},
		{"a large port", "PROXY TCP4 192.0.2.1 10.0.0.1 65536 2\r\n", "bad"},
		{"a negative port", "PROXY TCP4 192.0.2.1 10.0.0.1 -1 2\r\n", "bad"},
		{"too few fields", "PROXY TCP4 192.0.2.1 10.0.0.1 1\r\n", "bad"},
		{"too many fields", "PROXY TCP4 192.0.2.1 10.0.0.1 1 2 3\r\n", "bad"},
		{"two spaces", "PROXY TCP4  192.0.2.1 10.0.0.1 1 2\r\n", "bad"},
		{"no end", "PROXY TCP4 192.0.2.1 10.0.0.1 1 2\n" + strings.Repeat("x", 200), "bad"},
		{"cut", "PROXY TCP4 192.0.2.1 10.0", "bad"},
		{"version 2, another version", proxyV2(0x31, 0x11, v4Block("")), "bad"},
		{"version 2, another command", proxyV2(0x22, 0x11, v4Block("")), "bad"},
		{"version 2, UDP", proxyV2(0x21, 0x12, v4Block("")), "bad"},
		{"version 2, a socket's name", proxyV2(0x21, 0x31, make([]byte, 216)), "bad"},
		{"version 2, too short", proxyV2(0x21, 0x11, v4Block("")[:11]), "bad"},
		{"version 2, too long", proxyV2(0x21, 0x11, make([]byte, proxyBlockMost+1)), "bad"},
		{"version 2, cut", proxyV2(0x21, 0x21, v6Block())[:40], "bad"},
		{"empty", "", "bad"},
	} {
		const behind = "GET / HTTP/1.1\r\n"
		r := strings.NewReader(c.header + behind)
		if c.name == "cut" || c.name == "version 2, cut" {
			r = strings.NewReader(c.header)
		}
		got, err := readProxyHeader(iotest.HalfReader(r))
		text := got.String()
		if err != nil {
			text = "bad"
		}
		if text != c.want {
			t.Errorf("%s: %s (%v), want %s", c.name, text, err, c.want)
		}
		if rest, _ := io.ReadAll(r); err == nil && string(rest) != behind {
			t.Errorf("%s: %q is left, want what is behind the header", c.name, rest)
		}
	}
}

func FuzzProxyHeader(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.1 10.0.0.1 4660 443\r\n"))
	f.Add([]byte("PROXY UNKNOWN\r\n"))
	f.Add([]byte(proxyV2(0x21, 0x11, v4Block(""))))
	f.Add([]byte(proxyV2(0x21, 0x21, v6Block())))
	f.Fuzz(func(t *testing.T, data []byte) {
		const behind = "behind"
		r := bytes.NewReader(append(append([]byte{}, data...), behind...))
		client, err := readProxyHeader(r)
		if err != nil {
			return
		}
		if client.IsValid() && (client.Addr().Is4In6() || client.Addr().Zone() != "" || net.TCPAddrFromAddrPort(client).IP == nil) {
			t.Fatalf("the client is %v", client)
		}
		// It has read a whole header, and no more than one may be long.
		read := len(data) + len(behind) - r.Len()
		if read > 16+proxyBlockMost {
			t.Fatalf("%d bytes were read", read)
		}
		head := append(append([]byte{}, data...), behind...)[:read]
		again, err := readProxyHeader(bytes.NewReader(head))
		if err != nil || again != client {
			t.Fatalf("the header alone is %v, %v", again, err)
		}
	})
}
