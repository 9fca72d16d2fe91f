package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// natsServer is a NATS server with TLS and nothing else switched on.
func natsServer(args []string) error { // PORT FOLDER
	var port int
	if _, err := fmt.Sscan(args[0], &port); err != nil {
		return err
	}
	config, err := server.GenTLSConfig(&server.TLSConfigOpts{CertFile: filepath.Join(args[1], "tls.crt"), KeyFile: filepath.Join(args[1], "tls.key")})
	if err != nil {
		return err
	}
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, NoSigs: true, NoLog: true, TLSConfig: config, TLS: true})
	if err != nil {
		return err
	}
	s.Start()
	fmt.Println("ready")
	s.WaitForShutdown()
	return nil
}

func natsDial(url, dir string) (*nats.Conn, error) {
	return nats.Connect(url, nats.RootCAs(filepath.Join(dir, "tls.crt")))
}

// natsResponder answers every request with an empty message.
func natsResponder(args []string) error { // URL FOLDER
	conn, err := natsDial(args[0], args[1])
	if err != nil {
		return err
	}
	if _, err := conn.Subscribe("bob", func(m *nats.Msg) { m.Respond(nil) }); err != nil {
		return err
	}
	if err := conn.Flush(); err != nil {
		return err
	}
	fmt.Println("ready")
	<-context.Background().Done()
	return nil
}

// startNATS starts server and responder and returns the two ways to ask.
func (b *bench) startNATS() (many, alone asker, stop func(), err error) {
	addr, err := freeAddress()
	if err != nil {
		return nil, nil, nil, err
	}
	var host string
	var port int
	if _, err := fmt.Sscanf(addr, "127.0.0.1:%d", &port); err != nil {
		return nil, nil, nil, err
	}
	host = fmt.Sprintf("tls://127.0.0.1:%d", port)
	s, err := b.start(b.self, "nats-server", fmt.Sprint(port), b.dir)
	if err != nil {
		return nil, nil, nil, err
	}
	if err := waitListening(addr); err != nil {
		return nil, nil, nil, err
	}
	responder, err := b.start(b.self, "nats-responder", host, b.dir)
	if err != nil {
		return nil, nil, nil, err
	}
	if _, err := responder.line("ready"); err != nil {
		return nil, nil, nil, err
	}
	conn, err := natsDial(host, b.dir)
	if err != nil {
		return nil, nil, nil, err
	}
	request := func(data []byte) error {
		_, err := conn.Request("bob", data, 10*time.Second)
		return err
	}
	many = func(data []byte, done func(error)) { go func() { done(request(data)) }() }
	alone = func(data []byte, done func(error)) { done(request(data)) }
	return many, alone, func() { conn.Close(); responder.kill(); s.kill() }, nil
}
