package main

import (
	"bytes"
	"io"
	"net"
	"testing"
)

// echoAt answers each connection with its name and then with what it reads.
func echoAt(t *testing.T, name string) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				if _, err := io.WriteString(conn, name); err == nil {
					_, _ = io.Copy(conn, conn) // until its client has enough
				}
			}()
		}
	}()
	return ln
}

func TestFrontTakesTheFirstLivingNode(t *testing.T) {
	first, second := echoAt(t, "a"), echoAt(t, "b")
	f, err := newFront(first.Addr().String(), second.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	var sent int64
	for _, want := range []string{"a", "b"} {
		conn, err := net.Dial("tcp", f.ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		name := make([]byte, 1)
		if _, err := io.ReadFull(conn, name); err != nil || string(name) != want {
			t.Errorf("node %q (%v), want %q", name, err, want)
		}
		data := bytes.Repeat([]byte("x"), 3*bareBuffer)
		go func() { _, _ = conn.Write(data) }() // the read below tells
		got := make([]byte, len(data))
		if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s gave back something else: %v", want, err)
		}
		sent += int64(len(data))
		if up := f.up.Load(); up != sent {
			t.Errorf("counted %d bytes up, want %d", up, sent)
		}
		conn.Close()
		first.Close()
	}
}

func TestFrontEndsWithItsNode(t *testing.T) {
	node := echoAt(t, "a")
	f, err := newFront(node.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", f.ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	f.close()
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection goes on behind a front that is closed")
	}
}
