package server

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/dian-im/dian/internal/wire"
)

// metrics is what an operator can measure. No label ever holds a user, an app or
// another text of a client: there would be no end of them (case 56).
type metrics struct {
	registry *prometheus.Registry

	sessions     *prometheus.GaugeVec   // role, protocol
	logins       *prometheus.CounterVec // result
	lineOffs     *prometheus.CounterVec // result
	panics       prometheus.Counter
	acceptErrors prometheus.Counter
	ignored      *prometheus.CounterVec // kind: frames that came too late or from nowhere
	commands     map[wire.Code]prometheus.Counter
	odd          prometheus.Counter // commands with a code that we do not know
	gaps         prometheus.Counter
	lost         prometheus.Counter
	transfers    *prometheus.GaugeVec   // state
	results      *prometheus.CounterVec // kind, result, receipt
	bytes        prometheus.Counter
	lanes        *prometheus.HistogramVec // direction

	auditLines, auditDropped, auditRefused prometheus.Counter
}

// newMetrics makes the metrics of s on a registry of their own.
func newMetrics(s *Server) *metrics {
	m := &metrics{registry: prometheus.NewRegistry()}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		m.registry.MustRegister(c)
		return c
	}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		m.registry.MustRegister(c)
		return c
	}
	gauges := func(name, help string, labels ...string) *prometheus.GaugeVec {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
		m.registry.MustRegister(g)
		return g
	}
	ask := func(name, help string, value func() float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}

	m.sessions = gauges("dian_sessions", "Live sessions.", "role", "protocol")
	m.logins = counters("dian_logins_total", "Logins by their result, a code.", "result")
	m.lineOffs = counters("dian_line_offs_total", "Sessions that the server ended, by code.", "code")
	m.panics = counter("dian_panics_total", "Bugs that were caught at a connection's boundary.")
	m.acceptErrors = counter("dian_accept_errors_total", "Connections that could not be accepted, for want of files or memory.")
	m.ignored = counters("dian_frames_ignored_total", "Frames that came too late or named nothing known.", "frame")
	commands := counters("dian_commands_total", "Commands by their result: a code, gap or lost.", "result")
	m.commands = map[wire.Code]prometheus.Counter{}
	for code := range wire.Code(2000) {
		if code.Known() {
			m.commands[code] = commands.WithLabelValues(codeLabel(code))
		}
	}
	m.odd = commands.WithLabelValues(codeLabel(^wire.Code(0)))
	m.gaps, m.lost = commands.WithLabelValues("gap"), commands.WithLabelValues("lost")
	m.transfers = gauges("dian_transfers", "Transfers that the server knows, by state.", "state")
	m.results = counters("dian_transfer_results_total", "Ended transfers.", "kind", "result", "receipt")
	m.bytes = counter("dian_lane_bytes_total", "Bytes copied from up-lanes into down-lanes.")
	m.lanes = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "dian_lane_seconds", Help: "How long lanes lasted.",
		Buckets: prometheus.ExponentialBuckets(0.01, 4, 10),
	}, []string{"direction"})
	m.registry.MustRegister(m.lanes)

	m.auditLines = counter("dian_audit_lines_total", "Audit lines written.")
	m.auditDropped = counter("dian_audit_lost_total", "Audit lines that found no room.")
	m.auditRefused = counter("dian_audit_refused_tasks_total", "Tasks refused because audit lines cannot be written.")
	ask("dian_audit_waiting", "Audit lines that are not written yet.", func() float64 {
		waiting, _ := s.audit.state()
		return float64(waiting)
	})
	ask("dian_audit_failing", "1 while audit lines cannot be written.", func() float64 {
		if _, failing := s.audit.state(); failing {
			return 1
		}
		return 0
	})
	ask("dian_revocations", "Revocations in force.", func() float64 { return float64(s.revoked.count(time.Now())) })

	ask("dian_commands_pending", "Commands without result.", func() float64 {
		return float64(s.commands.pending.Load())
	})
	ask("dian_logins_pending", "Connections that are not logged in yet.", func() float64 {
		return float64(s.quota.all.used[countEntering].Load())
	})
	s.quota.metrics(m.registry)
	m.registry.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// codeLabel is a code as a label. Codes that we do not know, which are a
// client's, all look the same.
func codeLabel(code wire.Code) string {
	if code.Known() {
		return strconv.FormatUint(uint64(code), 10)
	}
	return "other"
}

// command counts the result of a command.
func (m *metrics) command(outcome wire.CommandOutcome, code wire.Code) {
	switch outcome {
	case wire.CommandOutcome_COMMAND_OUTCOME_GAP:
		m.gaps.Inc()
	case wire.CommandOutcome_COMMAND_OUTCOME_LOST:
		m.lost.Inc()
	default:
		if c := m.commands[code]; c != nil {
			c.Inc()
			return
		}
		m.odd.Inc()
	}
}

// transferState notes that a transfer went from one state to another; "" is not
// known yet, or not any more.
func (m *metrics) transferState(from, to string) {
	if from != "" {
		m.transfers.WithLabelValues(from).Dec()
	}
	if to != "" {
		m.transfers.WithLabelValues(to).Inc()
	}
}

// transferDone counts an ended transfer. The texts come from our own constants.
func (m *metrics) transferDone(kind, result, receipt string) {
	m.results.WithLabelValues(kind, result, receipt).Inc()
}

// laneBytes counts bytes that were copied, many at a time.
func (m *metrics) laneBytes(n int64) {
	if n > 0 {
		m.bytes.Add(float64(n))
	}
}

// laneSeconds notes the end of a lane: direction is "up" or "down".
func (m *metrics) laneSeconds(direction string, d time.Duration) {
	m.lanes.WithLabelValues(direction).Observe(d.Seconds())
}

// handler answers with the metrics as text.
func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		MaxRequestsInFlight: 4, // a scrape asks every session for its queue
		Timeout:             10 * time.Second,
	})
}
