package pki

import (
	"fmt"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/wire"
)

// Caps bounds what a node may say. A zero number leaves the bound to the receiver.
type Caps struct {
	Rate     uint32        // bans per minute
	Active   uint32        // bans at a time
	MinBits4 uint8         // widest prefix, IPv4: 0 to 32
	MinBits6 uint8         // widest prefix, IPv6: 0 to 128
	MaxTTL   time.Duration // of a ban; whole seconds, at most frame.MaxLife
	UnbanAny bool          // may lift the bans of others
	Import   bool          // may send imported bans at the rate for those
	// NoDrill: others do not take part in its drills. It denies a right, unlike the other fields, so that older
	// certificates allow drills: a drill only bans an unused address for ten seconds, which any member may do anyway. Older
	// nodes refuse a certificate in which it is set.
	NoDrill bool
}

// DefaultCaps returns the caps of a node unless others are set: every number is left to the receivers.
func DefaultCaps() Caps { return Caps{UnbanAny: true, Import: true} }

// CapsFields is how many numbers encode Caps.
const CapsFields = 6

// Validate returns an error if the caps cannot be encoded.
func (c Caps) Validate() error {
	switch {
	case c.MinBits4 > 32 || c.MinBits6 > 128:
		return fmt.Errorf("caps: widest prefixes /%d and /%d: want at most /32 and /128", c.MinBits4, c.MinBits6)
	case c.MaxTTL < 0 || c.MaxTTL > frame.MaxLife || c.MaxTTL%time.Second != 0:
		return fmt.Errorf("caps: bans for %.3f s: want whole seconds, at most %d days", c.MaxTTL.Seconds(), frame.MaxLife/(24*time.Hour))
	}
	return nil
}

// Append appends the CapsFields numbers to b.
func (c Caps) Append(b []byte) []byte {
	b = wire.AppendUint(b, uint64(c.Rate))
	b = wire.AppendUint(b, uint64(c.Active))
	b = wire.AppendUint(b, uint64(c.MinBits4))
	b = wire.AppendUint(b, uint64(c.MinBits6))
	b = wire.AppendUint(b, uint64(c.MaxTTL/time.Second))
	return wire.AppendUint(b, wire.Flag(c.UnbanAny)|wire.Flag(c.Import)<<1|wire.Flag(c.NoDrill)<<2)
}

// ReadCaps reads what Append wrote.
func ReadCaps(r *wire.Reader) (c Caps) {
	c.Rate, c.Active = uint32(r.Most(1<<32-1)), uint32(r.Most(1<<32-1))
	c.MinBits4, c.MinBits6 = uint8(r.Most(32)), uint8(r.Most(128))
	c.MaxTTL = time.Duration(r.Most(uint64(frame.MaxLife/time.Second))) * time.Second
	flags := r.Flags(7)
	c.UnbanAny, c.Import, c.NoDrill = flags&1 != 0, flags&2 != 0, flags&4 != 0
	return c
}
