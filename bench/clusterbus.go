package main

import (
	"fmt"
	"time"
)

// clusterBus counts what crosses NATS.
func (b *bench) clusterBus() error {
	t := &table{
		Name: clusterPrefix + "bus", Title: "What crosses NATS",
		Columns: []column{{Name: "messages"}, {Name: "bytes"}},
		Notes: []string{
			"Two nodes, the sender at one and the receiver at the other; nats-server's own counters of what it takes in (`in_msgs`, `in_bytes`), divided by what was done. What the nodes say to each other every second is in all of them, and by itself in the last row.",
			"The content of files is carried from node to node, and never by NATS. What a long one has more than a short one is how far it has come, which its sender is told about every 50 ms, and what nodes say every second.",
		},
	}
	c, err := b.startCluster(false, 2)
	if err != nil {
		return err
	}
	many, alone, err := b.dianPair(c.nodes[0], c.nodes[1], "bus")
	if err != nil {
		return err
	}
	send, err := b.startLanes(c.nodes[0], c.nodes[1], "", "")
	if err != nil {
		return err
	}
	// counted is what doing something adds for each of the times that it says.
	counted := func(name string, do func() (times float64, err error)) contestant {
		return contestant{name: name, setup: func() (func() (figuresOf, error), error) {
			return func() (figuresOf, error) {
				before, err := c.nats.traffic()
				if err != nil {
					return nil, err
				}
				times, err := do()
				if err != nil {
					return nil, err
				}
				after, err := c.nats.traffic()
				return figuresOf{
					t.Columns[0].Name: float64(after.Messages-before.Messages) / times,
					t.Columns[1].Name: float64(after.Bytes-before.Bytes) / times,
				}, err
			}, nil
		}}
	}
	b.compare(t, []contestant{
		counted("a command, one in flight", func() (float64, error) {
			n := 0
			_, _, err := latency(func(data []byte, done func(error)) { n++; alone(data, done) }, b.span)
			return float64(n), err
		}),
		counted("a command, 256 in flight", func() (float64, error) {
			_, n, err := throughput(many, b.span)
			return float64(n), err
		}),
		counted(fmt.Sprintf("a file of %.2f GiB", float64(b.size)/(1<<30)), func() (float64, error) { return 1, send(1, b.size) }),
		counted("a file of 1 KiB", func() (float64, error) { return 1, send(1, 1<<10) }),
		counted(fmt.Sprintf("a file of %.2f GiB, of %d at once", float64(b.size/atOnce)/(1<<30), atOnce), func() (float64, error) { return atOnce, send(atOnce, b.size/atOnce) }),
		counted("a login and its end", func() (float64, error) { return busLogins, b.loginsAndEnds(c.nodes[1]) }),
		counted("a second without anything", func() (float64, error) {
			time.Sleep(b.span)
			return b.span.Seconds(), nil
		}),
	})
	return nil
}

// busLogins is how many users log in and out, one after the other.
const busLogins = 50

func (b *bench) loginsAndEnds(r *relay) error {
	l, err := newLoader([]string{r.url, b.dir})
	if err != nil {
		return err
	}
	for i := range busLogins {
		s, err := l.login(fmt.Sprintf("passing-%d", i), fmt.Sprintf("passing-by-%05d", i))
		if err != nil {
			return err
		}
		if err := s.conn.Close(); err != nil {
			return err
		}
	}
	time.Sleep(100 * time.Millisecond) // the last one has been noticed
	return nil
}
