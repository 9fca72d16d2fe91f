package test

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
)

// serveNames is a name server for one namespace: every name is at 127.0.0.1, unless
// there is a file DIAN_TEST_DOWN, and then it answers SERVFAIL. It tells each question.
func serveNames() int {
	conn, err := net.ListenPacket("udp", "127.0.0.1:53")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	tell(event{"event": "ready"})
	over := ending()
	var closed atomic.Bool
	go func() { <-over; closed.Store(true); conn.Close() }()
	packet := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFrom(packet)
		if err != nil {
			return 0
		}
		if n < 17 {
			continue
		}
		// The question ends four bytes behind the name.
		at := 12
		var labels []string
		for at < n && packet[at] != 0 && at+1+int(packet[at]) < n {
			labels = append(labels, string(packet[at+1:at+1+int(packet[at])]))
			at += 1 + int(packet[at])
		}
		if at+5 > n {
			continue
		}
		kind := binary.BigEndian.Uint16(packet[at+1:])
		tell(event{"event": "question", "name": strings.Join(labels, "."), "kind": kind})
		answer := append([]byte(nil), packet[:at+5]...)
		binary.BigEndian.PutUint16(answer[2:], 0x8180)
		binary.BigEndian.PutUint16(answer[4:], 1)
		clear(answer[6:12])
		if _, err := os.Stat(os.Getenv("DIAN_TEST_DOWN")); err == nil {
			answer[3] |= 2 // SERVFAIL
		} else if kind == 1 {
			answer[7] = 1
			answer = append(answer, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1)
		}
		conn.WriteTo(answer, from)
	}
}
