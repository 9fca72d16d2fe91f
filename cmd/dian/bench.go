package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dian-im/dian"
)

const (
	benchCommandBytes = 256
	benchInFlight     = 256
	refillTime        = 5 * time.Second // until a server's rates are whole again
)

// byteCount is a number of bytes on the command line: 1000, 100MiB, 2GiB.
type byteCount int64

// UnmarshalText reads a number of bytes.
func (b *byteCount) UnmarshalText(text []byte) error {
	number, shift := string(text), 0
	for unit, bits := range map[string]int{"KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40} {
		if rest, ok := strings.CutSuffix(number, unit); ok {
			number, shift = strings.TrimSpace(rest), bits
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > (1<<63-1)>>shift {
		return errors.New("write a number of bytes like 65536, 100MiB or 2GiB")
	}
	*b = byteCount(n << shift)
	return nil
}

// benchCmd is `dian bench`.
type benchCmd struct {
	connection `embed:""`
	JSON       bool          `name:"json" help:"Print JSON events."`
	Size       byteCount     `default:"256MiB" placeholder:"SIZE" help:"Bytes of the transfer (${default})."`
	Time       time.Duration `default:"2s" placeholder:"DURATION" help:"How long each measurement of commands takes (${default})."`
}

// benchEvent is one measurement; what does not belong to it is left out.
type benchEvent struct {
	Event          string  `json:"event"`
	Name           string  `json:"name"` // latency, rate, transfer
	InFlight       int     `json:"inFlight,omitempty"`
	Commands       int     `json:"commands,omitempty"`
	P50            float64 `json:"p50Ms,omitempty"`
	P99            float64 `json:"p99Ms,omitempty"`
	PerSecond      float64 `json:"perSecond,omitempty"`
	Bytes          int64   `json:"bytes,omitempty"`
	Seconds        float64 `json:"seconds"`
	BytesPerSecond float64 `json:"bytesPerSecond,omitempty"`
	Limited        bool    `json:"limited,omitempty"` // ended early by the server's limits
}

// Run measures the relay with its own user, who talks to itself. It takes the
// user's place while it runs.
func (c *benchCmd) Run(con *console) error {
	con.json = c.JSON
	if c.Time <= 0 {
		return usage("--time: use more than 0s")
	}
	ctx, stop := interruptible()
	defer stop()
	dir, err := os.MkdirTemp("", "dian-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	listener, err := c.connect(ctx, con, dian.WithReceiveDir(dir), dian.WithHandler(benchHandler()))
	if err != nil {
		return err
	}
	defer logOut(listener)
	sender, err := c.connect(ctx, con, dian.WithSendOnly())
	if err != nil {
		return err
	}
	defer logOut(sender)
	b := bench{con: con, client: sender, user: listener.User()}
	err = b.latency(ctx, c.Time)
	if err == nil {
		err = b.rate(ctx, c.Time)
	}
	if err == nil {
		err = b.transfer(ctx, int64(c.Size))
	}
	if s, ok := interrupted(ctx); ok {
		return s
	}
	if err != nil {
		return fmt.Errorf("bench: %w", told{err})
	}
	return nil
}

// benchHandler takes the measurements' own commands and file, and drops them.
func benchHandler() dian.Handler {
	return dian.Handler{
		NotifyCmdData:  func(dian.CmdData) {},
		NotifyFileData: func(dian.FileData) {},
		AcceptFile: func(o *dian.Offer) {
			if o.Name != benchName {
				o.Refuse(dian.ErrPeerRefused, "this is a measurement")
				return
			}
			o.AcceptWriter(io.Discard)
		},
	}
}

const benchName = "dian-bench"

// A bench is a client that sends to its own user.
type bench struct {
	con    *console
	client *dian.Client
	user   string
}

// latency sends one command after the other.
func (b bench) latency(ctx context.Context, length time.Duration) error {
	data := make([]byte, benchCommandBytes)
	var took []time.Duration
	limited := false
	start := time.Now()
	for time.Since(start) < length || len(took) < 2 {
		at := time.Now()
		err := b.client.SendCmd(b.user, data).Wait(ctx)
		if limited = errors.Is(err, dian.ErrOverLimit) && len(took) > 1; limited {
			break
		}
		if err != nil {
			return err
		}
		took = append(took, time.Since(at))
	}
	slices.Sort(took)
	p50, p99 := took[len(took)/2], took[len(took)*99/100]
	b.con.tell(benchEvent{
		Event: "bench", Name: "latency", InFlight: 1, Commands: len(took),
		P50: milliseconds(p50), P99: milliseconds(p99), Seconds: time.Since(start).Seconds(), Limited: limited,
	})
	b.con.say("%-30s p50 %.2f ms   p99 %.2f ms%s", "commands, one in flight", milliseconds(p50), milliseconds(p99), limitedNote(limited))
	if limited { // the next measurement is to have something to measure
		select {
		case <-time.After(refillTime):
		case <-ctx.Done():
		}
	}
	return nil
}

// limitedNote says that a measurement ended early, because the server refused what
// was too much for it (1111).
func limitedNote(limited bool) string {
	if limited {
		return "   (as far as the server's limits let it)"
	}
	return ""
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// rate keeps many commands in flight.
func (b bench) rate(ctx context.Context, length time.Duration) error {
	data := make([]byte, benchCommandBytes)
	var mu sync.Mutex
	var acked int
	var failed error
	var limited atomic.Bool
	var senders sync.WaitGroup
	start := time.Now()
	for range benchInFlight {
		senders.Go(func() {
			n, err := 0, error(nil)
			for err == nil && time.Since(start) < length && !limited.Load() {
				if err = b.client.SendCmd(b.user, data).Wait(ctx); err == nil {
					n++
				}
			}
			if errors.Is(err, dian.ErrOverLimit) {
				limited.Store(true)
				err = nil
			}
			mu.Lock()
			defer mu.Unlock()
			acked += n
			if failed == nil {
				failed = err
			}
		})
	}
	senders.Wait()
	took := time.Since(start)
	if failed != nil {
		return failed
	}
	rate := float64(acked) / took.Seconds()
	b.con.tell(benchEvent{
		Event: "bench", Name: "rate", InFlight: benchInFlight, Commands: acked, PerSecond: rate, Seconds: took.Seconds(),
		Limited: limited.Load(),
	})
	b.con.say("%-30s %.0f acked/s%s", fmt.Sprintf("commands, %d in flight", benchInFlight), rate, limitedNote(limited.Load()))
	return nil
}

// transfer sends one file that is made up while it is read and not kept.
func (b bench) transfer(ctx context.Context, size int64) error {
	start := time.Now()
	task := b.client.SendReader(b.user, pattern{size}, size, dian.WithName(benchName))
	if err := task.Wait(ctx); err != nil {
		task.Cancel()
		return err
	}
	took := time.Since(start)
	rate := float64(size) / took.Seconds()
	b.con.tell(benchEvent{Event: "bench", Name: "transfer", Bytes: size, Seconds: took.Seconds(), BytesPerSecond: rate})
	b.con.say("%-30s %.0f MB/s (%.2f s)", "transfer of "+sizeText(size), rate/1e6, took.Seconds())
	return nil
}

// A pattern is content of the given size in which no two blocks of 8 bytes are
// equal, so that compression or a lost block on the way would show.
type pattern struct{ size int64 }

// ReadAt makes the bytes at off.
func (p pattern) ReadAt(b []byte, off int64) (int, error) {
	if off >= p.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(b)), p.size-off))
	var word [8]byte
	for i := 0; i < n; {
		at := off + int64(i)
		binary.LittleEndian.PutUint64(word[:], uint64(at>>3)*0x9E3779B97F4A7C15)
		i += copy(b[i:n], word[at&7:])
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}
