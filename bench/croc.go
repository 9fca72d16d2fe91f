package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// croc is croc with a relay of its own.
type croc struct {
	b       *bench
	program string
	relay   *process
	address string
	sent    int
}

// startCroc builds the croc that go.mod names and starts its relay.
func (b *bench) startCroc() (transfer, error) {
	c := &croc{b: b, program: filepath.Join(b.dir, "croc")}
	if out, err := exec.Command("go", "build", "-o", c.program, "github.com/schollz/croc/v10").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build croc: %w: %s", err, out)
	}
	var ports []string
	for range 5 { // one for the rooms, four for content
		addr, err := freeAddress()
		if err != nil {
			return nil, err
		}
		_, port, _ := net.SplitHostPort(addr)
		ports = append(ports, port)
	}
	c.address = "127.0.0.1:" + ports[0]
	var err error
	if c.relay, err = b.start(c.program, "relay", "--host", "127.0.0.1", "--ports", strings.Join(ports, ",")); err != nil {
		return nil, err
	}
	for _, port := range ports {
		if err := waitListening("127.0.0.1:" + port); err != nil {
			return nil, err
		}
	}
	return c.transfer, nil
}

// transfer sends the file. The time begins when the sender waits in its room.
func (c *croc) transfer(file string) (took, cpu time.Duration, err error) {
	c.sent++
	out := filepath.Join(c.b.dir, "croc-out")
	if err := os.MkdirAll(out, 0o700); err != nil {
		return 0, 0, err
	}
	secret := fmt.Sprintf("%04d-bench-bench-bench", c.sent)
	os.Setenv("CROC_SECRET", secret) // croc takes it from no flag
	defer os.Unsetenv("CROC_SECRET")
	before := cpuNow(c.relay)
	flags := []string{"--yes", "--disable-clipboard", "--ignore-stdin", "--no-compress", "--overwrite", "--relay", c.address}
	sender, err := c.b.start(c.program, append(flags, "send", "--no-local", file)...)
	if err != nil {
		return 0, 0, err
	}
	if err := sender.says("Code is"); err != nil {
		return 0, 0, err
	}
	start := time.Now()
	receiver, err := c.b.start(c.program, append(flags, "--out", out)...)
	if err != nil {
		return 0, 0, err
	}
	if err := receiver.wait(); err != nil {
		return 0, 0, err
	}
	if err := sender.wait(); err != nil {
		return 0, 0, err
	}
	took = time.Since(start)
	return took, sender.cpu() + receiver.cpu() + cpuNow(c.relay) - before, removeLike(filepath.Join(out, filepath.Base(file)), file)
}
