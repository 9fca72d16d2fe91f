package test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	sdk "github.com/dian-im/dian"
)

var toxiServer = sync.OnceValue(func() *toxiproxy.ApiServer {
	zerolog.SetGlobalLevel(zerolog.Disabled) // toxics log to it, whatever the server's logger
	return toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
})

// A badLine is a toxiproxy in front of a relay.
type badLine struct {
	*toxiproxy.Proxy
	t *testing.T
}

func startBadLine(t *testing.T, target string) *badLine {
	t.Helper()
	p := toxiproxy.NewProxy(toxiServer(), target, "127.0.0.1:0", target)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return &badLine{p, t}
}

func (b *badLine) url() string { return "http://" + b.Listen }

// poison adds a toxic: stream is upstream (from the client to the relay) or downstream.
func (b *badLine) poison(kind, stream string, attributes map[string]any) {
	b.t.Helper()
	text, err := json.Marshal(map[string]any{"name": kind + stream, "type": kind, "stream": stream, "attributes": attributes})
	if err == nil {
		_, err = b.Toxics.AddToxicJson(bytes.NewReader(text))
	}
	if err != nil {
		b.t.Fatalf("toxic %s: %v", kind, err)
	}
}

func (b *badLine) heal() { b.Toxics.ResetToxics(context.Background()) }

// mayPass are the results that a bad line may have: they blame the line, and
// sending again under the same id goes on.
var mayPass = map[int64]bool{8: true, 202: true, 203: true, 205: true, 206: true, 207: true, 603: true, 604: true}

// TestBadLines sends a small file, one with lanes and a command over lines that are
// bad in all the ways that toxiproxy knows (case 90), on the sender's side and on the
// receiver's. Whatever the line lets happen, each ends: with the right content, or
// with one typed result that blames the line, and then once the line is good again
// the same send goes through, and nothing came twice.
func TestBadLines(t *testing.T) {
	t.Parallel()
	both := []string{"upstream", "downstream"}
	for _, bad := range []struct {
		name    string
		kind    string
		streams []string
		attr    map[string]any
		late    bool          // only when the processes are logged in
		lasts   time.Duration // 0: to the end
		must    bool          // the content has to arrive at the first try

		heartbeat string // "" for 2s
	}{
		{name: "latency", kind: "latency", streams: both, attr: map[string]any{"latency": 1000}, heartbeat: "9s", must: true}, // 2 s there and back
		{name: "jitter", kind: "latency", streams: both, attr: map[string]any{"latency": 60, "jitter": 60}, must: true},
		{name: "1 KB a second, up", kind: "bandwidth", streams: both[:1], attr: map[string]any{"rate": 1}, lasts: 12 * time.Second},
		{name: "1 KB a second, down", kind: "bandwidth", streams: both[1:], attr: map[string]any{"rate": 1}, lasts: 12 * time.Second},
		{name: "slices of one byte", kind: "slicer", streams: both, attr: map[string]any{"average_size": 1, "size_variation": 0, "delay": 0}, must: true},
		{name: "slow close", kind: "slow_close", streams: both, attr: map[string]any{"delay": 2000}, must: true},
		{name: "reset at once", kind: "reset_peer", streams: both[:1], attr: map[string]any{"timeout": 0}},
		{name: "reset a while later", kind: "reset_peer", streams: both[1:], attr: map[string]any{"timeout": 300}, late: true, lasts: 3 * time.Second},
		{name: "nothing comes through", kind: "timeout", streams: both, attr: map[string]any{"timeout": 0}, late: true, lasts: 6 * time.Second},
		{name: "nothing comes through, one way", kind: "timeout", streams: both[1:], attr: map[string]any{"timeout": 0}, late: true, lasts: 6 * time.Second},
		{name: "nothing comes through, then a close", kind: "timeout", streams: both[:1], attr: map[string]any{"timeout": 700}, late: true, lasts: 4 * time.Second},
		{name: "100 KiB a connection", kind: "limit_data", streams: both, attr: map[string]any{"bytes": 100 << 10}, must: true},
	} {
		for _, side := range []string{"sender", "receiver"} {
			t.Run(bad.name+", at the "+side+"'s", func(t *testing.T) {
				t.Parallel()
				r, dir := startRelayWith(t, []string{"DIAN_HEARTBEAT=" + cmp.Or(bad.heartbeat, "2s"), "DIAN_RESUME_WINDOW=25s", "DIAN_OFFER_WAIT=10s", "DIAN_COMMAND_WAIT=10s"}), t.TempDir()
				near, far := startBadLine(t, r.addr), startBadLine(t, r.addr)
				line := map[string]*badLine{"sender": near, "receiver": far}[side]
				poison := func() {
					for _, stream := range bad.streams {
						line.poison(bad.kind, stream, bad.attr)
					}
					if bad.lasts > 0 {
						time.AfterFunc(bad.lasts, line.heal)
					}
				}
				if !bad.late && side == "sender" {
					poison()
				}
				l := listen(t, far.url(), "bob", dir)
				if side == "receiver" && !bad.late {
					poison()
				}
				type parcel struct{ path, sum string }
				var parcels []parcel
				for i, size := range []int64{3 << 10, 200 << 10} {
					path, sum := randomFile(t, fmt.Sprintf("scan-%d.bin", i), size, uint64(50+i))
					parcels = append(parcels, parcel{path, sum})
				}
				if bad.late { // so that there is a middle
					near.poison("bandwidth", "upstream", map[string]any{"rate": 100})
				}
				var all []*process
				again := []func() *process{}
				for i, p := range parcels {
					again = append(again, func() *process {
						return start(t, []string{"XDG_CACHE_HOME=" + filepath.Join(dir, ".cache", fmt.Sprint(i))}, dian, "send", "--server", near.url(), "--user", "alice", "--json", "bob", p.path)
					})
				}
				again = append(again, func() *process {
					return start(t, nil, dian, "cmd", "--server", near.url(), "--user", "alice", "--timeout", "25s", "--json", "bob", "look")
				})
				for _, begin := range again {
					all = append(all, begin())
				}
				if bad.late {
					all[1].expect(0, "progress", func(e event) bool { return e.text("event") == "progress" && e.number("sent") > 0 })
					poison()
				}
				told := false
				for i, p := range all {
					status := p.wait()
					results := p.all("result")
					if len(results) > 1 {
						t.Errorf("%d results: %v", len(results), results)
					}
					if status == 0 {
						told = told || i == 2
						continue
					}
					if bad.must {
						t.Errorf("%s ended with %d: %s", p.name, status, p.errors())
					}
					if len(results) == 1 && !mayPass[results[0].number("code")] {
						t.Errorf("%s got %v, which does not blame the line", p.name, results[0])
					}
					if len(results) == 0 && !strings.Contains(p.errors(), " 20") { // a login that fails: 202 to 207
						t.Errorf("%s has no result, and said %q", p.name, p.errors())
					}
				}
				line.heal()
				for i, begin := range again[:2] {
					if all[i].cmd.ProcessState.ExitCode() == 0 {
						continue
					}
					// The listener may be in a pause between two tries.
					for deadline := time.Now().Add(patience); ; {
						p := begin()
						if p.wait() == 0 {
							break
						}
						if time.Now().After(deadline) {
							t.Fatalf("with a good line: %s", p.errors())
						}
					}
				}
				for i, p := range parcels {
					name := fmt.Sprintf("scan-%d.bin", i)
					l.expect(0, name, func(e event) bool { return e.text("event") == "file" && e.text("name") == name })
					if got := sumOf(t, filepath.Join(dir, name)); got != p.sum {
						t.Errorf("%s has SHA-256 %s, want %s", name, got, p.sum)
					}
				}
				if got := files(t, dir); len(got) != 2+1 { // and .cache
					t.Errorf("the receiver has %q, want the two files once", got)
				}
				if n := len(l.all("cmd")); n > 1 || told && n == 0 {
					t.Errorf("the command came %d times, and its result was ok: %v", n, told)
				}
			})
		}
	}
}

