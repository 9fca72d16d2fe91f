package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/dian-im/dian/server"
)

// The loads are clients as they should not be, each kind in a process of its own so
// that only the relay's memory is the relay's. They speak the JSON subprotocol over
// raw connections: an SDK would be too polite, and too large to have 10,000 of.

// A loader connects to the relay at an URL.
type loader struct {
	base *url.URL
	tls  *tls.Config // nil: plain
	next atomic.Uint32
}

func newLoader(args []string) (*loader, error) { // URL FOLDER
	base, err := url.Parse(args[0])
	if err != nil {
		return nil, err
	}
	l := &loader{base: base}
	if base.Scheme == "https" {
		text, err := os.ReadFile(filepath.Join(args[1], "tls.crt"))
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(text)
		l.tls = &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}
	}
	return l, nil
}

// tcp opens a connection, each from another of the machine's own addresses, so that
// neither ports nor the limits of one address run out.
func (l *loader) tcp() (net.Conn, error) {
	n := l.next.Add(1)
	from := net.IPv4(127, 0, byte(1+n/200%200), byte(1+n%200))
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}, Timeout: 30 * time.Second}
	conn, err := d.Dial("tcp", l.base.Host)
	if err != nil {
		return nil, err
	}
	// What a client's kernel holds is elsewhere in life. Here it would be taken from
	// what all connections of this machine share.
	tcp := conn.(*net.TCPConn)
	return conn, errors.Join(tcp.SetReadBuffer(loadBuffer), tcp.SetWriteBuffer(loadBuffer))
}

// loadBuffer is what the kernel holds at most for a client of a load, each way.
const loadBuffer = 32 << 10

func (l *loader) dial() (net.Conn, error) {
	conn, err := l.tcp()
	if err != nil || l.tls == nil {
		return conn, err
	}
	secure := tls.Client(conn, l.tls)
	_ = secure.SetDeadline(time.Now().Add(60 * time.Second))
	if err := secure.Handshake(); err != nil {
		conn.Close()
		return nil, err
	}
	return secure, secure.SetDeadline(time.Time{})
}

// A loadSession is a live session. Frames are what JSON makes of them.
type loadSession struct {
	l    *loader
	conn *websocket.Conn
	mu   sync.Mutex // one writer
}

type frame map[string]any

func (f frame) get(name string) frame {
	v, _ := f[name].(map[string]any)
	return v
}

func (f frame) text(name string) string {
	s, _ := f[name].(string)
	return s
}

// login logs user in; instance "" sends only.
func (l *loader) login(user, instance string) (*loadSession, error) {
	conn, err := l.dial()
	if err != nil {
		return nil, err
	}
	at := *l.base
	at.Scheme, at.Path = "ws", "/v1/session" // TLS is done
	dialer := websocket.Dialer{
		NetDialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		ReadBufferSize: 1024, WriteBufferSize: 1024,
	}
	ws, _, err := dialer.Dial(at.String(), http.Header{"Sec-WebSocket-Protocol": {"dian.v1.json"}})
	if err != nil {
		conn.Close()
		return nil, err
	}
	token, err := server.DevToken(user)
	if err != nil {
		return nil, err
	}
	s := &loadSession{l: l, conn: ws}
	hello := frame{"token": token, "client": "load", "role": "ROLE_SEND"}
	if instance != "" {
		hello["role"], hello["instance"] = "ROLE_LISTEN", base64.StdEncoding.EncodeToString([]byte(instance))
	}
	if err := s.send(frame{"hello": hello}); err != nil {
		return nil, err
	}
	f, err := s.receive()
	if err != nil {
		return nil, err
	}
	if f["welcome"] == nil {
		ws.Close()
		return nil, fmt.Errorf("login: %v", f)
	}
	return s, nil
}

func (s *loadSession) send(f frame) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn.WriteJSON(f)
}

func (s *loadSession) receive() (frame, error) {
	_, text, err := s.conn.ReadMessage()
	if err != nil {
		return nil, err
	}
	var f frame
	return f, json.Unmarshal(text, &f)
}

// live answers pings until the session ends, and gives the other frames to handle.
func (s *loadSession) live(handle func(frame)) {
	for {
		f, err := s.receive()
		if err != nil {
			return
		}
		if _, ping := f["ping"]; ping {
			if s.send(frame{"pong": frame{}}) != nil {
				return
			}
			continue
		}
		if handle != nil {
			handle(f)
		}
	}
}

// many does n things, a few at a time.
func many(n, atOnce int, do func(i int) error) error {
	var failed atomic.Pointer[error]
	var next atomic.Int64
	var doing sync.WaitGroup
	for range atOnce {
		doing.Go(func() {
			for failed.Load() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := do(i); err != nil {
					err = fmt.Errorf("%d of %d: %w", i, n, err)
					failed.Store(&err)
				}
			}
		})
	}
	doing.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

