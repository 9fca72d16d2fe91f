package bustest

import (
	"context"
	"errors"
	"testing"

	"github.com/dian-im/dian/internal/bus"
)

func firstAnswer(t *testing.T, c Cluster) {
	const count = 100
	asker := open(t, c)
	answer := func(n *Node, m bus.Message) {
		if m.Reply == "" {
			t.Error("a question without Reply")
			return
		}
		n.Publish(m.Reply, append([]byte("answer to "), m.Data...))
		n.Publish(m.Reply, []byte("one more"))
	}
	for _, n := range []*Node{Join(t, c.Open, answer), Join(t, c.Open, answer)} {
		n.Expect(Told{State: "up"})
		n.MustSubscribe("question")
		n.SeenBy(asker)
	}
	for i := range count {
		got, err := asker.Ask(t.Context(), "question", []byte(text(i)))
		if want := "answer to " + text(i); err != nil || string(got) != want {
			t.Fatalf("Ask = %q, %v, want %q", got, err, want)
		}
	}
}

func nobodyIsKnown(t *testing.T, c Cluster) {
	a, b := open(t, c), open(t, c)
	a.MustSubscribe("mine")
	b.Knows("mine")
	for _, subject := range []string{"mine", "nobodys"} {
		if got, err := a.Ask(t.Context(), subject, []byte("?")); err != bus.ErrNobody {
			t.Errorf("Ask(%q) = %q, %v, want ErrNobody", subject, got, err)
		}
	}
	if err := a.Publish("nobodys", nil); err != nil {
		t.Errorf("Publish to nobody: %v", err)
	}
	if err := a.Publish("mine", nil); err != nil {
		t.Errorf("Publish to nobody else: %v", err)
	}
}

func contextEndsAsk(t *testing.T, c Cluster) {
	asker, silent := open(t, c), open(t, c)
	silent.MustSubscribe("s")
	asker.Knows("s")
	ctx, cancel := context.WithCancel(t.Context())
	result := ask(ctx, asker, "s")
	silent.Next() // it has the question
	cancel()
	if err := <-result; err != context.Canceled {
		t.Errorf("Ask = %v, want %v", err, context.Canceled)
	}
	if _, err := asker.Ask(ctx, "s", nil); err != context.Canceled {
		t.Errorf("Ask = %v, want %v", err, context.Canceled)
	}
	asker.Knows("s") // it works on
}

// ask asks in a goroutine, and returns where the error comes.
func ask(ctx context.Context, n *Node, subject string) <-chan error {
	result := make(chan error, 1)
	go func() {
		_, err := n.Ask(ctx, subject, []byte("?"))
		result <- err
	}()
	return result
}

func manyAsk(t *testing.T, c Cluster) {
	asker := open(t, c)
	server := Join(t, c.Open, func(n *Node, m bus.Message) { n.Publish(m.Reply, m.Data) })
	server.Expect(Told{State: "up"})
	server.MustSubscribe("echo")
	asker.Knows("echo")
	together(20, func(i int) {
		for j := range 50 {
			want := text(i*100 + j)
			if got, err := asker.Ask(t.Context(), "echo", []byte(want)); err != nil || string(got) != want {
				t.Errorf("Ask = %q, %v, want %q", got, err, want)
			}
		}
	})
}

func breakIsTold(t *testing.T, c Cluster) {
	n := open(t, c)
	for range 3 {
		c.Break()
		n.Expect(Told{State: "down"})
		if err := n.Publish("s", nil); err != bus.ErrDown {
			t.Errorf("Publish = %v, want ErrDown", err)
		}
		if _, err := n.Ask(t.Context(), "s", nil); err != bus.ErrDown {
			t.Errorf("Ask = %v, want ErrDown", err)
		}
		if n.MaxBytes() <= 0 {
			t.Errorf("MaxBytes = %d", n.MaxBytes())
		}
		c.Mend()
		n.Expect(Told{State: "up"})
		n.MustPublish("s", "")
	}
}

func breakEndsAsk(t *testing.T, c Cluster) {
	asker, silent := open(t, c), open(t, c)
	silent.MustSubscribe("s")
	asker.Knows("s")
	result := ask(t.Context(), asker, "s")
	silent.Next() // it has the question
	c.Break()
	if err := <-result; err != bus.ErrDown {
		t.Errorf("Ask = %v, want ErrDown", err)
	}
}

func subscriptionsOutliveABreak(t *testing.T, c Cluster) {
	talker, listener := open(t, c), open(t, c)
	listener.MustSubscribe("old")
	gone := listener.MustSubscribe("gone")
	again := listener.MustSubscribe("again")
	talker.Knows("old")
	c.Break()
	listener.Expect(Told{State: "down"})
	talker.Expect(Told{State: "down"})
	gone()
	again()
	listener.MustSubscribe("again")
	listener.MustSubscribe("new")
	listener.MustSubscribe("short")() // cancelled at once
	c.Mend()
	listener.Expect(Told{State: "up"})
	talker.Expect(Told{State: "up"})
	for _, subject := range []string{"old", "new", "again"} {
		talker.Knows(subject)
		talker.MustPublish(subject, subject)
		listener.Expect(Told{Subject: subject, Data: subject})
	}
	talker.Forgets("gone")
	talker.Forgets("short")
}

func closeSends(t *testing.T, c Cluster) {
	const count = 2000
	talker, listener := open(t, c), open(t, c)
	listener.MustSubscribe("s")
	talker.Knows("s")
	for i := range count {
		talker.MustPublish("s", text(i))
	}
	talker.Close()
	for i := range count {
		listener.Expect(Told{Subject: "s", Data: text(i)})
	}
}

func nothingAfterClose(t *testing.T, c Cluster) {
	n, other := open(t, c), open(t, c)
	cancel := n.MustSubscribe("s")
	other.Knows("s")
	together(3, func(int) { n.Close() })
	if err := n.Publish("s", nil); err != bus.ErrDown {
		t.Errorf("Publish = %v, want ErrDown", err)
	}
	if _, err := n.Ask(t.Context(), "s", nil); err != bus.ErrDown {
		t.Errorf("Ask = %v, want ErrDown", err)
	}
	if _, err := n.Subscribe("t"); err == nil {
		t.Error("Subscribe: no error")
	}
	cancel()
	other.Forgets("s")
	c.Break()
	c.Mend()
	if len(n.Told) != 0 {
		t.Errorf("the handler is told %+v after Close", <-n.Told)
	}
}

func closeEndsAsk(t *testing.T, c Cluster) {
	asker, silent := open(t, c), open(t, c)
	silent.MustSubscribe("s")
	asker.Knows("s")
	result := ask(t.Context(), asker, "s")
	silent.Next()
	asker.Close()
	if err := <-result; !errors.Is(err, bus.ErrDown) {
		t.Errorf("Ask = %v, want ErrDown", err)
	}
}

func closeWhileBroken(t *testing.T, c Cluster) {
	n := open(t, c)
	n.MustSubscribe("s")
	c.Break()
	n.Expect(Told{State: "down"})
	n.Close()
	late := Join(t, c.Open, nil) // has never had a connection
	late.MustSubscribe("s")
	if err := late.Publish("s", nil); err != bus.ErrDown {
		t.Errorf("Publish = %v, want ErrDown", err)
	}
	late.Close()
	if len(late.Told) != 0 {
		t.Errorf("the handler is told %+v without a connection", <-late.Told)
	}
}
