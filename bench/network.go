package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/dian-im/dian"
)

const smallBuffer = 64 << 10

// network measures one sender behind bad links: the share of the link that one transfer
// uses, how many round trips a small buffer takes, and commands beside the transfer.
func (b *bench) network() {
	t := &table{
		Name: "network", Title: "Bad networks", Cold: true,
		Columns: []column{
			{Name: "share of the link, Dian"}, {Name: "bare TLS relay"}, {Name: "Dian ÷ bare"},
			{Name: "a buffer of 64 KiB, round trips"}, {Name: "a command alone, p50, ms"}, {Name: "beside the transfer, p50, ms"}, {Name: "p99, ms"},
		},
		Notes: []string{
			"The sender reaches the relay over a proxy of ours that carries bytes at a rate, half a round trip late each way, and in some rows not at all for 500 ms after every 4.5 s. The receiver is beside the relay. All is TLS, and the client is logged in before.",
			"**Share**: bytes of the file ÷ (time × what the link can carry, stalls taken away), from `SendFile` to its result; so much of the file as the link carries in " + networkTime.String() + ". The bare relay sends the same file over the same link, from a connection that is already open to the receiver's last byte.",
			"**Round trips**: the time of a buffer with its result, less what its bytes take at the link's rate, ÷ the round trip; the smallest of three.",
			"Connections share the link fairly, piece by piece of 4 KiB, as behind a router with fair queues. The proxy loses nothing, so that TCP's own congestion control is not part of this.",
		},
	}
	var all []contestant
	for _, rate := range []float64{1e6, 10e6} {
		for _, roundTrip := range []time.Duration{20, 80, 200} {
			for _, stalls := range []bool{false, true} {
				l := linkKind{rate: rate, roundTrip: roundTrip * time.Millisecond, name: fmt.Sprintf("%.0f MB/s, %d ms", rate/1e6, roundTrip)}
				if stalls {
					l.stall, l.stallEvery = 500*time.Millisecond, 4500*time.Millisecond
					l.name += ", stalls"
				}
				all = append(all, contestant{name: l.name, setup: func() (func() (figuresOf, error), error) { return b.startBadNetwork(t, l) }})
			}
		}
	}
	b.compare(t, all)
}

// networkTime is how long a transfer takes at the link's rate.
const networkTime = 5 * time.Second

func (b *bench) startBadNetwork(t *table, l linkKind) (func() (figuresOf, error), error) {
	size := int64(l.rate * networkTime.Seconds())
	file, err := b.file(fmt.Sprintf("network-%.0f.bin", l.rate), size)
	if err != nil {
		return nil, err
	}
	b.atEnd(func() { os.Remove(file) })
	r, err := b.startRelay(true)
	if err != nil {
		return nil, err
	}
	if _, err := b.startPart("dian-responder", r.url, b.dir, filepath.Join(b.dir, "responder-"+r.addr())); err != nil {
		return nil, err
	}
	at, err := b.startLink(l, r.addr())
	if err != nil {
		return nil, err
	}
	client, err := benchClient("https://"+at, b.dir, "alice", dian.WithSendOnly())
	if err != nil {
		return nil, err
	}
	b.atEnd(func() { client.Close() })
	bare, err := b.startBareBehind(l)
	if err != nil {
		return nil, err
	}
	return func() (figuresOf, error) {
		alone, _, err := latency(dianAlone(client), 20*l.roundTrip)
		if err != nil {
			return nil, err
		}
		trips, err := smallBufferTrips(client, l)
		if err != nil {
			return nil, err
		}
		start := time.Now()
		task := client.SendFile("bob", file)
		var ended time.Time
		waiting := make(chan error, 1)
		go func() {
			err := task.Wait(context.Background())
			ended = time.Now()
			waiting <- err
		}()
		time.Sleep(networkTime / 10) // it is at full speed
		p50, p99, err := latency(dianAlone(client), networkTime*7/10)
		if err != nil {
			return nil, err
		}
		if err := <-waiting; err != nil {
			return nil, err
		}
		mine := l.shareOf(size, ended.Sub(start))
		took, err := bare(file)
		if err != nil {
			return nil, err
		}
		limit := l.shareOf(size, took)
		figures := figuresOf{}
		for i, v := range []float64{mine, limit, mine / limit, trips, alone / 1e3, p50 / 1e3, p99 / 1e3} {
			figures[t.Columns[i].Name] = v
		}
		return figures, nil
	}, nil
}

// shareOf is how much of what the link can carry a transfer used.
func (l linkKind) shareOf(size int64, took time.Duration) float64 {
	return float64(size) / took.Seconds() / (l.rate * l.share())
}

// smallBufferTrips is how many round trips a buffer takes beside its bytes.
func smallBufferTrips(client *dian.Client, l linkKind) (float64, error) {
	data := make([]byte, smallBuffer)
	rand.Read(data)
	least := time.Hour
	for range 3 {
		start := time.Now()
		if err := client.SendBuffer("bob", data).Wait(context.Background()); err != nil {
			return 0, err
		}
		least = min(least, time.Since(start))
	}
	bytes := time.Duration(smallBuffer / l.rate * float64(time.Second))
	return (least - bytes).Seconds() / l.roundTrip.Seconds(), nil
}

// startBareBehind starts a bare TLS relay behind such a link. What it returns sends a file
// over it; the connection is open before the time begins.
func (b *bench) startBareBehind(l linkKind) (func(file string) (time.Duration, error), error) {
	addr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	if _, err := b.start(b.self, "bare-relay", addr, b.dir); err != nil {
		return nil, err
	}
	if err := waitListening(addr); err != nil {
		return nil, err
	}
	at, err := b.startLink(l, addr)
	if err != nil {
		return nil, err
	}
	out := filepath.Join(b.dir, "bare-"+at+".out")
	return func(file string) (time.Duration, error) {
		receiver, err := b.startPart("bare-receive", addr, out, b.dir)
		if err != nil {
			return 0, err
		}
		conn, err := bareDial([]string{at, file, b.dir})
		if err != nil {
			return 0, err
		}
		defer conn.Close()
		f, err := os.Open(file)
		if err != nil {
			return 0, err
		}
		defer f.Close()
		start := time.Now()
		if err := copyBuffered(conn, f); err != nil {
			return 0, err
		}
		if err := closeWrite(conn); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			return 0, err
		}
		took := time.Since(start)
		if err := receiver.wait(); err != nil {
			return 0, err
		}
		return took, removeLike(out, file)
	}, nil
}
