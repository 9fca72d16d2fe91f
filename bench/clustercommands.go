package main

import (
	"fmt"
	"time"
)

// A commandPath is two ways to ask, and the servers that carry commands and answers;
// nil for those that there are not.
type commandPath struct {
	many, alone asker
	from, to    *relay
	bus         *natsNode
}

// servers are the processes of from, to and bus.
func (p *commandPath) servers() (all [3]*process) {
	for i, r := range []*relay{p.from, p.to} {
		if r != nil {
			all[i] = r.process
		}
	}
	if p.bus != nil {
		all[2] = p.bus.process
	}
	return all
}

// clusterCommands measures commands from a user at one node to a user at another.
func (b *bench) clusterCommands() {
	const limit = "÷ one node"
	t := &table{
		Name: clusterPrefix + "commands", Title: fmt.Sprintf("Commands of %d bytes from node to node", commandBytes),
		Columns: []column{
			{Name: "one in flight, p50, µs", Ratio: limit}, {Name: "p99, µs"},
			{Name: "256 in flight, answers/s", Ratio: limit},
			{Name: "CPU of all servers, µs/answer", Ratio: limit},
			{Name: "the sender's node"}, {Name: "the receiver's node"}, {Name: "nats-server"},
		},
		Notes: []string{
			"Requester, each server and responder are processes of their own; one connection of each of the two users. Processor time is that of the servers alone, with 256 in flight: all of them, and then each by itself.",
			"**One node**: `dian serve` without a cluster. **Two nodes, both users at one**: what it costs to be in a cluster. **Two nodes**: the sender is at one and the receiver at the other, so each command and each answer crosses NATS. The nodes reach NATS without TLS, whatever their clients do.",
			"**NATS**: request and an empty reply through the same nats-server, at most once.",
		},
	}
	one := func(name, limit string, start func() (*commandPath, error)) contestant {
		return contestant{name, limit, func() (func() (figuresOf, error), error) {
			p, err := start()
			if err != nil {
				return nil, err
			}
			return func() (figuresOf, error) { return b.commandRound(t, name, p) }, nil
		}}
	}
	var all []contestant
	for _, secure := range []bool{false, true} {
		kind := kind(secure)
		limit := oneNode + ", " + kind
		all = append(all,
			one(limit, "", func() (*commandPath, error) {
				flags, err := b.profiled()
				if err != nil {
					return nil, err
				}
				r, err := b.startRelay(secure, flags...)
				if err != nil {
					return nil, err
				}
				return b.pathBetween(&commandPath{from: r}, "alone-"+kind)
			}),
			one(twoNodes+", both users at one, "+kind, limit, func() (*commandPath, error) {
				c, err := b.startCluster(secure, 2)
				if err != nil {
					return nil, err
				}
				return b.pathBetween(&commandPath{from: c.nodes[0], bus: c.nats}, "near-"+kind)
			}),
			one(twoNodes+", "+kind, limit, func() (*commandPath, error) {
				c, err := b.startCluster(secure, 2)
				if err != nil {
					return nil, err
				}
				return b.pathBetween(&commandPath{from: c.nodes[0], to: c.nodes[1], bus: c.nats}, "far-"+kind)
			}),
			one("NATS, "+kind, limit, func() (*commandPath, error) {
				n, err := b.startNATS(secure)
				if err != nil {
					return nil, err
				}
				p := &commandPath{bus: n}
				p.many, p.alone, err = b.natsPair(n)
				return p, err
			}),
		)
	}
	b.compare(t, all)
}

// pathBetween starts a requester at the path's first node and a responder at its second,
// or at the same if there is none.
func (b *bench) pathBetween(p *commandPath, folder string) (*commandPath, error) {
	to := p.to
	if to == nil {
		to = p.from
	}
	var err error
	p.many, p.alone, err = b.dianPair(p.from, to, folder)
	return p, err
}

func (b *bench) commandRound(t *table, name string, p *commandPath) (figuresOf, error) {
	p50, p99, err := latency(p.alone, b.span)
	if err != nil {
		return nil, err
	}
	f := figuresOf{t.Columns[0].Name: p50, t.Columns[1].Name: p99}
	servers := p.servers()
	var before [len(servers)]time.Duration
	for i, s := range servers {
		before[i] = cpuOf(s)
	}
	var n int
	if err := b.profile(name, map[string]*relay{"sender": p.from, "receiver": p.to}, func() error {
		f[t.Columns[2].Name], n, err = throughput(p.many, b.span)
		return err
	}); err != nil {
		return nil, err
	}
	for i, s := range servers {
		if s != nil {
			each := float64((cpuOf(s) - before[i]).Microseconds()) / float64(n)
			f[t.Columns[3].Name] += each
			f[t.Columns[4+i].Name] = each
		}
	}
	return f, nil
}
