package main

import (
	"fmt"
	"strconv"
	"time"
)

// clusterIdle measures what a session that does nothing takes of the nodes and of
// nats-server, beside one relay that stands alone.
func (b *bench) clusterIdle() {
	const limit = "÷ one node"
	n := b.sessions / 2
	t := &table{
		Name: clusterPrefix + "idle", Title: fmt.Sprintf("%s idle sessions over TLS, on one node and on two", count(n)), Cold: true,
		Columns: []column{
			{Name: "nodes, KiB per session", Ratio: limit}, {Name: "nats-server, KiB per session"},
			{Name: "all, KiB per session", Ratio: limit}, {Name: "all without sessions, MiB"},
		},
		Notes: []string{
			"Resident sizes (VmRSS) less those without sessions, 15 s later at the earliest and when they have stopped changing; all servers are started anew for each round. The sessions listen. On two nodes half of them are at each, which then also knows of the users at the other, and NATS has a subscription for each user.",
		},
	}
	one := func(name, limit string, start func() (nodes []*relay, bus *natsNode, err error)) contestant {
		return contestant{name, limit, func() (func() (figuresOf, error), error) {
			return func() (figuresOf, error) {
				nodes, bus, err := start()
				if err != nil {
					return nil, err
				}
				return b.clusterIdleRound(t, nodes, bus, n)
			}, nil
		}}
	}
	b.compare(t, []contestant{
		one(oneNode, "", func() ([]*relay, *natsNode, error) {
			r, err := b.startRelay(true)
			return []*relay{r}, nil, err
		}),
		one(twoNodes, oneNode, func() ([]*relay, *natsNode, error) {
			c, err := b.startCluster(true, 2)
			if err != nil {
				return nil, nil, err
			}
			return c.nodes, c.nats, nil
		}),
	})
}

func (b *bench) clusterIdleRound(t *table, nodes []*relay, bus *natsNode, n int) (figuresOf, error) {
	var servers []*process
	for _, r := range nodes {
		defer r.kill()
		servers = append(servers, r.process)
	}
	if bus != nil {
		defer bus.kill()
		servers = append(servers, bus.process)
	}
	empty, err := settledAll(servers)
	if err != nil {
		return nil, err
	}
	for i, r := range nodes {
		each := n / len(nodes)
		l, err := b.startPart("load-idle", r.url, b.dir, strconv.Itoa(each), strconv.Itoa(i*each))
		if err != nil {
			return nil, err
		}
		defer l.kill()
	}
	time.Sleep(settleTime)
	full, err := settledAll(servers)
	if err != nil {
		return nil, err
	}
	var all, ofNodes, ofBus, before float64
	for i := range servers {
		each := float64(full[i]-empty[i]) / 1024 / float64(n)
		all += each
		if i < len(nodes) {
			ofNodes += each
		} else {
			ofBus += each
		}
		before += mib(empty[i])
	}
	f := figuresOf{t.Columns[0].Name: ofNodes, t.Columns[2].Name: all, t.Columns[3].Name: before}
	if bus != nil {
		f[t.Columns[1].Name] = ofBus
	}
	return f, nil
}

// settledAll are the resident sizes when they have stopped changing.
func settledAll(servers []*process) (sizes []int64, err error) {
	for _, p := range servers {
		size, err := p.settled()
		if err != nil {
			return nil, err
		}
		sizes = append(sizes, size)
	}
	return sizes, nil
}
