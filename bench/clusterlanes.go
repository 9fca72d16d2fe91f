package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/dian-im/dian"
)

// atOnce is how many transfers run at once.
const atOnce = 10

// clusterLanes measures transfers whose lanes reach the receiver's node or another one.
func (b *bench) clusterLanes() error {
	const limit = "÷ one node"
	t := &table{
		Name: clusterPrefix + "lanes", Title: fmt.Sprintf("Transfers from node to node: %.2f GiB", float64(b.size)/(1<<30)),
		Columns: []column{
			{Name: "one file, MB/s", Ratio: limit}, {Name: "CPU of all servers, s/GiB", Ratio: limit},
			{Name: fmt.Sprintf("%d files at once, MB/s", atOnce), Ratio: limit},
		},
		Notes: []string{
			fmt.Sprintf("From tmpfs to receivers that hash, verify and forget. One file, then %d at once of a tenth each, from ten users to ten others. All senders, all receivers and each server are processes of their own, and everybody is logged in before.", atOnce),
			"**Two nodes**: all senders are at one node and all receivers at the other. A lane that reaches the receiver's node is served there; one that reaches the other is carried on, over a connection between the two that is not encrypted here.",
			"**Nothing carried**: the sender's lane is dialled to the receiver's node. **The sender's lane carried**: each user's lane goes to the node where its session is, as it does by itself. **Both lanes carried**: the receiver's lane is dialled to the sender's node, as a load balancer that knows nothing of Dian could do; its content then goes from one node to the other and back.",
		},
	}
	one := func(name, limit string, start func() (send lanes, servers []*process, err error)) contestant {
		return contestant{name, limit, func() (func() (figuresOf, error), error) {
			send, servers, err := start()
			if err != nil {
				return nil, err
			}
			return func() (figuresOf, error) {
				before, began := cpuOf(servers...), time.Now()
				if err := send(1, b.size); err != nil {
					return nil, err
				}
				took, cpu := time.Since(began), cpuOf(servers...)-before
				began = time.Now()
				err := send(atOnce, b.size/atOnce)
				return figuresOf{
					t.Columns[0].Name: rate(b.size, took),
					t.Columns[1].Name: cpu.Seconds() / float64(b.size) * (1 << 30),
					t.Columns[2].Name: rate(b.size/atOnce*atOnce, time.Since(began)),
				}, err
			}, nil
		}}
	}
	var all []contestant
	for _, secure := range []bool{false, true} {
		limit := oneNode + ", " + kind(secure)
		all = append(all, one(limit, "", func() (lanes, []*process, error) {
			r, err := b.startRelay(secure)
			if err != nil {
				return nil, nil, err
			}
			send, err := b.startLanes(r, r, "", "")
			return send, []*process{r.process}, err
		}))
		for _, way := range []struct {
			name               string
			senders, receivers bool // their lanes are dialled to the other node
		}{{"nothing carried", true, false}, {"the sender's lane carried", false, false}, {"both lanes carried", false, true}} {
			all = append(all, one(twoNodes+", "+way.name+", "+kind(secure), limit, func() (lanes, []*process, error) {
				c, err := b.startCluster(secure, 2)
				if err != nil {
					return nil, nil, err
				}
				var senders, receivers string
				if way.senders {
					senders = c.nodes[1].addr()
				}
				if way.receivers {
					receivers = c.nodes[0].addr()
				}
				send, err := b.startLanes(c.nodes[0], c.nodes[1], senders, receivers)
				return send, c.processes(), err
			}))
		}
	}
	b.compare(t, all)
	return nil
}

// lanes sends so many files of a size at once.
type lanes func(count int, size int64) error

// startLanes starts senders at one node and receivers at another, or the same. Their
// lanes go where they are logged in, unless another address is given.
func (b *bench) startLanes(from, to *relay, sendersLanes, receiversLanes string) (lanes, error) {
	args := func(part string, r *relay, at string) []string {
		list := []string{part, r.url, b.dir, strconv.Itoa(atOnce)}
		if at != "" {
			list = append(list, at)
		}
		return list
	}
	if _, err := b.startPart(args("crowd-sink", to, receiversLanes)...); err != nil {
		return nil, err
	}
	senders, tell, err := b.startTold(args("crowd-send", from, sendersLanes)...)
	if err != nil {
		return nil, err
	}
	return func(count int, size int64) error {
		file, err := b.laneFile(size)
		if err != nil {
			return err
		}
		fmt.Fprintf(tell, "%d %s\n", count, file)
		_, err = senders.line("done")
		return err
	}, nil
}

// laneFile makes a file of a size, once in a measurement.
func (b *bench) laneFile(size int64) (string, error) {
	name := fmt.Sprintf("lane-%d.bin", size)
	path := filepath.Join(b.dir, name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	b.atEnd(func() { os.Remove(path) })
	return b.file(name, size)
}

// crowdSink is N users who take files, verified, and forget them.
func crowdSink(args []string) error { // URL FOLDER N [ADDRESS of lanes]
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	if err := many(n, 32, func(i int) error {
		_, err := benchClient(args[0], args[1], fmt.Sprintf("bob-%d", i), append(lanesAt(args[3:]), dian.WithHandler(dian.Handler{
			AcceptFile:     func(o *dian.Offer) { o.AcceptWriter(io.Discard) },
			NotifyFileData: func(dian.FileData) {},
		}))...)
		return err
	}); err != nil {
		return err
	}
	fmt.Println("ready")
	select {}
}

// lanesAt has a client dial its lanes to another address than its session, which it
// dials first, if there is one.
func lanesAt(address []string) []dian.Option {
	if len(address) == 0 {
		return nil
	}
	var dials atomic.Int64
	return []dian.Option{dian.WithHTTPClient(&http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if dials.Add(1) > 1 {
				addr = address[0]
			}
			return new(net.Dialer).DialContext(ctx, network, addr)
		},
	}})}
}
