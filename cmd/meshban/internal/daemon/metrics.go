package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/meshban/meshban/ban"
)

const (
	metricsTimeout = 10 * time.Second // for each step of a scrape
	maxScrapes     = 4                // at once
)

// metrics holds what is counted as it happens; figures are read at each scrape.
type metrics struct {
	registry *prometheus.Registry
	latency  prometheus.Histogram                     // from an origin's decision to this node's kernel
	travel   prometheus.Observer                      // the part of it until this node has taken the ban
	kernel   prometheus.Observer                      // the part after that
	byEvent  [ban.EventUnallow + 1]prometheus.Counter // looked up once: a lookup by label is slower
	byHold   [ban.HoldDropped]prometheus.Counter      // held ops, by what holds them

	refusedOps, beyondCaps, stoppedOps *prometheus.CounterVec // by rule
	listEntries, listLeftOut           *prometheus.GaugeVec   // by file
	noticesSent                        prometheus.Counter
}

func newMetrics() *metrics {
	m := &metrics{registry: prometheus.NewRegistry()}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: metricsPrefix + name, Help: help}, labels)
		m.registry.MustRegister(v)
		return v
	}
	gauges := func(name, help, label string) *prometheus.GaugeVec {
		v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: metricsPrefix + name, Help: help}, []string{label})
		m.registry.MustRegister(v)
		return v
	}
	m.latency = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: metricsPrefix + "enforce_seconds", Help: "From the decision of a ban's origin to this node's kernel; compares two clocks.", Buckets: latencyBounds,
	})
	stages := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: metricsPrefix + "ban_stage_seconds", Buckets: latencyBounds,
		Help: "Parts of enforce_seconds: travel is until this node has a ban of a peer (compares two clocks), kernel is until its kernel has it.",
	}, []string{"stage"})
	m.registry.MustRegister(m.latency, stages)
	m.travel, m.kernel = stages.WithLabelValues("travel"), stages.WithLabelValues("kernel")
	m.noticesSent = counters("notices_sent_total", "Notices to nodes whose ops are held or refused here.").WithLabelValues()
	events := counters("events_total", "Changes of what is banned and allowed here, by event.", "event")
	for e := range m.byEvent[1:] {
		event := ban.Event(e + 1)
		m.byEvent[event] = events.WithLabelValues(event.String())
	}
	holds := counters("held_bans_total", "Bans of peers that were put on hold, by what holds them.", "by")
	for h := range m.byHold[1:] {
		hold := ban.Hold(h + 1)
		m.byHold[hold] = holds.WithLabelValues(hold.String())
	}
	m.refusedOps = counters("refused_ops_total", "Ops of peers that were refused, by rule.", "rule")
	m.beyondCaps = counters("own_ops_beyond_caps_total", "Ops of this node that peers will hold or refuse, by rule.", "rule")
	m.stoppedOps = counters("own_ops_stopped_by_peers_total", "Ops of this node that peers report as held or refused, by rule.", "rule")
	m.listEntries = gauges("list_entries", "Bans in a list of files.", "file")
	m.listLeftOut = gauges("list_left_out", "Bans that the form of a list of files cannot express.", "file")
	return m
}

// changed counts a change that this node took at began and that took effect at the time at.
func (m *metrics) changed(c ban.Change, began, at time.Time, enforced bool) {
	m.byEvent[c.Event].Inc()
	if !enforced || c.Event != ban.EventBan || c.Issued.IsZero() {
		return
	}
	m.latency.Observe(max(0, at.Sub(c.Issued).Seconds()))
	m.kernel.Observe(max(0, at.Sub(began).Seconds()))
	if !c.Local {
		m.travel.Observe(max(0, began.Sub(c.Issued).Seconds()))
	}
}

// latencyBounds are the buckets of metrics.latency, in seconds.
var latencyBounds = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, 1, 5, 30}

// refuse counts an op of a peer that was not applied, by rule.
func (m *metrics) refuse(err error) {
	rule := "invalid"
	var policy *ban.PolicyError
	if errors.As(err, &policy) {
		rule = policy.Rule
	}
	m.refusedOps.WithLabelValues(rule).Inc()
}

// rebindProof reports whether a Host header is localhost or an address, with any port, or is missing, as in HTTP/1.0,
// which browsers do not speak. A loopback listener answers to no other name: the owner of a name could point it here,
// and a page in a browser on this machine could then read the answer.
func rebindProof(host string) bool {
	if host == "" {
		return true
	}
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil || strings.EqualFold(host, "localhost")
}

// serveMetrics answers GET /metrics until ctx ends, if the configuration says so.
func (d *Daemon) serveMetrics(ctx context.Context) error {
	addr := d.config().Metrics
	if !addr.IsValid() {
		return nil
	}
	r := d.metrics.registry
	r.MustRegister(newScraper(d), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	handler := promhttp.HandlerFor(r, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(d.log.Handler(), slog.LevelWarn), ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: maxScrapes,
	})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		if addr.Addr().IsLoopback() && !rebindProof(r.Host) {
			http.Error(w, "no request for this host name is answered here: use localhost or the address", http.StatusForbidden)
			return
		}
		handler.ServeHTTP(w, r)
	})
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
