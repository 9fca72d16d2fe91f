package dian

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// silence is a network on which every dial succeeds, and what is written is read
// and never answered.
func silence(t *testing.T) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		go io.Copy(io.Discard, far)
		t.Cleanup(func() { far.Close() })
		return near, nil
	}
}

var errLeft = errors.New("the user has left")

func TestConnectEndsWithItsContextInEveryPhase(t *testing.T) {
	for name, c := range map[string]struct {
		server string
		proxy  string
		opts   []Option
	}{
		"upgrade":       {server: "http://relay.mem"},
		"TLS":           {server: "https://relay.mem"},
		"proxy CONNECT": {server: "https://relay.mem", proxy: "http://proxy.mem"},
		"token source": {server: "http://relay.mem", opts: []Option{WithTokenSource(func(ctx context.Context) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		})}},
		"token source without an ear for contexts": {server: "http://relay.mem", opts: []Option{
			WithTokenSource(func(context.Context) (string, error) {
				time.Sleep(time.Hour)
				return "", nil
			})}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				transport := &http.Transport{DialContext: silence(t)}
				if c.proxy != "" {
					transport.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(c.proxy) }
				}
				ctx, leave := context.WithCancelCause(t.Context())
				time.AfterFunc(time.Second, func() { leave(errLeft) })
				start := time.Now()
				_, err := Connect(ctx, c.server, append([]Option{
					WithToken("t"), WithSendOnly(), WithHTTPClient(&http.Client{Transport: transport}),
				}, c.opts...)...)
				if took := time.Since(start); !errors.Is(err, ErrCancelled) || !errors.Is(err, errLeft) || took != time.Second {
					t.Errorf("Connect = %v after %v, want %v because of %v after 1s", err, took, ErrCancelled, errLeft)
				}
				time.Sleep(2 * time.Hour) // the deaf source ends too
			})
		})
	}
}

func TestCloseDoesNotWaitForALogin(t *testing.T) {
	for _, phase := range []string{"dial", "upgrade", "welcome", "token source", "pause"} {
		t.Run(phase, func(t *testing.T) {
			scripts(t, func(t *testing.T, s *script) {
				var broken atomic.Bool
				trying := make(chan struct{}, 100)
				dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
					switch {
					case broken.Load() && phase == "dial":
						trying <- struct{}{}
						<-ctx.Done()
						return nil, ctx.Err()
					case broken.Load() && phase == "upgrade":
						trying <- struct{}{}
						return silence(t)(ctx, network, addr)
					}
					return s.l.DialContext(ctx, network, addr)
				}
				c, _ := s.pair(
					WithHTTPClient(&http.Client{Transport: &http.Transport{DialContext: dial}}),
					WithTokenSource(func(context.Context) (string, error) {
						if broken.Load() && phase == "token source" {
							trying <- struct{}{}
							time.Sleep(time.Hour)
						}
						return "t", nil
					}),
					WithHandler(Handler{NotifyReconnecting: func(Reconnecting) {
						if phase == "pause" || phase == "welcome" {
							trying <- struct{}{}
						}
					}}))
				broken.Store(true)
				s.reply(func(*wire.Hello) *wire.Frame { return nil })
				task := c.SendBuffer("bob", []byte("x"))
				s.l.CutAll()
				<-trying
				if phase == "welcome" {
					time.Sleep(reconnectFirst) // the longest pause
				}
				synctest.Wait()
				start := time.Now()
				c.Close()
				if took := time.Since(start); took > 10*time.Millisecond {
					t.Errorf("Close took %v", took)
				}
				if got := CodeOf(task.Result().Err); got != ErrNotLoggedIn {
					t.Errorf("the task ended with %v, want %v", got, ErrNotLoggedIn)
				}
				time.Sleep(2 * time.Hour) // the deaf source ends too
			})
		})
	}
}

// A server that keeps the connection and says nothing more costs Close the time
// of an orderly end and no more.
func TestCloseIsBoundedWithASilentServer(t *testing.T) {
	scripts(t, func(t *testing.T, s *script) {
		c, _ := s.pair()
		for range 3 {
			c.SendFile("bob", "close_test.go")
		}
		for _, conn := range s.l.Conns() {
			conn.Stall()
		}
		synctest.Wait()
		start := time.Now()
		c.Close()
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("Close took %v, want at most 5s", took)
		}
	})
}
