package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	// A small library that does no work at start: the reference client costs each command 2 ms.
	vm "github.com/VictoriaMetrics/metrics"

	"github.com/meshban/meshban/ban"
)

// metricsTimeout bounds each step of a scrape.
const metricsTimeout = 10 * time.Second

// metrics holds one node's metrics, in Prometheus's format.
type metrics struct {
	set     *vm.Set
	latency *vm.PrometheusHistogram           // from an origin's decision to this node's kernel
	byEvent [ban.EventUnallow + 1]*vm.Counter // looked up once: a lookup by label is slower
	byHold  [ban.HoldDropped]*vm.Counter      // held ops, by what holds them

	noticesSent *vm.Counter
}

func newMetrics() *metrics {
	m := &metrics{set: vm.NewSet()}
	m.latency = m.set.NewPrometheusHistogramExt("meshban_enforce_seconds", latencyBounds)
	m.noticesSent = m.set.NewCounter("meshban_notices_sent_total")
	for e := range m.byEvent[1:] {
		event := ban.Event(e + 1)
		m.byEvent[event] = m.set.NewCounter(fmt.Sprintf("meshban_events_total{event=%q}", event))
	}
	for h := range m.byHold[1:] {
		hold := ban.Hold(h + 1)
		m.byHold[hold] = m.set.NewCounter(fmt.Sprintf("meshban_held_bans_total{by=%q}", hold))
	}
	return m
}

// changed counts a change that took effect at the time at.
func (m *metrics) changed(c ban.Change, at time.Time, enforced bool) {
	m.byEvent[c.Event].Inc()
	if enforced && c.Event == ban.EventBan && !c.Issued.IsZero() {
		m.latency.Update(max(0, at.Sub(c.Issued).Seconds()))
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
	m.set.GetOrCreateCounter(fmt.Sprintf("meshban_refused_ops_total{rule=%q}", rule)).Inc()
}

// foreseen counts an op of this node that peers will hold or refuse, by rule.
func (m *metrics) foreseen(rule string) {
	m.set.GetOrCreateCounter(fmt.Sprintf("meshban_own_ops_beyond_caps_total{rule=%q}", rule)).Inc()
}

// told counts ops of this node that a peer reports as held or refused, by rule.
func (m *metrics) told(rule string, n uint32) {
	m.set.GetOrCreateCounter(fmt.Sprintf("meshban_own_ops_stopped_by_peers_total{rule=%q}", rule)).AddInt64(int64(n))
}

// figures registers the metrics that are computed at each scrape.
func (d *Daemon) figures() {
	gauge := func(name string, read func() float64) { d.metrics.set.NewGauge("meshban_"+name, read) }
	counter := func(name string, read func() uint64) {
		d.metrics.set.NewGauge("meshban_"+name, func() float64 { return float64(read()) })
	}
	gauge("bans_active", func() float64 { return float64(d.state.Counts().Active) })
	gauge("bans_pending", func() float64 { return float64(d.state.Counts().Pending) })
	gauge("bans_held", func() float64 { return float64(d.state.Counts().Held) })
	gauge("paused", func() float64 { return float64(count(d.fw.Status().Paused)) })
	gauge("bans_allowed", func() float64 { return float64(d.state.Counts().Allowed) })
	gauge("own_bans_held_by_peers", func() float64 { return float64(d.heldByPeers()) })
	gauge("kernel_entries", func() float64 { return float64(d.fw.Status().Enforced) })
	gauge("members_alive", func() float64 { return float64(d.meshStatus().Alive) })
	gauge("members_in_sync", func() float64 { return float64(d.meshStatus().InSync) })
	gauge("frames_held", func() float64 { return float64(d.mesh.Stats().Held) })
	counter("kernel_repairs_total", func() uint64 { return d.fw.Status().Repairs })
	counter("frames_received_total", func() uint64 { return d.mesh.Stats().Received })
	counter("frames_duplicate_total", func() uint64 { return d.mesh.Stats().Duplicates })
	for reason := range d.mesh.Stats().Refused {
		d.metrics.set.NewGauge(fmt.Sprintf("meshban_frames_refused_total{reason=%q}", reason), func() float64 { return float64(d.mesh.Stats().Refused[reason]) })
	}
	gauge("frames_waiting", func() float64 { return float64(d.mesh.Stats().AwaitingCert) })
	counter("stranger_packets_total", func() uint64 { return d.mesh.Stats().Strangers })
	counter("limited_packets_total", func() uint64 { return d.mesh.Stats().Limited })
	gauge("slowed_origins", func() float64 { return float64(d.mesh.Stats().Slowed) })
	counter("frames_sent_total", func() uint64 { return d.mesh.Stats().Sent })
	counter("notices_received_total", func() uint64 { return d.mesh.Stats().Notices })
	counter("notices_refused_total", func() uint64 { return d.mesh.Stats().NoticesRefused })
	counter("frames_synced_total", func() uint64 { return d.mesh.Stats().Synced })
	counter("syncs_total", func() uint64 { return d.mesh.Stats().Syncs })
	counter("queue_dropped_total", func() uint64 { return d.mesh.Stats().Dropped })
	counter("lines_accepted_total", func() uint64 { return d.follower.Stats().Accepted })
	counter("lines_echoes_total", d.lines.echoes.Load)
	counter("lines_emitted_total", d.lines.emitted.Load)
	counter("lines_unemitted_total", func() uint64 { return d.lines.unemitted.Load() + d.emit.dropped() })
	counter("api_requests_total", d.api.Stats.Requests.Load)
	counter("api_forbidden_total", d.api.Stats.Forbidden.Load)
	counter("api_dropped_total", d.api.Stats.Dropped.Load)
	gauge("api_answers_held", func() float64 { return float64(d.api.Stats.Held.Load()) })
	gauge("api_bans_left_out", func() float64 { return float64(int(d.api.portBans.Load()) + d.api.rangesLeftOut()) })
	counter("hooks_sent_total", func() uint64 { return d.hooks.Stats().Sent })
	counter("hooks_failed_total", func() uint64 { return d.hooks.Stats().Failed })
	counter("hooks_dropped_events_total", func() uint64 { return d.hooks.Stats().Dropped })
	counter("store_commits_total", func() uint64 { return d.store.Stats().Commits })
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
	d.figures()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		if addr.Addr().IsLoopback() && !rebindProof(r.Host) {
			http.Error(w, "no request for this host name is answered here: use localhost or the address", http.StatusForbidden)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		d.metrics.set.WritePrometheus(w)
		vm.WriteProcessMetrics(w)
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
