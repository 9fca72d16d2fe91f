package dian_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/internal/memnet"
	"github.com/dian-im/dian/server"
)

// A relay is the real server on a network in memory, inside a bubble.
type relay struct {
	t   *testing.T
	l   *memnet.Listener
	srv *server.Server
}

func relays(t *testing.T, f func(t *testing.T, r *relay)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		srv, err := server.New(server.DevConfig())
		if err != nil {
			t.Fatal(err)
		}
		r := &relay{t: t, l: memnet.Listen(), srv: srv}
		web := &http.Server{Handler: srv}
		var serving sync.WaitGroup
		serving.Go(func() { web.Serve(r.l) })
		defer func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if err := srv.Shutdown(ctx); err != nil {
				t.Errorf("shutdown: %v", err)
			}
			web.Close()
			serving.Wait()
		}()
		f(t, r)
	})
}

func (r *relay) connect(user string, opts ...dian.Option) *dian.Client {
	r.t.Helper()
	token, err := server.DevToken(user)
	if err != nil {
		r.t.Fatal(err)
	}
	all := append([]dian.Option{
		dian.WithToken(token), dian.WithReceiveDir(r.t.TempDir()), dian.WithClientName("test " + r.t.TempDir()),
		dian.WithHTTPClient(&http.Client{Transport: &http.Transport{DialContext: r.l.DialContext}}),
	}, opts...)
	c, err := dian.Connect(r.t.Context(), "http://127.0.0.1:7700", all...)
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

func TestCommandsOverTheRealServer(t *testing.T) {
	relays(t, func(t *testing.T, r *relay) {
		bob := r.connect("bob", dian.WithHandler(dian.Handler{
			HandleCmd: func(m dian.CmdData) ([]byte, error) {
				if string(m.Data) == "no" {
					return nil, dian.ErrNoSpace
				}
				return append([]byte(m.Source+" said "), m.Data...), nil
			},
		}))
		defer bob.Close()
		alice := r.connect("alice", dian.WithSendOnly())
		defer alice.Close()

		task := alice.SendCmd("bob", []byte("hello"))
		if err := task.Wait(t.Context()); err != nil || string(task.Result().Reply) != "alice said hello" {
			t.Errorf("result %+v", task.Result())
		}
		err := alice.SendCmd("bob", []byte("no")).Wait(t.Context())
		if e, _ := errors.AsType[*dian.Error](err); e == nil || e.Code != dian.ErrNoSpace || e.Origin != dian.Peer {
			t.Errorf("refused by the handler: %v", err)
		}
		if err := alice.SendCmd("carol", nil).Wait(t.Context()); dian.CodeOf(err) != dian.ErrPeerOffline {
			t.Errorf("to nobody: %v, want %v", err, dian.ErrPeerOffline)
		}
		waiting := alice.SendCmd("carol", nil, dian.WithWaitForPeer(time.Minute))
		time.Sleep(10 * time.Second)
		carol := r.connect("carol", dian.WithHandler(dian.Handler{NotifyCmdData: func(dian.CmdData) {}}))
		defer carol.Close()
		if err := waiting.Wait(t.Context()); err != nil {
			t.Errorf("with patience: %v", err)
		}
		if alice.User() != "alice" || alice.App() != server.DevApp {
			t.Errorf("logged in as %s in %s", alice.User(), alice.App())
		}
	})
}

// Every connection breaks again and again, while commands run both ways.
func TestCommandsSurviveCuts(t *testing.T) {
	relays(t, func(t *testing.T, r *relay) {
		const n = 300
		got := map[string][]string{}
		var mu sync.Mutex
		handler := func(user string) dian.Handler {
			return dian.Handler{NotifyCmdData: func(m dian.CmdData) {
				mu.Lock()
				defer mu.Unlock()
				got[user] = append(got[user], string(m.Data))
			}}
		}
		alice := r.connect("alice", dian.WithHandler(handler("alice")))
		defer alice.Close()
		bob := r.connect("bob", dian.WithHandler(handler("bob")), dian.WithAckHandled())
		defer bob.Close()
		var tasks []*dian.Task
		var want []string
		for i := range n {
			text := fmt.Sprintf("%04d", i)
			want = append(want, text)
			tasks = append(tasks,
				alice.SendCmd("bob", []byte(text), dian.WithWaitForPeer(time.Minute)),
				bob.SendCmd("alice", []byte(text), dian.WithWaitForPeer(time.Minute)))
			time.Sleep(time.Millisecond)
			if i%20 == 10 {
				r.l.CutAll()
			}
		}
		for _, task := range tasks {
			if err := task.Wait(t.Context()); err != nil {
				t.Errorf("%s: %v", task.ID(), err)
			}
		}
		alice.Close()
		bob.Close()
		for _, user := range []string{"alice", "bob"} {
			if !slices.Equal(got[user], want) {
				t.Errorf("%s got %d commands, want %d in order and once: %v", user, len(got[user]), n, got[user])
			}
		}
	})
}

func TestNewerLoginKicksTheOlder(t *testing.T) {
	relays(t, func(t *testing.T, r *relay) {
		off := make(chan error, 2)
		first := r.connect("bob", dian.WithHandler(dian.Handler{NotifyLineOff: func(err error) { off <- err }}))
		defer first.Close()
		second := r.connect("bob", dian.WithClientName("another"))
		defer second.Close()
		if err := <-off; !errors.Is(err, dian.ErrKicked) {
			t.Errorf("NotifyLineOff(%v), want %v", err, dian.ErrKicked)
		}
		time.Sleep(time.Hour)
		if second.Err() != nil {
			t.Errorf("the newer login is off: %v", second.Err())
		}
	})
}

func TestPresenceOverTheRealServer(t *testing.T) {
	relays(t, func(t *testing.T, r *relay) {
		news := make(chan dian.UserStatus, 100)
		alice := r.connect("alice", dian.WithSendOnly(), dian.WithHandler(dian.Handler{
			NotifyUserStatus: func(users []dian.UserStatus) {
				for _, u := range users {
					news <- u
				}
			},
		}))
		defer alice.Close()
		if err := alice.StartUserStatusNotify(t.Context(), "bob"); err != nil {
			t.Fatal(err)
		}
		expect := func(want dian.UserStatus) {
			t.Helper()
			for u := range news { // states may be merged or repeated; the last one always arrives
				if u == want {
					return
				}
			}
		}
		expect(dian.UserStatus{User: "bob"})
		bob := r.connect("bob")
		expect(dian.UserStatus{User: "bob", Status: dian.Online})
		if err := bob.SetStatus(true, 7); err != nil {
			t.Fatal(err)
		}
		busy := dian.UserStatus{User: "bob", Status: dian.Busy, DoNotDisturb: 7}
		expect(busy)
		if list, err := alice.UserStatus(t.Context()); err != nil || !slices.Equal(list, []dian.UserStatus{busy}) {
			t.Errorf("UserStatus = %v, %v; want bob busy", list, err)
		}
		r.l.CutAll()
		expect(busy) // both have told everything again
		bob.Close()
		expect(dian.UserStatus{User: "bob"})
		if err := alice.StopUserStatusNotify(t.Context(), "bob"); err != nil {
			t.Error(err)
		}
		list, err := alice.UserStatus(t.Context(), "bob", "carol")
		if want := []dian.UserStatus{{User: "bob"}, {User: "carol"}}; err != nil || !slices.Equal(list, want) {
			t.Errorf("UserStatus = %v, %v; want both offline", list, err)
		}
	})
}

func TestTokenOverTheRealServer(t *testing.T) {
	relays(t, func(t *testing.T, r *relay) {
		told := make(chan time.Time, 1)
		off := make(chan error, 1)
		alice := r.connect("alice", dian.WithHandler(dian.Handler{
			NotifyTokenWillExpire: func(at time.Time) { told <- at },
			NotifyLineOff:         func(err error) { off <- err },
		}))
		defer alice.Close()
		fresh, err := server.DevToken("alice")
		if err != nil {
			t.Fatal(err)
		}
		if err := alice.UpdateToken(t.Context(), fresh); err != nil {
			t.Errorf("UpdateToken = %v", err)
		}
		other, err := server.DevToken("bob")
		if err != nil {
			t.Fatal(err)
		}
		if err := alice.UpdateToken(t.Context(), other); err == nil {
			t.Error("another user's token was taken")
		}
		if err := alice.UpdateToken(t.Context(), "nonsense"); dian.CodeOf(err) != dian.ErrTokenMalformed {
			t.Errorf("UpdateToken = %v, want %v", err, dian.ErrTokenMalformed)
		}
		<-told
		if err := <-off; !errors.Is(err, dian.ErrTokenExpired) {
			t.Errorf("NotifyLineOff(%v), want %v", err, dian.ErrTokenExpired)
		}
	})
}

func TestConnectIsRefusedByTheRealServer(t *testing.T) {
	relays(t, func(t *testing.T, r *relay) {
		for token, want := range map[string]dian.Code{"nonsense": dian.ErrTokenMalformed} {
			_, err := dian.Connect(t.Context(), "http://127.0.0.1:7700", dian.WithToken(token), dian.WithSendOnly(),
				dian.WithHTTPClient(&http.Client{Transport: &http.Transport{DialContext: r.l.DialContext}}))
			if !errors.Is(err, want) {
				t.Errorf("token %q: %v, want %v", token, err, want)
			}
		}
	})
}
