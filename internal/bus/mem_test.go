package bus_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dian-im/dian/internal/bus"
)

// inBubble runs a test on a fresh bus, whose time is the bubble's.
func inBubble(t *testing.T, test func(t *testing.T, mem *bus.Mem)) {
	synctest.Test(t, func(t *testing.T) { test(t, bus.NewMem()) })
}

// A listener is a node that writes down what it is told, in words, and answers what it
// is asked.
type listener struct {
	bus.Bus

	mu    sync.Mutex // guards heard
	heard []string
}

func (l *listener) hear(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard = append(l.heard, what)
}

func listen(t *testing.T, mem *bus.Mem, name string, subjects ...string) *listener {
	t.Helper()
	l := &listener{}
	ready := make(chan struct{})
	l.Bus = mem.Open(name, bus.Handler{
		Message: func(m bus.Message) {
			<-ready
			l.hear(fmt.Sprintf("%s=%s", m.Subject, m.Data))
			if m.Reply != "" {
				l.Publish(m.Reply, []byte(name))
			}
		},
		State: func(up bool) { l.hear(map[bool]string{true: "up", false: "down"}[up]) },
	})
	close(ready)
	t.Cleanup(l.Close)
	for _, s := range subjects {
		if _, err := l.Subscribe(s); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// says publishes, which must not fail.
func (l *listener) says(t *testing.T, subject, data string) {
	t.Helper()
	if err := l.Publish(subject, []byte(data)); err != nil {
		t.Errorf("Publish(%q) = %v", subject, err)
	}
}

// has waits until nothing moves any more and compares what was heard so far.
func (l *listener) has(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Equal(l.heard, want) {
		t.Errorf("heard %q, want %q", l.heard, want)
	}
}

// asks returns the answer, or the error in words.
func (l *listener) asks(t *testing.T, subject string) string {
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	switch answer, err := l.Ask(ctx, subject, []byte("?")); err {
	case nil:
		return string(answer)
	case bus.ErrNobody:
		return "nobody"
	case bus.ErrDown:
		return "down"
	default:
		return err.Error()
	}
}

func (l *listener) mustAsk(t *testing.T, subject, want string) {
	t.Helper()
	if got := l.asks(t, subject); got != want {
		t.Errorf("Ask(%q): %s, want %s", subject, got, want)
	}
}

func TestNodeOfMemIsToldThatItHasAConnection(t *testing.T) {
	inBubble(t, func(t *testing.T, mem *bus.Mem) {
		mem.Cut("b")
		a, b := listen(t, mem, "a"), listen(t, mem, "b")
		a.has(t, "up")
		b.has(t)
		mem.Heal("b")
		mem.Heal("b")
		b.has(t, "up")
		mem.Cut("b")
		mem.Cut("b")
		mem.Heal("b")
		b.has(t, "up", "down", "up")
	})
}

func TestNameOfMemIsOpenOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, mem *bus.Mem) {
		a, b := listen(t, mem, "a"), listen(t, mem, "b", "s")
		b.Close()
		a.says(t, "s", "to nobody")
		b = listen(t, mem, "b", "s")
		a.says(t, "s", "to b")
		b.has(t, "up", "s=to b")
		defer func() {
			if recover() == nil {
				t.Error("a is opened twice: no panic")
			}
		}()
		mem.Open("a", bus.Handler{})
	})
}

func TestFullQueueOfMemLosesAndCounts(t *testing.T) {
	inBubble(t, func(t *testing.T, mem *bus.Mem) {
		const room, more = 65_536, 10
		stopped, step := make(chan struct{}), make(chan struct{})
		var got []string
		slow := mem.Open("slow", bus.Handler{
			Message: func(m bus.Message) {
				if len(got) == 0 {
					close(stopped)
					<-step
				}
				got = append(got, string(m.Data))
			},
			State: func(bool) {},
		})
		defer slow.Close()
		if _, err := slow.Subscribe("s"); err != nil {
			t.Fatal(err)
		}
		a := listen(t, mem, "a")
		a.says(t, "s", "0")
		<-stopped
		for i := range room + more {
			a.says(t, "s", fmt.Sprint(i+1))
		}
		if n := mem.Dropped("slow"); n != more {
			t.Errorf("%d messages are lost, want %d", n, more)
		}
		close(step)
		synctest.Wait()
		a.says(t, "s", "later")
		synctest.Wait()
		if len(got) != room+2 || got[0] != "0" || got[room] != fmt.Sprint(room) || got[room+1] != "later" {
			t.Errorf("%d messages have come, want %d, the first ones and the last", len(got), room+2)
		}
		if n := mem.Dropped("a"); n != 0 {
			t.Errorf("a has lost %d messages, want none", n)
		}
	})
}
