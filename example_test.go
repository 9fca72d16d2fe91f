package dian_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/diantest"
	"github.com/dian-im/dian/server"
)

// A place is where the examples run: a relay, and folders that go with it.
type place struct {
	url string
	dir string
}

// somewhere starts a relay. A program of yours knows its URL, and gets tokens from
// its own login service.
func somewhere() (p place, leave func()) {
	cfg := server.DevConfig()
	cfg.ShutdownGrace = time.Millisecond
	relay, err := server.New(cfg)
	if err != nil {
		panic(err)
	}
	dir, err := os.MkdirTemp("", "dian-example-")
	if err != nil {
		panic(err)
	}
	web := httptest.NewServer(relay)
	return place{web.URL, dir}, func() {
		relay.Shutdown(context.Background())
		web.Close()
		os.RemoveAll(dir)
	}
}

// login is Connect with what every example needs.
func (p place) login(user string, opts ...dian.Option) *dian.Client {
	token, err := server.DevToken(user)
	if err != nil {
		panic(err)
	}
	client, err := dian.Connect(context.Background(), p.url, append([]dian.Option{
		dian.WithToken(token), dian.WithReceiveDir(filepath.Join(p.dir, user)),
	}, opts...)...)
	if err != nil {
		panic(err)
	}
	return client
}

func Example() {
	relay, leave := somewhere()
	defer leave()
	ctx := context.Background()

	bob := relay.login("bob", dian.WithHandler(dian.Handler{
		NotifyCmdData: func(m dian.CmdData) { fmt.Printf("bob: %s says %q\n", m.Source, m.Data) },
	}))
	defer bob.Close()
	alice := relay.login("alice")
	defer alice.Close()

	if err := alice.SendCmd("bob", []byte("hello")).Wait(ctx); err != nil {
		fmt.Println(err)
	}
	bob.Close() // returns behind the last callback
	// Output:
	// bob: alice says "hello"
}

func ExampleConnect() {
	token := os.Getenv("DIAN_TOKEN") // a JWT: sub is the user, aud the app
	client, err := dian.Connect(context.Background(), "https://relay.example.com",
		dian.WithToken(token),
		dian.WithHandler(dian.Handler{
			NotifyFileData: func(f dian.FileData) {
				path, err := f.SaveAs("Downloads")
				fmt.Println(path, err)
			},
			NotifyLineOff: func(err error) { fmt.Println("logged out:", err) },
		}))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	<-client.Done()
}

func ExampleHandler() {
	relay, leave := somewhere()
	defer leave()
	ctx := context.Background()
	done := make(chan struct{})

	bob := relay.login("bob", dian.WithHandler(dian.Handler{
		// The reply travels back with the result.
		HandleCmd: func(m dian.CmdData) ([]byte, error) {
			if string(m.Data) != "time?" {
				return nil, &dian.Error{Code: dian.ErrBadParameter, Detail: "ask for the time"}
			}
			return []byte("twelve"), nil
		},
		NotifyBufferData: func(b dian.BufferData) {
			fmt.Printf("bob: %d bytes named %q from %s\n", len(b.Data), b.Name, b.Source)
			close(done)
		},
	}))
	defer bob.Close()
	alice := relay.login("alice", dian.WithSendOnly())
	defer alice.Close()

	question := alice.SendCmd("bob", []byte("time?"))
	fmt.Println("alice:", question.Wait(ctx), string(question.Result().Reply))
	fmt.Println("alice:", alice.SendCmd("bob", []byte("weather?")).Wait(ctx))
	alice.SendBuffer("bob", []byte("a picture"), dian.WithName("picture"))
	<-done
	// Output:
	// alice: <nil> twelve
	// alice: send command to "bob": 5: bad parameter: "ask for the time"
	// bob: 9 bytes named "picture" from alice
}

// Tasks run side by side; Wait collects them.
func ExampleTask_Wait() {
	relay, leave := somewhere()
	defer leave()
	ctx := context.Background()
	bob := relay.login("bob", dian.WithHandler(dian.Handler{NotifyFileData: func(dian.FileData) {}}))
	defer bob.Close()
	alice := relay.login("alice")
	defer alice.Close()

	var tasks []*dian.Task
	for i := range 3 {
		path := filepath.Join(relay.dir, fmt.Sprintf("photo%d.jpg", i))
		if err := os.WriteFile(path, make([]byte, i*100_000), 0o600); err != nil {
			panic(err)
		}
		tasks = append(tasks, alice.SendFile("bob", path))
	}
	for _, task := range tasks {
		err := task.Wait(ctx)
		r := task.Result()
		fmt.Println(filepath.Base(r.FileName), r.Size, r.Receipt, err)
	}
	// Output:
	// photo0.jpg 0 stored <nil>
	// photo1.jpg 100000 stored <nil>
	// photo2.jpg 200000 stored <nil>
}

