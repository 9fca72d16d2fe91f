package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/server"
)

const (
	commandBytes = 100
	single       = 5 * time.Second // how long one in flight is measured
	window       = 256
	flood        = 5 * time.Second // how long 256 in flight are measured
)

// asker sends one request of 100 bytes and calls done when its answer is there.
type asker func(data []byte, done func(error))

// commands measures commands end to end beside NATS request-reply, both over
// TLS, requester, relay and responder in three processes: one in flight, 256 in
// flight, and one in flight while a bulk transfer between the same two users runs.
func (b *bench) commands() error {
	fmt.Printf("\ncommands: %d bytes, end to end, TLS, %d rounds side by side\n", commandBytes, b.rounds)
	r, err := b.startRelay(true)
	if err != nil {
		return err
	}
	defer r.interrupt()
	responder, err := b.start(b.self, "dian-responder", r.url, b.dir, filepath.Join(b.dir, "responder"))
	if err != nil {
		return err
	}
	defer responder.kill()
	if _, err := responder.line("ready"); err != nil {
		return err
	}
	client, err := benchClient(r.url, b.dir, "alice", dian.WithSendOnly())
	if err != nil {
		return err
	}
	defer client.Close()
	ours := func(data []byte, done func(error)) {
		task := client.SendCmd("bob", data)
		go func() { done(task.Wait(context.Background())) }()
	}
	oursAlone := func(data []byte, done func(error)) { done(client.SendCmd("bob", data).Wait(context.Background())) }
	nats, natsAlone, stop, err := b.startNATS()
	if err != nil {
		return err
	}
	defer stop()

	var p50, p99, rates, natsP50, natsP99, natsRates, ratios []float64
	for range b.rounds {
		a, z, err := latency(oursAlone, single)
		if err != nil {
			return err
		}
		p50, p99 = append(p50, a), append(p99, z)
		if a, z, err = latency(natsAlone, single); err != nil {
			return err
		}
		natsP50, natsP99 = append(natsP50, a), append(natsP99, z)
		n, err := throughput(ours, flood)
		if err != nil {
			return err
		}
		m, err := throughput(nats, flood)
		if err != nil {
			return err
		}
		rates, natsRates, ratios = append(rates, n), append(natsRates, m), append(ratios, n/m)
	}
	say := func(what, unit string, values []float64) {
		mid, low, high := spread(values)
		fmt.Printf("  %-46s %9.0f %s (%.0f–%.0f)\n", what, mid, unit, low, high)
	}
	say("dian, one in flight, p50", "µs", p50)
	say("dian, one in flight, p99", "µs", p99)
	say("NATS request-reply, one in flight, p50", "µs", natsP50)
	say("NATS request-reply, one in flight, p99", "µs", natsP99)
	say("dian, 256 in flight", "acked/s", rates)
	say("NATS request-reply, 256 in flight", "/s", natsRates)
	mid, low, high := spread(ratios)
	fmt.Printf("  %-46s %9.2f (%.2f–%.2f)\n", "ratio, 256 in flight", mid, low, high)

	file, err := b.file("beside.bin", 1<<30)
	if err != nil {
		return err
	}
	defer os.Remove(file)
	var besideP50, besideP99 []float64
	for range b.rounds {
		bulk := client.SendFile("bob", file)
		a, z, err := latency(func(data []byte, done func(error)) {
			if bulk.State() == dian.TaskDone {
				bulk = client.SendFile("bob", file)
			}
			oursAlone(data, done)
		}, single)
		if err != nil {
			return err
		}
		besideP50, besideP99 = append(besideP50, a), append(besideP99, z)
		bulk.Cancel()
		bulk.Wait(context.Background())
	}
	say("dian, beside a saturating transfer, p50", "µs", besideP50)
	say("dian, beside a saturating transfer, p99", "µs", besideP99)
	return nil
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

// throughput keeps 256 in flight for d and returns answers a second.
func throughput(ask asker, d time.Duration) (float64, error) {
	data := make([]byte, commandBytes)
	free := make(chan error, window)
	for range window {
		free <- nil
	}
	start, n := time.Now(), 0
	for time.Since(start) < d {
		if err := <-free; err != nil {
			return 0, err
		}
		n++
		ask(data, func(err error) { free <- err })
	}
	for range window {
		if err := <-free; err != nil {
			return 0, err
		}
	}
	return float64(n) / time.Since(start).Seconds(), nil
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
		NotifyCmdData:  func(dian.CmdData) {},
		NotifyFileData: func(f dian.FileData) { os.Remove(f.Path) },
	}))
	if err != nil {
		return err
	}
	fmt.Println("ready")
	<-client.Done()
	return client.Err()
}
