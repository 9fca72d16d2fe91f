package cluster

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	natsd "github.com/nats-io/nats-server/v2/server"

	"github.com/dian-im/dian/test/internal/ports"
)

var program string // the program under test, built once by TestMain

func TestMain(m *testing.M) {
	folder, err := os.MkdirTemp("", "dian-cluster-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	program = filepath.Join(folder, "dian")
	args := append([]string{"build", "-o", program}, strings.Fields(os.Getenv("DIAN_BUILD"))...) // "-race", say
	build := exec.Command("go", append(args, "./cmd/dian")...)
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build dian: %v\n%s", err, out)
		os.Exit(1)
	}
	status := m.Run()
	os.RemoveAll(folder)
	os.Exit(status)
}

// A natsServer is a real one in this process, which can be stopped and started again
// at the same port.
type natsServer struct {
	t    *testing.T
	opts natsd.Options
	srv  *natsd.Server
}

func startNATS(t *testing.T, change ...func(*natsd.Options)) *natsServer {
	t.Helper()
	n := &natsServer{t: t, opts: natsd.Options{Host: "127.0.0.1", Port: ports.Free(t), NoLog: true, NoSigs: true}}
	for _, f := range change {
		f(&n.opts)
	}
	n.start()
	t.Cleanup(n.stop)
	return n
}

func (n *natsServer) url() string { return fmt.Sprintf("nats://127.0.0.1:%d", n.opts.Port) }

func (n *natsServer) start() {
	n.t.Helper()
	opts := n.opts
	srv, err := natsd.NewServer(&opts)
	if err != nil {
		n.t.Fatal(err)
	}
	go srv.Start()
	if !srv.ReadyForConnections(patience) {
		n.t.Fatal("nats-server is not ready")
	}
	n.srv = srv
}

func (n *natsServer) stop() {
	n.srv.Shutdown()
	n.srv.WaitForShutdown()
}

// A process is a relay of its own.
type process struct {
	node
	t   *testing.T
	cmd *exec.Cmd
	err *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// serve starts `dian serve` in the cluster of a NATS server; its port is its own for
// all of its lives.
func serve(t *testing.T, name, nats string, port int, env ...string) *process {
	t.Helper()
	p := &process{t: t, err: &lockedBuffer{}, node: node{name: name, url: fmt.Sprintf("http://127.0.0.1:%d", port)}}
	p.cmd = exec.Command(program, "serve", "--dev", "--nats", nats, "--listen", fmt.Sprintf("127.0.0.1:%d", port))
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stderr = p.err
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s:\n%s", name, p.err.String())
		}
	})
	wait(t, name+" is ready", func() bool {
		conn, err := net.Dial("tcp", p.url[len("http://"):])
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return p
}

// kill is kill -9.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_, _ = p.cmd.Process.Wait()
}

// signal sends one.
func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// trio starts three relays on one NATS server and waits until they know each other.
func trio(t *testing.T, nats string, env ...string) []*process {
	t.Helper()
	var all []*process
	for i := range 3 {
		all = append(all, serve(t, fmt.Sprint("p", i), nats, ports.Free(t), env...))
	}
	meet(t, all)
	return all
}

func meet(t *testing.T, all []*process) {
	t.Helper()
	for _, p := range all {
		wait(t, p.name+" knows the others", func() bool {
			return metric(t, p.url, "dian_cluster_nodes") == float64(len(all)-1)
		})
	}
}
