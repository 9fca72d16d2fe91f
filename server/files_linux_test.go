package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dian-im/dian/internal/wire"
)

// fewFilesServer is set for a child process that is a relay and may open fewFiles.
const (
	fewFilesServer = "DIAN_TEST_FEW_FILES"
	fewFiles       = 100
)

// serveWithFewFiles says its address and then obeys the lines that it reads: "eat"
// opens all files that there are, "free" closes them.
func serveWithFewFiles() {
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: fewFiles, Max: fewFiles}); err != nil {
		panic(err)
	}
	srv, err := New(relayConfig())
	if err != nil {
		panic(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := srv.Serve(ctx, ln); err != nil {
			fmt.Println("Serve:", err)
		}
	})
	fmt.Println(ln.Addr())
	var eaten []*os.File
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		switch in.Text() {
		case "eat":
			for {
				f, err := os.Open(os.DevNull)
				if errors.Is(err, syscall.EMFILE) {
					break
				}
				eaten = append(eaten, f)
			}
		case "free":
			for _, f := range eaten {
				f.Close()
			}
			eaten = nil
		}
		fmt.Println(in.Text())
	}
	cancel()
	serving.Wait()
}

// A relay that has no files left keeps its sessions, and takes new ones as soon as
// it has some again (case 52).
func TestFilesRunOut(t *testing.T) {
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), fewFilesServer+"=1")
	child.Stderr = os.Stderr
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	pipe, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close()
		if err := child.Wait(); err != nil {
			t.Errorf("the relay ended with %v", err)
		}
	}()
	out := bufio.NewReader(pipe)
	line := func() string {
		text, err := out.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(text)
	}
	tell := func(what string) {
		fmt.Fprintln(in, what)
		if got := line(); got != what {
			t.Fatalf("the relay says %q", got)
		}
	}
	address := line()
	r := &testRelay{t: t, ln: remote(address), web: &http.Client{}}
	alice, bob := r.sender("alice"), r.listen("bob")
	works := func(when string) {
		t.Helper()
		alice.send(commandTo("bob", 10))
		c := bob.command()
		bob.send(ackFrame(&wire.CommandAck{Ref: c.Ref, Id: c.Id, Outcome: final}))
		if got := alice.result(); got.Code != 0 {
			t.Errorf("%s: result %v", when, got)
		}
	}
	var conns []net.Conn
	flood := func() {
		for range 2 * fewFiles {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				continue
			}
			conns = append(conns, conn)
		}
	}
	drain := func() {
		for _, conn := range conns {
			conn.Close()
		}
		conns = nil
	}
	defer drain()

	// More connections than files: a fifth of the files is not for them.
	flood()
	works("in a flood of connections")
	var looks sync.WaitGroup
	var open atomic.Int64
	for _, conn := range conns {
		looks.Go(func() {
			conn.SetReadDeadline(time.Now().Add(time.Second))
			if _, err := conn.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
				open.Add(1)
			}
		})
	}
	looks.Wait()
	if most := int64(fewFiles / 5 * 4); open.Load() > most || open.Load() < most/2 {
		t.Errorf("%d of %d connections are open, want about %d", open.Load(), len(conns), most)
	}
	drain()

	// No files at all: Accept fails.
	tell("eat")
	flood()
	works("without files")
	tell("free")
	drain()
	for end := time.Now().Add(testWait); ; {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(testWait))
		io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: relay.example\r\n\r\n")
		text, _ := bufio.NewReader(conn).ReadString('\n')
		conn.Close()
		if strings.Contains(text, "200") {
			break
		}
		if time.Now().After(end) {
			t.Fatal("it takes no connections any more")
		}
	}
	carol := r.sender("carol")
	works("afterwards")
	for _, p := range []*testPeer{alice, bob, carol} {
		p.conn.Close() // or the relay waits for their goodbye
	}
}

// remote is the address of a relay in another process.
type remote string

func (a remote) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (a remote) Close() error              { return nil }
func (a remote) Addr() net.Addr            { return nil }
func (a remote) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", string(a))
}
