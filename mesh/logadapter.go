package mesh

import (
	"bytes"
	"context"
	"log"
	"log/slog"
	"regexp"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// maxLogText bounds a text that the log takes from memberlist, in bytes, before escaping.
	maxLogText = 512
	// eventEvery is the least time between two records of one event: strangers, and a revoked machine, can cause one with every
	// packet.
	eventEvery = time.Minute
	// logBurst lines at once, then one per logEvery, of those that are logged as they are, at level debug.
	logBurst = 20
	logEvery = 200 * time.Millisecond

	suspectPrefix, suspectSuffix = "Suspect ", " has failed, no acks received"
	unheardPrefix, unheardSuffix = "Failed UDP ping: ", " (timeout reached)"
)

// fullID is a whole node id, of which the log has the short form.
var fullID = regexp.MustCompile(`\b[0-9a-f]{32}\b`)

// logEvent is what an operator is told in place of memberlist's lines with a given text.
type logEvent struct {
	in    string // the text
	level slog.Level
	msg   string
}

// logEvents holds the events; the first that fits a line counts. What fits none is of use only to who knows memberlist.
// Members that fail or come back are events of their own, as is the loss of UDP.
var logEvents = []logEvent{
	{"no installed keys could decrypt", slog.LevelInfo, "ignored a message in the key of another mesh, or in one that was rotated away"},
	{"Refuting a suspect ", slog.LevelInfo, refuted},
	{"Refuting a dead ", slog.LevelInfo, refuted},
	{"Push/Pull with ", slog.LevelInfo, "could not compare the list of members with another node"},
	{"Failed to send", slog.LevelInfo, "could not send to another node"},
	{"Failed to forward", slog.LevelInfo, "could not send to another node"},
	{"Failed to push", slog.LevelInfo, "could not send to another node"},
	{"ailed to receive", slog.LevelInfo, "a connection of another node broke off"},
	{"Failed to read", slog.LevelInfo, "a connection of another node broke off"},
	{"Failed to decode", slog.LevelInfo, "ignored a message that cannot be read"},
	{"not supported", slog.LevelInfo, "ignored a message that cannot be read"},
	{"invalid msgType", slog.LevelInfo, "ignored a message that cannot be read"},
	{"handler queue full", slog.LevelWarn, "news of members come faster than this node can take them; some are dropped"},
	{"Too many pending push/pull", slog.LevelWarn, "more nodes compare the list of members than this node can serve; the rest try again"},
	{acceptFailed, slog.LevelWarn, "cannot take a connection on the mesh port; trying again"},
	{readFailed, slog.LevelWarn, "cannot read from the mesh port; trying again"},
}

const (
	refuted = "another node took this one for unreachable; told it otherwise"
	// How the lines of sockets begin.
	acceptFailed, readFailed = "accept a stream: ", "read a packet: "
)

// logAdapter turns memberlist's lines into events of ours. What peers said is an escaped attribute.
type logAdapter struct {
	logger *slog.Logger
	self   ID
	// suspected is told of a peer that did not answer our probe: memberlist says so nowhere else. Called by whichever
	// goroutine of memberlist's logs; must not block.
	suspected func(ID)
	// unheard is likewise told of a peer that did not answer a ping by UDP. nil: nobody is.
	unheard func(ID)

	rates []eventRate // by the place in logEvents
	debug limiter
}

type eventRate struct {
	limiter
	muted atomic.Int64 // since the last record
}

func newLogAdapter(logger *slog.Logger, self ID, suspected func(ID)) *logAdapter {
	a := &logAdapter{
		logger: logger, self: self, suspected: suspected, rates: make([]eventRate, len(logEvents)), debug: limiter{burst: logBurst, every: logEvery},
	}
	for i := range a.rates {
		a.rates[i].burst, a.rates[i].every = 1, eventEvery
	}
	return a
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

func (a *logAdapter) standard() *log.Logger { return log.New(a, "", 0) }

// Write takes one line. It never fails.
func (a *logAdapter) Write(line []byte) (int, error) {
	text := string(bytes.TrimSpace(line))
	if rest, ok := strings.CutPrefix(text, "["); ok {
		if _, rest, ok := strings.Cut(rest, "] "); ok {
			text = rest
		}
	}
	text = strings.TrimPrefix(text, "memberlist: ")
	if id, ok := named(text, suspectPrefix, suspectSuffix); ok && a.suspected != nil {
		a.suspected(id)
	}
	if id, ok := named(text, unheardPrefix, unheardSuffix); ok && a.unheard != nil {
		a.unheard(id)
	}
	a.record(time.Now(), text)
	return len(line), nil
}

// record logs the event that a line stands for, or at level debug the line as it is.
func (a *logAdapter) record(now time.Time, text string) {
	ctx := context.Background()
	for i, e := range logEvents {
		// At a start every node refutes what the others remember of its last run, as if it had said so itself.
		if !strings.Contains(text, e.in) || strings.Contains(text, "(from: "+a.self.String()+")") {
			continue
		}
		if rate := &a.rates[i]; !rate.allow(now) {
			rate.muted.Add(1)
		} else if a.logger.Enabled(ctx, e.level) {
			a.logger.LogAttrs(ctx, e.level, e.msg, attrsOf(text, e.in, rate.muted.Swap(0))...)
		}
		return
	}
	if a.logger.Enabled(ctx, slog.LevelDebug) && a.debug.allow(now) {
		a.logger.LogAttrs(ctx, slog.LevelDebug, "membership", slog.String("text", shortIDs(text)))
	}
}

// attrsOf returns what a line tells beside in, which its event stands for: a node, an address, and what went wrong, which
// stands behind the last colon; and how many such lines were left out before.
func attrsOf(text, in string, muted int64) (attrs []slog.Attr) {
	if id := fullID.FindString(text); id != "" {
		attrs = append(attrs, slog.String("id", shortIDs(id)))
	}
	text, from, ok := strings.Cut(text, " from=")
	if ok {
		attrs = append(attrs, slog.String("from", escapeText(from, maxLogText)))
	}
	if i := strings.LastIndex(text, ": "); i > strings.Index(text, in) && !strings.Contains(text, "(from: ") {
		attrs = append(attrs, slog.String("err", shortIDs(text[i+2:])))
	}
	if muted > 0 {
		attrs = append(attrs, slog.Int64("muted", muted))
	}
	return attrs
}

// shortIDs escapes a text and shortens the ids in it.
func shortIDs(text string) string {
	return fullID.ReplaceAllStringFunc(escapeText(text, maxLogText), func(id string) string { return id[:8] })
}
