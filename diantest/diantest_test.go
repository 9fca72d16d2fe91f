package diantest_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/diantest"
	"github.com/dian-im/dian/server"
)

func TestTransfersSurviveCutAndRestart(t *testing.T) {
	relay := diantest.New(t)
	content := bytes.Repeat([]byte("0123456789abcdef"), 2<<20) // 32 MiB
	got := make(chan []byte, 2)
	relay.Client("bob", dian.WithHandler(dian.Handler{NotifyBufferData: func(b dian.BufferData) { got <- b.Data }}))
	alice := relay.Client("alice", dian.WithSendOnly())
	for name, fault := range map[string]func(){"cut": relay.Cut, "restart": relay.Restart} {
		task := alice.SendBuffer("bob", content)
		for sent := int64(0); sent == 0; sent, _ = task.Progress() {
			select {
			case <-task.Done():
				t.Fatalf("%s: done before the fault: %v", name, task.Wait(t.Context()))
			default:
			}
		}
		fault()
		if err := task.Wait(t.Context()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !bytes.Equal(<-got, content) {
			t.Errorf("%s: the content is another one", name)
		}
	}
	if len(got) != 0 {
		t.Errorf("%d more buffers were delivered", len(got))
	}
}

func TestFailNextRefusesOnce(t *testing.T) {
	relay := diantest.New(t)
	relay.Client("bob", dian.WithHandler(dian.Handler{NotifyCmdData: func(dian.CmdData) {}, NotifyBufferData: func(dian.BufferData) {}}))
	alice := relay.Client("alice", dian.WithSendOnly())
	relay.FailNext(dian.ErrNoPermission)
	relay.FailNext(dian.ErrOverLimit)
	if err := alice.SendCmd("bob", nil).Wait(t.Context()); !errors.Is(err, dian.ErrNoPermission) {
		t.Errorf("the first send: %v, want %v", err, dian.ErrNoPermission)
	}
	if err := alice.SendBuffer("bob", nil).Wait(t.Context()); !errors.Is(err, dian.ErrOverLimit) {
		t.Errorf("the second send: %v, want %v", err, dian.ErrOverLimit)
	}
	if err := alice.SendCmd("bob", nil).Wait(t.Context()); err != nil {
		t.Errorf("the third send: %v", err)
	}
}

func TestRestartEndsWhatIsUnderWay(t *testing.T) {
	for name, grace := range map[string]time.Duration{"as it is": 0, "its own grace": time.Hour} {
		t.Run(name, func(t *testing.T) {
			relay := diantest.New(t, func(c *server.Config) { c.ShutdownGrace = grace })
			// An upload with half of its content under way, which neither goes on nor ends.
			asked := make(chan struct{})
			relay.Client("bob", dian.WithHandler(dian.Handler{NotifyFileData: func(dian.FileData) {}}))
			body, feed := io.Pipe()
			go func() {
				feed.Write(make([]byte, 1000))
				close(asked)
			}()
			ended := make(chan error, 1)
			go func() {
				r, err := http.NewRequest("PUT", relay.URL+"/v1/users/bob/files/half", body)
				if err != nil {
					ended <- err
					return
				}
				r.ContentLength = 2000
				r.Header.Set("Authorization", "Bearer "+relay.Token("carol"))
				res, err := http.DefaultClient.Do(r)
				if err == nil {
					res.Body.Close()
				}
				ended <- err
			}()
			<-asked
			relay.Restart()
			feed.CloseWithError(io.ErrUnexpectedEOF)
			if err := <-ended; err == nil {
				t.Error("the upload got an answer")
			}
			alice := relay.Client("alice", dian.WithSendOnly())
			if err := alice.SendCmd("nobody", nil).Wait(t.Context()); !errors.Is(err, dian.ErrPeerOffline) {
				t.Errorf("after the restart: %v, want %v", err, dian.ErrPeerOffline)
			}
		})
	}
}