// TestCutAfterEachByte cuts connections after so many bytes in one direction, at one
// side, while a small file, one with lanes and a command are on their way: once, and
// then all of it has to go through; or every connection there ever is, and then each
// task ends, by itself or by one result that blames the line, and goes through when
// the line is good again (case 90). DIAN_STEP says how far apart the cuts are.
func TestCutAfterEachByte(t *testing.T) {
	t.Parallel()
	r := startRelayWith(t, []string{"DIAN_HEARTBEAT=2s", "DIAN_RESUME_WINDOW=6s", "DIAN_OFFER_WAIT=6s", "DIAN_COMMAND_WAIT=6s"})
	dir := t.TempDir()
	small, smallSum := randomFile(t, "small.bin", 3<<10, 61)
	large, largeSum := randomFile(t, "large.bin", 200<<10, 62)
	const places = 96 // that wait for their timers at the same time
	alice, bobs, busy := token(t, "alice"), make(chan [2]string, places), make(chan bool, 24)
	for i := range places {
		bob := fmt.Sprintf("bob%d", i)
		bobs <- [2]string{bob, token(t, bob)}
	}
	// Handshake, login, an offer with 3 KiB and its end; lanes begin in it too.
	const last = 6 << 10
	step := number(t, "DIAN_STEP", 83)
	var cases, whole, blamed atomic.Int64
	for _, forever := range []bool{false, true} {
		for _, side := range []string{"sender", "receiver"} {
			for _, stream := range []string{"upstream", "downstream"} {
				name := fmt.Sprintf("%s, %s, once", side, stream)
				step := step
				if forever {
					name = fmt.Sprintf("%s, %s, every time", side, stream)
					step *= 7 // some of these take all the time that timers give
				}
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					var running sync.WaitGroup
					defer running.Wait()
					for at := 1; at < last; at += step {
						if !forever {
							busy <- true
						}
						bob := <-bobs
						running.Go(func() {
							defer func() { bobs <- bob }()
							if !forever {
								defer func() { <-busy }()
							}
							c := cutCase{t: t, relay: r.addr, side: side, stream: stream, at: at, forever: forever, bob: bob[0], bobs: bob[1],
								alice: alice, dir: filepath.Join(dir, fmt.Sprintf("%s-%s-%v-%d", side, stream, forever, at)),
								small: small, large: large, smallSum: smallSum, largeSum: largeSum}
							ok := c.run()
							cases.Add(1)
							whole.Add(int64(ok))
							blamed.Add(int64(3 - ok))
						})
					}
				})
			}
		}
	}
	t.Cleanup(func() {
		t.Logf("%d cuts, of 3 tasks each: %d went through at once, %d blamed the line", cases.Load(), whole.Load(), blamed.Load())
	})
}

