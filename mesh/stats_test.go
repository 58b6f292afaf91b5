package mesh

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// However long a problem is, its remedy is not cut off; and it is told once a minute.
func TestProblemsKeepTheirRemedy(t *testing.T) {
	t.Parallel()
	var told []string
	p := problems{tell: func(_ Problem, detail string) { told = append(told, detail) }, count: new(atomic.Uint64), last: map[string]time.Time{}}
	now := time.Now()
	p.report(now, ProblemForged, "x", strings.Repeat("long ", 1000), shutOut)
	p.report(now.Add(problemEvery-time.Second), ProblemForged, "x", "again", shutOut)
	p.report(now.Add(problemEvery), ProblemForged, "x", "again", "")
	if len(told) != 2 || !strings.HasSuffix(told[0], "; "+shutOut) || len(told[0]) > maxDetailText+len(shutOut)+2 || told[1] != "again" {
		t.Errorf("%q", told)
	}
}
