package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

const bulkLarge, bulkSmall = "large.bin", "small.bin"

// bulk compares `dian send` → `dian serve` → `dian listen` with a bare relay and with
// peers: the same file, tmpfs to tmpfs. Each time runs from the start of the sending
// process to its end, which is when the receiver has it.
func (b *bench) bulk() error {
	for name, size := range map[string]int64{bulkLarge: b.size, bulkSmall: 1 << 10} {
		file, err := b.file(name, size)
		if err != nil {
			return err
		}
		defer os.Remove(file)
	}
	t := &table{
		Name: "bulk", Title: fmt.Sprintf("Bulk: one file of %.2f GiB", float64(b.size)/(1<<30)),
		Columns: []column{{Name: "MB/s", Ratio: "÷ bare relay"}, {Name: "CPU, s/GiB", Ratio: "÷ bare relay"}, {Name: "1 KiB, ms"}},
		Notes: []string{
			"From tmpfs to tmpfs, from the start of the sending process to its end, which is when the receiver has the file. Processor time is that of all processes of the path. A file of 1 KiB in the same round tells what starting up takes.",
			"**Bare relay**, the limit: TCP with `io.Copy`, which the kernel splices; TLS with `io.CopyBuffer` over `tls.Conn` with 256 KiB. Its ends only copy between file and connection.",
			"**Dian**: `dian send` → `dian serve` → `dian listen`. It also hashes on both sides, verifies, journals, flushes, renames and answers.",
			"**NATS core** (TLS): messages of 256 KiB, at most 32 of them without an ack of the receiver, which writes them to its file; nothing is lost, but nothing is hashed either.",
			"**NATS object store** (TLS): `PutFile`, and as soon as that is done `GetFile` by the receiver, which watches the bucket, and again if that is cut short; JetStream's own files in tmpfs.",
			"**WebRTC** (pion): one ordered, detached data channel, messages of 64 KiB, flow control by the buffered amount, a receive buffer of 8 MiB, zero checksums as in browsers; host candidates on loopback, without a relay; starting up includes ICE and DTLS.",
			"**croc**: its own relay on loopback and no other way (`--no-local`), `--no-compress`, its default of 4 connections. The time starts with the receiver, when the sender has hashed its file and waits in its room; it includes PAKE and the receiver's hash.",
			"**scp**: OpenSSH's client and server, direct, without a relay: one hop less. `aes128-gcm@openssh.com`, no compression; starting up includes the login with a key.",
		},
	}
	all := b.besideBare(t, true)
	for _, peer := range []struct {
		name  string
		start func() (transfer, error)
	}{
		{"NATS core", b.startNATSBulk}, {"NATS object store", b.startObjectStore}, {"WebRTC data channel", b.startWebRTC},
		{"scp", b.startSCP}, {"croc", b.startCroc},
	} {
		all = append(all, b.bulkContestant(t, peer.name, limitOf(true), peer.start)) // all of them encrypt
	}
	b.compare(t, all)

	t = &table{
		Name: "stream", Title: fmt.Sprintf("Bulk without the receiver's file: %.2f GiB", float64(b.size)/(1<<30)), Columns: t.Columns,
		Notes: []string{
			"As above, but nobody writes a file: the bare receiver writes to `/dev/null`, and Dian's receiver is an application that accepts with `AcceptWriter` and discards what it gets, hashed and verified. What differs between the two tables is the writing of new memory, the same for all and on virtual machines dear.",
		},
	}
	b.compare(t, b.besideBare(t, false))
	return nil
}

// limitOf is the bare relay's name.
func limitOf(secure bool) string {
	if secure {
		return "bare TLS relay"
	}
	return "bare TCP relay"
}

