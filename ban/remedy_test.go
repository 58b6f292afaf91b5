package ban

import (
	"testing"
	"time"
)

// Lengths are printed as people write them.
func TestLength(t *testing.T) {
	const day = 24 * time.Hour
	for want, d := range map[string]time.Duration{
		"30d": 30 * day, "7d12h": 7*day + 12*time.Hour, "1m30s": 90 * time.Second, "0s": 0, "10s": 10 * time.Second,
		"5m": 5 * time.Minute, "1h": time.Hour, "1h0m5s": time.Hour + 5*time.Second, "1d10m": day + 10*time.Minute, "20h": 20 * time.Hour,
	} {
		if got := length(d); got != want {
			t.Errorf("%v is written %q, want %q", d, got, want)
		}
	}
}
