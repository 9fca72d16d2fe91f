package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/dian-im/dian"
)

// lossPatience is how long a transfer may take that has lost its node.
const lossPatience = 2 * time.Minute

// clusterLoss kills a node in the middle of a transfer and measures how long nothing
// flows.
func (b *bench) clusterLoss() error {
	file, err := b.laneFile(b.size)
	if err != nil {
		return err
	}
	t := &table{
		Name: clusterPrefix + "loss", Title: fmt.Sprintf("A node is killed while %.2f GiB flow", float64(b.size)/(1<<30)), Cold: true,
		Columns: []column{
			{Name: "longest silence, ms"}, {Name: "MiB sent twice"}, {Name: "MiB received twice"}, {Name: "from the kill to the end, s"},
		},
		Notes: []string{
			"`kill -9` when the receiver has half of the file. The longest silence is the longest time after that in which the receiver gets nothing, until it has the last byte; the largest of the rounds is the second figure in brackets. The end is when the sender has its result. Sender and receiver each reach the cluster through a proxy of TCP that knows nothing of Dian: it gives every new connection to the preferred node if that takes it, and otherwise to the next. Both are clients of the Go SDK as it is, in one process with the proxies; without TLS. The cluster is started anew for each round.",
			"What is sent twice is what the sender's proxy has taken from the sender beyond the size of the file, sessions and heads of requests included (some KiB); received twice, the same at the receiver's. What a killed process had in its buffers is lost with it.",
			"A process that is killed breaks its connections at once, by its kernel. A machine that dies does not: that is noticed by the proxy, or after the client's keep-alive.",
			"**One node, started again**: the relay is killed and started again at once, as a service manager does it.",
		},
	}
	one := func(name string, round func() (figuresOf, error)) contestant {
		return contestant{name: name, setup: func() (func() (figuresOf, error), error) { return round, nil }}
	}
	inCluster := func(victim int) func() (figuresOf, error) {
		return func() (figuresOf, error) {
			c, err := b.startCluster(false, 2)
			if err != nil {
				return nil, err
			}
			defer c.kill()
			return b.lossRound(t, file, c.nodes[0], c.nodes[1], func() error {
				c.nodes[victim].kill()
				return nil
			})
		}
	}
	b.compare(t, []contestant{
		one("the receiver's node", inCluster(1)),
		one("the sender's node", inCluster(0)),
		one("one node, started again", func() (figuresOf, error) {
			r, err := b.startRelay(false)
			if err != nil {
				return nil, err
			}
			again := r.process
			defer func() { again.kill() }()
			return b.lossRound(t, file, r, r, func() error {
				r.kill()
				var err error
				again, err = b.start(b.dian, r.cmd.Args[1:]...)
				return err
			})
		}),
	})
	return nil
}

// lossRound sends a file from a user at one node to a user at another, and has lose
// called in the middle.
func (b *bench) lossRound(t *table, file string, from, to *relay, lose func() error) (figuresOf, error) {
	senders, err := newFront(from.addr(), to.addr())
	if err != nil {
		return nil, err
	}
	defer senders.close()
	receivers, err := newFront(to.addr(), from.addr())
	if err != nil {
		return nil, err
	}
	defer receivers.close()
	sink := &lossSink{half: b.size / 2, reached: make(chan struct{})}
	bob, err := benchClient(receivers.url(), b.dir, "bob", dian.WithHandler(dian.Handler{
		AcceptFile:     func(o *dian.Offer) { o.AcceptWriter(sink) },
		NotifyFileData: func(dian.FileData) {},
	}))
	if err != nil {
		return nil, err
	}
	defer bob.Close()
	alice, err := benchClient(senders.url(), b.dir, "alice", dian.WithSendOnly())
	if err != nil {
		return nil, err
	}
	defer alice.Close()

	ctx, cancel := context.WithTimeout(context.Background(), lossPatience)
	defer cancel()
	task := alice.SendFile("bob", file)
	ended := make(chan error, 1)
	go func() { ended <- task.Wait(ctx) }()
	select {
	case <-sink.reached:
	case err := <-ended:
		return nil, errors.Join(errors.New("the transfer ended before its half"), err)
	}
	lost := time.Now()
	sink.last.Store(lost.UnixNano())
	sink.silence.Store(0)
	if err := lose(); err != nil {
		return nil, err
	}
	if err := <-ended; err != nil {
		return nil, fmt.Errorf("%d bytes came: %w", sink.got.Load(), err)
	}
	took := time.Since(lost)
	if got := sink.got.Load(); got != b.size {
		return nil, fmt.Errorf("the receiver got %d bytes, want %d", got, b.size)
	}
	return figuresOf{
		t.Columns[0].Name: time.Duration(sink.silence.Load()).Seconds() * 1e3,
		t.Columns[1].Name: mib(max(0, senders.up.Load()-b.size)),
		t.Columns[2].Name: mib(max(0, receivers.down.Load()-b.size)),
		t.Columns[3].Name: took.Seconds(),
	}, nil
}

// A lossSink counts what comes and forgets it, and tells for how long nothing came. It
// has one writer.
type lossSink struct {
	half    int64
	reached chan struct{} // closed when half of it is there

	got           atomic.Int64
	last, silence atomic.Int64 // Unix ns, ns
}

// Write takes a part of the file.
func (s *lossSink) Write(p []byte) (int, error) {
	now := time.Now().UnixNano()
	s.silence.Store(max(s.silence.Load(), now-s.last.Swap(now)))
	n := s.got.Add(int64(len(p)))
	if n >= s.half && n-int64(len(p)) < s.half {
		close(s.reached)
	}
	return len(p), nil
}
