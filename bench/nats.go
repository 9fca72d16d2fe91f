package main

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// natsServer is a NATS server without logs and nothing else switched on than asked for.
func natsServer(args []string) error { // PORT FOLDER ("": no TLS) [STORE for JetStream, or ""] [PORT of its counters]
	port, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	o := &server.Options{Host: "127.0.0.1", Port: port, NoSigs: true, NoLog: true}
	o.TLSTimeout, o.AuthTimeout = 30, 60 // seconds; 64 handshakes at once take longer than 2 s on a small, busy machine
	if args[1] != "" {
		o.TLS = true
		if o.TLSConfig, err = server.GenTLSConfig(&server.TLSConfigOpts{
			CertFile: filepath.Join(args[1], "tls.crt"), KeyFile: filepath.Join(args[1], "tls.key"),
		}); err != nil {
			return err
		}
	}
	if len(args) > 2 && args[2] != "" {
		o.JetStream, o.StoreDir = true, args[2]
		o.JetStreamMaxStore, o.JetStreamMaxMemory = 1<<40, 1<<40
	}
	if len(args) > 3 {
		o.HTTPHost = "127.0.0.1"
		if o.HTTPPort, err = strconv.Atoi(args[3]); err != nil {
			return err
		}
	}
	s, err := server.NewServer(o)
	if err != nil {
		return err
	}
	s.Start()
	s.WaitForShutdown()
	return nil
}

// natsNode is a NATS server in a process of its own.
type natsNode struct {
	*process
	url, folder string // the folder is empty without TLS
	counters    string // URL of them, if it tells
}

// startNATS starts one; more are the part's other arguments.
func (b *bench) startNATS(secure bool, more ...string) (*natsNode, error) {
	addr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	n := &natsNode{url: "nats://" + addr}
	if secure {
		n.url, n.folder = "tls://"+addr, b.dir
	}
	_, port, _ := net.SplitHostPort(addr)
	if n.process, err = b.start(b.self, append([]string{"nats-server", port, n.folder}, more...)...); err != nil {
		return nil, err
	}
	return n, waitListening(addr)
}

// startPart starts a part of this program that connects, and waits until it is ready.
func (b *bench) startPart(args ...string) (*process, error) {
	p, err := b.start(b.self, args...)
	if err != nil {
		return nil, err
	}
	_, err = p.line("ready")
	return p, err
}

func natsDial(url, folder string) (*nats.Conn, error) {
	if folder == "" {
		return nats.Connect(url)
	}
	return nats.Connect(url, nats.RootCAs(filepath.Join(folder, "tls.crt")))
}

// natsCommands is where requests go.
const natsCommands = "bob"

// natsResponder answers every request with an empty message.
func natsResponder(args []string) error { // URL FOLDER
	conn, err := natsDial(args[0], args[1])
	if err != nil {
		return err
	}
	if _, err := conn.Subscribe(natsCommands, func(m *nats.Msg) { _ = m.Respond(nil) }); err != nil {
		return err
	}
	if err := conn.Flush(); err != nil {
		return err
	}
	fmt.Println("ready")
	select {}
}

// natsAskers starts server and responder and returns the two ways to ask. Alone is
// Request; many are messages with a reply subject each and one subscription to all of
// them, which takes no goroutine and timer for each and is faster than Request.
func (b *bench) natsAskers(secure bool) (many, alone asker, err error) {
	n, err := b.startNATS(secure)
	if err != nil {
		return nil, nil, err
	}
	return b.natsPair(n)
}

// natsPair is natsAskers at a server that runs.
func (b *bench) natsPair(n *natsNode) (many, alone asker, err error) {
	if _, err := b.startPart("nats-responder", n.url, n.folder); err != nil {
		return nil, nil, err
	}
	conn, err := natsDial(n.url, n.folder)
	if err != nil {
		return nil, nil, err
	}
	b.atEnd(conn.Close)
	alone = func(data []byte, done func(error)) {
		_, err := conn.Request(natsCommands, data, 10*time.Second)
		done(err)
	}
	waiting := newWaiting()
	inbox := nats.NewInbox() + "."
	if _, err := conn.Subscribe(inbox+"*", func(m *nats.Msg) {
		id, _ := strconv.ParseUint(strings.TrimPrefix(m.Subject, inbox), 10, 64)
		waiting.answer(id)
	}); err != nil {
		return nil, nil, err
	}
	many = func(data []byte, done func(error)) {
		if err := conn.PublishRequest(natsCommands, inbox+strconv.FormatUint(waiting.add(done), 10), data); err != nil {
			done(err)
		}
	}
	return many, alone, nil
}

// waiting are requests without an answer, by number.
type waiting struct {
	mu   sync.Mutex
	last uint64
	done map[uint64]func(error)
}

func newWaiting() *waiting { return &waiting{done: map[uint64]func(error){}} }

func (w *waiting) add(done func(error)) uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last++
	w.done[w.last] = done
	return w.last
}

func (w *waiting) answer(id uint64) {
	w.mu.Lock()
	done := w.done[id]
	delete(w.done, id)
	w.mu.Unlock()
	if done != nil {
		done(nil)
	}
}
