package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Over NATS core a file is messages of natsChunk to natsData; the receiver answers
// each when it has written it. At most natsWindow are without an answer, so that
// neither server nor client has a reason to drop one. An empty message ends the file.
const (
	natsChunk  = 256 << 10
	natsWindow = 32
	natsData   = "bulk"
	natsBob    = "bulk.bob" // requests that the receiver of files answers
)

// A natsSender sends files over a connection.
type natsSender struct {
	conn *nats.Conn
	acks chan struct{}
	ack  string // the subject of the answers
}

func newNATSSender(conn *nats.Conn) (*natsSender, error) {
	s := &natsSender{conn: conn, acks: make(chan struct{}, natsWindow), ack: nats.NewInbox()}
	_, err := conn.Subscribe(s.ack, func(*nats.Msg) { s.acks <- struct{}{} })
	return s, err
}

// send sends what r has, or as much as ctx allows; acked is told of each chunk that the
// receiver has. No chunk is without its answer when it returns nil.
func (s *natsSender) send(ctx context.Context, r io.Reader, acked func(bytes int)) error {
	chunk := make([]byte, natsChunk)
	free := natsWindow
	wait := func() error {
		select {
		case <-s.acks:
			free++
			acked(natsChunk)
			return nil
		case <-time.After(10 * time.Second):
			return errors.New("NATS: the receiver does not answer")
		}
	}
	for {
		for free == 0 || len(s.acks) > 0 {
			if err := wait(); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			r = io.LimitReader(r, 0)
		}
		n, err := io.ReadFull(r, chunk)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		if err := s.conn.PublishRequest(natsData, s.ack, chunk[:n]); err != nil {
			return err
		}
		free--
		if n == 0 {
			break
		}
	}
	for free < natsWindow {
		if err := wait(); err != nil {
			return err
		}
	}
	return nil
}

func natsSend(args []string) error { // URL FOLDER FILE
	conn, err := natsDial(args[0], args[1])
	if err != nil {
		return err
	}
	f, err := os.Open(args[2])
	if err != nil {
		return err
	}
	s, err := newNATSSender(conn)
	if err != nil {
		return err
	}
	return s.send(context.Background(), f, func(int) {})
}

// natsReceive writes one file after the other to FILE and answers requests at natsBob.
func natsReceive(args []string) error { // URL FOLDER FILE
	conn, err := natsDial(args[0], args[1])
	if err != nil {
		return err
	}
	var f *os.File
	failed := make(chan error, 1)
	fail := func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	if _, err := conn.Subscribe(natsData, func(m *nats.Msg) {
		var err error
		if f == nil {
			f, err = os.Create(args[2])
		}
		if err == nil {
			_, err = f.Write(m.Data)
		}
		if err == nil && len(m.Data) == 0 {
			err, f = f.Close(), nil
		}
		if err == nil {
			err = m.Respond(nil)
		}
		if err != nil {
			fail(err)
		}
	}); err != nil {
		return err
	}
	if _, err := conn.Subscribe(natsBob, func(m *nats.Msg) { _ = m.Respond(nil) }); err != nil {
		return err
	}
	if err := conn.Flush(); err != nil {
		return err
	}
	fmt.Println("ready")
	return <-failed
}

// startNATSBulk starts server and receiver.
func (b *bench) startNATSBulk() (transfer, error) {
	node, err := b.startNATS(true)
	if err != nil {
		return nil, err
	}
	return b.natsTransfer(node, "nats-send", "nats-receive")
}

// startObjectStore starts server and receiver; the store's files are in a tmpfs, too.
func (b *bench) startObjectStore() (transfer, error) {
	node, err := b.startNATS(true, filepath.Join(b.dir, "jetstream"))
	if err != nil {
		return nil, err
	}
	return b.natsTransfer(node, "nats-put", "nats-get")
}

func (b *bench) natsTransfer(node *natsNode, send, receive string) (transfer, error) {
	out := filepath.Join(b.dir, receive+".out")
	receiver, err := b.startPart(receive, node.url, node.folder, out)
	if err != nil {
		return nil, err
	}
	return func(file string) (took, cpu time.Duration, err error) {
		before := cpuNow(node.process) + cpuNow(receiver)
		start := time.Now()
		sender, err := b.start(b.self, send, node.url, node.folder, file)
		if err != nil {
			return 0, 0, err
		}
		if err := sender.wait(); err != nil {
			return 0, 0, err
		}
		took = time.Since(start)
		return took, sender.cpu() + cpuNow(node.process) + cpuNow(receiver) - before, removeLike(out, file)
	}, nil
}

const (
	natsBucket = "files"
	natsDone   = "done" // where the receiver of an object says that it has it, or why not
	natsTries  = 3
)

// natsPut puts FILE and waits until the receiver has got it. It then deletes it,
// which is a matter of milliseconds.
func natsPut(args []string) error { // URL FOLDER FILE
	conn, err := natsDial(args[0], args[1])
	if err != nil {
		return err
	}
	js, err := jetstream.New(conn)
	if err != nil {
		return err
	}
	done, err := conn.SubscribeSync(natsDone)
	if err != nil {
		return err
	}
	ctx := context.Background()
	store, err := js.ObjectStore(ctx, natsBucket)
	if err != nil {
		return err
	}
	f, err := os.Open(args[2])
	if err != nil {
		return err
	}
	if _, err := store.Put(ctx, jetstream.ObjectMeta{Name: "bulk", Opts: &jetstream.ObjectMetaOptions{ChunkSize: natsChunk}}, f); err != nil {
		return err
	}
	answer, err := done.NextMsg(peerPatience)
	if err != nil {
		return fmt.Errorf("the receiver does not say that it has it: %w", err)
	}
	if len(answer.Data) > 0 {
		return fmt.Errorf("the receiver says: %s", answer.Data)
	}
	return store.Delete(ctx, "bulk")
}

// natsGet makes the bucket and gets into FILE what is put there. What was cut short it
// gets again, as an application would.
func natsGet(args []string) error { // URL FOLDER FILE
	conn, err := natsDial(args[0], args[1])
	if err != nil {
		return err
	}
	js, err := jetstream.New(conn)
	if err != nil {
		return err
	}
	ctx := context.Background()
	store, err := js.CreateObjectStore(ctx, jetstream.ObjectStoreConfig{Bucket: natsBucket})
	if err != nil {
		return err
	}
	puts, err := store.Watch(ctx, jetstream.UpdatesOnly())
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for o := range puts.Updates() {
		if o == nil || o.Deleted {
			continue
		}
		err := store.GetFile(ctx, o.Name, args[2])
		for range natsTries - 1 {
			if err != nil {
				err = store.GetFile(ctx, o.Name, args[2])
			}
		}
		var problem []byte // none
		if err != nil {
			problem = fmt.Appendf(nil, "get %s (%d bytes): %v", o.Name, o.Size, err)
		}
		if err := conn.Publish(natsDone, problem); err != nil {
			return err
		}
	}
	return errors.New("the watch ended")
}
