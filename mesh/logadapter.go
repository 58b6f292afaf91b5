package mesh

import (
	"bytes"
	"context"
	"log"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxLogText bounds a line of memberlist's, in bytes, before escaping.
	maxLogText = 512
	// logBurst lines at once, then one per logEvery: strangers can make memberlist log with every packet.
	logBurst = 20
	logEvery = 200 * time.Millisecond

	// foreignKey is in every line about somebody who speaks another gossip key: a revoked machine goes on for ever, so one
	// line per foreignEvery is enough.
	foreignKey   = "no installed keys could decrypt"
	foreignEvery = time.Minute
	// sameEvery is the least time between two lines above debug that begin alike, and maxSame bounds the beginnings that are
	// remembered; while there are more, lines go by the rate alone.
	sameEvery, maxSame = time.Minute, 256

	suspectPrefix, suspectSuffix = "Suspect ", " has failed, no acks received"
	unheardPrefix, unheardSuffix = "Failed UDP ping: ", " (timeout reached)"
	// onlyTCP is in a line that comes with every ping while UDP is lost, which ProblemUDP tells of.
	onlyTCP = " over TCP but UDP probes failed"
)

// logAdapter turns memberlist's log lines into records with a constant message; what peers said is an escaped attribute.
// memberlist calls its troubles with single peers errors; they are one level lower here.
type logAdapter struct {
	logger *slog.Logger
	// suspected is told of a peer that did not answer our probe: memberlist says so nowhere else. Called by whichever
	// goroutine of memberlist's logs; must not block.
	suspected func(ID)
	// unheard is likewise told of a peer that did not answer a ping by UDP. nil: nobody is.
	unheard func(ID)

	rate, foreign limiter

	mu   sync.Mutex
	same map[string]time.Time // beginning of a line -> when it was shown

	muted atomic.Int64 // lines not shown since the last that was
}

func newLogAdapter(logger *slog.Logger, suspected func(ID)) *logAdapter {
	return &logAdapter{logger: logger, suspected: suspected, rate: limiter{burst: logBurst, every: logEvery}, foreign: limiter{burst: 1, every: foreignEvery}, same: make(map[string]time.Time)}
}

// named returns the node that a line with this beginning and end names.
func named(text, prefix, suffix string) (id ID, ok bool) {
	if text, ok = strings.CutPrefix(text, prefix); !ok {
		return id, false
	}
	if text, ok = strings.CutSuffix(text, suffix); !ok {
		return id, false
	}
	id, err := ParseID(text)
	return id, err == nil
}

// repeats reports whether a line that begins like this one was shown a short while ago, and notes it.
func (a *logAdapter) repeats(now time.Time, text string) bool {
	begin, _, _ := strings.Cut(text[:min(len(text), maxLogText)], ": ")
	a.mu.Lock()
	defer a.mu.Unlock()
	if at, ok := a.same[begin]; ok && now.Sub(at) < sameEvery {
		return true
	}
	if len(a.same) >= maxSame {
		maps.DeleteFunc(a.same, func(_ string, at time.Time) bool { return now.Sub(at) >= sameEvery })
	}
	if len(a.same) < maxSame {
		a.same[begin] = now
	}
	return false
}

func (a *logAdapter) standard() *log.Logger { return log.New(a, "", 0) }

// Write takes one line. It never fails.
func (a *logAdapter) Write(line []byte) (int, error) {
	text := string(bytes.TrimSpace(line))
	level := slog.LevelDebug
	if rest, ok := strings.CutPrefix(text, "["); ok {
		if name, rest, ok := strings.Cut(rest, "] "); ok {
			text = rest
			switch name {
			case "ERR", "ERROR":
				level = slog.LevelWarn
			case "WARN":
				level = slog.LevelInfo
			}
		}
	}
	text = strings.TrimPrefix(text, "memberlist: ")
	if id, ok := named(text, suspectPrefix, suspectSuffix); ok && a.suspected != nil {
		a.suspected(id)
	}
	if id, ok := named(text, unheardPrefix, unheardSuffix); ok && a.unheard != nil {
		a.unheard(id)
	}
	ctx := context.Background()
	if !a.logger.Enabled(ctx, level) {
		return len(line), nil
	}
	now := time.Now()
	if strings.Contains(text, foreignKey) && !a.foreign.allow(now) || strings.Contains(text, onlyTCP) ||
		level > slog.LevelDebug && a.repeats(now, text) || !a.rate.allow(now) {
		a.muted.Add(1)
		return len(line), nil
	}
	attrs := []slog.Attr{slog.String("text", escapeText(text, maxLogText))}
	if muted := a.muted.Swap(0); muted > 0 {
		attrs = append(attrs, slog.Int64("muted", muted))
	}
	a.logger.LogAttrs(ctx, level, "memberlist", attrs...)
	return len(line), nil
}
