package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/dian-im/dian"
)

// beside measures commands while a transfer between the same two users takes what the
// machine has, and what they cost the transfer.
func (b *bench) beside() error {
	file, err := b.file("beside.bin", b.size)
	if err != nil {
		return err
	}
	defer os.Remove(file)
	t := &table{
		Name: "beside", Title: "A command beside a transfer that saturates the machine",
		Columns: []column{
			{Name: "command p50, µs"}, {Name: "p99, µs"}, {Name: "transfer alone, MB/s"},
			{Name: "transfer beside commands, MB/s"}, {Name: "what it keeps"},
		},
		Notes: []string{
			"TLS; sender, relay and receiver are three processes. The same client sends files without pause and commands one at a time; then files without commands.",
			fmt.Sprintf("**NATS** sends the same file in messages of %d KiB, at most %d without the receiver's ack, which waits until they are written; commands are requests. Once over one connection of the sender's and one of the receiver's, as `nats.go` is used, and once with connections of their own for commands on both sides.", natsChunk>>10, natsWindow),
		},
	}
	one := func(name string, start func(file string) (ask asker, bulk *endless, err error)) contestant {
		return contestant{name: name, setup: func() (func() (figuresOf, error), error) {
			ask, bulk, err := start(file)
			if err != nil {
				return nil, err
			}
			return func() (figuresOf, error) { return b.besideRound(t, ask, bulk) }, nil
		}}
	}
	b.compare(t, []contestant{
		one("Dian", b.besideDian),
		one("NATS, one connection", func(file string) (asker, *endless, error) { return b.besideNATS(file, false) }),
		one("NATS, two connections", func(file string) (asker, *endless, error) { return b.besideNATS(file, true) }),
	})
	return nil
}

// An endless transfer sends until its context ends, and counts what has arrived.
type endless struct {
	send    func(ctx context.Context) error
	arrived func() int64 // bytes so far
}

func (b *bench) besideRound(t *table, ask asker, bulk *endless) (figuresOf, error) {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- bulk.send(ctx) }()
	time.Sleep(b.span / 4) // it is at full speed
	start, before := time.Now(), bulk.arrived()
	p50, p99, err := latency(ask, b.span)
	if err != nil {
		return nil, err
	}
	with := rate(bulk.arrived()-before, time.Since(start))
	start, before = time.Now(), bulk.arrived()
	time.Sleep(b.span)
	alone := rate(bulk.arrived()-before, time.Since(start))
	stop()
	if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
		return nil, err
	}
	return figuresOf{
		t.Columns[0].Name: p50, t.Columns[1].Name: p99, t.Columns[2].Name: alone, t.Columns[3].Name: with, t.Columns[4].Name: with / alone,
	}, nil
}

func (b *bench) besideDian(file string) (asker, *endless, error) {
	r, err := b.startRelay(true)
	if err != nil {
		return nil, nil, err
	}
	if _, err := b.startPart("dian-responder", r.url, b.dir, filepath.Join(b.dir, "responder")); err != nil {
		return nil, nil, err
	}
	client, err := benchClient(r.url, b.dir, "alice", dian.WithSendOnly())
	if err != nil {
		return nil, nil, err
	}
	b.atEnd(func() { client.Close() })
	return dianAlone(client), dianEndless(client, file), nil
}

// dianEndless sends the file to bob again and again.
func dianEndless(client *dian.Client, file string) *endless {
	var done atomic.Int64 // bytes of the files before
	var running atomic.Pointer[dian.Task]
	return &endless{
		send: func(ctx context.Context) error {
			for {
				task := client.SendFile("bob", file)
				running.Store(task)
				if err := task.Wait(ctx); err != nil {
					task.Cancel()
					_ = task.Wait(context.Background()) // cancelled, or what err says
					return err
				}
				running.Store(nil)
				done.Add(task.Result().Size)
			}
		},
		arrived: func() int64 {
			n := done.Load()
			if task := running.Load(); task != nil {
				sent, _ := task.Progress()
				n += sent
			}
			return n
		},
	}
}

func (b *bench) besideNATS(file string, apart bool) (asker, *endless, error) {
	node, err := b.startNATS(true)
	if err != nil {
		return nil, nil, err
	}
	if _, err := b.startPart("nats-receive", node.url, node.folder, filepath.Join(b.dir, "beside.out")); err != nil {
		return nil, nil, err
	}
	conn, err := natsDial(node.url, node.folder)
	if err != nil {
		return nil, nil, err
	}
	b.atEnd(conn.Close)
	commands, target := conn, natsBob
	if apart {
		if commands, err = natsDial(node.url, node.folder); err != nil {
			return nil, nil, err
		}
		b.atEnd(commands.Close)
		if _, err := b.startPart("nats-responder", node.url, node.folder); err != nil {
			return nil, nil, err
		}
		target = natsCommands
	}
	ask := func(data []byte, done func(error)) {
		_, err := commands.Request(target, data, 10*time.Second)
		done(err)
	}
	bulk, err := natsEndless(conn, file)
	return ask, bulk, err
}

// natsEndless sends the file again and again.
func natsEndless(conn *nats.Conn, file string) (*endless, error) {
	s, err := newNATSSender(conn)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	var arrived atomic.Int64
	return &endless{
		send: func(ctx context.Context) error {
			for ctx.Err() == nil {
				if _, err := f.Seek(0, io.SeekStart); err != nil {
					return err
				}
				if err := s.send(ctx, f, func(n int) { arrived.Add(int64(n)) }); err != nil {
					return err
				}
			}
			return nil
		},
		arrived: arrived.Load,
	}, nil
}