// besideBare are Dian and its limits, plain and over TLS. Unless it is to keep what it
// gets, the receiver forgets it.
func (b *bench) besideBare(t *table, keep bool) (all []contestant) {
	for _, secure := range []bool{false, true} {
		all = append(all,
			b.bulkContestant(t, limitOf(secure), "", func() (transfer, error) { return b.bareTransfer(secure, keep), nil }),
			b.bulkContestant(t, "Dian, "+kind(secure), limitOf(secure), func() (transfer, error) { return b.startDianBulk(secure, keep) }))
	}
	return all
}

// A transfer sends a file and tells how long it took, and how much processor time.
type transfer func(file string) (took, cpu time.Duration, err error)

// bulkContestant is one that start returns the transfer of.
func (b *bench) bulkContestant(t *table, name, limit string, start func() (transfer, error)) contestant {
	large, small := filepath.Join(b.dir, bulkLarge), filepath.Join(b.dir, bulkSmall)
	return contestant{name, limit, func() (func() (figuresOf, error), error) {
		send, err := start()
		if err != nil {
			return nil, err
		}
		return func() (figuresOf, error) {
			least, _, err := send(small)
			if err != nil {
				return nil, err
			}
			took, cpu, err := send(large)
			return figuresOf{
				t.Columns[0].Name: rate(b.size, took),
				t.Columns[1].Name: cpu.Seconds() / float64(b.size) * (1 << 30),
				t.Columns[2].Name: least.Seconds() * 1e3,
			}, err
		}, nil
	}}
}

func rate(size int64, took time.Duration) float64 { return float64(size) / 1e6 / took.Seconds() }

func (b *bench) startDianBulk(secure, keep bool) (transfer, error) {
	relay, err := b.startRelay(secure)
	if err != nil {
		return nil, err
	}
	var listener *process
	if keep {
		listener, err = b.listen(relay, "bob", filepath.Join(b.dir, "received-"+kind(secure)))
	} else {
		listener, err = b.startPart("dian-sink", relay.url, b.dir)
	}
	if err != nil {
		return nil, err
	}
	return func(file string) (took, cpu time.Duration, err error) {
		before := cpuNow(relay.process) + cpuNow(listener)
		start := time.Now()
		sender, err := b.start(b.dian, append([]string{"send", "--json", "bob", file}, relay.as("alice")...)...)
		if err != nil {
			return 0, 0, err
		}
		if err := sender.wait(); err != nil {
			return 0, 0, err
		}
		took = time.Since(start)
		cpu = sender.cpu() + cpuNow(relay.process) + cpuNow(listener) - before
		if !keep {
			return took, cpu, nil
		}
		return took, cpu, remove(listener, file)
	}, nil
}

// remove waits for the listener's report of a file and deletes the file.
func remove(listener *process, file string) error {
	text, err := listener.line(`"event":"file"`)
	if err != nil {
		return err
	}
	var e struct{ Path string }
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		return err
	}
	return removeLike(e.Path, file)
}

// removeLike deletes a file that must be as large as the other.
func removeLike(path, file string) error {
	got, err := os.Stat(path)
	if err != nil {
		return err
	}
	want, err := os.Stat(file)
	if err != nil {
		return err
	}
	if got.Size() != want.Size() {
		return fmt.Errorf("received %d bytes, want %d", got.Size(), want.Size())
	}
	return os.Remove(path)
}

// bareTransfer starts relay, receiver and sender anew for each file.
func (b *bench) bareTransfer(secure, keep bool) transfer {
	return func(file string) (took, cpu time.Duration, err error) { return b.bareOnce(file, secure, keep) }
}

func (b *bench) bareOnce(file string, secure, keep bool) (took, cpu time.Duration, err error) {
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
	out := os.DevNull
	if keep {
		out = filepath.Join(b.dir, "bare.out")
	}
	receiver, err := b.startPart(append([]string{"bare-receive", addr, out}, folder...)...)
	if err != nil {
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
	cpu = sender.cpu() + receiver.cpu() + relay.cpu()
	if !keep {
		return took, cpu, nil
	}
	return took, cpu, removeLike(out, file)
}
