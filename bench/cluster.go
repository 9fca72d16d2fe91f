package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// clusterPrefix begins the names of the measurements and tables of clusters, which have
// a page of their own.
const clusterPrefix = "cluster-"

const (
	oneNode  = "Dian, one node"
	twoNodes = "Dian, two nodes"
)

// A cluster is relays that are one, and the NATS that they talk over.
type cluster struct {
	nats  *natsNode
	nodes []*relay
}

// startCluster starts NATS and n nodes, and waits until all of them know each other.
// TLS is between clients and nodes.
func (b *bench) startCluster(secure bool, n int) (*cluster, error) {
	counters, err := freeAddress()
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(counters)
	c := &cluster{}
	if c.nats, err = b.startNATS(false, "", port); err != nil {
		return nil, err
	}
	c.nats.counters = "http://" + counters + "/varz"
	for range n {
		flags, err := b.profiled()
		if err != nil {
			return nil, err
		}
		r, err := b.startRelay(secure, append(flags, "--nats", c.nats.url)...)
		if err != nil {
			return nil, err
		}
		c.nodes = append(c.nodes, r)
	}
	for _, r := range c.nodes {
		if err := r.reaches("dian_cluster_nodes", float64(n-1)); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// processes are all servers.
func (c *cluster) processes() []*process {
	all := []*process{c.nats.process}
	for _, r := range c.nodes {
		all = append(all, r.process)
	}
	return all
}

func (c *cluster) kill() {
	for _, p := range c.processes() {
		p.kill()
	}
}

// traffic is what NATS has taken in so far, as it counts by itself.
type traffic struct {
	Messages int64 `json:"in_msgs"`
	Bytes    int64 `json:"in_bytes"`
}

func (n *natsNode) traffic() (t traffic, err error) {
	response, err := http.Get(n.counters)
	if err != nil {
		return t, err
	}
	defer response.Body.Close()
	return t, json.NewDecoder(response.Body).Decode(&t)
}

// reaches waits until a metric is want, at most 30 s.
func (r *relay) reaches(name string, want float64) error {
	var got float64
	for range 3000 {
		var err error
		if got, err = r.metric(name); err != nil {
			return err
		}
		if got == want {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("%s is %v at %s, want %v", name, got, r.url, want)
}

// metric reads one that has no labels.
func (r *relay) metric(name string) (float64, error) {
	roots := x509.NewCertPool()
	if r.secure {
		text, err := os.ReadFile(filepath.Join(r.b.dir, "tls.crt"))
		if err != nil {
			return 0, err
		}
		roots.AppendCertsFromPEM(text)
	}
	t := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	defer t.CloseIdleConnections()
	response, err := (&http.Client{Transport: t, Timeout: 10 * time.Second}).Get(r.url + "/metrics")
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err
	}
	return metricIn(string(text), name)
}

// metricIn finds a metric without labels in Prometheus' text.
func metricIn(text, name string) (float64, error) {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, fmt.Errorf("no metric %s", name)
}

// cpuOf adds the processor time of running processes; those that are nil have none.
func cpuOf(processes ...*process) (all time.Duration) {
	for _, p := range processes {
		if p != nil {
			all += cpuNow(p)
		}
	}
	return all
}
