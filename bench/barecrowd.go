package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// The bare relay for many: each of N senders has a connection of its own to a receiver
// of its own, and keeps it. Endpoints and relay copy with 256 KiB, as in bare.go; the
// receiver writes each file, answers with a byte, and deletes it.

// bareCrowdRelay joins each sender to the receiver of its number, who was there before.
func bareCrowdRelay(args []string) error { // ADDRESS FOLDER
	ln, err := bareListen(args)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	receivers := map[uint32]net.Conn{}
	serve := func(conn net.Conn) {
		if handshake(conn) != nil { // somebody who only looked whether we listen
			conn.Close()
			return
		}
		who := make([]byte, 5)
		if _, err := io.ReadFull(conn, who); err != nil {
			fmt.Fprintln(os.Stderr, "bench bare-crowd-relay:", err)
			return
		}
		number := binary.BigEndian.Uint32(who[1:])
		mu.Lock()
		defer mu.Unlock()
		if who[0] == 'r' {
			receivers[number] = conn
			conn.Write([]byte{1})
			return
		}
		receiver := receivers[number]
		go copyBuffered(receiver, conn)
		go io.CopyBuffer(struct{ io.Writer }{conn}, struct{ io.Reader }{receiver}, make([]byte, 16))
		conn.Write([]byte{1})
	}
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		go serve(conn)
	}
}

// bareCrowdDial is number's connection, known to the relay.
func bareCrowdDial(addr, folder string, kind byte, number int) (net.Conn, error) {
	conn, err := bareDial([]string{addr, "", folder})
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(binary.BigEndian.AppendUint32([]byte{kind}, uint32(number))); err != nil {
		return nil, err
	}
	return conn, handshake(conn)
}

func bareCrowdReceive(args []string) error { // ADDRESS FOLDER N
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(args[1], "bare-crowd-")
	if err != nil {
		return err
	}
	failed := make(chan error, n)
	if err := many(n, 32, func(i int) error {
		conn, err := bareCrowdDial(args[0], args[1], 'r', i)
		if err == nil {
			go func() { failed <- bareTake(conn, filepath.Join(dir, strconv.Itoa(i))) }()
		}
		return err
	}); err != nil {
		return err
	}
	fmt.Println("ready")
	return <-failed
}

// bareTake takes one file after the other.
func bareTake(conn net.Conn, path string) error {
	buf := make([]byte, bareBuffer)
	for {
		head := make([]byte, 8)
		if _, err := io.ReadFull(conn, head); err != nil {
			return err
		}
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		content := io.LimitReader(conn, int64(binary.BigEndian.Uint64(head)))
		if _, err := io.CopyBuffer(struct{ io.Writer }{f}, content, buf); err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
		if _, err := conn.Write([]byte{1}); err != nil {
			return err
		}
		if err := os.Remove(path); err != nil {
			return err
		}
	}
}

func bareCrowdSend(args []string) error { // ADDRESS FOLDER N
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	conns := make([]net.Conn, n)
	if err := many(n, 32, func(i int) (err error) {
		conns[i], err = bareCrowdDial(args[0], args[1], 's', i)
		return err
	}); err != nil {
		return err
	}
	return sendAsTold(func(i int, file string) error {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if _, err := conns[i].Write(binary.BigEndian.AppendUint64(nil, uint64(info.Size()))); err != nil {
			return err
		}
		if err := copyBuffered(conns[i], f); err != nil {
			return err
		}
		return handshake(conns[i])
	})
}
