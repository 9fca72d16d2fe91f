package main

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// idle measures what a session that does nothing takes of a server: its resident size
// without sessions, with half of them and with all. The clients are raw connections in
// another process; an SDK would be too large to have 10,000 of.
func (b *bench) idle() {
	half, all := b.sessions/2, b.sessions
	name := func(n int) string { return fmt.Sprintf("KiB each at %s", count(n)) }
	t := &table{
		Name: "idle", Title: "Idle sessions over TLS", Cold: true,
		Columns: []column{
			{Name: name(half)}, {Name: name(all), Ratio: "÷ bare accept loop"},
			{Name: "KiB each, of the second half"}, {Name: "MiB at 100,000, by the slope"},
		},
		Notes: []string{
			"The server's resident size (VmRSS), less that without sessions, 15 s later at the earliest and when it has stopped changing. A server is started anew for each round; what the kernel holds for a connection is not in it. A Go server's size includes garbage that it has not given back.",
			"**Bare**: a Go TLS server that accepts, completes the handshake and waits for a byte with a goroutine for each connection.",
			"**Dian**: a session with role `listen`. **NATS**: CONNECT and one subscription. **mosquitto**: CONNECT and one subscription with QoS 1.",
		},
	}
	one := func(name, limit, load string, start func() (server *process, at string, err error)) contestant {
		return contestant{name, limit, func() (func() (figuresOf, error), error) {
			if name == "mosquitto" {
				if _, err := findProgram(name); err != nil {
					return nil, err
				}
			}
			return func() (figuresOf, error) {
				server, at, err := start()
				if err != nil {
					return nil, err
				}
				defer server.kill()
				return b.idleRound(t, server, load, at, half, all)
			}, nil
		}}
	}
	b.compare(t, []contestant{
		one("bare accept loop", "", "load-bare", func() (*process, string, error) {
			addr, err := freeAddress()
			if err != nil {
				return nil, "", err
			}
			p, err := b.startPart("bare-accept", addr, b.dir)
			return p, "https://" + addr, err
		}),
		one("Dian", "bare accept loop", "load-idle", func() (*process, string, error) {
			r, err := b.startRelay(true)
			if err != nil {
				return nil, "", err
			}
			return r.process, r.url, nil
		}),
		one("NATS", "bare accept loop", "load-nats", func() (*process, string, error) {
			n, err := b.startNATS(true)
			if err != nil {
				return nil, "", err
			}
			return n.process, strings.Replace(n.url, "tls:", "https:", 1), nil
		}),
		one("mosquitto", "bare accept loop", "load-mqtt", func() (*process, string, error) {
			m, err := b.startMosquitto(true)
			if err != nil {
				return nil, "", err
			}
			return m.process, "https://" + m.addr, nil
		}),
	})
}

func (b *bench) idleRound(t *table, server *process, load, at string, half, all int) (figuresOf, error) {
	empty, err := server.settled()
	if err != nil {
		return nil, err
	}
	var kib [2]float64
	for i, n := range []int{half, all - half} {
		l, err := b.startPart(load, at, b.dir, strconv.Itoa(n), strconv.Itoa(i*half))
		if err != nil {
			return nil, err
		}
		defer l.kill()
		time.Sleep(settleTime)
		size, err := server.settled()
		if err != nil {
			return nil, err
		}
		kib[i] = float64(size-empty) / 1024
	}
	slope := (kib[1] - kib[0]) / float64(all-half)
	return figuresOf{
		t.Columns[0].Name: kib[0] / float64(half), t.Columns[1].Name: kib[1] / float64(all),
		t.Columns[2].Name: slope, t.Columns[3].Name: (float64(empty)/1024 + kib[1] + slope*float64(100_000-all)) / 1024,
	}, nil
}

// settleTime is how long a server has, after the last login, to give memory back that
// the logins have left.
const settleTime = 15 * time.Second

// settled is the resident size when it has not changed by a hundredth for three
// seconds, or after 30.
func (p *process) settled() (int64, error) {
	last, same := int64(0), 0
	for range 30 {
		size, err := p.resident()
		if err != nil {
			return 0, err
		}
		if same++; size-last > last/100 || last-size > last/100 {
			last, same = size, 0
		}
		if same == 3 {
			break
		}
		time.Sleep(time.Second)
	}
	return p.resident()
}

