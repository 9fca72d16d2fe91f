package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/dian-im/dian"
)

const (
	drawEvery  = 150 * time.Millisecond
	rateWindow = 8 * time.Second // what the shown rate is the average of
	quietTime  = 3 * time.Second // without progress a transfer is shown as waiting
	nameWidth  = 28
)

// bars are the progress bars of running tasks on a terminal, with lines of text
// above them.
type bars struct{ all *mpb.Progress }

// openBars begins to show progress, if standard error is a terminal and nobody
// reads events.
func (c *console) openBars() {
	if c.json || !isTerminal(c.err) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bars = &bars{mpb.New(mpb.WithOutput(c.err), mpb.WithRefreshRate(drawEvery))}
}

// closeBars shows what is left to show. Every bar must have ended.
func (c *console) closeBars() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bars == nil {
		return
	}
	// A line that was printed after the last drawing comes out with the next one,
	// and only the end of a bar makes sure that there is one.
	c.bars.all.AddBar(0, mpb.BarRemoveOnComplete()).Abort(true)
	c.bars.all.Wait()
	c.bars = nil
}

// print writes a line above the bars.
func (b *bars) print(line []byte) { b.all.Write(line) }

// showBar shows a task's progress until the function that it returns is called;
// without bars both do nothing.
func (c *console) showBar(name string, task *dian.Task) (ended func()) {
	c.mu.Lock()
	shown := c.bars
	c.mu.Unlock()
	if shown == nil {
		return func() {}
	}
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(drawEvery)
		defer tick.Stop()
		var bar *mpb.Bar
		for range 2 { // what is over at once needs no bar
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
		for {
			if bar == nil && task.State() != dian.TaskQueued {
				bar = shown.add(name, &meter{task: task})
				defer bar.Abort(true)
			}
			if bar != nil {
				sent, total := task.Progress()
				bar.SetTotal(max(total, 1), false)
				bar.SetCurrent(min(sent, max(total, 1)))
			}
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
	}()
	return func() {
		close(done)
		<-stopped
	}
}

// add adds a bar, which ends by Abort alone.
func (b *bars) add(name string, m *meter) *mpb.Bar {
	left := decor.WC{W: nameWidth, C: decor.DindentRight}
	return b.all.New(0, mpb.BarStyle(),
		mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return shorten(name, nameWidth) }, left)),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return m.text(time.Now()) })),
	)
}

// A meter says in words how a task is doing. Its owner calls it one at a time.
type meter struct {
	task *dian.Task

	mu      sync.Mutex // guards samples
	samples []sample   // of the last rateWindow, oldest first
}

type sample struct {
	at   time.Time
	sent int64
}

// text returns percent, bytes, rate and time to go, or what the task waits for.
func (m *meter) text(now time.Time) string {
	sent, total := m.task.Progress()
	return m.words(now, m.task.State(), sent, total)
}

func (m *meter) words(now time.Time, state dian.TaskState, sent, total int64) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	rate, quiet := m.note(now, sent)
	parts := []string{" 0 %"}
	if total > 0 {
		parts[0] = fmt.Sprintf("%2.0f %%", 100*float64(sent)/float64(total))
	}
	parts = append(parts, sizeText(sent)+" of "+sizeText(total))
	switch {
	case state == dian.TaskVerifying || total > 0 && sent == total:
		parts = append(parts, "checking")
	case state == dian.TaskWaiting || quiet > quietTime:
		parts = append(parts, "waiting")
	case rate > 0:
		left := time.Duration(float64(total-sent) / rate * float64(time.Second))
		parts = append(parts, sizeText(int64(rate))+"/s", left.Round(time.Second).String()+" left")
	}
	return " " + strings.Join(parts, "  ")
}

// note takes a sample and returns the bytes a second of the last rateWindow, and
// how long nothing has come.
func (m *meter) note(now time.Time, sent int64) (rate float64, quiet time.Duration) {
	if n := len(m.samples); n == 0 || m.samples[n-1].sent != sent {
		m.samples = append(m.samples, sample{now, sent})
	}
	for len(m.samples) > 2 && now.Sub(m.samples[0].at) > rateWindow {
		m.samples = m.samples[1:]
	}
	first, last := m.samples[0], m.samples[len(m.samples)-1]
	// What an earlier process has sent is the first sample and does not count.
	if took := now.Sub(first.at); took >= time.Second/2 {
		rate = float64(last.sent-first.sent) / took.Seconds()
	}
	return rate, now.Sub(last.at)
}

// shorten makes a quoted name at most width characters long; its end tells more
// than the folders before it.
func shorten(name string, width int) string {
	if utf8.RuneCountInString(name) <= width {
		return name
	}
	base := name
	if i := strings.LastIndexByte(name, filepath.Separator); i >= 0 && i+1 < len(name)-1 {
		base = `"` + name[i+1:]
	}
	runes := []rune(base)
	if len(runes) <= width {
		return base
	}
	return string(runes[:width-2]) + `…"`
}
