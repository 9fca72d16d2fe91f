package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// bulk compares `dian send` → `dian serve` → `dian listen` with the bare relay:
// the same file, tmpfs to tmpfs, in turn. Dian hashes on both sides, verifies,
// flushes, journals and renames; the bare one only copies. Each time runs from
// the start of the sending process to its end, which is when the receiver has it.
func (b *bench) bulk(size int64) error {
	file, err := b.file("bulk.bin", size)
	if err != nil {
		return err
	}
	defer os.Remove(file)
	fmt.Printf("\nbulk: a file of %.2f GiB from tmpfs to tmpfs, %d rounds side by side\n", float64(size)/(1<<30), b.rounds)
	for _, secure := range []bool{false, true} {
		kind := "plain"
		if secure {
			kind = "TLS"
		}
		relay, err := b.startRelay(secure)
		if err != nil {
			return err
		}
		dir := filepath.Join(b.dir, "received")
		listener, err := b.listen(relay, "bob", dir)
		if err != nil {
			return err
		}
		var ratios, ours, bare []float64
		var cpu struct{ ours, bare time.Duration }
		for range b.rounds {
			took, used, err := b.bareOnce(file, secure)
			if err != nil {
				return err
			}
			bare, cpu.bare = append(bare, rate(size, took)), cpu.bare+used
			before := cpuNow(relay.process) + cpuNow(listener)
			start := time.Now()
			sender, err := b.start(b.dian, append([]string{"send", "--json", "bob", file}, relay.as("alice")...)...)
			if err != nil {
				return err
			}
			if err := sender.wait(); err != nil {
				return err
			}
			mine := time.Since(start)
			cpu.ours += sender.cpu() + cpuNow(relay.process) + cpuNow(listener) - before
			if err := remove(listener, size); err != nil {
				return err
			}
			ours, ratios = append(ours, rate(size, mine)), append(ratios, took.Seconds()/mine.Seconds())
		}
		mid, low, high := spread(ours)
		fmt.Printf("  %-5s dian        %6.0f MB/s (%.0f–%.0f)   CPU %.2f s a round, all three processes\n", kind, mid, low, high, cpu.ours.Seconds()/float64(b.rounds))
		mid, low, high = spread(bare)
		fmt.Printf("  %-5s bare relay  %6.0f MB/s (%.0f–%.0f)   CPU %.2f s\n", kind, mid, low, high, cpu.bare.Seconds()/float64(b.rounds))
		mid, low, high = spread(ratios)
		fmt.Printf("  %-5s ratio       %6.2f      (%.2f–%.2f)\n", kind, mid, low, high)
		listener.interrupt()
		relay.interrupt()
	}
	return nil
}

func rate(size int64, took time.Duration) float64 { return float64(size) / 1e6 / took.Seconds() }

// remove waits for the listener's report of a file and deletes the file.
func remove(listener *process, size int64) error {
	text, err := listener.line(`"event":"file"`)
	if err != nil {
		return err
	}
	var e struct {
		Path string
		Size int64
	}
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		return err
	}
	if info, err := os.Stat(e.Path); err != nil || info.Size() != size {
		return fmt.Errorf("received %v, %v, want %d bytes", info, err, size)
	}
	return os.Remove(e.Path)
}

func (b *bench) bareOnce(file string, secure bool) (took, cpu time.Duration, err error) {
	addr, err := freeAddress()
	if err != nil {
		return 0, 0, err
	}
	var folder []string
	if secure {
		folder = []string{b.dir}
	}
	relay, err := b.start(b.self, append([]string{"bare-relay", addr}, folder...)...)
	if err != nil {
		return 0, 0, err
	}
	if err := waitListening(addr); err != nil {
		return 0, 0, err
	}
	out := filepath.Join(b.dir, "bare.out")
	defer os.Remove(out)
	receiver, err := b.start(b.self, append([]string{"bare-receive", addr, out}, folder...)...)
	if err != nil {
		return 0, 0, err
	}
	if _, err := receiver.line("ready"); err != nil {
		return 0, 0, err
	}
	start := time.Now()
	sender, err := b.start(b.self, append([]string{"bare-send", addr, file}, folder...)...)
	if err != nil {
		return 0, 0, err
	}
	if err := sender.wait(); err != nil {
		return 0, 0, err
	}
	took = time.Since(start)
	if err := receiver.wait(); err != nil {
		return 0, 0, err
	}
	relay.kill()
	return took, sender.cpu() + receiver.cpu() + relay.cpu(), nil
}
