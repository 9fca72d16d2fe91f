package dian_test

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dian-im/dian"
)

// countedConn counts what is written to it.
type countedConn struct {
	net.Conn
	sent *atomic.Int64
}

func (c countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.sent.Add(int64(n))
	return n, err
}

// A sender that waits while the receiver restarts goes on from what the new process
// says it has, and not from an older word: hardly a byte is sent twice.
func TestRestartedReceiverIsAskedBeforeTheSenderGoesOn(t *testing.T) {
	const size, at = 48 << 20, 30 << 20
	relays(t, func(t *testing.T, r *relay) {
		dir := t.TempDir()
		in := newInbound()
		listen := func() *dian.Client {
			return r.connect("bob", dian.WithReceiveDir(dir), dian.WithHandler(in.handler()))
		}
		bob := listen()
		var sent atomic.Int64
		alice := r.connect("alice", dian.WithHTTPClient(&http.Client{Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				c, err := r.l.Dial(ctx)
				return countedConn{c, &sent}, err
			},
		}}))
		defer alice.Close()
		content := &gate{pattern: pattern{size}, at: at, reached: make(chan struct{}), open: make(chan struct{})}
		task := alice.SendReader("bob", content, size)
		<-content.reached
		synctest.Wait() // what was read before has arrived
		bob.Close()
		content.release()
		time.Sleep(10 * time.Second) // the lane ends, and the sender asks where it stands
		again := listen()
		defer again.Close()
		if err := task.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if twice := sent.Load() - size; twice > 4<<20 {
			t.Errorf("%d bytes were sent twice", twice)
		}
		time.Sleep(time.Second)
	})
}
