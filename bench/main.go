// Command bench measures Dian beside its limits and its peers, all in one run on
// one machine, over loopback: what counts is the ratios.
//
// Every part runs in a process of its own, as in life: sender, relay and
// receiver. The bare relay and the peers' endpoints are this program again,
// started with a part's name as its first argument.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
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
	var s settings
	flag.IntVar(&s.rounds, "rounds", 5, "rounds of each comparison, side by side")
	gib := flag.Float64("gib", 1, "size of the bulk file in GiB")
	memory := flag.Float64("memory-gib", 4, "how much flows while the relay's memory is watched")
	flag.DurationVar(&s.span, "span", 3*time.Second, "how long each loop of commands runs")
	flag.IntVar(&s.sessions, "sessions", 10_000, "how many idle sessions; half as many are measured, too")
	flag.IntVar(&s.files, "files", 10_000, "how many small files")
	flag.StringVar(&s.disk, "disk", "/var/tmp", "a folder on a real disk")
	only := flag.String("only", "bulk,memory,commands,beside,idle,transfers,sessions,files,network", "which measurements to make; there are bounds and storm too, and cluster, which is cluster-commands, -bus, -lanes, -logins, -idle and -loss")
	loads := flag.String("loads", "stalled,late,idle,flood,offers", "which loads of bounds")
	who := flag.String("who", "", "a pattern (RE2) of the contestants to measure, for a look at a few of them; \"\": all")
	flag.StringVar(&s.profiles, "profile", "", "a folder for CPU profiles of the nodes of cluster-commands, while 256 are in flight; for go tool pprof")
	docs := flag.String("write", "", "a folder whose performance.md gets the tables, performance.svg the plot, and performance.json all rounds; performance-cluster.md and .json those of cluster")
	flag.Parse()
	var err error
	if s.who, err = regexp.Compile(*who); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	if (*who != "" || s.profiles != "") && *docs != "" {
		fmt.Fprintln(os.Stderr, "bench: -write wants all contestants, without -who and -profile")
		os.Exit(2)
	}
	s.size, s.flow, s.loads = int64(*gib*(1<<30)), int64(*memory*(1<<30)), strings.Split(*loads, ",")
	if err := measure(s, strings.Split(*only, ","), *docs); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// measure makes the measurements and writes them into docs, if that is a folder.
func measure(s settings, only []string, docs string) error {
	b, err := newBench(s)
	if err != nil {
		return err
	}
	defer b.close()
	b.report = report{Machine: machine(), Versions: versions(), commit: commit()}
	fmt.Printf("machine: %s\nDian %s; %s\nworking files in %s\n", b.report.Machine, b.report.commit, strings.Join(b.report.Versions, ", "), b.dir)
	plain := func(f func()) func() error { return func() error { f(); return nil } }
	for _, m := range []struct {
		name string
		run  func() error
	}{
		{"bulk", b.bulk},
		{"memory", plain(b.memory)},
		{"commands", plain(b.commands)},
		{"beside", b.beside},
		{"idle", plain(b.idle)},
		{"transfers", b.transfers},
		{"sessions", plain(b.sessionsLatency)},
		{"files", b.smallFiles},
		{"network", plain(b.network)},
		{"bounds", b.bounds},
		{"storm", b.storm},
		{clusterPrefix + "commands", plain(b.clusterCommands)},
		{clusterPrefix + "bus", b.clusterBus},
		{clusterPrefix + "lanes", b.clusterLanes},
		{clusterPrefix + "logins", plain(b.clusterLogins)},
		{clusterPrefix + "idle", plain(b.clusterIdle)},
		{clusterPrefix + "loss", b.clusterLoss},
	} {
		if !slices.Contains(only, m.name) && !(strings.HasPrefix(m.name, clusterPrefix) && slices.Contains(only, "cluster")) {
			continue
		}
		err := m.run()
		b.endAll()
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		if docs != "" { // each part, so that a long run that is cut has not been for nothing
			if err := b.report.write(docs); err != nil {
				return err
			}
		}
	}
	if b.failed {
		return errors.New("a contestant failed: see its row")
	}
	return nil
}

// parts are what this program can be when it is started by itself.
var parts = map[string]func(args []string) error{
	"bare-relay":         bareRelay,
	"bare-send":          bareSend,
	"bare-receive":       bareReceive,
	"crowd-receive":      crowdReceive,
	"crowd-sink":         crowdSink,
	"bare-crowd-relay":   bareCrowdRelay,
	"bare-crowd-receive": bareCrowdReceive,
	"bare-crowd-send":    bareCrowdSend,
	"crowd-send":         crowdSend,
	"dian-responder":     dianResponder,
	"dian-sink":          dianSink,
	"echo-relay":         echoRelay,
	"echo-responder":     echoResponder,
	"bare-accept":        bareAccept,
	"link":               linkProxy,
	"load-bare":          loadRaw(openBare),
	"load-logins":        loadLogins,
	"load-idle":          loadRaw(openDian),
	"load-mqtt":          loadRaw(openMQTT),
	"load-nats":          loadRaw(openNATS),
	"load-stalled":       loadStalled,
	"load-late":          loadStalled,
	"load-flood":         loadFlood,
	"load-offers":        loadOffers,
	"storm-clients":      stormClients,
	"mqtt-responder":     mqttResponder,
	"nats-get":           natsGet,
	"nats-put":           natsPut,
	"nats-receive":       natsReceive,
	"nats-send":          natsSend,
	"nats-server":        natsServer,
	"nats-responder":     natsResponder,
	"webrtc-receive":     rtcReceiver,
	"webrtc-send":        rtcSend,
}