// A cutCase is one cut at one offset.
type cutCase struct {
	t                  *testing.T
	relay              string
	side, stream       string
	at                 int
	forever            bool
	bob, bobs          string // name and token
	alice, dir         string
	small, large       string
	smallSum, largeSum string
}

func (c *cutCase) fault(format string, args ...any) {
	c.t.Errorf("%s, %s, cut after %d, every time %v: %s", c.side, c.stream, c.at, c.forever, fmt.Sprintf(format, args...))
}

// run sends both files and a command, again without the cut if that is needed, and
// returns how many of the three got through at the first try.
func (c *cutCase) run() (ok int) {
	near, far := startBadLine(c.t, c.relay), startBadLine(c.t, c.relay)
	defer near.Stop()
	defer far.Stop()
	defer os.RemoveAll(c.dir)
	line := map[string]*badLine{"sender": near, "receiver": far}[c.side]
	var mu sync.Mutex
	got := map[string][]string{}
	note := func(what, id string) {
		mu.Lock()
		defer mu.Unlock()
		got[what] = append(got[what], id)
	}
	options := []sdk.Option{sdk.WithToken(c.bobs), sdk.WithReceiveDir(c.dir), sdk.WithHandler(sdk.Handler{
		NotifyCmdData: func(m sdk.CmdData) { note(string(m.Data), m.SendID) },
		NotifyFileData: func(m sdk.FileData) {
			sum := sumOf(c.t, m.Path)
			note(m.Name+" "+sum, m.SendID)
		},
	})}
	connect := func(url string, options ...sdk.Option) *sdk.Client {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		for {
			client, err := sdk.Connect(ctx, url, options...)
			if err == nil {
				return client
			}
			if code := int64(sdk.CodeOf(err)); !mayPass[code] || ctx.Err() != nil {
				c.fault("login: %v", err)
				return nil
			}
			line.heal() // a login is tried once; now for the next
		}
	}
	line.poison("limit_data", c.stream, map[string]any{"bytes": c.at})
	bob := connect(far.url(), options...)
	if bob == nil {
		return 0
	}
	defer bob.Close()
	alice := connect(near.url(), sdk.WithToken(c.alice), sdk.WithSendOnly(), sdk.WithCommandTimeout(8*time.Second))
	if alice == nil {
		return 0
	}
	defer alice.Close()
	tasks := []*sdk.Task{alice.SendFile(c.bob, c.small), alice.SendFile(c.bob, c.large), alice.SendCmd(c.bob, []byte("look"))}
	if !c.forever {
		// Until the cut has happened, or all is done: later connections are whole.
		for _, task := range tasks {
			select {
			case <-task.Done():
			case <-time.After(120 * time.Millisecond):
			}
		}
		line.heal()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	for i, task := range tasks {
		err := task.Wait(ctx)
		if ctx.Err() != nil {
			c.fault("%s hangs", []string{"the small file", "the large file", "the command"}[i])
			return ok
		}
		if err == nil {
			ok++
			continue
		}
		if code := int64(sdk.CodeOf(err)); !mayPass[code] {
			c.fault("%v does not blame the line", err)
		}
		if i == 2 {
			continue
		}
		line.heal()
		id := sdk.WithSendID(task.ID())
		for again := time.Now().Add(30 * time.Second); ; {
			tasks[i] = alice.SendFile(c.bob, []string{c.small, c.large}[i], id)
			err := tasks[i].Wait(ctx)
			if err == nil {
				break
			}
			if sdk.CodeOf(err) == sdk.ErrCancelled { // of an offer without an answer: nothing of it is there
				id = sdk.WithSendID("")
				continue
			}
			if code := int64(sdk.CodeOf(err)); !mayPass[code] || time.Now().After(again) {
				c.fault("sent again over a good line: %v", err)
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	alice.Close()
	bob.Close() // what was received has been told when it returns
	mu.Lock()
	defer mu.Unlock()
	for what, id := range map[string]string{"small.bin " + c.smallSum: tasks[0].ID(), "large.bin " + c.largeSum: tasks[1].ID()} {
		if len(got[what]) != 1 || got[what][0] != id {
			c.fault("%s came as %q, want once as %s", what, got[what], id)
		}
	}
	if n := len(got["look"]); n > 1 || n == 0 && tasks[2].Result().Err == nil {
		c.fault("the command came %d times, its result is %v", n, tasks[2].Result().Err)
	}
	if len(got) > 3 {
		c.fault("came: %v", got)
	}
	return ok
}
