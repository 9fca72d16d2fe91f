package test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/dian-im/dian/internal/bus"
	"github.com/dian-im/dian/internal/bus/bustest"
)

func TestNATSServersKeepOnePublishersOrder(t *testing.T) {
	const count, subjects = 20_000, 50
	servers := startNATSCluster(t, 2, false)
	talker, listener := joinNATS(t, servers[0].config()), joinNATS(t, servers[1].config())
	talker.Expect(toldUp)
	listener.Expect(toldUp)
	for i := range subjects {
		listener.MustSubscribe(fmt.Sprintf("s.%d", i))
	}
	listener.SeenBy(talker)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range count {
			if err := talker.Publish(fmt.Sprintf("s.%d", i*i%subjects), fmt.Append(nil, i)); err != nil {
				t.Errorf("Publish = %v", err)
			}
		}
	}()
	for i := range count {
		want := bustest.Told{Subject: fmt.Sprintf("s.%d", i*i%subjects), Data: fmt.Sprint(i)}
		if got := listener.Next(); got != want {
			t.Fatalf("message %d is %+v, want %+v", i, got, want)
		}
	}
	<-done
}

// A fresh subscription is known at its own server before it is at the others: who asks
// there is told ErrNobody till then. How long that takes is logged, not tested.
func TestNATSServersLearnOfSubscriptions(t *testing.T) {
	const rounds = 200
	servers := startNATSCluster(t, 2, false)
	server, asker := joinNATS(t, servers[0].config()), joinNATS(t, servers[1].config())
	server.Expect(toldUp)
	asker.Expect(toldUp)
	var took []time.Duration
	early := 0
	for i := range rounds {
		subject := fmt.Sprintf("fresh.%d", i)
		start := time.Now()
		server.MustSubscribe(subject)
		for {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			_, err := asker.Ask(ctx, subject, []byte("is anybody here?"))
			cancel()
			if err == nil {
				break
			}
			if err != bus.ErrNobody {
				t.Fatalf("Ask = %v, want an answer or ErrNobody", err)
			}
			early++
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	t.Logf("from Subscribe to the first answer at the other server: median %v, longest %v; ErrNobody %d times before",
		took[rounds/2], took[rounds-1], early)
}

func TestNodeGoesToAnotherServerOfNATS(t *testing.T) {
	servers := startNATSCluster(t, 2, true)
	n, other := joinNATS(t, servers[0].config()), joinNATS(t, servers[1].config())
	n.Expect(toldUp)
	other.Expect(toldUp)
	n.MustSubscribe("s")
	other.Knows("s")
	servers[0].stop()
	n.Expect(toldDown)
	n.Expect(toldUp)
	other.Knows("s")
}
