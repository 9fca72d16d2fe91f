package bus_test

import (
	"testing"
	"time"

	"github.com/dian-im/dian/internal/bus"
)

func TestCutNodeHasNoConnection(t *testing.T) {
	inBubble(t, func(t *testing.T, mem *bus.Mem) {
		a, b, c := listen(t, mem, "a", "s"), listen(t, mem, "b", "s"), listen(t, mem, "c", "s")
		mem.Cut("b")
		if err := b.Publish("s", nil); err != bus.ErrDown {
			t.Errorf("Publish = %v, want ErrDown", err)
		}
		b.mustAsk(t, "s", "down")
		if _, err := b.Subscribe("new"); err != nil {
			t.Errorf("Subscribe = %v", err)
		}
		a.says(t, "s", "1")
		a.mustAsk(t, "new", "nobody")
		mem.Heal("b")
		a.says(t, "s", "2")
		a.mustAsk(t, "new", "b")
		a.has(t, "up")
		b.has(t, "up", "down", "up", "s=2", "new=?")
		c.has(t, "up", "s=1", "s=2")
	})
}

func TestCutLosesWhatIsUnderWay(t *testing.T) {
	inBubble(t, func(t *testing.T, mem *bus.Mem) {
		a, b, c := listen(t, mem, "a"), listen(t, mem, "b", "s"), listen(t, mem, "c", "s")
		a.says(t, "s", "there before")
		mem.Delay(time.Second)
		a.says(t, "s", "under way")
		time.Sleep(time.Second / 2)
		mem.Cut("b")
		mem.Heal("b")
		a.says(t, "s", "new")
		time.Sleep(time.Second)
		b.has(t, "up", "s=there before", "down", "up", "s=new")
		c.has(t, "up", "s=there before", "s=under way", "s=new")
	})
}

func TestCutEndsAskWhoseAnswerIsUnderWay(t *testing.T) {
	inBubble(t, func(t *testing.T, mem *bus.Mem) {
		a := listen(t, mem, "a")
		listen(t, mem, "b", "s")
		mem.Delay(time.Second)
		time.AfterFunc(1500*time.Millisecond, func() { mem.Cut("a") })
		start := time.Now()
		a.mustAsk(t, "s", "down")
		if d := time.Since(start); d != 1500*time.Millisecond {
			t.Errorf("Ask ends after %v, want 1.5s", d)
		}
	})
}

func TestSplitIsSilent(t *testing.T) {
	inBubble(t, func(t *testing.T, mem *bus.Mem) {
		a, b, c := listen(t, mem, "a", "s", "only.a"), listen(t, mem, "b", "s"), listen(t, mem, "c", "s")
		mem.Split("a", "b")
		a.says(t, "s", "from a")
		b.says(t, "s", "from b")
		b.mustAsk(t, "only.a", "nobody")
		c.mustAsk(t, "only.a", "a")
		mem.Join("b", "a")
		b.mustAsk(t, "only.a", "a")
		a.says(t, "s", "again")
		a.has(t, "up", "only.a=?", "only.a=?")
		b.has(t, "up", "s=again")
		c.has(t, "up", "s=from a", "s=from b", "s=again")
	})
}

func TestSplitLosesWhatIsUnderWay(t *testing.T) {
	inBubble(t, func(t *testing.T, mem *bus.Mem) {
		a, b, c := listen(t, mem, "a"), listen(t, mem, "b", "s"), listen(t, mem, "c")
		mem.Delay(time.Second)
		a.says(t, "s", "from a")
		c.says(t, "s", "from c")
		mem.Split("b", "a")
		time.Sleep(2 * time.Second)
		b.has(t, "up", "s=from c")
	})
}

func TestDropLosesSingleMessages(t *testing.T) {
	inBubble(t, func(t *testing.T, mem *bus.Mem) {
		a, b, c := listen(t, mem, "a"), listen(t, mem, "b", "s", "t"), listen(t, mem, "c", "s")
		mem.Drop(func(from, to, subject string) bool { return from == "a" && to == "b" && subject == "s" })
		a.says(t, "s", "1")
		a.says(t, "t", "2")
		c.says(t, "s", "3")
		a.mustAsk(t, "s", "c")
		mem.Drop(nil)
		a.says(t, "s", "4")
		b.has(t, "up", "t=2", "s=3", "s=4")
		c.has(t, "up", "s=1", "s=?", "s=4")
	})
}

