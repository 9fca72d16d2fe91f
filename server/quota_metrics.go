package server

import "github.com/prometheus/client_golang/prometheus"

// metrics registers what an operator sees of the limits. Labels are limits and
// scopes alone, and all of their values are there from the beginning.
func (q *quota) metrics(registry *prometheus.Registry) {
	refusals := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "dian_limit_refusals_total", Help: "What was refused or ended for a limit, by limit and by whose it is.",
	}, []string{"limit", "scope"})
	q.refused = map[refusedAt]prometheus.Counter{}
	add := func(limit string, s scope) {
		q.refused[refusedAt{limit, scopeNames[s]}] = refusals.WithLabelValues(limit, scopeNames[s])
	}
	for s := range scopes {
		for c := range cells {
			add(cellNames[c], s)
		}
		add("requests", s)
		add("subscriptions", s)
	}
	add("connections", scopeAddress)
	add("connections", scopeAll)

	registry.MustRegister(refusals)
	for _, g := range []struct {
		limit string
		n     count
	}{
		{cellNames[cellSessions], countSessions}, {cellNames[cellTransfers], countTransfers},
		{cellNames[cellOffers], countOffers}, {cellNames[cellQueued], countQueued},
		{"requests", countRequests}, {"connections", countConnections},
	} {
		registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "dian_limit_used", Help: "What all use at the moment of a limit.",
			ConstLabels: prometheus.Labels{"limit": g.limit},
		}, func() float64 { return float64(q.all.used[g.n].Load()) }))
	}
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "dian_accounts", Help: "Users and addresses that are remembered.",
	}, func() float64 { return float64(q.users.size() + q.addresses.size()) }))
}
