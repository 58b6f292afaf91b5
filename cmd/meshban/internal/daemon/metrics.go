package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/meshban/meshban/ban"
)

// metricsTimeout bounds each step of a scrape.
const metricsTimeout = 10 * time.Second

// metrics are the figures of one node, in Prometheus' form.
type metrics struct {
	registry *prometheus.Registry
	events   *prometheus.CounterVec
	refused  *prometheus.CounterVec
	latency  prometheus.Histogram
	byEvent  [ban.EventUnallow + 1]prometheus.Counter // of events: looking one up by its label takes longer
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "meshban_events_total", Help: "Changes of what is banned, by event.",
		}, []string{"event"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "meshban_refused_ops_total", Help: "Operations of peers that were not applied, by rule.",
		}, []string{"rule"}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "meshban_enforce_seconds", Help: "From the origin's decision to this node's kernel.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, 1, 5, 30},
		}),
	}
	m.registry.MustRegister(m.events, m.refused, m.latency)
	for e := range m.byEvent[1:] {
		event := ban.Event(e + 1)
		m.byEvent[event] = m.events.WithLabelValues(event.String())
	}
	return m
}

// changed counts a change that became true at at.
func (m *metrics) changed(c ban.Change, at time.Time) {
	m.byEvent[c.Event].Inc()
	if c.Event == ban.EventBan && !c.Issued.IsZero() {
		m.latency.Observe(max(0, at.Sub(c.Issued).Seconds()))
	}
}

// refuse counts an op that policy refused.
func (m *metrics) refuse(err error) {
	rule := "invalid"
	var policy *ban.PolicyError
	if errors.As(err, &policy) {
		rule = policy.Rule
	}
	m.refused.WithLabelValues(rule).Inc()
}

// gauges registers figures that are read when somebody asks.
func (d *Daemon) gauges() {
	gauge := func(name, help string, read func() float64) {
		d.metrics.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "meshban_" + name, Help: help}, read))
	}
	counter := func(name, help string, read func() uint64) {
		d.metrics.registry.MustRegister(prometheus.NewCounterFunc(
			prometheus.CounterOpts{Name: "meshban_" + name, Help: help}, func() float64 { return float64(read()) }))
	}
	gauge("bans_active", "Banned (prefix, ports) that are enforced.", func() float64 { return float64(d.counts().Active) })
	gauge("bans_pending", "Sightings below the quorum.", func() float64 { return float64(d.counts().Pending) })
	gauge("bans_allowed", "Bans that the never-ban list suppresses.", func() float64 { return float64(d.counts().Allowed) })
	gauge("kernel_entries", "Entries in the kernel.", func() float64 { return float64(d.fw.Status().Enforced) })
	gauge("members_alive", "Members that answer, this node included.", func() float64 { return float64(d.meshStatus().Alive) })
	gauge("members_in_sync", "Members with our digest, this node included.", func() float64 { return float64(d.meshStatus().InSync) })
	gauge("frames_held", "Live frames.", func() float64 { return float64(d.mesh.Stats().Held) })
	counter("kernel_repairs_total", "Times that the kernel had lost something of ours.", func() uint64 { return d.fw.Status().Repairs })
	counter("frames_received_total", "Frames that arrived, any way.", func() uint64 { return d.mesh.Stats().Received })
	counter("frames_duplicate_total", "Of them, frames that were held already.", func() uint64 { return d.mesh.Stats().Duplicates })
	counter("frames_sent_total", "Frames pushed, once per receiver.", func() uint64 { return d.mesh.Stats().Sent })
	counter("syncs_total", "Sync sessions that found a difference.", func() uint64 { return d.mesh.Stats().Syncs })
	counter("queue_dropped_total", "Messages lost because a queue was full; a sync brings them back.", func() uint64 { return d.mesh.Stats().Dropped })
	counter("lines_accepted_total", "Lines taken from the line file.", func() uint64 { return d.follower.Stats().Accepted })
	counter("lines_echoes_total", "Lines that only repeated what the mesh said.", d.lines.echoes.Load)
	counter("lines_emitted_total", "Lines written for bans of the mesh.", d.lines.emitted.Load)
	counter("lines_unemitted_total", "Lines that could not be written.", func() uint64 { return d.lines.unemitted.Load() + d.emit.dropped() })
	counter("store_commits_total", "Commits to disk.", func() uint64 { return d.store.Stats().Commits })
}

// serveMetrics answers GET /metrics where the configuration says so, until ctx ends.
func (d *Daemon) serveMetrics(ctx context.Context) error {
	addr := d.config().Metrics
	if !addr.IsValid() {
		return nil
	}
	d.gauges()
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(d.metrics.registry, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadTimeout: metricsTimeout, WriteTimeout: metricsTimeout, ReadHeaderTimeout: metricsTimeout}
	listener, err := net.Listen("tcp", addr.String())
	if err != nil {
		return fmt.Errorf("listen for metrics: %w", err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	err = server.Close()
	<-served
	return err
}