func ExampleError() {
	relay, leave := somewhere()
	defer leave()
	alice := relay.login("alice")
	defer alice.Close()

	err := alice.SendFile("bob", "no such file").Wait(context.Background())
	fmt.Println(errors.Is(err, dian.ErrFileNotFound), errors.Is(err, os.ErrNotExist))

	err = alice.SendCmd("bob", []byte("anybody?")).Wait(context.Background())
	if errors.Is(err, dian.ErrPeerOffline) {
		fmt.Println("nobody is there")
	}
	if e, ok := errors.AsType[*dian.Error](err); ok {
		fmt.Println(e.Code, "said by the", e.Origin)
	}
	// Output:
	// true true
	// nobody is there
	// 603: peer offline said by the server
}

// Meta travels to the receiver; a cookie stays here and comes back with the result.
func ExampleWithMeta() {
	relay, leave := somewhere()
	defer leave()
	got := make(chan string, 1)
	bob := relay.login("bob", dian.WithHandler(dian.Handler{
		NotifyCmdData: func(m dian.CmdData) { got <- string(m.Meta) },
	}))
	defer bob.Close()
	results := make(chan any, 1)
	alice := relay.login("alice", dian.WithHandler(dian.Handler{
		SendCmdResult: func(r dian.Result) { results <- r.Cookie },
	}))
	defer alice.Close()

	alice.SendCmd("bob", []byte("data"), dian.WithMeta([]byte("chat 7")), dian.WithCookie("line 42"))
	fmt.Println(<-got)
	fmt.Println(<-results)
	// Output:
	// chat 7
	// line 42
}

func ExampleClient_SendReader() {
	relay, leave := somewhere()
	defer leave()
	got := make(chan string, 1)
	bob := relay.login("bob", dian.WithHandler(dian.Handler{
		NotifyBufferData: func(b dian.BufferData) { got <- string(b.Data) },
	}))
	defer bob.Close()
	alice := relay.login("alice")
	defer alice.Close()

	content := strings.NewReader("anything that is an io.ReaderAt")
	task := alice.SendReader("bob", content, content.Size(), dian.AsBuffer(), dian.WithType("text/plain"))
	fmt.Println(task.Wait(context.Background()), <-got)
	// Output:
	// <nil> anything that is an io.ReaderAt
}

// An offer may be answered at any later time: by a person, for instance.
func ExampleOffer_AcceptTo() {
	relay, leave := somewhere()
	defer leave()
	offers := make(chan *dian.Offer, 1)
	files := make(chan dian.FileData, 1)
	bob := relay.login("bob", dian.WithHandler(dian.Handler{
		AcceptFile:     func(o *dian.Offer) { offers <- o },
		NotifyFileData: func(f dian.FileData) { files <- f },
	}))
	defer bob.Close()
	alice := relay.login("alice")
	defer alice.Close()

	task := alice.SendReader("bob", strings.NewReader("hello"), 5, dian.WithName("../letter.txt"))
	o := <-offers
	fmt.Printf("%s offers %q of %d bytes\n", o.Source, o.SafeName, o.Size)
	o.AcceptTo(relay.dir) // a folder: it gets its safe name there
	fmt.Println(task.Wait(context.Background()))
	f := <-files
	text, err := os.ReadFile(f.Path)
	fmt.Println(filepath.Base(f.Path), string(text), err)
	// Output:
	// alice offers "letter.txt" of 5 bytes
	// <nil>
	// letter.txt hello <nil>
}

// AcceptWriter keeps nothing on disk.
func ExampleOffer_AcceptWriter() {
	relay, leave := somewhere()
	defer leave()
	var text strings.Builder
	done := make(chan struct{})
	bob := relay.login("bob", dian.WithHandler(dian.Handler{
		AcceptFile:     func(o *dian.Offer) { o.AcceptWriter(&text) },
		NotifyFileData: func(f dian.FileData) { close(done) }, // it was right
	}))
	defer bob.Close()
	alice := relay.login("alice")
	defer alice.Close()

	task := alice.SendReader("bob", strings.NewReader("hello"), 5)
	fmt.Println(task.Wait(context.Background()), task.Result().Receipt)
	<-done
	fmt.Println(text.String())
	// Output:
	// <nil> handed
	// hello
}

