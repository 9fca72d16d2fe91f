// Command hello is Dian in one program: a relay on a loopback address, bob who
// listens, and alice who sends him a command, a buffer and a file.
//
//	go run ./examples/hello [FILE]
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/server"
)

func main() {
	log.SetFlags(0)
	path := ""
	if len(os.Args) > 1 {
		path = os.Args[1]
	}
	if err := run(path); err != nil {
		log.Fatal(err)
	}
}

func run(path string) error {
	dir, err := os.MkdirTemp("", "dian-hello-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	downloads := filepath.Join(dir, "downloads")
	if err := os.Mkdir(downloads, 0o700); err != nil {
		return err
	}
	if path == "" { // a file to send, if none was named
		path = filepath.Join(dir, "photo.jpg")
		if err := os.WriteFile(path, make([]byte, 50<<20), 0o600); err != nil {
			return err
		}
	}

	// The relay. In life it is `dian serve` on a machine that both can reach.
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	relay, err := server.New(server.DevConfig())
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- relay.Serve(ctx, listener) }()
	defer func() { stop(); <-served }()
	url := "http://" + listener.Addr().String()

	// Bob takes everything. SaveAs moves a file from his receive folder to where he wants it.
	saved := make(chan string, 1)
	bob, err := connect(ctx, url, "bob",
		dian.WithReceiveDir(filepath.Join(dir, "inbox")),
		dian.WithHandler(dian.Handler{
			NotifyCmdData:    func(m dian.CmdData) { fmt.Printf("bob: command from %s: %q\n", m.Source, m.Data) },
			NotifyBufferData: func(m dian.BufferData) { fmt.Printf("bob: buffer from %s: %d bytes\n", m.Source, len(m.Data)) },
			NotifyFileData: func(m dian.FileData) {
				to, err := m.SaveAs(downloads)
				if err != nil {
					to = err.Error()
				}
				saved <- to
				fmt.Printf("bob: file from %s: %q, %d bytes\n", m.Source, m.Name, m.Size)
			},
		}))
	if err != nil {
		return err
	}
	defer bob.Close()

	alice, err := connect(ctx, url, "alice", dian.WithSendOnly())
	if err != nil {
		return err
	}
	defer alice.Close()

	for _, task := range []*dian.Task{
		alice.SendCmd("bob", []byte(`{"CmdType":"IM","IMMsg":"hello"}`)),
		alice.SendBuffer("bob", make([]byte, 3<<20)),
		alice.SendFile("bob", path),
	} {
		start := time.Now()
		if err := task.Wait(ctx); err != nil {
			return err
		}
		fmt.Printf("alice: the %s arrived, after %s\n", task.Result().Kind, time.Since(start).Round(time.Millisecond))
	}
	fmt.Println("bob saved", <-saved)

	// Nobody called carol is online: an error with a code, at once.
	err = alice.SendCmd("carol", []byte("are you there?")).Wait(ctx)
	fmt.Printf("alice: %v (peer offline: %t)\n", err, errors.Is(err, dian.ErrPeerOffline))
	return nil
}

// connect logs user in with a token of the development app. In life your login
// service signs the tokens, and the relay only knows the key.
func connect(ctx context.Context, url, user string, opts ...dian.Option) (*dian.Client, error) {
	token, err := server.DevToken(user)
	if err != nil {
		return nil, err
	}
	return dian.Connect(ctx, url, append(opts, dian.WithToken(token))...)
}
