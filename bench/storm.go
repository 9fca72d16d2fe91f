package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dian-im/dian"
)

// storm kills a relay with 10,000 clients and starts it again at once. It tells when
// they are back, and whether a command that was acked before or during the storm was
// not delivered, or delivered twice. The clients, with their receive folders, are more
// files than a process may have; so they are five processes.
func (b *bench) storm() error {
	const clients, processes = 10_000, 5
	fmt.Printf("\nstorm: %d clients over TLS in %d processes, the relay killed and started again\n", clients, processes)
	r, err := b.startRelay(true)
	if err != nil {
		return err
	}
	var all []*process
	for i := range processes {
		s, err := b.start(b.self, "storm-clients", r.url, b.dir, strconv.Itoa(i*clients/processes), strconv.Itoa(clients/processes))
		if err != nil {
			return err
		}
		defer s.kill()
		if _, err := s.line("ready"); err != nil {
			return err
		}
		all = append(all, s)
	}
	r.kill()
	again, err := b.start(b.dian, r.cmd.Args[1:]...)
	if err != nil {
		return err
	}
	defer again.kill()
	for _, s := range all {
		for range 2 {
			said, err := s.line("")
			if err != nil {
				return err
			}
			fmt.Println("  " + said)
		}
	}
	peak, err := again.peak()
	if err != nil {
		return err
	}
	fmt.Printf("  the new relay's peak: %.0f MiB\n", mib(peak))
	return nil
}

// stormClients is N clients of the SDK in pairs: each even one sends the next a
// command every few seconds, all the time.
func stormClients(args []string) error { // URL FOLDER FIRST N
	first, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	user := func(i int) string { return fmt.Sprintf("storm-%d", first+i) }
	type pairState struct {
		mu        sync.Mutex
		delivered map[string]int
		acked     []string
	}
	pairs := make([]pairState, n/2)
	var storm atomic.Int64 // when the first line broke, Unix ms
	var mu sync.Mutex
	var back []time.Duration
	all := make([]*dian.Client, n)
	if err := many(n, 32, func(i int) error {
		p := &pairs[i/2]
		h := dian.Handler{
			NotifyReconnecting: func(dian.Reconnecting) { storm.CompareAndSwap(0, time.Now().UnixMilli()) },
			NotifyReconnected: func() {
				if began := storm.Load(); began > 0 {
					mu.Lock()
					back = append(back, time.Since(time.UnixMilli(began)))
					mu.Unlock()
				}
			},
		}
		if i%2 == 1 {
			p.delivered = map[string]int{}
			h.NotifyCmdData = func(m dian.CmdData) {
				p.mu.Lock()
				p.delivered[m.SendID]++
				p.mu.Unlock()
			}
		}
		c, err := benchClient(args[0], args[1], user(i),
			dian.WithReceiveDir(filepath.Join(args[1], "storm", user(i))), dian.WithHandler(h))
		all[i] = c
		return err
	}); err != nil {
		return err
	}
	defer os.RemoveAll(filepath.Join(args[1], "storm"))
	var failed atomic.Int64
	var acked, lost, twice int
	stop := make(chan struct{})
	var sending sync.WaitGroup
	for i := 0; i < n; i += 2 {
		sending.Go(func() {
			p := &pairs[i/2]
			tick := time.NewTicker(3*time.Second + time.Duration(i)*time.Millisecond/10)
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
				}
				task := all[i].SendCmd(user(i+1), []byte("hello"))
				if task.Wait(context.Background()) != nil {
					failed.Add(1)
					continue
				}
				p.mu.Lock() // its callback may still be queued: what came is counted in the end
				p.acked = append(p.acked, task.ID())
				p.mu.Unlock()
			}
		})
	}
	time.Sleep(8 * time.Second) // commands are under way everywhere
	fmt.Println("ready")
	for deadline := time.Now().Add(4 * time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		mu.Lock()
		n := len(back)
		mu.Unlock()
		if n == len(all) {
			break
		}
	}
	mu.Lock()
	slices.Sort(back)
	at := func(share float64) time.Duration {
		if i := int(share * float64(n)); i <= len(back) && i > 0 {
			return back[i-1].Round(10 * time.Millisecond)
		}
		return -1
	}
	fmt.Printf("back: half after %v, 99 %% after %v, all %d after %v\n", at(0.5), at(0.99), len(back), at(1))
	mu.Unlock()
	time.Sleep(10 * time.Second)
	close(stop)
	sending.Wait()
	time.Sleep(2 * time.Second)
	for i := range pairs {
		p := &pairs[i]
		p.mu.Lock()
		acked += len(p.acked)
		for _, id := range p.acked {
			if p.delivered[id] == 0 {
				lost++
			}
		}
		for _, n := range p.delivered {
			if n > 1 {
				twice++
			}
		}
		p.mu.Unlock()
	}
	fmt.Printf("commands: %d acked, of these %d not delivered; %d delivered twice; %d failed\n", acked, lost, twice, failed.Load())
	select {}
}
