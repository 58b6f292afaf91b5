package mesh

import (
	"bytes"
	"context"
	"log"
	"log/slog"
	"strings"
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

	suspectPrefix, suspectSuffix = "Suspect ", " has failed, no acks received"
)

// logAdapter turns memberlist's log lines into records with a constant message; what peers said is an escaped attribute.
// memberlist calls its troubles with single peers errors; they are one level lower here.
type logAdapter struct {
	logger *slog.Logger
	// suspected is told of a peer that did not answer our probe: memberlist says so nowhere else. Called by whichever
	// goroutine of memberlist's logs; must not block.
	suspected func(ID)

	rate, foreign limiter

	muted atomic.Int64 // lines not shown since the last that was
}

func newLogAdapter(logger *slog.Logger, suspected func(ID)) *logAdapter {
	return &logAdapter{logger: logger, suspected: suspected, rate: limiter{burst: logBurst, every: logEvery}, foreign: limiter{burst: 1, every: foreignEvery}}
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
	if name, ok := strings.CutPrefix(text, suspectPrefix); ok && a.suspected != nil {
		if name, ok = strings.CutSuffix(name, suspectSuffix); ok {
			if id, err := ParseID(name); err == nil {
				a.suspected(id)
			}
		}
	}
	ctx := context.Background()
	if !a.logger.Enabled(ctx, level) {
		return len(line), nil
	}
	if strings.Contains(text, foreignKey) && !a.foreign.allow(time.Now()) || !a.rate.allow(time.Now()) {
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
