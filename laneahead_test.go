package dian

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// fakeConn is a connection that can be closed.
type fakeConn struct {
	net.Conn
	closed atomic.Int32
}

func (c *fakeConn) Close() error { c.closed.Add(1); return nil }

const there = "https relay.test:443"

// dialAhead begins a connection and says how that went.
func dialAhead(t *testing.T, a *ahead) *fakeConn {
	t.Helper()
	c := a.want(there)
	if c == nil {
		t.Fatal("nothing is to be dialled")
	}
	conn := new(fakeConn)
	a.have(c, conn, nil)
	return conn
}

func TestWhatWasDialledAheadIsTakenOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a ahead
		conn := dialAhead(t, &a)
		if a.want(there) != nil {
			t.Error("a second one is to be dialled")
		}
		if got := a.take(t.Context(), "https other.test:443"); got != nil {
			t.Error("another address was given it")
		}
		if got := a.take(t.Context(), there); got != net.Conn(conn) {
			t.Fatalf("got %v", got)
		}
		if got := a.take(t.Context(), there); got != nil {
			t.Error("it was given away twice")
		}
		time.Sleep(2 * aheadFresh)
		if conn.closed.Load() != 0 {
			t.Error("it was closed, and it is a lane's")
		}
		a.close()
		if conn.closed.Load() != 0 {
			t.Error("the end has closed a lane's connection")
		}
	})
}

func TestWhatNoLaneWantsIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a ahead
		conn := dialAhead(t, &a)
		time.Sleep(aheadFresh - time.Millisecond)
		if conn.closed.Load() != 0 {
			t.Error("closed too early")
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if conn.closed.Load() != 1 {
			t.Error("it is open after its time")
		}
		if got := a.take(t.Context(), there); got != nil {
			t.Error("a closed one was given away")
		}
		conn = dialAhead(t, &a)
		a.close()
		if conn.closed.Load() != 1 || a.want(there) != nil {
			t.Error("the end has not ended it")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if conn.closed.Load() != 1 {
			t.Error("closed twice")
		}
	})
}

func TestWhoWaitsForADialGetsItOrDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a ahead
		own := new(fakeConn)
		dial := a.first("https", func(context.Context, string, string) (net.Conn, error) { return own, nil })
		for _, failure := range []error{nil, errors.New("refused")} {
			c := a.want(there)
			conn := new(fakeConn)
			got := make(chan net.Conn)
			go func() {
				conn, _ := dial(t.Context(), "tcp", "relay.test:443")
				got <- conn
			}()
			synctest.Wait()
			select {
			case <-got:
				t.Fatal("it did not wait")
			default:
			}
			a.have(c, conn, failure)
			want := net.Conn(conn)
			if failure != nil {
				want = own
			}
			if g := <-got; g != want {
				t.Errorf("after %v: got %p, want %p", failure, g, want)
			}
		}
		c := a.want(there)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if got := a.take(ctx, there); got != nil {
			t.Error("got one without waiting")
		}
		conn := new(fakeConn)
		a.have(c, conn, nil)
		time.Sleep(aheadFresh)
		synctest.Wait()
		if conn.closed.Load() != 1 {
			t.Error("who gave up keeps it open")
		}
	})
}

func TestNothingIsDialledAheadWhereALaneWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a ahead
		a.keeps()
		time.Sleep(aheadIdle - time.Nanosecond)
		if a.want(there) != nil {
			t.Error("dialled, and there is a connection")
		}
		time.Sleep(time.Nanosecond)
		if a.want(there) == nil {
			t.Error("not dialled after that")
		}
	})
}