func ExampleWithWaitForPeer() {
	relay, leave := somewhere()
	defer leave()
	alice := relay.login("alice")
	defer alice.Close()

	task := alice.SendCmd("bob", []byte("when you are there"), dian.WithWaitForPeer(time.Hour))
	got := make(chan string, 1)
	bob := relay.login("bob", dian.WithHandler(dian.Handler{
		NotifyCmdData: func(m dian.CmdData) { got <- string(m.Data) },
	}))
	defer bob.Close()
	fmt.Println(task.Wait(context.Background()))
	fmt.Println(<-got)
	// Output:
	// <nil>
	// when you are there
}

func ExampleClient_StartUserStatusNotify() {
	relay, leave := somewhere()
	defer leave()
	ctx := context.Background()
	news := make(chan dian.UserStatus, 10)
	alice := relay.login("alice", dian.WithHandler(dian.Handler{
		NotifyUserStatus: func(users []dian.UserStatus) {
			for _, u := range users {
				news <- u
			}
		},
	}))
	defer alice.Close()
	until := func(want dian.Status) { // states may be merged; the last one always comes
		for u := range news {
			if u.Status == want {
				fmt.Println(u.User, "is", u.Status, u.DoNotDisturb)
				return
			}
		}
	}

	if err := alice.StartUserStatusNotify(ctx, "bob"); err != nil {
		fmt.Println(err)
	}
	until(dian.Offline)
	bob := relay.login("bob")
	until(dian.Online)
	if err := bob.SetStatus(true, 22); err != nil {
		fmt.Println(err)
	}
	until(dian.Busy)
	list, err := alice.UserStatus(ctx, "bob", "carol")
	fmt.Println(list, err)
	bob.Close()
	until(dian.Offline)
	// Output:
	// bob is offline 0
	// bob is online 0
	// bob is busy 22
	// [{bob busy 22} {carol offline 0}] <nil>
	// bob is offline 0
}

// A token source is asked whenever a token is needed.
func ExampleWithTokenSource() {
	relay, leave := somewhere()
	defer leave()
	source := func(ctx context.Context) (string, error) {
		fmt.Println("asked for a token")
		return server.DevToken("alice") // of your login service, really
	}
	client, err := dian.Connect(context.Background(), relay.url, dian.WithTokenSource(source), dian.WithSendOnly())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	fmt.Println("logged in as", client.User(), "of", client.App())
	// Output:
	// asked for a token
	// logged in as alice of demo
}

func ExampleClient_UpdateToken() {
	relay, leave := somewhere()
	defer leave()
	ctx := context.Background()
	alice := relay.login("alice", dian.WithHandler(dian.Handler{
		NotifyTokenWillExpire: func(at time.Time) { fmt.Println("a new token is needed before", at) },
	}))
	defer alice.Close()

	fresh, err := server.DevToken("alice")
	if err != nil {
		panic(err)
	}
	fmt.Println(alice.UpdateToken(ctx, fresh))
	fmt.Println(errors.Is(alice.UpdateToken(ctx, "nonsense"), dian.ErrTokenMalformed))
	// Output:
	// <nil>
	// true
}

func ExampleTask_Cancel() {
	relay, leave := somewhere()
	defer leave()
	asked := make(chan *dian.Offer, 1)
	bob := relay.login("bob", dian.WithHandler(dian.Handler{
		AcceptFile: func(o *dian.Offer) { asked <- o }, // and thinks about it
	}))
	defer bob.Close()
	alice := relay.login("alice", dian.WithHandler(dian.Handler{
		CancelSendResult: func(r dian.CancelResult) { fmt.Println("cancelled:", r.Err) },
		SendFileResult:   func(r dian.Result) { fmt.Println("result:", dian.CodeOf(r.Err)) },
	}))

	task := alice.SendReader("bob", io.NewSectionReader(strings.NewReader("hello"), 0, 5), 5)
	o := <-asked
	task.Cancel()
	<-o.Done() // the offer is withdrawn
	<-task.Done()
	alice.Close()
	// Output:
	// cancelled: <nil>
	// result: 1105: cancelled
}

// A test of your own program, with a relay that fails on demand.
func Example_testing() {
	_ = func(t *testing.T) { // func TestMyApp
		relay := diantest.New(t)
		got := make(chan dian.FileData, 1)
		relay.Client("bob", dian.WithHandler(dian.Handler{NotifyFileData: func(f dian.FileData) { got <- f }}))
		alice := relay.Client("alice")
		task := alice.SendFile("bob", "testdata/photo.jpg")
		relay.Cut() // every connection breaks; the transfer goes on by itself
		if err := task.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		relay.FailNext(dian.ErrOverLimit)
		if err := alice.SendCmd("bob", nil).Wait(t.Context()); !errors.Is(err, dian.ErrOverLimit) {
			t.Error(err)
		}
	}
}
