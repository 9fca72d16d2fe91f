package server

import (
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	nodes "github.com/dian-im/dian/internal/cluster"
)

// clusterMetrics is what an operator sees of the other nodes.
type clusterMetrics struct {
	packetsIn, packetsOut, messagesIn, messagesOut, bytesOut prometheus.Counter
	unsent, forged, odd, late, carried                       prometheus.Counter

	mu   sync.Mutex
	warn bucket // guarded by mu
}

func (m *clusterMetrics) init(c *cluster, registry *prometheus.Registry) {
	for _, n := range []struct {
		counter    *prometheus.Counter
		name, help string
	}{
		{&m.packetsIn, "dian_cluster_packets_received_total", "Packets of other nodes."},
		{&m.packetsOut, "dian_cluster_packets_sent_total", "Packets given to the bus."},
		{&m.messagesIn, "dian_cluster_messages_received_total", "Messages in packets of other nodes."},
		{&m.messagesOut, "dian_cluster_messages_sent_total", "Messages in packets to other nodes."},
		{&m.bytesOut, "dian_cluster_bytes_sent_total", "Bytes given to the bus."},
		{&m.unsent, "dian_cluster_packets_unsent_total", "Packets that the bus did not take."},
		{&m.forged, "dian_cluster_forged_total", "Packets and requests that no node of this cluster has made."},
		{&m.odd, "dian_cluster_odd_total", "Messages that make no sense here."},
		{&m.late, "dian_cluster_late_total", "Messages that came too late."},
		{&m.carried, "dian_cluster_requests_carried_total", "Requests that were carried to another node."},
	} {
		*n.counter = prometheus.NewCounter(prometheus.CounterOpts{Name: n.name, Help: n.help})
		registry.MustRegister(*n.counter)
	}
	ask := func(name, help string, value func() int) {
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			return float64(value())
		}))
	}
	ask("dian_cluster_up", "1 while there is a connection to the bus.", func() int {
		if c.up.Load() {
			return 1
		}
		return 0
	})
	ask("dian_cluster_nodes", "Other nodes that this one hears and that answer it.", func() int {
		c.mu.RLock()
		defer c.mu.RUnlock()
		n := 0
		for _, node := range c.view.Nodes() {
			if node.Proven() {
				n++
			}
		}
		return n
	})
	ask("dian_cluster_users", "Users at other nodes.", func() int {
		c.mu.RLock()
		defer c.mu.RUnlock()
		n := 0
		for _, node := range c.view.Nodes() {
			n += node.Users()
		}
		return n
	})
}

// refused counts a packet that cannot be taken in, and warns now and then.
func (m *clusterMetrics) refused(c *cluster, err error) {
	if errors.Is(err, nodes.ErrForged) {
		m.forged.Inc()
	} else {
		m.odd.Inc()
	}
	m.mu.Lock()
	warn := m.warn.take(time.Now(), 3, 1.0/60)
	m.mu.Unlock()
	if warn {
		c.srv.log.Warn("a packet was refused: do all nodes have the same cluster.name and secret?", "err", err)
	}
}
