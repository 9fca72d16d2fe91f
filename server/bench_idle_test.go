package server

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/dian-im/dian/internal/wire"
)

// idleServer is set for a child process that is nothing but a relay.
const idleServer = "DIAN_TEST_IDLE_SERVER"

// TestMain lets the test program be the relay of BenchmarkIdleSessions, or that of
// TestFilesRunOut.
func TestMain(m *testing.M) {
	switch {
	case os.Getenv(idleServer) != "":
		serveIdle()
		return
	case os.Getenv(fewFilesServer) != "":
		serveWithFewFiles()
		return
	}
	os.Exit(m.Run())
}

// serveIdle says its address and then, for each line that it reads, how many bytes
// of memory are its own. It ends with its input.
func serveIdle() {
	cfg := DevConfig()
	srv, err := New(cfg)
	if err != nil {
		panic(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(ctx, ln) })
	fmt.Println(ln.Addr())
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		runtime.GC()
		fmt.Println(residentBytes())
	}
	cancel()
	serving.Wait()
}

// residentBytes reads RSS from /proc; without one it is the heap and stacks.
func residentBytes() int64 {
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if kib, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(kib), "kB")), 10, 64)
			return n << 10
		}
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// BenchmarkIdleSessions measures what an idle session costs a relay that is a
// process of its own: 10,000 of them over loopback TCP, as growth of its RSS.
func BenchmarkIdleSessions(b *testing.B) {
	const sessions = 10_000
	relay := exec.Command(os.Args[0])
	relay.Env = append(os.Environ(), idleServer+"=1")
	relay.Stderr = os.Stderr
	ask, err := relay.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := relay.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := relay.Start(); err != nil {
		b.Fatal(err)
	}
	defer relay.Wait()
	defer ask.Close()
	in := bufio.NewReader(out)
	line := func() string {
		b.Helper()
		text, err := in.ReadString('\n')
		if err != nil {
			b.Fatal(err)
		}
		return strings.TrimSpace(text)
	}
	measure := func() int64 {
		b.Helper()
		if _, err := io.WriteString(ask, "\n"); err != nil {
			b.Fatal(err)
		}
		n, err := strconv.ParseInt(line(), 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		return n
	}
	address := line()
	url := "ws://" + address + "/v1/session"
	dialer := websocket.Dialer{Subprotocols: []string{wire.ProtoSubprotocol}, ReadBufferSize: 512, WriteBufferSize: 512}

	// One login before the first look: what the first session of all costs is not
	// any session's.
	dial := func(i int) *websocket.Conn {
		token, err := DevToken("user" + strconv.Itoa(i))
		if err != nil {
			b.Error(err)
			return nil
		}
		conn, _, err := dialer.Dial(url, http.Header{})
		if err != nil {
			b.Error(err)
			return nil
		}
		msg, err := wire.AppendBinary(nil, helloFrame(&wire.Hello{Token: token, Role: wire.Role_ROLE_LISTEN,
			Instance: bytes.Repeat([]byte{1}, wire.InstanceBytes)}))
		if err == nil {
			err = conn.WriteMessage(websocket.BinaryMessage, msg)
		}
		if err == nil {
			_, _, err = conn.ReadMessage() // Welcome
		}
		if err != nil {
			b.Error(err)
		}
		return conn
	}
	first := dial(0)
	before := measure()
	conns := make([]*websocket.Conn, sessions)
	for b.Loop() {
		// Eight at a time: a relay lets only so many be without a login.
		var dialing sync.WaitGroup
		for w := range 8 {
			dialing.Go(func() {
				for i := w; i < sessions; i += 8 {
					if conns[i] == nil {
						conns[i] = dial(i + 1)
					}
				}
			})
		}
		dialing.Wait()
	}
	after := measure()
	b.ReportMetric(float64(after-before)/sessions, "bytes/session")
	b.ReportMetric(0, "ns/op")
	for _, conn := range append(conns, first) {
		if conn != nil {
			conn.Close()
		}
	}
}
