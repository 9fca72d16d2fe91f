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
// not delivered, or delivered twice.
func (b *bench) storm() error {
	const clients = 10_000
	fmt.Printf("\nstorm: %d clients over TLS, the relay killed and started again\n", clients)
	r, err := b.startRelay(true)
	if err != nil {
		return err
	}
	s, err := b.start(b.self, "storm-clients", r.url, b.dir, strconv.Itoa(clients))
	if err != nil {
		return err
	}
	defer s.kill()
	if _, err := s.line("ready"); err != nil {
		return err
	}
	r.kill()
	again, err := b.start(b.dian, r.cmd.Args[1:]...)
	if err != nil {
		return err
	}
	defer again.kill()
	for range 2 {
		said, err := s.line("")
		if err != nil {
			return err
		}
		fmt.Println("  " + said)
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
func stormClients(args []string) error { // URL FOLDER N
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	type pairState struct {
		mu        sync.Mutex
		delivered map[string]int
	}
	pairs := make([]pairState, n/2)
	var storm atomic.Int64 // when it began, Unix ms
	var mu sync.Mutex
	var back []time.Duration
	all := make([]*dian.Client, n)
	if err := many(n, 32, func(i int) error {
		p := &pairs[i/2]
		h := dian.Handler{
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
		c, err := benchClient(args[0], args[1], fmt.Sprintf("storm-%d", i),
			dian.WithReceiveDir(filepath.Join(args[1], "storm", strconv.Itoa(i))), dian.WithHandler(h))
		all[i] = c
		return err
	}); err != nil {
		return err
	}
	defer os.RemoveAll(filepath.Join(args[1], "storm"))
	var acked, failed, lost, twice atomic.Int64
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
				task := all[i].SendCmd(fmt.Sprintf("storm-%d", i+1), []byte("hello"))
				if task.Wait(context.Background()) != nil {
					failed.Add(1)
					continue
				}
				acked.Add(1)
				p.mu.Lock()
				switch p.delivered[task.ID()] {
				case 0:
					lost.Add(1)
				case 1:
				default:
					twice.Add(1)
				}
				p.mu.Unlock()
			}
		})
	}
	time.Sleep(8 * time.Second) // commands are under way everywhere
	storm.Store(time.Now().UnixMilli())
	fmt.Println("ready")
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
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
	for i := range pairs {
		p := &pairs[i]
		p.mu.Lock()
		for _, n := range p.delivered {
			if n > 1 {
				twice.Add(1)
			}
		}
		p.mu.Unlock()
	}
	fmt.Printf("commands: %d acked, of these %d not delivered; %d delivered twice; %d failed\n", acked.Load(), lost.Load(), twice.Load(), failed.Load())
	select {}
}