// bareAccept accepts, completes handshakes and waits.
func bareAccept(args []string) error { // ADDRESS FOLDER
	ln, err := bareListen(args)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			_ = handshake(conn) // until it ends
			conn.Close()
		}()
	}
}

// An opener makes a raw connection number i an idle session, and keeps it.
type opener func(l *loader, i int) error

// loadRaw keeps N sessions, numbered from FIRST, that open makes.
func loadRaw(open opener) func(args []string) error { // URL FOLDER N FIRST
	return func(args []string) error {
		l, err := newLoader(args)
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		first, err := strconv.Atoi(args[3])
		if err != nil {
			return err
		}
		if err := many(n, 64, func(i int) error { return open(l, first+i) }); err != nil {
			return err
		}
		fmt.Println("ready")
		select {}
	}
}

func openDian(l *loader, i int) error {
	s, err := l.login(fmt.Sprintf("idle-%d", i), fmt.Sprintf("idle-place-%05d", i))
	if err == nil {
		go s.live(nil)
	}
	return err
}

func openBare(l *loader, _ int) error {
	conn, err := l.dial()
	if err == nil {
		kept.add(conn)
	}
	return err
}

// openNATS speaks NATS: TLS begins behind the server's first line.
func openNATS(l *loader, i int) error {
	conn, err := l.tcp()
	if err != nil {
		return err
	}
	if err := readLine(conn, "INFO "); err != nil {
		return err
	}
	secure := tls.Client(conn, l.tls)
	if _, err := fmt.Fprintf(secure, "CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"bench\",\"version\":\"1\",\"protocol\":1}\r\nSUB idle.%d 1\r\nPING\r\n", i); err != nil {
		return err
	}
	in := bufio.NewReaderSize(secure, 1<<10)
	for {
		line, err := in.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
		if strings.HasPrefix(string(line), "-ERR") {
			return fmt.Errorf("NATS: %s", line)
		}
		if strings.HasPrefix(string(line), "PONG") {
			break
		}
	}
	go func() { // NATS asks every two minutes
		for {
			line, err := in.ReadSlice('\n')
			if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
				return
			}
			if strings.HasPrefix(string(line), "PING") {
				if _, err := secure.Write([]byte("PONG\r\n")); err != nil {
					return
				}
			}
		}
	}()
	return nil
}

// readLine reads up to a line's end, byte by byte: what follows is another's.
func readLine(conn net.Conn, prefix string) error {
	var line []byte
	for b := make([]byte, 1); b[0] != '\n'; line = append(line, b[0]) {
		if _, err := conn.Read(b); err != nil {
			return err
		}
	}
	if !strings.HasPrefix(string(line), prefix) {
		return fmt.Errorf("got %q, want %s", line, prefix)
	}
	return nil
}

// openMQTT speaks MQTT 3.1.1: CONNECT without keep-alive, and SUBSCRIBE with QoS 1.
func openMQTT(l *loader, i int) error {
	conn, err := l.dial()
	if err != nil {
		return err
	}
	name := fmt.Sprintf("idle-%06d", i)
	text := append(binary.BigEndian.AppendUint16(nil, uint16(len(name))), name...)
	connect := append([]byte("\x00\x04MQTT\x04\x02\x00\x00"), text...)
	subscribe := append(append([]byte{0, 1}, text...), 1)
	answer := make([]byte, 5)
	for _, p := range []struct {
		kind   byte
		body   []byte
		answer int
		want   byte
	}{{0x10, connect, 4, 0x20}, {0x82, subscribe, 5, 0x90}} {
		if _, err := conn.Write(append([]byte{p.kind, byte(len(p.body))}, p.body...)); err != nil {
			return err
		}
		if _, err := io.ReadFull(conn, answer[:p.answer]); err != nil {
			return err
		}
		if answer[0] != p.want {
			return fmt.Errorf("MQTT: got a packet of kind %#x, want %#x", answer[0], p.want)
		}
	}
	kept.add(conn)
	return nil
}
