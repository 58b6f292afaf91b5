package enforce

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
)

// offender is a memory of offences with its own clock.
type offender struct {
	*Offences
	now    time.Time
	memory time.Duration
}

func newOffender(t *testing.T) *offender {
	t.Helper()
	o := &offender{now: time.UnixMilli(1_800_000_000_000), memory: time.Hour}
	var err error
	if o.Offences, err = newOffences(openStore(t), o.now, o.memory); err != nil {
		t.Fatal(err)
	}
	return o
}

// tell reports an event about a ban of addr that ends in the given number of seconds.
func (o *offender) tell(addr string, event ban.Event, seconds int, source string) {
	c := ban.Change{Event: event, Prefix: netip.MustParsePrefix(addr), Until: o.now.Add(time.Duration(seconds) * time.Second), Source: source}
	c.Enforce, c.Lift = event == ban.EventBan || event == ban.EventRefresh, event == ban.EventUnban || event == ban.EventExpire
	o.Changed(o.now, c, o.memory)
}

func (o *offender) pass(seconds int) { o.now = o.now.Add(time.Duration(seconds) * time.Second) }

func (o *offender) count(addr string) int {
	return o.Count(o.now, netip.MustParseAddr(addr), o.memory)
}

func TestOffencesAreCountedOnce(t *testing.T) {
	t.Parallel()
	o := newOffender(t)
	const addr, prefix = "192.0.2.7", "192.0.2.7/32"
	o.tell(prefix, ban.EventBan, 60, "line")
	o.pass(10)
	o.tell(prefix, ban.EventRefresh, 60, "line")
	o.tell(prefix, ban.EventBan, 60, "line") // for other ports, or after an allow
	if n := o.count(addr); n != 1 {
		t.Errorf("one time in force: %d offences", n)
	}
	o.pass(59)
	o.tell(prefix, ban.EventBan, 60, "line")
	o.pass(61)
	o.tell(prefix, ban.EventExpire, 0, "line")
	if n := o.count(addr); n != 1 {
		t.Errorf("a refresh moves the end: %d offences", n)
	}
	o.tell(prefix, ban.EventBan, 60, "line")
	if n := o.count(addr); n != 2 {
		t.Errorf("a second time in force: %d offences", n)
	}
	o.pass(3661)
	if n := o.count(addr); n != 0 {
		t.Errorf("after the memory: %d offences", n)
	}
	o.tell(prefix, ban.EventBan, 60, "import")
	o.tell("192.0.2.0/24", ban.EventBan, 60, "line")
	if n := o.count(addr); n != 0 || o.byAge.Len() != 1 {
		t.Errorf("an import, or a network: %d offences of %d", n, o.byAge.Len())
	}
	o.tell(prefix, ban.EventBan, 60, "line")
	o.tell(prefix, ban.EventUnban, 60, "line")
	if n := o.count(addr); n != 0 || o.byAge.Len() != 0 {
		t.Errorf("after an unban: %d offences of %d", n, o.byAge.Len())
	}
}

func TestOffencesAreBoundedAndStored(t *testing.T) {
	t.Parallel()
	o := newOffender(t)
	name := func(i int) string { return fmt.Sprintf("11.%d.%d.%d", i>>16, i>>8&255, i&255) }
	for i := range maxOffenders + 10 {
		o.tell(name(i)+"/32", ban.EventBan, 60, "line")
	}
	if o.byAge.Len() != maxOffenders || o.count(name(9)) != 0 || o.count(name(10)) != 1 {
		t.Errorf("%d are remembered", o.byAge.Len())
	}
	if err := o.store.Flush(); err != nil {
		t.Fatal(err)
	}
	back, err := newOffences(o.store, o.now, o.memory)
	if err != nil {
		t.Fatal(err)
	}
	if back.byAge.Len() != maxOffenders || back.of(o.now, netip.MustParseAddr(name(10)), o.memory).count != 1 {
		t.Errorf("%d come back", back.byAge.Len())
	}
	back, err = newOffences(o.store, o.now.Add(2*o.memory), o.memory)
	if err != nil || back.byAge.Len() != 0 {
		t.Errorf("%d come back when all are forgotten, %v", back.byAge.Len(), err)
	}
}

func TestBansGrowByTheFormula(t *testing.T) {
	t.Parallel()
	o := newOffender(t)
	now := o.now
	for _, c := range []struct {
		name   string
		factor int
		was    offence
		length time.Duration
		want   time.Duration
		reason string
	}{
		{"ok: off", 1, offence{5, 0}, time.Hour, time.Hour, "port 22"},
		{"ok: first", 2, offence{}, time.Hour, time.Hour, "port 22"},
		{"ok: first, again while it lasts", 2, offence{1, now.UnixMilli() + 9999}, time.Hour, time.Hour, "port 22"},
		{"ok: second", 2, offence{1, now.UnixMilli()}, time.Hour, 2 * time.Hour, "port 22, 2nd offence: 1h x 2 = 2h"},
		{"ok: third", 2, offence{2, now.UnixMilli()}, 30 * time.Minute, 2 * time.Hour, "port 22, 3rd offence: 30m x 4 = 2h"},
		{"ok: third, again while it lasts", 2, offence{3, now.UnixMilli() + 9999}, 30 * time.Minute, 2 * time.Hour, "port 22, 3rd offence: 30m x 4 = 2h"},
		{"ok: third by ten", 10, offence{2, now.UnixMilli()}, time.Minute, 100 * time.Minute, "port 22, 3rd offence: 1m x 100 = 1h40m"},
		{"ok: capped", 2, offence{11, now.UnixMilli()}, time.Hour, 20 * time.Hour, "port 22, 12th offence: 20h, the longest"},
		{"ok: no overflow", 10, offence{maxCounted, now.UnixMilli()}, time.Hour, 20 * time.Hour, "port 22, 65th offence: 20h, the longest"},
		{"ok: longest already", 2, offence{3, now.UnixMilli()}, 20 * time.Hour, 20 * time.Hour, "port 22"},
	} {
		t.Run(c.name, func(t *testing.T) {
			by := config.Escalation{Factor: c.factor, Memory: time.Hour}
			prefix := netip.MustParsePrefix("192.0.2.7/32")
			o.byAge.Remove(prefix.Addr())
			if c.was.count > 0 {
				c.was.until = max(c.was.until, now.UnixMilli()-1000)
				o.byAge.Add(prefix.Addr(), c.was)
			}
			op := ban.Op{Kind: ban.KindBan, Prefix: prefix, Until: now.Add(c.length), Reason: "port 22"}
			o.Escalate(now, &op, c.length, 20*time.Hour, by)
			if want := now.Add(c.want).UTC(); !op.Until.Equal(want) || op.Reason != c.reason {
				t.Errorf("%v, %q; want %v, %q", op.Until.Sub(now), op.Reason, c.want, c.reason)
			}
			op.Reason = strings.Repeat("x", ban.MaxReason)
			o.Escalate(now, &op, c.length, 20*time.Hour, by)
			if err := op.Validate(); err != nil {
				t.Error(err)
			}
		})
	}
}
