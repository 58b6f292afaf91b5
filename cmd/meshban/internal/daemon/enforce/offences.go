package enforce

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/hashicorp/golang-lru/simplelru"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/store"
)

const (
	// maxOffenders bounds the addresses whose offences are remembered, about 10 MB when full.
	maxOffenders = 1 << 16
	// valueOffences prefixes their names in the store.
	valueOffences = "offences/"
)

// offence says how often an address was banned, including the current ban.
type offence struct {
	count uint16
	until int64 // when the last of these bans ends or ended, in Unix milliseconds
}

// Offences remembers former offenders and stores each change.
type Offences struct {
	store *store.Store
	byAge *simplelru.LRU // netip.Addr -> offence, the latest change in front
}

// newOffences restores what an earlier run stored, except what is older than memory.
func newOffences(s *store.Store, now time.Time, memory time.Duration) (*Offences, error) {
	o := &Offences{store: s}
	var err error
	o.byAge, err = simplelru.NewLRU(maxOffenders, func(addr, _ any) { s.Set(nameOfOffences(addr.(netip.Addr)), nil) })
	if err != nil {
		return nil, fmt.Errorf("make the memory of offences: %w", err)
	}
	err = s.Values(valueOffences, func(rest string, value []byte) {
		addr, err := netip.ParseAddr(rest)
		if err != nil || len(value) != 10 {
			return
		}
		was := offence{binary.BigEndian.Uint16(value), int64(binary.BigEndian.Uint64(value[2:]))}
		if now.UnixMilli()-was.until > memory.Milliseconds() {
			s.Set(nameOfOffences(addr), nil)
			return
		}
		o.byAge.Add(addr, was)
	})
	return o, err
}

func nameOfOffences(addr netip.Addr) string { return valueOffences + addr.String() }

// of returns what is remembered about addr.
func (o *Offences) of(now time.Time, addr netip.Addr, memory time.Duration) offence {
	v, ok := o.byAge.Peek(addr)
	if !ok || now.UnixMilli()-v.(offence).until > memory.Milliseconds() {
		return offence{}
	}
	return v.(offence)
}

// Count returns how often addr was banned, as far as it is remembered.
func (o *Offences) Count(now time.Time, addr netip.Addr, memory time.Duration) int {
	return int(o.of(now, addr, memory).count)
}

// Changed records what became of a ban. A ban that begins while another of the same address is in force is the same
// offence; so is an extension.
func (o *Offences) Changed(now time.Time, c ban.Change, memory time.Duration) {
	if !c.Prefix.IsSingleIP() || ban.Imported(c.Source) {
		return
	}
	addr := c.Prefix.Addr()
	switch {
	case c.Event == ban.EventUnban && c.Lift:
		o.byAge.Remove(addr) // and, by the eviction callback, from the store
		return
	case !c.Enforce:
		return
	}
	was := o.of(now, addr, memory)
	is := offence{was.count, max(was.until, c.Until.UnixMilli())}
	if now.UnixMilli() >= was.until && is.count < maxCounted {
		is.count++
	}
	if is == was {
		return
	}
	o.byAge.Add(addr, is)
	value := binary.BigEndian.AppendUint16(nil, is.count)
	o.store.Set(nameOfOffences(addr), binary.BigEndian.AppendUint64(value, uint64(is.until)))
}

// maxCounted bounds the counted offences of one address: 22 doublings of a second are already longer than any ban.
const maxCounted = 64

// Escalate lengthens a local ban of one address that has offended before, from length to at most longest, and notes
// that in the ban's reason.
func (o *Offences) Escalate(now time.Time, op *ban.Op, length, longest time.Duration, by config.Escalation) {
	if by.Factor <= 1 || !op.Prefix.IsSingleIP() {
		return
	}
	was := o.of(now, op.Prefix.Addr(), by.Memory)
	former := int(was.count)
	if now.UnixMilli() < was.until { // the current ban is not a former one
		former--
	}
	if former < 1 || length >= longest {
		return
	}
	times, grown := 1, length
	for range former {
		if grown > longest/time.Duration(by.Factor) {
			grown = longest
			break
		}
		times, grown = times*by.Factor, grown*time.Duration(by.Factor)
	}
	text := fmt.Sprintf("%s offence: %s x %d = %s", ordinal(former+1), config.FormatDuration(length), times, config.FormatDuration(grown))
	if grown == longest {
		text = fmt.Sprintf("%s offence: %s, the longest", ordinal(former+1), config.FormatDuration(grown))
	}
	if op.Reason != "" {
		text = ban.CleanText(op.Reason, ban.MaxReason-len(text)-2) + ", " + text
	}
	op.Until, op.Reason = now.Add(grown).UTC().Truncate(time.Millisecond), text
}

// CountInForce records the bans in force as offences. Call it when escalation is turned on: until then, no offences
// were counted.
func (s *State) CountInForce(memory time.Duration) {
	s.Entries(func(e ban.Entry) bool {
		if e.State == ban.StateEnforced {
			s.View(func(*ban.Table) {
				s.Offences.Changed(time.Now(), ban.Change{Prefix: e.Prefix, Until: e.Until, Source: e.Source, Enforce: true}, memory)
			})
		}
		return true
	})
}

// ordinal writes 1st, 2nd, 3rd, 11th.
func ordinal(n int) string {
	switch {
	case n%10 == 1 && n%100 != 11:
		return fmt.Sprintf("%dst", n)
	case n%10 == 2 && n%100 != 12:
		return fmt.Sprintf("%dnd", n)
	case n%10 == 3 && n%100 != 13:
		return fmt.Sprintf("%drd", n)
	}
	return fmt.Sprintf("%dth", n)
}
