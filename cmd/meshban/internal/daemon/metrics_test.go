package daemon

import (
	"bytes"
	"strings"
	"testing"
)

func TestLatencyIsACumulativeHistogram(t *testing.T) {
	t.Parallel()
	m := newMetrics()
	for _, seconds := range []float64{0.0004, 0.004, 60} {
		m.latency.Update(seconds)
	}
	var text bytes.Buffer
	m.set.WritePrometheus(&text)
	for _, want := range []string{
		`meshban_enforce_seconds_bucket{le="0.001"} 1`, `meshban_enforce_seconds_bucket{le="0.0025"} 1`,
		`meshban_enforce_seconds_bucket{le="0.005"} 2`, `meshban_enforce_seconds_bucket{le="30"} 2`,
		`meshban_enforce_seconds_bucket{le="+Inf"} 3`, `meshban_enforce_seconds_count 3`, `meshban_enforce_seconds_sum 60.0044`,
	} {
		if !strings.Contains(text.String(), want+"\n") {
			t.Errorf("no %q in:\n%s", want, &text)
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
