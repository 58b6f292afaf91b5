package transport

import (
	"bytes"
	"context"
	"log"
	"log/slog"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/wire"
	"golang.org/x/time/rate"
)

const (
	// eventEvery is the least time between two records of one event: strangers, and a revoked machine, can cause one
	// with every packet.
	eventEvery = time.Minute
	// Lines that are logged as they are, at level debug: logBurst at once, then one per logEvery.
	logBurst = 20
	logEvery = 200 * time.Millisecond

	suspectPrefix, suspectSuffix = "Suspect ", " has failed, no acks received"
	unheardPrefix, unheardSuffix = "Failed UDP ping: ", " (timeout reached)"
)

// fullID matches a whole node id; the log shows the short form.
var fullID = regexp.MustCompile(`\b[0-9a-f]{32}\b`)

// logEvent is what an operator is told in place of memberlist lines that contain a given text.
type logEvent struct {
	in    string // the text
	level slog.Level
	msg   string
}

// logEvents lists the events; the first whose text a line contains counts. Lines that match none are useful only to
// somebody who knows memberlist. Failed or returning members, and the loss of UDP, are reported as events elsewhere.
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
	{AcceptFailed, slog.LevelWarn, "cannot take a connection on the mesh port; trying again"},
	{ReadFailed, slog.LevelWarn, "cannot read from the mesh port; trying again"},
}

const refuted = "another node took this one for unreachable; told it otherwise"

// Log turns memberlist's lines into our events. Text from peers becomes an escaped attribute.
type Log struct {
	logger *slog.Logger
	self   frame.ID
	// Suspected is called with a peer that did not answer our probe: memberlist reports that nowhere else. It is called
	// on whichever memberlist goroutine logs, and must not block.
	Suspected func(frame.ID)
	// Unheard is likewise called with a peer that did not answer a ping by UDP. nil: not called.
	Unheard func(frame.ID)

	rates []eventRate // by index in logEvents
	debug *rate.Limiter
}

type eventRate struct {
	*rate.Limiter
	muted atomic.Int64 // since the last record
}

// NewLog returns a Log of the node self.
func NewLog(logger *slog.Logger, self frame.ID) *Log {
	a := &Log{
		logger: logger, self: self, rates: make([]eventRate, len(logEvents)), debug: rate.NewLimiter(rate.Every(logEvery), logBurst),
	}
	for i := range a.rates {
		a.rates[i].Limiter = rate.NewLimiter(rate.Every(eventEvery), 1)
	}
	return a
}

// named returns the node that a line names between this prefix and suffix.
func named(text, prefix, suffix string) (id frame.ID, ok bool) {
	if text, ok = strings.CutPrefix(text, prefix); !ok {
		return id, false
	}
	if text, ok = strings.CutSuffix(text, suffix); !ok {
		return id, false
	}
	id, err := frame.ParseID(text)
	return id, err == nil
}

// Standard returns the logger for memberlist.
func (a *Log) Standard() *log.Logger { return log.New(a, "", 0) }

// Write takes one line. It never fails.
func (a *Log) Write(line []byte) (int, error) {
	text := string(bytes.TrimSpace(line))
	if rest, ok := strings.CutPrefix(text, "["); ok {
		if _, rest, ok := strings.Cut(rest, "] "); ok {
			text = rest
		}
	}
	text = strings.TrimPrefix(text, "memberlist: ")
	if id, ok := named(text, suspectPrefix, suspectSuffix); ok && a.Suspected != nil {
		a.Suspected(id)
	}
	if id, ok := named(text, unheardPrefix, unheardSuffix); ok && a.Unheard != nil {
		a.Unheard(id)
	}
	a.Record(time.Now(), text)
	return len(line), nil
}

// Record logs the event that a line matches, or the line itself at level debug.
func (a *Log) Record(now time.Time, text string) {
	ctx := context.Background()
	for i, e := range logEvents {
		// At each start a node refutes what the others remember of its last run; memberlist then names the node itself
		// as the source.
		if !strings.Contains(text, e.in) || strings.Contains(text, "(from: "+a.self.String()+")") {
			continue
		}
		if r := &a.rates[i]; !r.AllowN(now, 1) {
			r.muted.Add(1)
		} else if a.logger.Enabled(ctx, e.level) {
			a.logger.LogAttrs(ctx, e.level, e.msg, attrsOf(text, e.in, r.muted.Swap(0))...)
		}
		return
	}
	if a.logger.Enabled(ctx, slog.LevelDebug) && a.debug.AllowN(now, 1) {
		a.logger.LogAttrs(ctx, slog.LevelDebug, "membership", slog.String("text", shortIDs(text)))
	}
}

// attrsOf returns what a line says besides in, the text its event matches: a node, an address, and the error, which
// follows the last colon; and how many such lines were muted before.
func attrsOf(text, in string, muted int64) (attrs []slog.Attr) {
	if id := fullID.FindString(text); id != "" {
		attrs = append(attrs, slog.String("id", shortIDs(id)))
	}
	text, from, ok := strings.Cut(text, " from=")
	if ok {
		attrs = append(attrs, slog.String("from", wire.Escape(from, wire.MaxLogText)))
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
	return fullID.ReplaceAllStringFunc(wire.Escape(text, wire.MaxLogText), func(id string) string { return id[:8] })
}
