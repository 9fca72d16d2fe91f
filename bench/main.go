// Command bench measures Dian beside a bare relay and NATS, all in one run on
// one machine, over loopback: what counts is the ratios.
//
// Every part runs in a process of its own, as in life: sender, relay and
// receiver. The bare relay and the peers' endpoints are this program again,
// started with a part's name as its first argument.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
)

func main() {
	if len(os.Args) > 1 {
		if part, ok := parts[os.Args[1]]; ok {
			if err := part(os.Args[2:]); err != nil {
				fmt.Fprintf(os.Stderr, "bench %s: %v\n", os.Args[1], err)
				os.Exit(1)
			}
			return
		}
	}
	rounds := flag.Int("rounds", 5, "rounds of each comparison, side by side")
	gib := flag.Float64("gib", 1, "size of the bulk file in GiB")
	memory := flag.Float64("memory-gib", 4, "how much flows while the relay's memory is watched")
	only := flag.String("only", "bulk,memory,commands", "which measurements to make; there are bounds and storm too")
	loads := flag.String("loads", "stalled,idle,flood,offers", "which loads of bounds")
	flag.Parse()
	b, err := newBench(*rounds)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	defer b.close()
	fmt.Printf("machine: %s/%s, %d CPUs, %s; working files in %s\n", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version(), b.dir)
	for _, m := range []struct {
		name string
		run  func() error
	}{
		{"bulk", func() error { return b.bulk(int64(*gib * (1 << 30))) }},
		{"memory", func() error { return b.memory(int64(*memory * (1 << 30))) }},
		{"commands", b.commands},
		{"bounds", func() error { return b.bounds(strings.Split(*loads, ",")) }},
		{"storm", b.storm},
	} {
		if !strings.Contains(","+*only+",", ","+m.name+",") {
			continue
		}
		if err := m.run(); err != nil {
			b.close()
			fmt.Fprintf(os.Stderr, "bench %s: %v\n", m.name, err)
			os.Exit(1)
		}
	}
}

// parts are what this program can be when it is started by itself.
var parts = map[string]func(args []string) error{
	"bare-relay":     bareRelay,
	"bare-send":      bareSend,
	"bare-receive":   bareReceive,
	"dian-responder": dianResponder,
	"load-idle":      loadIdle,
	"load-stalled":   loadStalled,
	"load-flood":     loadFlood,
	"load-offers":    loadOffers,
	"storm-clients":  stormClients,
	"nats-server":    natsServer,
	"nats-responder": natsResponder,
}
