package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
)

// The limit of commands: frames with their length in front go from the requester
// through a process that copies both ways, without looking, to a responder that
// sends them back. Both ends write what has gathered at once.

// echoRelay takes a responder's connection, then a requester's, and joins them.
func echoRelay(args []string) error { // ADDRESS [FOLDER with tls.crt, tls.key]
	ln, err := bareListen(args)
	if err != nil {
		return err
	}
	var ends [2]net.Conn
	for i := 0; i < len(ends); {
		if ends[i], err = ln.Accept(); err != nil {
			return err
		}
		if handshake(ends[i]) == nil { // otherwise somebody who only looked whether we listen
			i++
			fmt.Println("ready")
		}
	}
	var copying sync.WaitGroup
	for i := range ends {
		copying.Go(func() {
			_ = bareCopy(ends[i], ends[1-i]) // it ends when a test does
			ends[i].Close()
		})
	}
	copying.Wait()
	return nil
}

// echoResponder sends back every frame, and flushes before it would wait.
func echoResponder(args []string) error { // ADDRESS "" [FOLDER]
	conn, err := bareDial(args)
	if err != nil {
		return err
	}
	in, out := bufio.NewReaderSize(conn, 64<<10), bufio.NewWriterSize(conn, 64<<10)
	for {
		data, err := readEcho(in)
		if err != nil {
			return err
		}
		if err := writeEcho(out, data); err != nil {
			return err
		}
		if in.Buffered() == 0 {
			if err := out.Flush(); err != nil {
				return err
			}
		}
	}
}

func readEcho(in *bufio.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return nil, err
	}
	data := make([]byte, binary.BigEndian.Uint32(head[:]))
	_, err := io.ReadFull(in, data)
	return data, err
}

func writeEcho(out *bufio.Writer, data []byte) error {
	var head [4]byte
	binary.BigEndian.PutUint32(head[:], uint32(len(data)))
	if _, err := out.Write(head[:]); err != nil {
		return err
	}
	_, err := out.Write(data)
	return err
}

// startEcho returns a connection whose frames come back.
func (b *bench) startEcho(secure bool) (net.Conn, error) {
	addr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	var folder []string
	if secure {
		folder = []string{b.dir}
	}
	relay, err := b.start(b.self, append([]string{"echo-relay", addr}, folder...)...)
	if err != nil {
		return nil, err
	}
	if err := waitListening(addr); err != nil {
		return nil, err
	}
	if _, err := b.start(b.self, append([]string{"echo-responder", addr, ""}, folder...)...); err != nil {
		return nil, err
	}
	if _, err := relay.line("ready"); err != nil {
		return nil, err
	}
	conn, err := bareDial(append([]string{addr, ""}, folder...))
	if err != nil {
		return nil, err
	}
	b.atEnd(func() { conn.Close() })
	_, err = relay.line("ready")
	return conn, err
}

// echoAskers are the two ways to ask, each on a connection and relay of its own.
func (b *bench) echoAskers(secure bool) (many, alone asker, err error) {
	single, err := b.startEcho(secure)
	if err != nil {
		return nil, nil, err
	}
	in, out := bufio.NewReader(single), bufio.NewWriter(single)
	alone = func(data []byte, done func(error)) {
		err := writeEcho(out, data)
		if err == nil {
			err = out.Flush()
		}
		if err == nil {
			_, err = readEcho(in)
		}
		done(err)
	}
	conn, err := b.startEcho(secure)
	if err != nil {
		return nil, nil, err
	}
	return newEchoClient(conn).ask, alone, nil
}

// An echoClient has many frames in flight.
type echoClient struct {
	conn net.Conn
	wake chan struct{} // there is something to flush

	mu      sync.Mutex
	out     *bufio.Writer
	waiting []func(error) // in the order of their frames
	err     error
}

func newEchoClient(conn net.Conn) *echoClient {
	c := &echoClient{conn: conn, out: bufio.NewWriterSize(conn, 64<<10), wake: make(chan struct{}, 1)}
	go c.read()
	go func() {
		for range c.wake {
			c.mu.Lock()
			_ = c.out.Flush() // read sees it too
			c.mu.Unlock()
		}
	}()
	return c
}

func (c *echoClient) ask(data []byte, done func(error)) {
	c.mu.Lock()
	err := c.err
	if err == nil {
		err = writeEcho(c.out, data)
	}
	if err == nil {
		c.waiting = append(c.waiting, done)
	}
	c.mu.Unlock()
	if err != nil {
		done(err)
		return
	}
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *echoClient) read() {
	in := bufio.NewReaderSize(c.conn, 64<<10)
	for {
		_, err := readEcho(in)
		c.mu.Lock()
		done := c.waiting
		if err != nil {
			c.err, c.waiting = err, nil
		} else {
			done, c.waiting = done[:1], done[1:]
		}
		c.mu.Unlock()
		for _, d := range done {
			d(err)
		}
		if err != nil {
			return
		}
	}
}
