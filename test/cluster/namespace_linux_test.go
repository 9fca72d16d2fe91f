package cluster

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/server"
)

// A land is three relays, each beside a NATS server of its own, in a network namespace
// each. The NATS servers are one cluster, and relays and NATS reach each other through a
// switch, from which a node can be unplugged. Clients come another way.
type land struct {
	t     *testing.T
	nodes []*node
	names []string // of the namespaces
	sw    string
}

var landKey = server.Key{Algorithm: server.HS256, Secret: server.NewSecret([]byte("a key of a test, 32 bytes or more"))}

func run(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
}

func (l *land) in(i int, args ...string) []string {
	return append([]string{"ip", "netns", "exec", l.names[i]}, args...)
}

func newLand(t *testing.T) *land {
	t.Helper()
	folder := t.TempDir()
	natsd := filepath.Join(folder, "nats-server")
	run(t, "go", "build", "-o", natsd, "github.com/nats-io/nats-server/v2")
	l := &land{t: t, sw: fmt.Sprintf("dian-%d-switch", os.Getpid())}
	namespace := func(name string) {
		run(t, "ip", "netns", "add", name)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
		run(t, "ip", "netns", "exec", name, "ip", "link", "set", "lo", "up")
	}
	namespace(l.sw)
	run(t, "ip", "netns", "exec", l.sw, "ip", "link", "add", "sw0", "type", "bridge")
	run(t, "ip", "netns", "exec", l.sw, "ip", "link", "set", "sw0", "up")
	for i := range 3 {
		name := fmt.Sprintf("dian-%d-n%d", os.Getpid(), i)
		l.names = append(l.names, name)
		namespace(name)
		port, client := fmt.Sprint("port", i), fmt.Sprintf("dn%d-%d", i, os.Getpid()%100000)
		run(t, "ip", "link", "add", "name", port, "netns", l.sw, "type", "veth", "peer", "name", "lan", "netns", name)
		run(t, "ip", "netns", "exec", l.sw, "ip", "link", "set", port, "master", "sw0", "up")
		run(t, l.in(i, "ip", "addr", "add", fmt.Sprintf("10.78.0.%d/24", i+1), "dev", "lan")...)
		run(t, l.in(i, "ip", "link", "set", "lan", "up")...)
		run(t, "ip", "link", "add", "name", client, "type", "veth", "peer", "name", "wan", "netns", name)
		run(t, "ip", "addr", "add", fmt.Sprintf("10.79.%d.1/24", i), "dev", client)
		run(t, "ip", "link", "set", client, "up")
		run(t, l.in(i, "ip", "addr", "add", fmt.Sprintf("10.79.%d.2/24", i), "dev", "wan")...)
		run(t, l.in(i, "ip", "link", "set", "wan", "up")...)
	}
	config := filepath.Join(folder, "dian.yaml")
	write := func(name, text string) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("cluster.secret", "a secret of a test's cluster\n")
	write("app.secret", "a key of a test, 32 bytes or more\n")
	write("dian.yaml", `
listen: ":7700"
cluster:
  secret_file: cluster.secret
apps:
  - id: app
    keys: [{algorithm: HS256, secret_file: app.secret}]
`)
	for i := range 3 {
		var routes []string
		for j := range 3 {
			if j != i {
				routes = append(routes, fmt.Sprintf("nats://10.78.0.%d:6222", j+1))
			}
		}
		l.start(i, "nats", natsd, "-a", "127.0.0.1", "-p", "4222", "--cluster_name", "dian", "-n", fmt.Sprint("n", i),
			"--cluster", fmt.Sprintf("nats://10.78.0.%d:6222", i+1), "--routes", strings.Join(routes, ","))
		l.start(i, "dian", program, "serve", "--config", config, "--nats", "nats://127.0.0.1:4222",
			"--cluster-listen", fmt.Sprintf("10.78.0.%d:7701", i+1))
		l.nodes = append(l.nodes, &node{name: fmt.Sprint("n", i), url: fmt.Sprintf("http://10.79.%d.2:7700", i)})
	}
	for _, n := range l.nodes {
		wait(t, n.name+" is ready", func() bool {
			conn, err := net.DialTimeout("tcp", n.url[len("http://"):], time.Second)
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
	}
	l.meet(2, 2, 2)
	return l
}

func (l *land) start(i int, what string, args ...string) {
	l.t.Helper()
	out := &lockedBuffer{}
	cmd := exec.Command("ip", l.in(i, args...)[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		_ = cmd.Process.Kill() // ip has become the program
		_ = cmd.Wait()
		if l.t.Failed() {
			l.t.Logf("n%d %s:\n%s", i, what, out.String())
		}
	})
}

// meet waits until each relay knows so many others.
func (l *land) meet(others ...float64) {
	l.t.Helper()
	for i, want := range others {
		wait(l.t, fmt.Sprintf("n%d knows %v others", i, want), func() bool {
			return metric(l.t, l.nodes[i].url, "dian_cluster_nodes") == want
		})
	}
}

// unplug takes a node off the switch, plug puts it back.
func (l *land) unplug(i int) { l.port(i, "down") }
func (l *land) plug(i int)   { l.port(i, "up") }

func (l *land) port(i int, state string) {
	l.t.Helper()
	run(l.t, "ip", "netns", "exec", l.sw, "ip", "link", "set", fmt.Sprint("port", i), state)
}

func (l *land) client(url, user string, options ...dian.Option) *dian.Client {
	l.t.Helper()
	token, err := server.Mint(landKey, "app", user, time.Hour, nil, []string{"*"})
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(l.t.Context(), patience)
	defer cancel()
	client, err := dian.Connect(ctx, url, append([]dian.Option{dian.WithToken(token), dian.WithReceiveDir(l.t.TempDir())}, options...)...)
	if err != nil {
		l.t.Fatalf("%s at %s: %v", user, url, err)
	}
	l.t.Cleanup(func() { client.Close() })
	return client
}

// The network between the nodes falls apart while a file and commands go from one part
// to the other: they wait, and go on when it is whole again. A receiver who can reach
// the sender's part goes on at once. Whoever logged in in both parts has one session in
// the end (case 96).
func TestPartitionedNetwork(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("NOT RUN, because it needs root: network namespaces")
		return
	}
	l := newLand(t)
	p := &pair{t: t, fa: newFront(t, l.nodes[0]), fb: newFront(t, l.nodes[1]), commands: &log{}, files: make(chan dian.FileData, 10)}
	p.bob = l.client(p.fb.url, "bob", dian.WithHandler(dian.Handler{
		NotifyCmdData:  func(m dian.CmdData) { p.commands.add(string(m.Data)) },
		NotifyFileData: func(m dian.FileData) { p.files <- m },
	}))
	p.alice = l.client(p.fa.url, "alice")
	s := p.flow(384<<20, 20*time.Millisecond)
	s.reached(0.1)

	l.unplug(1) // bob's node
	l.meet(1, 0, 1)
	at, _ := s.file.Progress()
	carols := []*dian.Client{l.client(l.nodes[0].url, "carol"), l.client(l.nodes[1].url, "carol")}
	l.plug(1)
	l.meet(2, 2, 2)
	wait(t, "the file goes on", func() bool { now, _ := s.file.Progress(); return now > at+16<<20 })
	select {
	case <-carols[0].Done():
		if err := carols[0].Err(); dian.CodeOf(err) != dian.ErrKicked {
			t.Errorf("the older carol ended with %v, want 10", err)
		}
	case <-time.After(patience):
		t.Error("there are two carols")
	}
	if err := carols[1].Err(); err != nil {
		t.Errorf("the newer carol ended with %v", err)
	}

	l.unplug(1)
	at, _ = s.file.Progress()
	p.fb.point(l.nodes[2]) // bob has a way to the other part
	p.fb.cut()
	wait(t, "the file goes on in the other part", func() bool { now, _ := s.file.Progress(); return now > at+16<<20 })
	l.plug(1)
	l.meet(2, 2, 2)
	s.check(200)
}
