package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/dian-im/dian"
)

// crowdSize is how many transfers run at once at most.
const crowdSize = 1000

// crowdShare is the smallest part of the bulk file that each of them carries: with less
// it would be offers and flushes alone that are measured.
const crowdShare = 256

// transfers measures the rate of 1, 10, 100 and 1,000 transfers at once, together.
func (b *bench) transfers() error {
	t := &table{
		Name: "transfers", Title: "Transfers at once",
		Columns: []column{{Name: "MB/s, all together", Ratio: "÷ one"}},
		Notes: []string{
			fmt.Sprintf("%.2f GiB over TLS in files of equal size, but none smaller than %.0f MiB, each from a user of its own to another. Relay, all senders and all receivers are three processes; everybody is logged in before.", float64(b.size)/(1<<30), mib(b.size/crowdShare)),
			"Each of Dian's files is offered, hashed, flushed and renamed, and each has two lanes, which is what many small ones cost more than one large one. The bare relay's pairs have a connection each, made before, and nothing of that.",
		},
	}
	r, err := b.startRelay(true)
	if err != nil {
		return err
	}
	if _, err := b.startPart("crowd-receive", r.url, b.dir, strconv.Itoa(crowdSize)); err != nil {
		return err
	}
	senders, tell, err := b.startTold("crowd-send", r.url, b.dir, strconv.Itoa(crowdSize))
	if err != nil {
		return err
	}
	addr, err := freeAddress()
	if err != nil {
		return err
	}
	if _, err := b.start(b.self, "bare-crowd-relay", addr, b.dir); err != nil {
		return err
	}
	if err := waitListening(addr); err != nil {
		return err
	}
	if _, err := b.startPart("bare-crowd-receive", addr, b.dir, strconv.Itoa(crowdSize)); err != nil {
		return err
	}
	bareSenders, tellBare, err := b.startTold("bare-crowd-send", addr, b.dir, strconv.Itoa(crowdSize))
	if err != nil {
		return err
	}
	var ours, bare []contestant
	for n := 1; n <= crowdSize; n *= 10 {
		each := b.size / int64(min(n, crowdShare))
		file, err := b.file(fmt.Sprintf("crowd-%d.bin", n), each)
		if err != nil {
			return err
		}
		b.atEnd(func() { os.Remove(file) })
		entry := func(what string, senders *process, tell io.Writer) contestant {
			name, limit := what+count(n)+" at once", what+"1 at once"
			if n == 1 {
				limit = ""
			}
			return contestant{name, limit, func() (func() (figuresOf, error), error) {
				return func() (figuresOf, error) {
					start := time.Now()
					fmt.Fprintf(tell, "%d %s\n", n, file)
					if _, err := senders.line("done"); err != nil {
						return nil, err
					}
					return figuresOf{t.Columns[0].Name: rate(each*int64(n), time.Since(start))}, nil
				}, nil
			}}
		}
		ours = append(ours, entry("Dian, ", senders, tell))
		bare = append(bare, entry("bare TLS relay, ", bareSenders, tellBare))
	}
	all := append(ours, bare...)
	b.compare(t, all)
	return nil
}

// startTold starts a part that is told what to do line by line, and waits until it is ready.
func (b *bench) startTold(args ...string) (*process, io.Writer, error) {
	in, tell, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer in.Close()
	b.atEnd(func() { tell.Close() })
	p, err := b.startReading(in, b.self, args...)
	if err != nil {
		return nil, nil, err
	}
	_, err = p.line("ready")
	return p, tell, err
}

// crowdReceive is N users who take files and delete them.
func crowdReceive(args []string) error { // URL FOLDER N
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	if err := many(n, 32, func(i int) error {
		_, err := benchClient(args[0], args[1], fmt.Sprintf("bob-%d", i),
			dian.WithReceiveDir(filepath.Join(args[1], "crowd", strconv.Itoa(i))),
			dian.WithHandler(dian.Handler{NotifyFileData: func(f dian.FileData) { os.Remove(f.Path) }}))
		return err
	}); err != nil {
		return err
	}
	fmt.Println("ready")
	select {}
}

// crowdSend is N users who send as told.
func crowdSend(args []string) error { // URL FOLDER N [ADDRESS of lanes]
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	clients := make([]*dian.Client, n)
	if err := many(n, 32, func(i int) error {
		var err error
		clients[i], err = benchClient(args[0], args[1], fmt.Sprintf("alice-%d", i), append(lanesAt(args[3:]), dian.WithSendOnly())...)
		return err
	}); err != nil {
		return err
	}
	return sendAsTold(func(i int, file string) error {
		return clients[i].SendFile(fmt.Sprintf("bob-%d", i), file).Wait(context.Background())
	})
}

// sendAsTold sends, for each line "COUNT FILE" of the standard input, the file so many
// times at once: number i by send(i, FILE).
func sendAsTold(send func(i int, file string) error) error {
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var count int
		var file string
		if _, err := fmt.Sscan(in.Text(), &count, &file); err != nil {
			return err
		}
		var sending sync.WaitGroup
		errs := make([]error, count)
		for i := range count {
			sending.Go(func() { errs[i] = send(i, file) })
		}
		sending.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
		fmt.Println("done")
	}
	return nil
}

// sessionsLatency measures a pair's commands on relays with more and more idle sessions.
func (b *bench) sessionsLatency() {
	t := &table{
		Name: "sessions", Title: "Commands while others are idle",
		Columns: []column{{Name: "one in flight, p50, µs", Ratio: "÷ no others"}, {Name: "p99, µs", Ratio: "÷ no others"}},
		Notes:   []string{"Dian over TLS: a pair's commands on relays that have so many other sessions. All relays run all the time; the sessions are pinged as ever."},
	}
	const none = "no others"
	var all []contestant
	for _, n := range []int{0, b.sessions / 10, b.sessions / 2, b.sessions} {
		name, limit := fmt.Sprintf("%s sessions", count(n)), none
		if n == 0 {
			name, limit = none, ""
		}
		all = append(all, contestant{name, limit, func() (func() (figuresOf, error), error) {
			r, err := b.startRelay(true)
			if err != nil {
				return nil, err
			}
			if n > 0 {
				if _, err := b.startPart("load-idle", r.url, b.dir, strconv.Itoa(n), "0"); err != nil {
					return nil, err
				}
			}
			if _, err := b.startPart("dian-responder", r.url, b.dir, filepath.Join(b.dir, fmt.Sprintf("responder-%d", n))); err != nil {
				return nil, err
			}
			client, err := benchClient(r.url, b.dir, "alice", dian.WithSendOnly())
			if err != nil {
				return nil, err
			}
			b.atEnd(func() { client.Close() })
			return func() (figuresOf, error) {
				p50, p99, err := latency(dianAlone(client), b.span)
				return figuresOf{t.Columns[0].Name: p50, t.Columns[1].Name: p99}, err
			}, nil
		}})
	}
	b.compare(t, all)
}
