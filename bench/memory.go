package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// memory watches the peak resident size of relay, sender and receiver: one
// large file, then 100 transfers at once.
func (b *bench) memory(size int64) error {
	fmt.Printf("\nmemory: peak resident size (VmHWM)\n")
	file, err := b.file("large.bin", size)
	if err != nil {
		return err
	}
	for _, secure := range []bool{false, true} {
		r, err := b.startRelay(secure)
		if err != nil {
			return err
		}
		l, err := b.listen(r, "bob", filepath.Join(b.dir, "received"))
		if err != nil {
			return err
		}
		s, err := b.start(b.dian, append([]string{"send", "--json", "bob", file}, r.as("alice")...)...)
		if err != nil {
			return err
		}
		if err := s.wait(); err != nil {
			return err
		}
		if err := remove(l, size); err != nil {
			return err
		}
		if err := b.sayPeaks(fmt.Sprintf("%.1f GiB, %s", float64(size)/(1<<30), kind(secure)), r, l, s); err != nil {
			return err
		}
		l.interrupt()
		r.interrupt()
	}
	if err := os.Remove(file); err != nil {
		return err
	}

	const many, each = 100, 16 << 20
	if file, err = b.file("one.bin", each); err != nil {
		return err
	}
	defer os.Remove(file)
	for _, secure := range []bool{false, true} {
		r, err := b.startRelay(secure)
		if err != nil {
			return err
		}
		// Ten receivers and ten senders of ten files each: 100 lanes pairs at once.
		var listeners []*process
		for i := range 10 {
			l, err := b.listen(r, fmt.Sprintf("bob%d", i), filepath.Join(b.dir, fmt.Sprintf("received%d", i)))
			if err != nil {
				return err
			}
			listeners = append(listeners, l)
		}
		links := make([]string, many/10)
		for i := range links {
			links[i] = filepath.Join(b.dir, fmt.Sprintf("many%d.bin", i))
			os.Remove(links[i])
			if err := os.Link(file, links[i]); err != nil {
				return err
			}
		}
		var all sync.WaitGroup
		errs := make(chan error, 10)
		for i := range 10 {
			args := append([]string{"send", "--json", "--parallel", "10", fmt.Sprintf("bob%d", i)}, links...)
			s, err := b.start(b.dian, append(args, r.as(fmt.Sprintf("alice%d", i))...)...)
			if err != nil {
				return err
			}
			all.Go(func() {
				if err := s.wait(); err != nil {
					errs <- err
				}
			})
		}
		all.Wait()
		select {
		case err := <-errs:
			return err
		default:
		}
		if err := b.sayPeaks(fmt.Sprintf("%d transfers of %d MiB at once, %s", many, each>>20, kind(secure)), r, listeners[0], nil); err != nil {
			return err
		}
		for i, l := range listeners {
			l.interrupt()
			os.RemoveAll(filepath.Join(b.dir, fmt.Sprintf("received%d", i)))
		}
		r.interrupt()
	}
	return nil
}

func kind(secure bool) string {
	if secure {
		return "TLS"
	}
	return "plain"
}

func (b *bench) sayPeaks(what string, r *relay, l, s *process) error {
	server, err := r.peak()
	if err != nil {
		return err
	}
	receiver, err := l.peak()
	if err != nil {
		return err
	}
	fmt.Printf("  %-42s relay %5.1f MiB   a receiver %5.1f MiB", what, mib(server), mib(receiver))
	if s != nil {
		fmt.Printf("   sender %5.1f MiB", mib(s.endedPeak()))
	}
	fmt.Println()
	return nil
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }
