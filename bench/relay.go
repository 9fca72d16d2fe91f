package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// relay is a `dian serve` in a process of its own.
type relay struct {
	*process
	b      *bench
	url    string
	secure bool
}

// startRelay starts one; more are its other flags.
func (b *bench) startRelay(secure bool, more ...string) (*relay, error) {
	addr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	r := &relay{b: b, url: "http://" + addr, secure: secure}
	args := []string{"serve", "--dev", "--listen", addr}
	if secure {
		r.url = "https://" + addr
		args = append(args, "--tls-cert", filepath.Join(b.dir, "tls.crt"), "--tls-key", filepath.Join(b.dir, "tls.key"))
	}
	if r.process, err = b.start(b.dian, append(args, more...)...); err != nil {
		return nil, err
	}
	return r, waitListening(addr)
}

// addr is where it listens.
func (r *relay) addr() string {
	_, addr, _ := strings.Cut(r.url, "//")
	return addr
}

// as are the flags with which a client of the relay is user.
func (r *relay) as(user string) []string {
	args := []string{"--server", r.url, "--user", user}
	if r.secure {
		args = append(args, "--ca", filepath.Join(r.b.dir, "tls.crt"))
	}
	return args
}

// listen runs `dian listen` and waits until it is online.
func (b *bench) listen(r *relay, user, dir string) (*process, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	p, err := b.start(b.dian, append([]string{"listen", "--dir", dir, "--json"}, r.as(user)...)...)
	if err != nil {
		return nil, err
	}
	_, err = p.line(`"up"`)
	return p, err
}

// cpuNow is the processor time of a running process so far.
func cpuNow(p *process) time.Duration { return cpuFields(p, 11, 12) }

// familyCPU is that of a running process and the children that it has waited for.
func familyCPU(p *process) time.Duration { return cpuFields(p, 11, 12, 13, 14) }

// cpuFields adds times of /proc's stat, counted behind the name of the program.
func cpuFields(p *process, which ...int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	ticks := 0
	for _, i := range which {
		n, _ := strconv.Atoi(fields[i])
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100
}
