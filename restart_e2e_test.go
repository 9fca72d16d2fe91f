package dian_test

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/internal/memnet"
	"github.com/dian-im/dian/server"
)

// A relay that is stopped in order refuses new offers with 8 while it waits for
// running transfers, and its clients come back to the next one at times of their
// own. No queued send may fail for that.
func TestQueuedSendsSurviveAGracefulRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := server.DevConfig()
		cfg.ShutdownGrace = 5 * time.Second
		var serving atomic.Pointer[server.Server]
		start := func() *server.Server {
			srv, err := server.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			serving.Store(srv)
			return srv
		}
		stop := func(srv *server.Server) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if err := srv.Shutdown(ctx); err != nil {
				t.Errorf("shutdown: %v", err)
			}
		}
		old := start()
		r := &relay{t: t, l: memnet.Listen()}
		web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { serving.Load().ServeHTTP(w, r) })}
		var running sync.WaitGroup
		running.Go(func() { web.Serve(r.l) })
		defer func() {
			stop(serving.Load())
			web.Close()
			running.Wait()
		}()

		// bob takes his time with each file, so that many are in every state when
		// the relay stops.
		got := make(chan string, 1000)
		bob := r.connect("bob", dian.WithHandler(dian.Handler{
			AcceptFile: func(o *dian.Offer) {
				time.Sleep(time.Second)
				o.Accept()
			},
			NotifyFileData: func(f dian.FileData) { got <- f.Name },
		}))
		defer bob.Close()
		alice := r.connect("alice", dian.WithSendOnly(), dian.WithParallel(3))
		defer alice.Close()
		dir := t.TempDir()
		var tasks []*dian.Task
		for i, n := range []int{70 << 10, 100, 3 << 20, 70 << 10, 100, 1 << 20, 3 << 20, 70 << 10, 100, 1 << 20, 70 << 10, 70 << 10} {
			path := filepath.Join(dir, strconv.Itoa(i))
			if err := os.WriteFile(path, noise(n), 0o600); err != nil {
				t.Fatal(err)
			}
			tasks = append(tasks, alice.SendFile("bob", path))
		}
		<-got // the first is there, and others are under way
		var stopping sync.WaitGroup
		stopping.Go(func() { stop(old) })
		synctest.Wait()
		// These are offered for the first time while the relay is stopping.
		for range 3 {
			tasks = append(tasks, alice.SendBuffer("bob", noise(100)), alice.SendFile("bob", filepath.Join(dir, "0")))
		}
		stopping.Wait()
		time.Sleep(3 * time.Second) // nobody serves but the one that has stopped
		start()
		for i, task := range tasks {
			if i >= 12 && task.Kind() == dian.Buffer { // bob wants none
				if code := dian.CodeOf(task.Wait(t.Context())); code != dian.ErrPeerRefused {
					t.Errorf("send %d: %v, want %v", i, code, dian.ErrPeerRefused)
				}
				continue
			}
			if err := task.Wait(t.Context()); err != nil {
				t.Errorf("send %d: %v", i, err)
			}
		}
	})
}
