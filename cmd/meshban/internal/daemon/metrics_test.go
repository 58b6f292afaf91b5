package daemon

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/mesh/frame"
)

// expose returns what a scrape of a registry answers.
func expose(t *testing.T, r *prometheus.Registry) string {
	t.Helper()
	w := httptest.NewRecorder()
	promhttp.HandlerFor(r, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// scraped returns the metrics of a node whose configuration has none.
func (n *node) scraped(t *testing.T) string {
	t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(newScraper(n.Daemon))
	problems, err := testutil.GatherAndLint(r)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
	return "\n" + expose(t, r) + expose(t, n.metrics.registry)
}

// What is scraped is true, and no name that was once there is missing.
func TestMetrics(t *testing.T) {
	t.Parallel()
	web1 := first(t, "web1")
	web2 := web1.join(t, "web2")
	web1.ban(t, time.Hour, "192.0.2.1/32", "192.0.2.2/32")
	until(t, "web2 has both bans", func() bool { return web2.takes(t, "192.0.2.1/32") && web2.takes(t, "192.0.2.2/32") })
	until(t, "web2 finds web1 in sync", func() bool { return web2.meshStatus().InSync == 2 })
	until(t, "the ban is counted", func() bool { return testutil.ToFloat64(web2.metrics.byEvent[ban.EventBan]) == 2 })
	web2.problems.set("test", "one", "")
	text := web2.scraped(t)
	for _, want := range []string{
		"meshban_bans_active 2", `meshban_bans{source="cli",state="enforced"} 2`, "meshban_members_alive 2", `meshban_members{state="alive"} 2`,
		`meshban_members{state="dead"} 0`, `meshban_problem{kind="test"} 1`, `meshban_lines_ignored_total{reason="refused by policy"} 0`,
		`meshban_ban_stage_seconds_count{stage="kernel"} 2`, `meshban_ban_stage_seconds_count{stage="travel"} 2`, "meshban_audit_lost_total 0", `meshban_dropped_packets_total{family="ipv6"} 0`,
		fmt.Sprintf("meshban_certificate_expiry_timestamp_seconds %v", float64(web2.mesh.Standing(frame.ID(web2.self)).Certificate.NotAfter.Unix())),
	} {
		if !strings.Contains(text, "\n"+want+"\n") {
			t.Errorf("no %q", want)
		}
	}
	for _, start := range []string{
		`meshban_member_last_contact_seconds{id="` + web1.self.String() + `",member="web1"} `, "meshban_build_info{", "meshban_store_bytes ",
	} {
		if !strings.Contains(text, "\n"+start) {
			t.Errorf("no %q", start)
		}
	}
	for name := range strings.FieldsSeq(standing) {
		if !strings.Contains(text, "\n# HELP meshban_"+name+" ") || !strings.Contains(text, "\n# TYPE meshban_"+name+" ") {
			t.Errorf("no meshban_%s", name)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}

// standing are the names that dashboards rely on.
const standing = `enforce_seconds notices_sent_total events_total held_bans_total bans_active bans_pending bans_held paused bans_allowed
own_bans_held_by_peers kernel_entries members_alive members_in_sync frames_held kernel_repairs_total frames_received_total
frames_duplicate_total frames_refused_total frames_waiting stranger_packets_total limited_packets_total slowed_origins
frames_sent_total notices_received_total notices_refused_total frames_synced_total syncs_total queue_dropped_total
lines_accepted_total lines_echoes_total lines_emitted_total lines_unemitted_total api_requests_total api_forbidden_total
api_answers_held api_dropped_total api_bans_left_out hooks_sent_total hooks_failed_total hooks_dropped_events_total store_commits_total`

// Peers choose the sources of their bans: many do not become many series.
func TestSourcesAreBounded(t *testing.T) {
	t.Parallel()
	bans := map[sourceState]int{{"cli", "enforced"}: 3, {"cli", "held"}: 4}
	for i := range 5000 {
		bans[sourceState{fmt.Sprint("line:", i), "enforced"}] = 2
	}
	got := commonSources(bans)
	sum := 0
	for _, n := range got {
		sum += n
	}
	if len(got) != maxSourceSeries+2 || sum != 10_007 || got[sourceState{"cli", "held"}] != 4 || got[sourceState{otherSources, "enforced"}] != 10_000-2*(maxSourceSeries-1) {
		t.Errorf("%d series of %d bans: %v", len(got), sum, got)
	}
}

func TestLatencyIsACumulativeHistogram(t *testing.T) {
	t.Parallel()
	m := newMetrics()
	decided := time.Now()
	for _, took := range []time.Duration{400 * time.Microsecond, 4 * time.Millisecond, time.Minute} {
		m.changed(ban.Change{Event: ban.EventBan, Issued: decided}, decided.Add(took/2), decided.Add(took), true)
	}
	m.changed(ban.Change{Event: ban.EventBan, Issued: decided}, decided, decided, false)
	text := expose(t, m.registry)
	for _, want := range []string{
		`meshban_enforce_seconds_bucket{le="0.001"} 1`, `meshban_enforce_seconds_bucket{le="0.0025"} 1`,
		`meshban_enforce_seconds_bucket{le="0.005"} 2`, `meshban_enforce_seconds_bucket{le="30"} 2`,
		`meshban_ban_stage_seconds_sum{stage="travel"} 30.0022`, `meshban_ban_stage_seconds_sum{stage="kernel"} 30.0022`,
		`meshban_enforce_seconds_bucket{le="+Inf"} 3`, `meshban_enforce_seconds_count 3`, `meshban_enforce_seconds_sum 60.0044`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
}

// A web page whose owner points its name at this machine cannot read what is served only locally.
func TestMetricsAnswerNoForeignName(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]bool{
		"localhost": true, "LOCALHOST:9100": true, "127.0.0.1:9100": true, "127.0.0.2": true, "[::1]:9100": true, "[::1]": true,
		"": true, "evil.example": false, "evil.example:9100": false, "localhost.evil.example": false, "127.0.0.1.evil.example:9100": false,
		"localhost.:9100": false, "2130706433": false, "0x7f.1": false,
	} {
		if got := rebindProof(host); got != want {
			t.Errorf("host %q is answered: %v, want %v", host, got, want)
		}
	}
}
