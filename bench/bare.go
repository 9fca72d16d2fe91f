package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
)

// The bare relay: a sender connects, a receiver connects, and the relay copies
// the one into the other and the other's last word back. On TCP with io.Copy,
// which the kernel turns into splice; on TLS with io.CopyBuffer and 256 KiB.
// Its endpoints do nothing but copy between file and connection with 256 KiB
// (which was faster here than sendfile and splice to tmpfs): no hash, no flush,
// no record of what was received.

const bareBuffer = 256 << 10

// bareListen listens with TLS if there is a folder with tls.crt and tls.key.
func bareListen(args []string) (net.Listener, error) { // ADDRESS [FOLDER]
	ln, err := net.Listen("tcp", args[0])
	if err != nil || len(args) == 1 {
		return ln, err
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(args[1], "tls.crt"), filepath.Join(args[1], "tls.key"))
	if err != nil {
		return nil, err
	}
	return tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{pair}}), nil
}

func bareRelay(args []string) error { // ADDRESS [FOLDER]
	ln, err := bareListen(args)
	if err != nil {
		return err
	}
	for {
		receiver, err := ln.Accept()
		if err != nil {
			return err
		}
		if err := handshake(receiver); err != nil { // somebody who only looked whether we listen
			receiver.Close()
			continue
		}
		sender, err := ln.Accept()
		if err != nil {
			return err
		}
		if err := handshake(sender); err != nil {
			return err
		}
		if err := bareCopy(receiver, sender); err != nil {
			return err
		}
		if err := closeWrite(receiver); err != nil {
			return err
		}
		if _, err := io.Copy(sender, receiver); err != nil {
			return err
		}
		sender.Close()
		receiver.Close()
	}
}

// handshake reads the one byte with which each endpoint says that it is one.
func handshake(conn net.Conn) error {
	_, err := io.ReadFull(conn, make([]byte, 1))
	return err
}

// bareCopy is the relay's.
func bareCopy(to, from net.Conn) error {
	if _, secure := from.(*tls.Conn); secure {
		return copyBuffered(to, from)
	}
	_, err := io.Copy(to, from)
	return err
}

// copyBuffered copies through memory, whatever the two could do without it.
func copyBuffered(to io.Writer, from io.Reader) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, bareBuffer))
	return err
}

func closeWrite(conn net.Conn) error { return conn.(interface{ CloseWrite() error }).CloseWrite() }

func bareDial(args []string) (net.Conn, error) {
	conn, err := net.Dial("tcp", args[0])
	if err != nil {
		return nil, err
	}
	if len(args) > 2 {
		roots := x509.NewCertPool()
		text, err := os.ReadFile(filepath.Join(args[2], "tls.crt"))
		if err != nil {
			return nil, err
		}
		roots.AppendCertsFromPEM(text)
		conn = tls.Client(conn, &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"})
	}
	_, err = conn.Write([]byte{1})
	return conn, err
}

func bareSend(args []string) error { // ADDRESS FILE [FOLDER]
	conn, err := bareDial(args)
	if err != nil {
		return err
	}
	f, err := os.Open(args[1])
	if err != nil {
		return err
	}
	if err := copyBuffered(conn, f); err != nil {
		return err
	}
	if err := closeWrite(conn); err != nil {
		return err
	}
	_, err = io.ReadFull(conn, make([]byte, 1)) // the receiver has it
	return err
}

func bareReceive(args []string) error { // ADDRESS FILE [FOLDER]
	conn, err := bareDial(args)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	f, err := os.Create(args[1])
	if err != nil {
		return err
	}
	if err := copyBuffered(f, conn); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if _, err := conn.Write([]byte{1}); err != nil {
		return err
	}
	return conn.Close()
}
