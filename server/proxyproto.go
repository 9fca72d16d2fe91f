package server

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The PROXY protocol, versions 1 and 2 (haproxy.org, proxy-protocol.txt): a proxy
// that passes bytes on says in front of them whose they are.
//
// It is read here and not by a library because nothing may be read beyond it: lanes
// are spliced from the connection itself. A connection from a trusted proxy has to
// begin with it and no other one may, as the specification asks: nothing is guessed.

const (
	proxyHeaderTime = 5 * time.Second
	proxyLineMost   = 107 // bytes of version 1
	proxyBlockMost  = 536 // bytes of version 2 behind its head: addresses and what else a proxy tells
)

// proxySignature begins version 2.
var proxySignature = []byte("\r\n\r\n\x00\r\nQUIT\n")

var errProxyHeader = errors.New("no good PROXY header from a trusted proxy")

// A proxyHeader is what a connection's header has said.
type proxyHeader struct {
	once   sync.Once
	client net.Addr // nil: the connection is the proxy's own
	err    error
}

// meet reads the header of a connection that has to have one, once.
func (c *doorConn) meet() error {
	if !c.proxied || !c.door.srv.cfg.ProxyProtocol {
		return nil
	}
	c.proxy.once.Do(func() {
		_ = c.Conn.SetReadDeadline(time.Now().Add(proxyHeaderTime))
		client, err := readProxyHeader(c.Conn)
		if err != nil {
			// As an error of the network, because net/http answers others.
			c.proxy.err = &net.OpError{Op: "read", Net: "tcp", Err: fmt.Errorf("%w: %w", errProxyHeader, err)}
			return
		}
		if client.IsValid() {
			c.proxy.client = net.TCPAddrFromAddrPort(client)
		}
		_ = c.Conn.SetReadDeadline(time.Time{})
	})
	return c.proxy.err
}

// readProxyHeader reads a header and not a byte more. A client that is not valid
// means that the header names none: the proxy speaks for itself.
func readProxyHeader(r io.Reader) (netip.AddrPort, error) {
	var head [16]byte // no header is shorter than 15 bytes, and no version 2 than 16
	if _, err := io.ReadFull(r, head[:12]); err != nil {
		return netip.AddrPort{}, err
	}
	if !bytes.Equal(head[:12], proxySignature) {
		return readProxyLine(r, string(head[:12]))
	}
	if _, err := io.ReadFull(r, head[12:]); err != nil {
		return netip.AddrPort{}, err
	}
	version, command, family := head[12]>>4, head[12]&15, head[13]
	size := int(binary.BigEndian.Uint16(head[14:]))
	if version != 2 || command > 1 || size > proxyBlockMost {
		return netip.AddrPort{}, errors.New("version 2 is malformed")
	}
	block := make([]byte, size)
	if _, err := io.ReadFull(r, block); err != nil {
		return netip.AddrPort{}, err
	}
	var length int
	switch {
	case command == 0, family == 0: // LOCAL; UNSPEC
		return netip.AddrPort{}, nil
	case family == 0x11: // TCP over IPv4
		length = 4
	case family == 0x21: // TCP over IPv6
		length = 16
	default:
		return netip.AddrPort{}, errors.New("the client is not connected by TCP")
	}
	if size < 2*length+4 {
		return netip.AddrPort{}, errors.New("version 2 is too short for its addresses")
	}
	a, _ := netip.AddrFromSlice(block[:length])
	return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(block[2*length:])), nil
}

// readProxyLine reads the rest of a header of version 1, byte by byte because it
// does not say how long it is.
func readProxyLine(r io.Reader, line string) (netip.AddrPort, error) {
	bad := errors.New("neither version 1 nor 2")
	if !strings.HasPrefix(line, "PROXY ") {
		return netip.AddrPort{}, bad
	}
	text := append(make([]byte, 0, proxyLineMost), line...)
	for !bytes.HasSuffix(text, []byte("\r\n")) {
		if len(text) == proxyLineMost {
			return netip.AddrPort{}, bad
		}
		text = append(text, 0)
		if _, err := io.ReadFull(r, text[len(text)-1:]); err != nil {
			return netip.AddrPort{}, err
		}
	}
	line = string(text[:len(text)-2])
	if line == "PROXY UNKNOWN" || strings.HasPrefix(line, "PROXY UNKNOWN ") {
		return netip.AddrPort{}, nil
	}
	fields := strings.Split(line, " ")
	if len(fields) != 6 || fields[1] != "TCP4" && fields[1] != "TCP6" {
		return netip.AddrPort{}, bad
	}
	client, err := netip.ParseAddr(fields[2])
	proxy, err2 := netip.ParseAddr(fields[3])
	port, err3 := parsePort(fields[4])
	_, err4 := parsePort(fields[5])
	is4 := fields[1] == "TCP4"
	if errors.Join(err, err2, err3, err4) != nil || client.Is4() != is4 || proxy.Is4() != is4 || client.Zone()+proxy.Zone() != "" {
		return netip.AddrPort{}, bad
	}
	return netip.AddrPortFrom(client.Unmap(), port), nil
}

func parsePort(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	return uint16(n), err
}
