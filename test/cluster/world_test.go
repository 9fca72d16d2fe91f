// Package cluster runs several relays as one, with the Go SDK at both ends: on a bus in
// memory that loses and splits when told to, and on real NATS servers.
package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"

	"github.com/dian-im/dian"
	"github.com/dian-im/dian/internal/bus"
	"github.com/dian-im/dian/server"
)

// patience bounds every wait for something that must happen.
const patience = 60 * time.Second

// A node is one relay of a test's cluster.
type node struct {
	name string
	url  string
	srv  *server.Server
	stop func() // ends it and waits; may be called twice
}

// A cluster is some relays on one bus.
type cluster struct {
	t     *testing.T
	open  func(name string, h bus.Handler) (bus.Bus, error)
	nodes []*node
}

// onMem starts n relays on a bus in memory.
func onMem(t *testing.T, n int, change ...func(*server.Config)) (*cluster, *bus.Mem) {
	t.Helper()
	mem := bus.NewMem()
	c := &cluster{t: t, open: func(name string, h bus.Handler) (bus.Bus, error) { return mem.Open(name, h), nil }}
	for i := range n {
		c.start(fmt.Sprintf("n%d", i), change...)
	}
	c.meet()
	return c, mem
}

// start adds a relay.
func (c *cluster) start(name string, change ...func(*server.Config)) *node {
	c.t.Helper()
	cfg := server.DevConfig()
	cfg.ShutdownGrace = time.Second
	if os.Getenv("DIAN_LOG") != "" {
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("n", name)
	}
	cfg.Cluster = server.Cluster{Node: name, Open: func(h bus.Handler) (bus.Bus, error) { return c.open(name, h) }}
	for _, f := range change {
		f(&cfg)
	}
	srv, err := server.New(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, ln) }()
	ended := false
	n := &node{name: name, url: "http://" + ln.Addr().String(), srv: srv}
	n.stop = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-served; err != nil {
			c.t.Errorf("%s: Serve = %v", name, err)
		}
	}
	c.t.Cleanup(n.stop)
	c.nodes = append(c.nodes, n)
	return n
}

// meet waits until every relay knows every other one.
func (c *cluster) meet() {
	c.t.Helper()
	for _, n := range c.nodes {
		wait(c.t, n.name+" knows the others", func() bool {
			return metric(c.t, n.url, "dian_cluster_nodes") == float64(len(c.nodes)-1)
		})
	}
}

// client connects a user to one node.
func (c *cluster) client(n *node, user string, options ...dian.Option) *dian.Client {
	c.t.Helper()
	return connect(c.t, n.url, user, options...)
}

func connect(t *testing.T, url, user string, options ...dian.Option) *dian.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	options = append([]dian.Option{dian.WithToken(token(t, user)), dian.WithReceiveDir(t.TempDir())}, options...)
	client, err := dian.Connect(ctx, url, options...)
	if err != nil {
		t.Fatalf("%s cannot connect to %s: %v", user, url, err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func token(t *testing.T, user string) string {
	t.Helper()
	token, err := server.DevToken(user)
	if err != nil {
		t.Fatal(err)
	}
	return token
}
