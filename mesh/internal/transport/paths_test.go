package transport

import (
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/wire"
)

// However many peers seem to lose UDP, or say so, a node compares over streams with only a few at a time; each gets one
// report a second.
func TestUDPPathsAreFew(t *testing.T) {
	paths, now := NewPaths(), time.Now()
	peer := func(i int) (id frame.ID) { return frame.ID{byte(i >> 8), byte(i), 1} }
	for i := range 1000 {
		paths.Suspect(now, peer(i))
		if from := peer(5000 + i); paths.Expects(now, from, IsReport, true, now) {
			paths.Reported(now, from, Report{Want: true}, now)
		}
	}
	there := func(frame.ID) bool { return true }
	sent := make(map[frame.ID]int)
	for end := now.Add(10 * time.Second); now.Before(end); now = now.Add(50 * time.Millisecond) {
		due, _ := paths.Due(now, there)
		for _, d := range due {
			sent[d.ID]++
		}
	}
	if len(sent) != 2*maxPaths {
		t.Errorf("reports go to %d peers, want %d", len(sent), 2*maxPaths)
	}
	for id, n := range sent {
		if n > 10 {
			t.Errorf("%d reports in 10 s to %s", n, id)
		}
	}
	for range 60 {
		now = now.Add(pathEvery)
		paths.Due(now, there)
	}
	if len(paths.of) != 0 || paths.Some() {
		t.Errorf("%d paths are kept whose peer never answers", len(paths.of))
	}
}

// A report over a stream is accepted from the peer itself, once, and no more often than reports are sent.
func TestUDPPathExpects(t *testing.T) {
	paths, now, id := NewPaths(), time.Now(), frame.ID{1}
	for _, tt := range []struct {
		name  string
		after time.Duration
		part  Part
		want  bool
		ok    bool
	}{
		{"bad: a probe, of nobody", 0, IsSmallProbe, false, false},
		{"bad: the last report of somebody who is fine", 0, IsReport, false, false},
		{"ok: a report that wants an answer", 0, IsReport, true, true},
		{"bad: the same again", 0, IsReport, true, false},
		{"bad: another at once", time.Millisecond, IsReport, true, false},
		{"ok: a probe", 2 * time.Millisecond, IsSmallProbe, false, true},
		{"bad: the same again", 2 * time.Millisecond, IsSmallProbe, false, false},
		{"ok: the next report", pathEvery, IsReport, false, true},
	} {
		at := now.Add(tt.after)
		ok := paths.Expects(at, id, tt.part, tt.want, at)
		if ok != tt.ok {
			t.Errorf("%s: %v", tt.name, ok)
		}
		if ok && tt.part == IsReport {
			paths.Reported(at, id, Report{Want: tt.want}, at)
		} else if ok {
			paths.Probed(at, id, tt.part, at)
		}
	}
}

// How messages travel while a path is unknown, if packets or only large ones are lost, and if streams fail.
func TestUDPPathRoute(t *testing.T) {
	paths, now, id := NewPaths(), time.Now(), frame.ID{1}
	const small, large = wire.FreshSize, wire.MaxPacket
	check := func(what string, size int, push, packet, stream bool) {
		t.Helper()
		if p, s := paths.Route(now, id, size, push); p != packet || s != stream {
			t.Errorf("%s, %d bytes, push %v: packet %v, stream %v", what, size, push, p, s)
		}
	}
	check("no sign", large, true, true, false)
	paths.Suspect(now, id)
	check("a sign", small, false, false, true)
	check("a sign", small, true, true, true)
	check("a sign", large, true, true, false)
	report := func(small, large time.Duration) {
		now = now.Add(pathSettle)
		paths.Reported(now, id, Report{Want: true, Small: small, Large: large, Watched: pathSettle}, now)
	}
	report(0, pathFresh)
	check("large ones are lost", small, true, true, false)
	check("large ones are lost", large, true, false, true)
	check("large ones are lost", large, false, false, true)
	report(pathFresh, pathFresh)
	check("all are lost", small, false, false, true)
	for range pathPushes {
		check("all are lost", small, true, false, true)
		check("all are lost", large, true, false, true)
	}
	check("too many", small, true, false, false)
	check("too many", large, true, false, false)
	paths.Streamed(now, id, false)
	check("no TCP", small, true, true, false)
	if !paths.TCPFailed(now, id) {
		t.Error("it is not known that streams fail")
	}
	paths.Streamed(now, id, true)
	check("TCP again", small, false, false, true)
	report(0, 0)
	check("UDP again", large, true, true, false)
}
