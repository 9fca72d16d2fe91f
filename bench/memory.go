package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// memory watches the peak resident size of relay, receiver and sender: one large
// file, then 100 transfers at once.
func (b *bench) memory() {
	t := &table{
		Name: "memory", Title: "Memory while content flows", Rounds: 1, Cold: true,
		Columns: []column{{Name: "relay, MiB"}, {Name: "a receiver, MiB"}, {Name: "sender, MiB"}},
		Notes:   []string{"The peak resident size (VmHWM) of each process, Dian's alone. The 100 transfers are of ten senders to ten receivers."},
	}
	file := sync.OnceValues(func() (string, error) { return b.file("large.bin", b.flow) })
	many := sync.OnceValues(b.manyFiles)
	var all []contestant
	for _, secure := range []bool{false, true} {
		all = append(all,
			contestant{name: fmt.Sprintf("%.1f GiB in one file, %s", float64(b.flow)/(1<<30), kind(secure)), setup: func() (func() (figuresOf, error), error) {
				return func() (figuresOf, error) {
					path, err := file()
					if err != nil {
						return nil, err
					}
					return b.peaksOfOne(t, path, secure)
				}, nil
			}},
			contestant{name: fmt.Sprintf("%d files of %d MiB at once, %s", manyCount, manySize>>20, kind(secure)), setup: func() (func() (figuresOf, error), error) {
				return func() (figuresOf, error) {
					paths, err := many()
					if err != nil {
						return nil, err
					}
					return b.peaksOfMany(t, paths, secure)
				}, nil
			}})
	}
	b.compare(t, all)
	os.Remove(filepath.Join(b.dir, "large.bin"))
	os.Remove(filepath.Join(b.dir, "one.bin"))
}

const manyCount, manySize = 100, 16 << 20

// manyFiles are ten names of one file.
func (b *bench) manyFiles() ([]string, error) {
	file, err := b.file("one.bin", manySize)
	if err != nil {
		return nil, err
	}
	links := make([]string, manyCount/10)
	for i := range links {
		links[i] = filepath.Join(b.dir, fmt.Sprintf("many%d.bin", i))
		if err := os.Link(file, links[i]); err != nil {
			return nil, err
		}
		b.atEnd(func() { os.Remove(links[i]) })
	}
	return links, nil
}

func (b *bench) peaksOfOne(t *table, file string, secure bool) (figuresOf, error) {
	r, err := b.startRelay(secure)
	if err != nil {
		return nil, err
	}
	defer r.interrupt()
	l, err := b.listen(r, "bob", filepath.Join(b.dir, "received"))
	if err != nil {
		return nil, err
	}
	defer l.interrupt()
	s, err := b.start(b.dian, append([]string{"send", "--json", "bob", file}, r.as("alice")...)...)
	if err != nil {
		return nil, err
	}
	if err := s.wait(); err != nil {
		return nil, err
	}
	if err := remove(l, file); err != nil {
		return nil, err
	}
	return peaks(t, r, l, s)
}

func (b *bench) peaksOfMany(t *table, files []string, secure bool) (figuresOf, error) {
	r, err := b.startRelay(secure)
	if err != nil {
		return nil, err
	}
	defer r.interrupt()
	var listeners []*process
	for i := range 10 {
		dir := filepath.Join(b.dir, fmt.Sprintf("received%d", i))
		defer os.RemoveAll(dir)
		l, err := b.listen(r, fmt.Sprintf("bob%d", i), dir)
		if err != nil {
			return nil, err
		}
		defer l.interrupt()
		listeners = append(listeners, l)
	}
	var all sync.WaitGroup
	errs := make([]error, len(listeners))
	for i := range listeners {
		args := append([]string{"send", "--json", "--parallel", "10", fmt.Sprintf("bob%d", i)}, files...)
		s, err := b.start(b.dian, append(args, r.as(fmt.Sprintf("alice%d", i))...)...)
		if err != nil {
			return nil, err
		}
		all.Go(func() { errs[i] = s.wait() })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return peaks(t, r, listeners[0], nil)
}

func kind(secure bool) string {
	if secure {
		return "TLS"
	}
	return "plain"
}

func peaks(t *table, r *relay, l, s *process) (figuresOf, error) {
	server, err := r.peak()
	if err != nil {
		return nil, err
	}
	receiver, err := l.peak()
	if err != nil {
		return nil, err
	}
	f := figuresOf{t.Columns[0].Name: mib(server), t.Columns[1].Name: mib(receiver)}
	if s != nil {
		f[t.Columns[2].Name] = mib(s.endedPeak())
	}
	return f, nil
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }
