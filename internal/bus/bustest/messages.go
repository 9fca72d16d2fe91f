package bustest

import (
	"strings"
	"sync/atomic"
	"testing"

	"github.com/dian-im/dian/internal/bus"
)

func stateComesFirst(t *testing.T, c Cluster) {
	talker := open(t, c)
	listener := Join(t, c.Open, nil)
	listener.MustSubscribe("s")
	Eventually(t, "s is not known", func() bool {
		talker.MustPublish("s", "early")
		return len(listener.Told) > 1
	})
	listener.Expect(Told{State: "up"})
	listener.Expect(Told{Subject: "s", Data: "early"})
}

func allGetItButThePublisher(t *testing.T, c Cluster) {
	a, b, other := open(t, c), open(t, c), open(t, c)
	for _, n := range []*Node{a, b, other} {
		n.MustSubscribe("all")
	}
	a.SeenBy(b)
	b.SeenBy(a)
	other.SeenBy(a, b)
	a.MustPublish("all", "from a")
	b.Expect(Told{Subject: "all", Data: "from a"})
	other.Expect(Told{Subject: "all", Data: "from a"})
	// An echo to a would have come before what others say after they have heard it.
	b.MustPublish("all", "from b")
	a.Expect(Told{Subject: "all", Data: "from b"})
}

func orderIsKept(t *testing.T, c Cluster) {
	const count = 5000
	talker, listener := open(t, c), open(t, c)
	subjects := []string{"a", "b.c", "b.d", "e.f.g", "h"}
	for _, s := range subjects {
		listener.MustSubscribe(s)
	}
	listener.SeenBy(talker)
	for i := range count {
		talker.MustPublish(subjects[i*i%len(subjects)], text(i))
	}
	for i := range count {
		listener.Expect(Told{Subject: subjects[i*i%len(subjects)], Data: text(i)})
	}
}

func dataIsCopied(t *testing.T, c Cluster) {
	spoil := func(_ *Node, m bus.Message) {
		defer func() { clear(m.Data) }() // it is the handler's until it returns
		if string(m.Data) != "hello" {
			t.Errorf("the data is %q, want %q", m.Data, "hello")
		}
	}
	talker, one, two := open(t, c), Join(t, c.Open, spoil), Join(t, c.Open, spoil)
	for _, n := range []*Node{one, two} {
		n.Expect(Told{State: "up"})
		n.MustSubscribe("s")
		n.SeenBy(talker)
	}
	data := []byte("hello")
	if err := talker.Publish("s", data); err != nil {
		t.Fatal(err)
	}
	clear(data)
	one.Next()
	two.Next()
}

func handlerRunsAlone(t *testing.T, c Cluster) {
	const each = 200
	var running atomic.Int32
	listener := Join(t, c.Open, func(*Node, bus.Message) {
		if n := running.Add(1); n != 1 {
			t.Errorf("%d calls of the handler at a time, want 1", n)
		}
		running.Add(-1)
	})
	listener.Expect(Told{State: "up"})
	listener.MustSubscribe("a")
	listener.MustSubscribe("b")
	talkers := []*Node{open(t, c), open(t, c), open(t, c), open(t, c)}
	listener.SeenBy(talkers...)
	together(len(talkers), func(i int) {
		for range each {
			talkers[i].Publish("a", []byte("x"))
			talkers[i].Publish("b", []byte("x"))
		}
	})
	for range len(talkers) * each * 2 {
		listener.Next()
	}
}

func handlerMayUseTheBus(t *testing.T, c Cluster) {
	asker := open(t, c)
	server := Join(t, c.Open, func(n *Node, m bus.Message) {
		if m.Subject == "door" && m.Reply == "" {
			n.MustSubscribe("room")
			n.MustPublish("opened", "room")
		}
	})
	server.Expect(Told{State: "up"})
	server.MustSubscribe("door")
	asker.MustSubscribe("opened")
	asker.SeenBy(server)
	server.SeenBy(asker)
	asker.MustPublish("door", "knock")
	asker.Expect(Told{Subject: "opened", Data: "room"})
	asker.Knows("room")
}

func secondSubscription(t *testing.T, c Cluster) {
	n, other := open(t, c), open(t, c)
	cancel := n.MustSubscribe("s")
	if _, err := n.Subscribe("s"); err == nil {
		t.Error("a second subscription to s: no error")
	}
	other.MustSubscribe("s") // it is another node's
	cancel()
	n.MustSubscribe("s")
	other.Knows("s")
}

func nothingAfterCancel(t *testing.T, c Cluster) {
	talker, listener := open(t, c), open(t, c)
	cancel := listener.MustSubscribe("s")
	listener.MustSubscribe("fence")
	listener.SeenBy(talker)
	cancel()
	talker.MustPublish("s", "too late")
	talker.MustPublish("fence", "")
	listener.Expect(Told{Subject: "fence"})
	talker.Forgets("s")
}

// What has arrived already and waits for the handler is not for a cancelled subscription.
func cancelCountsForWhatWaits(t *testing.T, c Cluster) {
	ready := make(chan func()) // has what the handler is to call in its first message
	talker, other := open(t, c), open(t, c)
	listener := Join(t, c.Open, func(_ *Node, m bus.Message) {
		if m.Subject == "first" {
			(<-ready)()
		}
	})
	listener.Expect(Told{State: "up"})
	listener.MustSubscribe("first")
	cancel := listener.MustSubscribe("second")
	listener.MustSubscribe("third")
	other.MustSubscribe("third")
	listener.SeenBy(talker)
	other.SeenBy(talker)
	for _, subject := range []string{"first", "second", "third"} {
		talker.MustPublish(subject, "")
	}
	other.Expect(Told{Subject: "third"})
	ready <- cancel
	listener.Expect(Told{Subject: "first"})
	listener.Expect(Told{Subject: "third"})
}

func oldCancel(t *testing.T, c Cluster) {
	talker, listener := open(t, c), open(t, c)
	old := listener.MustSubscribe("s")
	old()
	cancel := listener.MustSubscribe("s")
	old()
	talker.Knows("s")
	talker.MustPublish("s", "still here")
	listener.Expect(Told{Subject: "s", Data: "still here"})
	cancel()
	cancel()
}

func maxBytes(t *testing.T, c Cluster) {
	talker, listener := open(t, c), open(t, c)
	listener.MustSubscribe("s")
	talker.Knows("s")
	most := talker.MaxBytes()
	if err := talker.Publish("s", make([]byte, most+1)); err == nil {
		t.Errorf("%d bytes are published, and MaxBytes is %d", most+1, most)
	}
	if _, err := talker.Ask(t.Context(), "s", make([]byte, most+1)); err == nil {
		t.Errorf("%d bytes are asked, and MaxBytes is %d", most+1, most)
	}
	want := strings.Repeat("x", most)
	talker.MustPublish("s", want)
	if got := listener.Next(); got.Data != want {
		t.Errorf("%d bytes have come, want %d", len(got.Data), most)
	}
	talker.MustPublish("s", "") // none at all is a message as well
	listener.Expect(Told{Subject: "s"})
}

func badSubjects(t *testing.T, c Cluster) {
	n := open(t, c)
	for _, subject := range []string{"", ".", ".a", "a.", "a..b", "a b", "a\tb", "a\r\nPING", "*", "a.*", ">", "a.>", "ü", "a\x00b"} {
		if _, err := n.Subscribe(subject); err == nil {
			t.Errorf("Subscribe(%q): no error", subject)
		}
		if err := n.Publish(subject, nil); err == nil {
			t.Errorf("Publish(%q): no error", subject)
		}
		if _, err := n.Ask(t.Context(), subject, nil); err == nil || err == bus.ErrNobody {
			t.Errorf("Ask(%q) = %v, want another error", subject, err)
		}
	}
}