func TestLostQuestionsAndAnswersLetAskWait(t *testing.T) {
	inBubble(t, func(t *testing.T, mem *bus.Mem) {
		a, b := listen(t, mem, "a"), listen(t, mem, "b", "s")
		for _, lost := range []func(from, to, subject string) bool{
			func(from, _, _ string) bool { return from == "a" },
			func(from, _, _ string) bool { return from == "b" },
		} {
			mem.Drop(lost)
			start := time.Now()
			a.mustAsk(t, "s", "context deadline exceeded")
			if d := time.Since(start); d != time.Hour {
				t.Errorf("Ask ends after %v, want 1h0m0s", d)
			}
		}
		b.has(t, "up", "s=?")
	})
}

func TestDropMayUseTheBus(t *testing.T) {
	inBubble(t, func(t *testing.T, mem *bus.Mem) {
		a, b := listen(t, mem, "a"), listen(t, mem, "b", "s")
		mem.Drop(func(_, to, _ string) bool {
			mem.Drop(nil)
			mem.Cut(to)
			return false
		})
		a.says(t, "s", "1") // b is cut while it is on its way
		mem.Heal("b")
		b.has(t, "up", "down", "up")
	})
}

func TestDelayKeepsTheOrder(t *testing.T) {
	inBubble(t, func(t *testing.T, mem *bus.Mem) {
		a, b := listen(t, mem, "a"), listen(t, mem, "b", "s", "t")
		mem.Delay(time.Minute)
		a.says(t, "s", "1")
		mem.Delay(time.Second)
		a.says(t, "t", "2")
		time.Sleep(time.Minute - time.Nanosecond)
		b.has(t, "up")
		time.Sleep(time.Nanosecond)
		b.has(t, "up", "s=1", "t=2")
		mem.Delay(0)
		a.says(t, "s", "3")
		b.has(t, "up", "s=1", "t=2", "s=3")
	})
}

func TestDelayCountsForAnswers(t *testing.T) {
	inBubble(t, func(t *testing.T, mem *bus.Mem) {
		a := listen(t, mem, "a")
		listen(t, mem, "b", "s")
		mem.Delay(time.Second)
		start := time.Now()
		a.mustAsk(t, "s", "b")
		if d := time.Since(start); d != 2*time.Second {
			t.Errorf("the answer has come after %v, want 2s", d)
		}
		a.mustAsk(t, "nobodys", "nobody")
		if d := time.Since(start); d != 2*time.Second {
			t.Errorf("ErrNobody has come after %v more, want at once", d-2*time.Second)
		}
	})
}

func TestLagHidesFreshSubscriptions(t *testing.T) {
	const lag = 150 * time.Millisecond
	for _, test := range []struct {
		name    string
		refresh func(mem *bus.Mem) // nil: the subscription is new
		want    []string
	}{
		{"new", nil, []string{"up", "s=?"}},
		{"after a cut", func(mem *bus.Mem) { mem.Cut("b"); mem.Heal("b") }, []string{"up", "s=?", "down", "up", "s=?"}},
		{"after a split", func(mem *bus.Mem) { mem.Split("a", "b"); mem.Join("a", "b") }, []string{"up", "s=?", "s=?"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, mem *bus.Mem) {
				mem.Lag(lag)
				a, b := listen(t, mem, "a"), listen(t, mem, "b", "s")
				if test.refresh != nil {
					time.Sleep(lag)
					a.mustAsk(t, "s", "b")
					test.refresh(mem)
				}
				a.says(t, "s", "nobody knows of it yet")
				a.mustAsk(t, "s", "nobody")
				time.Sleep(lag - time.Nanosecond)
				a.mustAsk(t, "s", "nobody")
				time.Sleep(time.Nanosecond)
				a.mustAsk(t, "s", "b")
				b.has(t, test.want...)
				mem.Lag(0)
				if _, err := b.Subscribe("t"); err != nil {
					t.Fatal(err)
				}
				a.mustAsk(t, "t", "b")
			})
		})
	}
}
