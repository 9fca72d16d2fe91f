package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// profiled returns the flags with which a relay can be asked for profiles, if they are
// wanted.
func (b *bench) profiled() ([]string, error) {
	if b.profiles == "" {
		return nil, nil
	}
	config := filepath.Join(b.dir, "profiled.yaml")
	if err := os.WriteFile(config, []byte("admin_pprof: true\n"), 0o600); err != nil {
		return nil, err
	}
	b.sockets++
	return []string{"--config", config, "--admin-listen", filepath.Join(b.dir, fmt.Sprintf("admin-%d.sock", b.sockets))}, nil
}

// socket is where a relay is asked, or "".
func (r *relay) socket() string {
	for i, arg := range r.cmd.Args {
		if arg == "--admin-listen" {
			return r.cmd.Args[i+1]
		}
	}
	return ""
}

// profile writes the CPU profiles of relays, while do runs, into the folder of -profile:
// one file for each, named for what is measured, the last round's in the end. It does
// nothing else without that flag.
func (b *bench) profile(name string, relays map[string]*relay, do func() error) error {
	var asking sync.WaitGroup
	for role, r := range relays {
		if r == nil || b.profiles == "" || r.socket() == "" {
			continue
		}
		file := strings.NewReplacer(" ", "-", ",", "").Replace(name+" "+role) + ".pprof"
		asking.Go(func() {
			if err := writeProfile(filepath.Join(b.profiles, file), r.socket(), b.span); err != nil {
				fmt.Fprintln(os.Stderr, "no profile:", err)
			}
		})
	}
	err := do()
	asking.Wait()
	return err
}

func writeProfile(file, socket string, span time.Duration) error {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Get(fmt.Sprintf("http://admin/debug/pprof/profile?seconds=%d", max(1, int(span.Seconds()))))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", socket, response.Status)
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, response.Body); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
