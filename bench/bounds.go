package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dian-im/dian"
)

// bounds puts a relay into 1 GiB and loads it in ways that it must withstand, one
// after the other and each on a relay of its own. A healthy pair works before the
// load and beside it: what counts is the ratio of its figures. Then the same load
// is put on another relay: what it still takes from the pair is the machine's part,
// since the pair's own relay knows nothing of it.
func (b *bench) bounds() error {
	fmt.Printf("\nbounds: a relay over TLS in 1 GiB; a healthy pair before the load and beside it, %d rounds each\n", b.rounds)
	for _, load := range []struct {
		name string
		part string
		args []string
		env  []string
		each int // divides the memory that the load takes; 0: does not
	}{
		{"1,000 stalled receivers", "load-stalled", []string{"1000", "0"}, []string{"DIAN_RESUME_WINDOW=1h"}, 1000},
		{"1,000 receivers that stop after 40 MB", "load-late", []string{"1000", "40000000"}, []string{"DIAN_RESUME_WINDOW=1h"}, 1000},
		{"10,000 idle TLS sessions", "load-idle", []string{"10000", "0"}, nil, 10000},
		{"300 silent connections a second", "load-flood", []string{"300"}, nil, 0},
		{"100,000 offers that nobody answers", "load-offers", []string{"100000"}, nil, 0},
	} {
		if !slices.Contains(b.loads, strings.TrimPrefix(load.part, "load-")) {
			continue
		}
		if err := b.bound(load.name, load.part, load.args, load.env, load.each); err != nil {
			return fmt.Errorf("%s: %w", load.name, err)
		}
	}
	return nil
}

func (b *bench) bound(name, part string, args, env []string, each int) error {
	leave, limited, err := enterGroup(1 << 30)
	if err != nil {
		return err
	}
	for _, e := range env {
		key, value, _ := strings.Cut(e, "=")
		os.Setenv(key, value)
		defer os.Unsetenv(key)
	}
	r, err := b.startRelay(true)
	leave()
	if err != nil {
		return err
	}
	defer r.kill()
	pair, err := b.newPair(r)
	if err != nil {
		return err
	}
	defer pair.close()
	alone, err := pair.measure(b.rounds)
	if err != nil {
		return err
	}
	before, err := r.resident()
	if err != nil {
		return err
	}
	beside, ready, after, err := b.pairBeside(pair, r, r, part, args)
	if err != nil {
		return err
	}
	peak, err := r.peak()
	if err != nil {
		return err
	}
	other, err := b.startRelay(true)
	if err != nil {
		return err
	}
	defer other.kill()
	elsewhere, _, _, err := b.pairBeside(pair, r, other, part, args)
	if err != nil {
		return err
	}
	fmt.Printf("  %s (%s)\n", name, strings.TrimSpace(strings.TrimPrefix(ready, "ready")))
	fmt.Printf("    relay: %.0f MiB before, %.0f MiB under the load, peak %.0f MiB%s; the kernel's buffers for all of TCP %.0f MiB\n",
		mib(before), mib(after.relay), mib(peak), limited, mib(after.kernel))
	if each > 0 {
		fmt.Printf("    that is %.0f KiB for each\n", float64(after.relay-before)/1024/float64(each))
	}
	fmt.Printf("    healthy pair, beside ÷ before: bulk rate %.2f, command p50 %.2f, p99 %.2f (%.0f → %.0f MB/s, p99 %.0f → %.0f µs)\n",
		beside.rate/alone.rate, beside.p50/alone.p50, beside.p99/alone.p99, alone.rate, beside.rate, alone.p99, beside.p99)
	fmt.Printf("    beside ÷ while another relay on this machine has the load: bulk rate %.2f, command p50 %.2f, p99 %.2f (%.0f MB/s, p99 %.0f µs)\n",
		beside.rate/elsewhere.rate, beside.p50/elsewhere.p50, beside.p99/elsewhere.p99, elsewhere.rate, elsewhere.p99)
	return nil
}

// held is what the pair's relay and the kernel hold under a load, in bytes.
type held struct{ relay, kernel int64 }

// pairBeside measures the pair, whose relay is own, while loaded has the load.
func (b *bench) pairBeside(pair *pair, own, loaded *relay, part string, args []string) (figures, string, held, error) {
	l, err := b.start(b.self, append([]string{part, loaded.url, b.dir}, args...)...)
	if err != nil {
		return figures{}, "", held{}, err
	}
	defer l.kill()
	ready, err := l.line("ready")
	if err != nil {
		return figures{}, "", held{}, err
	}
	var h held
	if h.relay, err = own.resident(); err != nil {
		return figures{}, "", held{}, err
	}
	f, err := pair.measure(b.rounds)
	if err != nil {
		return figures{}, "", held{}, err
	}
	h.kernel, err = socketBuffers()
	return f, ready, h, err
}

// enterGroup makes a cgroup with a limit of memory and puts this process into it, so
// that what it starts is born there; leave goes back. Who may not is told so.
func enterGroup(limit int64) (leave func(), limited string, err error) {
	const root = "/sys/fs/cgroup"
	folder, file, procs := filepath.Join(root, "dian-bench"), "memory.max", filepath.Join(root, "cgroup.procs")
	if _, err := os.Stat(filepath.Join(root, "memory", "memory.limit_in_bytes")); err == nil { // version 1
		folder, file, procs = filepath.Join(root, "memory", "dian-bench"), "memory.limit_in_bytes", filepath.Join(root, "memory", "cgroup.procs")
	}
	pid := fmt.Append(nil, os.Getpid())
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return func() {}, ", not limited: " + err.Error(), nil
	}
	if err := os.WriteFile(filepath.Join(folder, file), fmt.Append(nil, limit), 0o600); err != nil {
		return func() {}, ", not limited: " + err.Error(), nil
	}
	if err := os.WriteFile(filepath.Join(folder, "cgroup.procs"), pid, 0o600); err != nil {
		return func() {}, ", not limited: " + err.Error(), nil
	}
	return func() { _ = os.WriteFile(procs, pid, 0o600) }, "", nil
}

// socketBuffers is what the kernel holds for all connections of this machine, in bytes.
func socketBuffers() (int64, error) {
	text, err := os.ReadFile("/proc/net/sockstat")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "TCP:"); ok {
			fields := strings.Fields(rest)
			pages, err := strconv.ParseInt(fields[len(fields)-1], 10, 64)
			return pages * int64(os.Getpagesize()), err
		}
	}
	return 0, errors.New("sockstat has no line for TCP")
}

// resident is the resident size of a running process, in bytes.
func (p *process) resident() (int64, error) { return p.status("VmRSS:") }

// A pair is two users who work while others misbehave.
type pair struct {
	alice *dian.Client
	bob   *process
	file  string
	size  int64
}

func (b *bench) newPair(r *relay) (*pair, error) {
	bob, err := b.start(b.self, "dian-responder", r.url, b.dir, filepath.Join(b.dir, "healthy"))
	if err != nil {
		return nil, err
	}
	if _, err := bob.line("ready"); err != nil {
		return nil, err
	}
	const size = 128 << 20
	file, err := b.file("healthy.bin", size)
	if err != nil {
		return nil, err
	}
	alice, err := benchClient(r.url, b.dir, "alice", dian.WithSendOnly())
	if err != nil {
		return nil, err
	}
	return &pair{alice, bob, file, size}, nil
}

func (p *pair) close() {
	p.alice.Close()
	p.bob.kill()
	os.Remove(p.file)
}

// figures are medians of rounds.
type figures struct{ rate, p50, p99 float64 }

func (p *pair) measure(rounds int) (figures, error) {
	var rates, p50, p99 []float64
	for range rounds {
		start := time.Now()
		if err := p.alice.SendFile("bob", p.file).Wait(context.Background()); err != nil {
			return figures{}, err
		}
		rates = append(rates, rate(p.size, time.Since(start)))
		a, z, err := latency(func(data []byte, done func(error)) {
			done(p.alice.SendCmd("bob", data).Wait(context.Background()))
		}, 2*time.Second)
		if err != nil {
			return figures{}, err
		}
		p50, p99 = append(p50, a), append(p99, z)
	}
	var f figures
	f.rate, _, _ = spread(rates)
	f.p50, _, _ = spread(p50)
	f.p99, _, _ = spread(p99)
	return f, nil
}
