package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/server"
)

const (
	commandBytes = 100
	window       = 256
)

// asker sends one request of 100 bytes and calls done when its answer is there.
type asker func(data []byte, done func(error))

// commands measures commands end to end: requester, relay and responder in three
// processes, one in flight and then 256.
func (b *bench) commands() {
	t := &table{
		Name: "commands", Title: fmt.Sprintf("Commands of %d bytes, end to end", commandBytes),
		Columns: []column{
			{Name: "one in flight, p50, µs", Ratio: "÷ limit"}, {Name: "p99, µs"},
			{Name: "256 in flight, answers/s", Ratio: "÷ limit"}, {Name: "CPU, µs/answer", Ratio: "÷ limit"},
		},
		Notes: []string{
			"Requester, relay and responder are three processes; each figure is of one connection of each of the two. Processor time is that of all three with 256 in flight. The ratio of times is better the smaller it is, that of rates the larger it is.",
			"**Echo** is the limit: frames with their length in front, through a process that copies both ways without looking (`io.Copy`; over TLS with buffers of 256 KiB), both ends writing at once what has gathered.",
			"**Dian**: `SendCmd` of the SDK and its ack, which is given when the receiver's SDK has the command in its queue; ordered, and delivered once.",
			"**NATS**: request and an empty reply, at most once. Alone with `Request`; 256 with a reply subject each and one subscription to all of them, which is faster than `Request`.",
			"**mosquitto**: a message of QoS 1 to the receiver, whose handler publishes an answer with QoS 1: that is what tells a sender as much as Dian's ack. `set_tcp_nodelay`, `max_inflight_messages 0`, no persistence.",
		},
	}
	one := func(name, limit string, start func() (many, alone asker, err error)) contestant {
		return contestant{name, limit, func() (func() (figuresOf, error), error) {
			many, alone, err := start()
			if err != nil {
				return nil, err
			}
			return func() (figuresOf, error) {
				p50, p99, err := latency(alone, b.span)
				if err != nil {
					return nil, err
				}
				before := b.cpu()
				rate, n, err := throughput(many, b.span)
				return figuresOf{
					t.Columns[0].Name: p50, t.Columns[1].Name: p99, t.Columns[2].Name: rate,
					t.Columns[3].Name: float64((b.cpu() - before).Nanoseconds()) / 1e3 / float64(n),
				}, err
			}, nil
		}}
	}
	var all []contestant
	for _, secure := range []bool{false, true} {
		kind := kind(secure)
		all = append(all,
			one("echo, "+kind, "", func() (many, alone asker, err error) { return b.echoAskers(secure) }),
			one("Dian, "+kind, "echo, "+kind, func() (many, alone asker, err error) { return b.dianAskers(secure) }),
			one("NATS, "+kind, "echo, "+kind, func() (many, alone asker, err error) { return b.natsAskers(secure) }),
			one("mosquitto, "+kind, "echo, "+kind, func() (many, alone asker, err error) { return b.mqttAskers(secure) }),
		)
	}
	b.compare(t, all)
}

// dianAskers starts relay, responder and requester and returns the two ways to ask.
func (b *bench) dianAskers(secure bool) (many, alone asker, err error) {
	r, err := b.startRelay(secure)
	if err != nil {
		return nil, nil, err
	}
	return b.dianPair(r, r, "responder-"+kind(secure))
}

// dianPair starts a responder at one relay and a requester at another, which may be
// the same, and returns the two ways to ask.
func (b *bench) dianPair(from, to *relay, folder string) (many, alone asker, err error) {
	if _, err := b.startPart("dian-responder", to.url, b.dir, filepath.Join(b.dir, folder)); err != nil {
		return nil, nil, err
	}
	answered := func(r dian.Result) {
		if done, ok := r.Cookie.(func(error)); ok {
			done(r.Err)
		}
	}
	client, err := benchClient(from.url, b.dir, "alice", dian.WithSendOnly(), dian.WithHandler(dian.Handler{SendCmdResult: answered}))
	if err != nil {
		return nil, nil, err
	}
	b.atEnd(func() { client.Close() })
	many = func(data []byte, done func(error)) { client.SendCmd("bob", data, dian.WithCookie(done)) }
	return many, dianAlone(client), nil
}

// dianAlone asks and waits.
func dianAlone(client *dian.Client) asker {
	return func(data []byte, done func(error)) { done(client.SendCmd("bob", data).Wait(context.Background())) }
}

// latency asks one at a time for d and returns p50 and p99 in microseconds.
func latency(ask asker, d time.Duration) (p50, p99 float64, err error) {
	data := make([]byte, commandBytes)
	var took []time.Duration
	for end := time.Now().Add(d); time.Now().Before(end); {
		start := time.Now()
		answered := make(chan error, 1)
		ask(data, func(err error) { answered <- err })
		if err := <-answered; err != nil {
			return 0, 0, err
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	at := func(share float64) float64 { return float64(took[int(share*float64(len(took)-1))].Nanoseconds()) / 1e3 }
	return at(0.5), at(0.99), nil
}

// throughput keeps 256 in flight for d and returns answers a second, and how many
// there were.
func throughput(ask asker, d time.Duration) (rate float64, n int, err error) {
	data := make([]byte, commandBytes)
	free := make(chan error, window)
	for range window {
		free <- nil
	}
	start := time.Now()
	for time.Since(start) < d {
		if err := <-free; err != nil {
			return 0, 0, err
		}
		n++
		ask(data, func(err error) { free <- err })
	}
	for range window {
		if err := <-free; err != nil {
			return 0, 0, err
		}
	}
	return float64(n) / time.Since(start).Seconds(), n, nil
}

// benchClient logs user in at the development relay.
func benchClient(url, dir, user string, opts ...dian.Option) (*dian.Client, error) {
	roots := x509.NewCertPool()
	text, err := os.ReadFile(filepath.Join(dir, "tls.crt"))
	if err != nil {
		return nil, err
	}
	roots.AppendCertsFromPEM(text)
	token, err := server.DevToken(user)
	if err != nil {
		return nil, err
	}
	return dian.Connect(context.Background(), url, append([]dian.Option{dian.WithToken(token), dian.WithTLSConfig(&tls.Config{RootCAs: roots})}, opts...)...)
}

// dianResponder takes commands and files as bob until it is killed.
func dianResponder(args []string) error { // URL FOLDER RECEIVE
	client, err := benchClient(args[0], args[1], "bob", dian.WithReceiveDir(args[2]), dian.WithHandler(dian.Handler{
		NotifyCmdData:    func(dian.CmdData) {},
		NotifyBufferData: func(dian.BufferData) {},
		NotifyFileData:   func(f dian.FileData) { go os.Remove(f.Path) }, // a GiB takes as long as a thousand commands, which would wait
	}))
	if err != nil {
		return err
	}
	fmt.Println("ready")
	<-client.Done()
	return client.Err()
}

// dianSink takes files as bob, verified, and forgets them, until it is killed.
func dianSink(args []string) error { // URL FOLDER
	client, err := benchClient(args[0], args[1], "bob", dian.WithHandler(dian.Handler{
		AcceptFile:     func(o *dian.Offer) { o.AcceptWriter(io.Discard) },
		NotifyFileData: func(dian.FileData) {},
	}))
	if err != nil {
		return err
	}
	fmt.Println("ready")
	<-client.Done()
	return client.Err()
}
