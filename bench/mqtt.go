package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// mosquitto is a broker in a process of its own.
type mosquitto struct {
	*process
	addr string
}

// startMosquitto starts a broker that keeps nothing, logs nothing and holds nothing back.
func (b *bench) startMosquitto(secure bool) (*mosquitto, error) {
	program, err := findProgram("mosquitto")
	if err != nil {
		return nil, err
	}
	addr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(addr)
	lines := []string{
		"listener " + port + " 127.0.0.1", "allow_anonymous true", "persistence false", "log_type none", "set_tcp_nodelay true",
		"max_inflight_messages 0", "max_queued_messages 0", "max_connections -1",
	}
	if secure {
		lines = append(lines, "certfile "+filepath.Join(b.dir, "tls.crt"), "keyfile "+filepath.Join(b.dir, "tls.key"))
	}
	if os.Getuid() == 0 {
		lines = append(lines, "user root") // it would become a user that cannot read the key
	}
	config := filepath.Join(b.dir, "mosquitto-"+port+".conf")
	if err := os.WriteFile(config, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		return nil, err
	}
	p, err := b.start(program, "-c", config)
	if err != nil {
		return nil, err
	}
	if err := waitListening(addr); err != nil {
		return nil, fmt.Errorf("%w: %s", err, p.stderr.String())
	}
	return &mosquitto{p, addr}, nil
}

// mqttDial connects as client id; the folder is empty without TLS.
func mqttDial(addr, folder, id string) (mqtt.Client, error) {
	o := mqtt.NewClientOptions().AddBroker("tcp://" + addr).SetClientID(id).SetMessageChannelDepth(window)
	if folder != "" {
		text, err := os.ReadFile(filepath.Join(folder, "tls.crt"))
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(text)
		o.SetTLSConfig(&tls.Config{RootCAs: roots, ServerName: "127.0.0.1"})
		o.Servers = nil
		o.AddBroker("ssl://" + addr)
	}
	c := mqtt.NewClient(o)
	return c, mqttWait(c.Connect())
}

func mqttWait(t mqtt.Token) error {
	if !t.WaitTimeout(10 * time.Second) {
		return errors.New("MQTT: no answer in 10 s")
	}
	return t.Error()
}

// mqttResponder publishes to alice the number in front of each message to bob.
func mqttResponder(args []string) error { // ADDRESS FOLDER
	c, err := mqttDial(args[0], args[1], "bob")
	if err != nil {
		return err
	}
	if err := mqttWait(c.Subscribe("bob", 1, func(c mqtt.Client, m mqtt.Message) {
		c.Publish("alice", 1, false, m.Payload()[:8])
	})); err != nil {
		return err
	}
	fmt.Println("ready")
	select {}
}

// mqttAskers starts broker and responder. Both ways to ask are one.
func (b *bench) mqttAskers(secure bool) (many, alone asker, err error) {
	m, err := b.startMosquitto(secure)
	if err != nil {
		return nil, nil, err
	}
	folder := ""
	if secure {
		folder = b.dir
	}
	if _, err := b.startPart("mqtt-responder", m.addr, folder); err != nil {
		return nil, nil, err
	}
	c, err := mqttDial(m.addr, folder, "alice")
	if err != nil {
		return nil, nil, err
	}
	b.atEnd(func() { c.Disconnect(0) })
	waiting := newWaiting()
	if err := mqttWait(c.Subscribe("alice", 1, func(_ mqtt.Client, m mqtt.Message) {
		waiting.answer(binary.BigEndian.Uint64(m.Payload()))
	})); err != nil {
		return nil, nil, err
	}
	ask := func(data []byte, done func(error)) {
		message := append([]byte(nil), data...)
		binary.BigEndian.PutUint64(message, waiting.add(done))
		c.Publish("bob", 1, false, message)
	}
	return ask, ask, nil
}
