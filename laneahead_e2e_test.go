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

// A lane's own answer comes on another connection than the verdict, and may come behind
// it. It is waited for, and the next lane uses the connection again.
func TestLateAnswerKeepsTheLanesConnection(t *testing.T) {
	relays(t, func(t *testing.T, r *relay) {
		var dials atomic.Int32
		counted := dian.WithHTTPClient(&http.Client{Transport: &http.Transport{IdleConnTimeout: 90 * time.Second, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := r.l.DialContext(ctx, network, addr)
			if dials.Add(1) > 1 && err == nil { // not the session's
				conn = lateConn{conn}
			}
			return conn, err
		}}})
		bob := r.connect("bob", dian.WithHandler(dian.Handler{NotifyBufferData: func(dian.BufferData) {}}))
		defer bob.Close()
		alice := r.connect("alice", dian.WithSendOnly(), counted)
		defer alice.Close()
		for i := range 10 {
			if err := alice.SendBuffer("bob", make([]byte, 1<<20)).Wait(t.Context()); err != nil {
				t.Fatalf("buffer %d: %v", i, err)
			}
			time.Sleep(time.Second)
		}
		if n := dials.Load(); n != 2 {
			t.Errorf("%d connections for 10 buffers, want 2: the session's and one for all lanes", n)
		}
		alice.Close()
		time.Sleep(time.Second) // for those who still hear, late
	})
}

// A lateConn is heard late.
type lateConn struct{ net.Conn }

func (c lateConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	time.Sleep(200 * time.Millisecond)
	return n, err
}