// loadStalled has N receivers who accept a file of 1 GiB and read no more than READ
// bytes of it, and their senders, who push as much as gets through.
func loadStalled(args []string) error { // URL FOLDER N READ
	l, err := newLoader(args)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	read, err := strconv.ParseInt(args[3], 10, 64)
	if err != nil {
		return err
	}
	var pushed atomic.Int64
	if err := many(n, 32, func(i int) error {
		bytes, err := l.stall(i, read)
		pushed.Add(bytes)
		return err
	}); err != nil {
		return err
	}
	fmt.Printf("ready %d\n", pushed.Load())
	select {}
}

func (l *loader) stall(i int, read int64) (pushed int64, err error) {
	user := fmt.Sprintf("stalled-%d", i)
	s, err := l.login(user, fmt.Sprintf("stall-place%05d", i))
	if err != nil {
		return 0, err
	}
	lane := make(chan error, 1)
	go s.live(func(f frame) {
		o := f.get("offer")
		if o == nil {
			return
		}
		if err := s.send(frame{"answer": frame{"transfer": o.text("transfer"), "decision": "DECISION_ACCEPT"}}); err != nil {
			lane <- err
			return
		}
		lane <- l.get(o.text("url"), o.text("ticket"), read)
	})
	conn, err := l.dial()
	if err != nil {
		return 0, err
	}
	token, err := server.DevToken("pusher-" + strconv.Itoa(i))
	if err != nil {
		return 0, err
	}
	fmt.Fprintf(conn, "PUT /v1/users/%s/files/film.bin HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n",
		user, l.base.Host, token, 1<<30)
	block := make([]byte, 64<<10)
	for {
		_ = conn.SetWriteDeadline(time.Now().Add(2 * time.Second))
		n, err := conn.Write(block)
		pushed += int64(n)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			kept.add(conn)
			return pushed, <-lane // it stands
		}
		if err != nil {
			return pushed, fmt.Errorf("pushing: %w", err)
		}
	}
}

// kept are connections that nobody touches any more and that must stay open.
var kept connections

type connections struct {
	mu   sync.Mutex
	list []net.Conn
}

func (c *connections) add(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = append(c.list, conn)
}

// get opens a down-lane and reads its head and about as much of the content.
func (l *loader) get(path, ticket string, read int64) error {
	conn, err := l.dial()
	if err != nil {
		return err
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Ticket %s\r\n\r\n", path, l.base.Host, ticket)
	status, err := bufio.NewReaderSize(conn, 16).ReadString('\n')
	if err != nil {
		return err
	}
	if !strings.Contains(status, " 200 ") {
		return fmt.Errorf("down-lane: %s", status)
	}
	if _, err := io.CopyN(io.Discard, conn, read); err != nil {
		return fmt.Errorf("down-lane: %w", err)
	}
	kept.add(conn)
	return nil
}

// loadFlood connects RATE times a second and says nothing, not even a TLS hello.
// It prints how often it could connect when it is told to end.
func loadFlood(args []string) error { // URL FOLDER RATE
	l, err := newLoader(args)
	if err != nil {
		return err
	}
	rate, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	var opened, refused atomic.Int64
	fmt.Println("ready")
	go func() {
		io.Copy(io.Discard, os.Stdin)
		fmt.Printf("opened %d refused %d\n", opened.Load(), refused.Load())
		os.Exit(0)
	}()
	open := make(chan net.Conn, 4000)
	for range time.Tick(time.Second / time.Duration(rate)) {
		conn, err := l.tcp()
		if err != nil {
			refused.Add(1)
			continue
		}
		opened.Add(1)
		select {
		case open <- conn:
		default:
			(<-open).Close()
			open <- conn
		}
	}
	return nil
}

// loadOffers offers N files that nobody answers, from and to as many users as it
// takes, and prints how many stand and how many were refused, by code.
func loadOffers(args []string) error { // URL FOLDER N
	l, err := newLoader(args)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	const pairs = 4
	var standing atomic.Int64
	codes := map[int]int{}
	var mu sync.Mutex
	if err := many(pairs, 16, func(i int) error {
		to, err := l.login(fmt.Sprintf("silent-%d", i), fmt.Sprintf("silent-pl-%06d", i))
		if err != nil {
			return err
		}
		go to.live(func(f frame) {
			if f["offer"] != nil {
				standing.Add(1)
			}
		})
		from, err := l.login(fmt.Sprintf("offerer-%d", i), "")
		if err != nil {
			return err
		}
		answered := make(chan struct{}, n)
		go from.live(func(f frame) {
			if v := f.get("verdict"); v != nil {
				code, _ := v["code"].(float64)
				mu.Lock()
				codes[int(code)]++
				mu.Unlock()
				answered <- struct{}{}
			}
		})
		for j := range n / pairs {
			id := fmt.Sprintf("01920000-0000-7000-8000-%06d%06d", i, j)
			if err := from.send(frame{"offer": frame{
				"sendId": id, "target": fmt.Sprintf("silent-%d", i), "kind": "KIND_FILE", "size": "1000000", "name": "a.bin",
			}}); err != nil {
				return err
			}
			if j >= 1000 && j%100 == 0 { // what is refused is answered
				<-answered
			}
		}
		return nil
	}); err != nil {
		return err
	}
	time.Sleep(3 * time.Second)
	mu.Lock()
	fmt.Printf("ready %d standing, refused by code: %v\n", standing.Load(), codes)
	mu.Unlock()
	select {}
}
