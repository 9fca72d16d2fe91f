package test

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// sample is what a process holds at one moment.
type sample struct {
	at         time.Duration
	rss        float64 // MiB
	fds        float64
	goroutines float64 // of a relay; threads of the listener
}

// sampleOf reads what a process holds from /proc.
func sampleOf(pid int) (s sample, ok bool) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return s, false
	}
	field := func(name string) float64 {
		m := regexp.MustCompile(name + `:\s+(\d+)`).FindSubmatch(status)
		if m == nil {
			return 0
		}
		n, _ := strconv.ParseFloat(string(m[1]), 64)
		return n
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	s.rss, s.goroutines, s.fds = field("VmRSS")/1024, field("Threads"), float64(len(fds))
	return s, err == nil && s.rss > 0
}

// metric reads one value, summed over its labels, from a relay's /metrics.
func metric(text, name string) (sum float64) {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name); ok && (rest[0] == ' ' || rest[0] == '{') {
			fields := strings.Fields(line)
			n, _ := strconv.ParseFloat(fields[len(fields)-1], 64)
			sum += n
		}
	}
	return sum
}

func metrics(addr string) (string, error) {
	client := &http.Client{Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()
	answer, err := client.Get("http://" + addr + "/metrics")
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return string(text), err
}

// slope is the growth an hour of a value by least squares.
func slope(samples []sample, value func(sample) float64) float64 {
	var n, sx, sy, sxx, sxy float64
	for _, s := range samples {
		x, y := s.at.Hours(), value(s)
		n, sx, sy, sxx, sxy = n+1, sx+x, sy+y, sxx+x*x, sxy+x*y
	}
	return (n*sxy - sx*sy) / (n*sxx - sx*sx)
}

func median(samples []sample, value func(sample) float64) float64 {
	var all []float64
	for _, s := range samples {
		all = append(all, value(s))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// TestSoak runs for DIAN_SOAK, "30m" say, with DIAN_NODES relays. In one world senders are killed and lines
// go bad while relay and listener live on and are watched: what they hold must not
// grow after the first quarter (case 94). In another one everybody is killed. All
// content is looked at throughout.
func TestSoak(t *testing.T) {
	text := os.Getenv("DIAN_SOAK")
	if text == "" {
		t.Skip("NOT RUN: the soak test; make soak, or DIAN_SOAK=30m")
	}
	length, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("DIAN_SOAK=%q: %v", text, err)
	}
	seed, nodes := seedOf(t), number(t, "DIAN_NODES", 1)
	over := time.Now().Add(length)
	t.Run("watched", func(t *testing.T) {
		t.Parallel()
		soakWatched(t, seed, nodes, over)
	})
	t.Run("killed", func(t *testing.T) {
		t.Parallel()
		sum := newFigures()
		for i := uint64(1); time.Now().Before(over); i++ {
			if !t.Run(strconv.FormatUint(i, 10), func(t *testing.T) {
				w := newStorm(t, seed+i, nodes)
				w.begin()
				w.rage(8)
				w.settle()
				sum.add(w)
			}) {
				t.Fatalf("again: DIAN_SEED=%d DIAN_KILLS=8 DIAN_NODES=%d with TestKillStorm", seed+i, nodes)
			}
		}
		t.Log(sum)
	})
}

func soakWatched(t *testing.T, seed uint64, nodes int, over time.Time) {
	w := newStorm(t, seed, nodes)
	near, far := startBadLine(t, w.way.addr), startBadLine(t, w.front)
	w.near, w.far = near.url(), far.url()
	w.way.limit(16 << 20)
	w.begin()
	began, files, size := time.Now(), 0, int64(0)
	stopFaults := make(chan bool)
	faultsOver := make(chan map[string]int)
	go func() { faultsOver <- w.annoy(near, far, stopFaults) }()
	samples := map[string][]sample{}
	for tick := 0; time.Now().Before(over); tick++ {
		time.Sleep(time.Second)
		n, bytes := w.unpack()
		files, size = files+n, size+bytes
		w.mu.Lock()
		failed := len(w.faults) > 0
		pids := map[string]int{}
		for i, s := range slices.Concat(w.relays, []*seat{w.listener}) {
			if s.running != nil {
				pids[w.nameOf(i)] = s.running.Process.Pid
			}
			if i < len(w.relays) && s.lives > 1 {
				w.fault("a relay has ended by itself")
			}
		}
		w.mu.Unlock()
		if failed {
			break
		}
		if tick%5 != 0 {
			continue
		}
		for i := range len(w.relays) + 1 {
			name := w.nameOf(i)
			s, ok := sampleOf(pids[name])
			if s.at = time.Since(began); ok && i < len(w.relays) {
				text, err := metrics(w.addrs[i])
				ok, s.goroutines = err == nil, metric(text, "go_goroutines")
				if n := metric(text, "dian_panics_total"); n != 0 {
					w.mu.Lock()
					w.fault("%s has caught %v panics", name, n)
					w.mu.Unlock()
				}
			}
			if ok { // it neither stands still nor starts
				samples[name] = append(samples[name], s)
			}
		}
	}
	close(stopFaults)
	t.Logf("faults: %v, outages of the bus %d", <-faultsOver, w.outages)
	near.heal()
	far.heal()
	w.settle()
	n, bytes := w.unpack()
	files, size = files+n, size+bytes
	t.Logf("%v: %d files, %d bytes, results%s; %d commands with a result:%s", time.Since(began).Round(time.Second), files, size,
		counts(w.results), len(w.commands), counts(w.codes))
	for _, name := range slices.Sorted(maps.Keys(samples)) {
		all := samples[name]
		if len(all) < 16 {
			t.Logf("%s: only %d samples, no slope", name, len(all))
			continue
		}
		threads := "goroutines"
		if name == "listener" {
			threads = "threads"
		}
		warm := all[len(all)/4:]
		first, last := warm[:len(warm)/3], warm[2*len(warm)/3:]
		for _, v := range []struct {
			what  string
			of    func(sample) float64
			slack float64 // beside a fifth: what a busy moment holds more than another
		}{
			{"MiB RSS", func(s sample) float64 { return s.rss }, 12 + float64(files)/1024}, // the ledger remembers each file for a week
			{"file descriptors", func(s sample) float64 { return s.fds }, 12},
			{threads, func(s sample) float64 { return s.goroutines }, 24},
		} {
			a, b := median(first, v.of), median(last, v.of)
			t.Logf("%s: %.1f %s after warm-up, %.1f at the end, slope %+.2f an hour (%d samples)", name, a, v.what, b, slope(warm, v.of), len(warm))
			if b > 1.2*a+v.slack {
				t.Errorf("%s grows: %.1f %s after warm-up, %.1f at the end", name, a, v.what, b)
			}
		}
	}
}

// nameOf names what is watched: the relays, and behind them the listener.
func (w *storm) nameOf(i int) string {
	switch {
	case i == len(w.relays):
		return "listener"
	case len(w.relays) == 1:
		return "relay"
	}
	return fmt.Sprintf("relay %d", i+1)
}

// annoy makes trouble until stop is closed, and returns how often which.
func (w *storm) annoy(near, far *badLine, stop chan bool) map[string]int {
	made := map[string]int{}
	r := w.rng
	poisons := []struct {
		kind string
		attr func() map[string]any
	}{
		{"latency", func() map[string]any { return map[string]any{"latency": r.IntN(300), "jitter": r.IntN(100)} }},
		{"bandwidth", func() map[string]any { return map[string]any{"rate": 1 + r.IntN(200)} }},
		{"slicer", func() map[string]any {
			return map[string]any{"average_size": 1 + r.IntN(64), "size_variation": 0, "delay": 0}
		}},
		{"reset_peer", func() map[string]any { return map[string]any{"timeout": r.IntN(500)} }},
		{"timeout", func() map[string]any { return map[string]any{"timeout": 0} }},
		{"limit_data", func() map[string]any { return map[string]any{"bytes": r.IntN(300 << 10)} }},
	}
	for {
		select {
		case <-stop:
			return made
		case <-time.After(time.Duration(r.ExpFloat64() * float64(time.Second))):
		}
		w.shakeBus()
		switch dice := r.IntN(10); {
		case dice < 2:
			w.senders[r.IntN(2)].signal(syscall.SIGKILL)
			made["kill of a sender"]++
		case dice < 3:
			w.commander.signal(syscall.SIGKILL)
			made["kill of the commander"]++
		case dice < 4:
			victims := slices.Concat(w.relays, []*seat{w.listener}, w.senders)
			victims[r.IntN(len(victims))].stop(time.Duration(r.Int64N(int64(3 * time.Second))))
			made["stop"]++
		default:
			line := []*badLine{near, far}[r.IntN(2)]
			p := poisons[r.IntN(len(poisons))]
			for _, stream := range [][]string{{"upstream"}, {"downstream"}, {"upstream", "downstream"}}[r.IntN(3)] {
				line.poison(p.kind, stream, p.attr())
			}
			time.Sleep(time.Duration(r.Int64N(int64(3 * time.Second))))
			line.heal()
			made[p.kind]++
		}
	}
}

// unpack looks at what has arrived, and removes it and what it was made from.
func (w *storm) unpack() (n int, size int64) {
	w.mu.Lock()
	var arrived []string
	for name, p := range w.parcels {
		if p.ok && len(p.told) > 0 {
			arrived = append(arrived, name)
		}
	}
	known := func(name string) bool { return w.parcels[name] != nil }
	for _, name := range files(w.t, w.in()) {
		if !known(name) {
			w.fault("the receiver has %q, which was not sent, or came before", name)
		}
	}
	w.mu.Unlock()
	for _, name := range arrived {
		path := filepath.Join(w.in(), name)
		w.mu.Lock()
		p := w.parcels[name]
		w.mu.Unlock()
		if _, err := os.Stat(path); err != nil {
			w.mu.Lock()
			w.fault("%s got 0 and was told of, and is not there: %v", name, err)
			w.mu.Unlock()
			continue
		}
		got := sumOf(w.t, path)
		w.mu.Lock()
		if got != p.sum {
			w.fault("%s (%d bytes) has another content", name, p.size)
		}
		if len(p.told) != 1 {
			w.fault("%s was told of under %d ids", name, len(p.told))
		}
		delete(w.parcels, name)
		w.done[name] = true
		w.mu.Unlock()
		os.Remove(path)
		os.Remove(p.path)
		n, size = n+1, size+p.size
	}
	return n, size
}
