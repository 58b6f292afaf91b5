package beat

import (
	"testing"
	"time"
)

func TestPeriodsCoincide(t *testing.T) {
	start := time.Date(2026, 11, 27, 20, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name         string
		after, every time.Duration
		want         time.Duration
	}{
		{"ok: on the beat", 0, time.Second, time.Second},
		{"ok: just before it", time.Second - 1, time.Second, 1},
		{"ok: just after it", 1, time.Second, time.Second - 1},
		{"ok: two seconds, from an odd one", 3 * time.Second, 2 * time.Second, time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Next(start.Add(tt.after), tt.every); got != tt.want {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}
