package dian_test

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dian-im/dian"
)

// The lane's connection is dialled beside the offer, and is the one that the lane uses.
func TestLaneIsDialledBesideTheOffer(t *testing.T) {
	relays(t, func(t *testing.T, r *relay) {
		var dials atomic.Int32
		counted := dian.WithHTTPClient(&http.Client{Transport: &http.Transport{IdleConnTimeout: 90 * time.Second, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			dials.Add(1)
			return r.l.DialContext(ctx, network, addr)
		}}})
		var before int32
		bob := r.connect("bob", dian.WithHandler(dian.Handler{
			AcceptBuffer: func(o *dian.Offer) {
				go func() {
					time.Sleep(time.Second) // the person decides
					before = dials.Load()
					o.Accept()
				}()
			},
			NotifyBufferData: func(dian.BufferData) {},
		}))
		defer bob.Close()
		alice := r.connect("alice", dian.WithSendOnly(), counted)
		defer alice.Close()
		if n := dials.Load(); n != 1 {
			t.Fatalf("%d connections at first, want the session's", n)
		}
		if err := alice.SendBuffer("bob", make([]byte, 1<<20)).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if after := dials.Load(); before != 2 || after != 2 {
			t.Errorf("%d connections before the answer, %d after all, want 2: the session's, and the lane's before its time", before, after)
		}
		if err := alice.SendBuffer("bob", make([]byte, 1000)).Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if after := dials.Load(); after != 2 {
			t.Errorf("%d connections after what needs no lane", after)
		}
	})
}
