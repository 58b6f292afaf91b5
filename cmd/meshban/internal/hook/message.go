package hook

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// Kinds of messages; a heartbeat's is config.HookAlive.
const (
	kindEvents = "events"
	kindDigest = "digest"
	kindTest   = "test"
)

const (
	maxTops  = 10     // entries of each list of a digest
	maxKeys  = 10_000 // that a digest counts by; what is beyond goes by the name of others
	maxField = 500    // bytes of a field of an event in a line
	others   = "others"
)

// message is what a receiver gets; its JSON is the body of preset json and the stdin of a command.
type message struct {
	Node    string          `json:"node"`
	Hook    string          `json:"hook"`
	Time    time.Time       `json:"time"`
	Kind    string          `json:"kind"`
	Counts  map[string]int  `json:"counts,omitempty"` // events by name
	Events  []control.Event `json:"events"`
	More    int             `json:"more"`    // events that are counted only
	Dropped uint64          `json:"dropped"` // events of any kind that there was no room for
	Digest  *digest         `json:"digest,omitempty"`
}

// digest sums up bans.
type digest struct {
	Bans []tally `json:"bans"` // by node and source, the most first
	Nets []tally `json:"nets"` // by /24 or /48, the most first
}

type tally struct {
	Name  string `json:"name"`
	Count int    `json:"count"`
}

// batch gathers events for one message.
type batch struct {
	most   int
	counts map[string]int
	events []control.Event
	more   int
	by     map[string]int // node and source -> bans; nil = no digest
	nets   map[string]int
}

func newBatch(c config.Hook) *batch {
	b := &batch{most: c.AtMost, counts: map[string]int{}}
	if c.Digest() {
		b.by, b.nets = map[string]int{}, map[string]int{}
	}
	return b
}

func (b *batch) add(e *event) {
	b.counts[e.kind]++
	if b.by != nil && e.Prefix.IsValid() {
		if e.kind == "ban" {
			bits := 24
			if e.Prefix.Addr().Is6() {
				bits = 48
			}
			net := netip.PrefixFrom(e.Prefix.Addr(), min(bits, e.Prefix.Bits())).Masked()
			tallyUp(b.by, e.Origin+" "+e.Source)
			tallyUp(b.nets, net.String())
		}
		return
	}
	if len(b.events) == b.most {
		b.more++
		return
	}
	b.events = append(b.events, e.Event)
}

func tallyUp(counts map[string]int, key string) {
	if _, ok := counts[key]; !ok && len(counts) >= maxKeys {
		key = others
	}
	counts[key]++
}

// fill completes a message with what was gathered.
func (b *batch) fill(m *message) {
	m.Kind, m.Counts, m.Events, m.More = kindEvents, b.counts, b.events, b.more
	if b.by != nil {
		m.Kind, m.Digest = kindDigest, &digest{Bans: tops(b.by), Nets: tops(b.nets)}
	}
}

func tops(counts map[string]int) []tally {
	all := make([]tally, 0, len(counts))
	for name, n := range counts {
		all = append(all, tally{name, n})
	}
	slices.SortFunc(all, func(a, b tally) int { return cmp.Or(b.Count-a.Count, strings.Compare(a.Name, b.Name)) })
	return all[:min(len(all), maxTops)]
}

// title returns the message in one line.
func (m *message) title() string {
	switch m.Kind {
	case kindTest:
		return fmt.Sprintf("meshban on %s: this is a test of hook %s", m.Node, m.Hook)
	case config.HookAlive:
		return fmt.Sprintf("meshban on %s is alive", m.Node)
	}
	var parts []string
	for _, kind := range config.HookEvents() {
		if n := m.Counts[kind]; n > 0 {
			parts = append(parts, control.Count(n)+" "+kind)
		}
	}
	return fmt.Sprintf("meshban on %s: %s", m.Node, strings.Join(parts, ", "))
}

// lines returns what the message says below its title, and how many events are not among them.
func (m *message) lines() (lines []string, more int) {
	if m.Digest != nil {
		for _, list := range []struct {
			title string
			of    []tally
		}{{"bans by node and source:", m.Digest.Bans}, {"bans by network:", m.Digest.Nets}} {
			if len(list.of) > 0 {
				lines = append(lines, list.title)
			}
			for _, t := range list.of {
				lines = append(lines, "  "+control.Count(t.Count)+"  "+clean(t.Name))
			}
		}
	}
	for _, e := range m.Events {
		lines = append(lines, eventLine(e))
	}
	return lines, m.More
}

// text returns the message as plain text of at most limit bytes: the title, then whole lines.
func (m *message) text(limit int) string {
	const room = 120 // for the last two lines
	lines, more := m.lines()
	var b strings.Builder
	b.WriteString(m.title())
	for i, line := range lines {
		if b.Len()+1+len(line) > limit-room {
			more += len(lines) - i
			break
		}
		b.WriteString("\n" + line)
	}
	if more > 0 {
		b.WriteString("\nand " + control.Count(more) + " more")
	}
	if m.Dropped > 0 {
		b.WriteString("\n" + control.Count(m.Dropped) + " events came too fast to be counted by kind")
	}
	return b.String()
}

// eventLine returns an event in one line.
func eventLine(e control.Event) string {
	var b strings.Builder
	b.WriteString(e.Name)
	if e.Prefix.IsValid() {
		b.WriteString(" " + e.Prefix.String())
		if e.Ports != "" && e.Ports != "all" {
			b.WriteString(" ports " + clean(e.Ports))
		}
		if !e.Until.IsZero() {
			b.WriteString(" until " + e.Until.String())
		}
		b.WriteString(" by " + clean(e.Origin))
		if e.Source != "" {
			b.WriteString(" (" + clean(e.Source) + ")")
		}
	} else {
		b.WriteString(" " + clean(e.Origin))
		if e.Source != "" {
			b.WriteString(": " + clean(e.Source))
		}
	}
	if e.NotEnforced != "" {
		b.WriteString(": " + clean(e.NotEnforced))
	} else if e.Reason != "" {
		b.WriteString(": " + clean(e.Reason))
	}
	return b.String()
}

// clean makes foreign text one printable line of at most maxField bytes.
func clean(s string) string {
	if s = control.Printable(s); len(s) > maxField {
		s = strings.ToValidUTF8(s[:maxField], "") + "..."
	}
	return s
}
