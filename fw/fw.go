// Package fw makes the kernel drop what is banned.
//
// A [Backend] knows one way to do that (ipset, nftables, plain iptables rules, or none at all); [Open] picks one by
// trying it for real. A [Syncer] owns the backend: it carries every change to the kernel at once, checks from time to
// time that the kernel still holds what it should, and restores what somebody else removed.
//
// What the package promises:
//   - the rules stay in place while the sets change, and a full reload drops every listed address throughout;
//   - the kernel forgets an entry at its end by itself, except with plain iptables rules;
//   - only objects named meshban... are touched; rules of others stay as they are, byte for byte;
//   - when the process ends the kernel keeps what it has; only [Teardown] takes it out.
package fw

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/netip"
	"time"
)

// Names of the backends, as [Open] takes them. NameAuto stands for all the others in order of preference.
const (
	NameAuto     = "auto"
	NameIPSet    = "ipset"
	NameNFTables = "nftables"
	NameIPTables = "iptables"
	NameNone     = "none"
)

// MaxPortElements bounds the ports of an entry, counted once for each protocol: sets hold each as an element.
const MaxPortElements = 1024

// Entry is one thing to drop: packets whose source lies in Prefix, and whose destination port is among Ports.
type Entry struct {
	Prefix netip.Prefix // an address is a prefix of full length; never 4-in-6, never of length 0
	Ports  []PortRange  // nil = every packet, of whatever protocol
	Until  time.Time    // the end; an ended entry counts as removed
	Own    bool         // this node's own: it overtakes bans of peers, and its ports may use the reserved room
}

// Update is a change of one entry. Adding an existing entry resets its end.
type Update struct {
	Entry
	Remove bool // remove it; Until is ignored; no error if it is not there
}

// State is all the entries that the kernel should hold.
type State struct {
	Entries iter.Seq[Entry] // each key once; may be iterated only once
	Len     int             // approximate number, to size sets
	// Meanwhile yields entries that came since it, or Entries, was last read. A Replace that still sends elements after
	// the end of Entries reads it after each slice of them, so that a fresh entry waits for at most one slice. nil =
	// there are none.
	Meanwhile iter.Seq[Entry]
}

// Backend is one way to make the kernel drop packets. It is not safe for concurrent use: the [Syncer] owns it.
type Backend interface {
	// Name is the name that Open takes.
	Name() string
	Traits() Traits
	// Replace makes the kernel hold exactly the entries. It creates what is missing. It switches from old to new so
	// that no packet of an address listed in both passes meanwhile; if ctx has ended by then, it does not switch.
	// SetExceptions may be called while it reads the entries.
	Replace(ctx context.Context, now time.Time, state State) error
	// Apply carries out a batch that holds each key at most once. A *PartialError says that some entries could not be
	// enforced and all others are. After any other error it is unknown which are.
	Apply(ctx context.Context, now time.Time, updates []Update) error
	// SetExceptions makes the kernel never drop what is in x. Both lists are sorted and within their bounds, and no
	// prefix of a list lies inside another. from is what the kernel holds, so that only the difference is sent; nil =
	// unknown, both lists are rewritten. After an error each prefix in both from and x is still excepted; nothing else
	// is certain.
	SetExceptions(ctx context.Context, x Exceptions, from *Exceptions) error
	// Check says in plain words what of ours is missing, altered or out of place. It only reads, costs a few
	// milliseconds at most, and does not look into the sets.
	Check(ctx context.Context) (problems []string, err error)
	// Dropped says what the rules of each family have dropped since they were last written. It may be called while
	// other methods run.
	Dropped(ctx context.Context) (v4, v6 Dropped, err error)
	// Hits reads the counters of all entries, with [Options.Counters]. It may be called while other methods run.
	Hits(ctx context.Context) (Hits, error)
	// Close frees sockets; the kernel keeps dropping.
	Close() error
}

// Dropped counts packets of banned addresses.
type Dropped struct{ Packets, Bytes uint64 }

// Traits say what is special about a backend. They do not change.
type Traits struct {
	LetsThrough string        // which packets it cannot drop on this machine, and why; "" = none
	Unsavable   bool          // `nft list ruleset` prints its rules in a form that cannot be loaded again
	MaxTimeout  time.Duration // the longest timeout that the kernel can hold; 0 = no limit. A longer one is cut, and renewed later
	Quick       bool          // Apply takes a few updates in one exchange over netlink
	// DuringLoad: Apply also works while Replace reads the entries, on the sets that are still in force. A load of a million
	// entries then does not hold up a fresh one.
	DuringLoad bool
	// Slice is how many updates of a bulk are worth a separate Apply, so that a fresh update waits for at most one. 0
	// means that slices do not pay: each Apply starts a process, or a transaction whose cost depends on all that the
	// sets hold.
	Slice      int
	CountsUpTo int // Hits takes too long for more entries; 0 = no limit
}

// Outbound says what happens to connections that this machine itself opens to a banned address.
type Outbound uint8

const (
	OutboundDrop  Outbound = iota // the answers are dropped too: nothing from a banned address gets in
	OutboundAllow                 // answers to connections that began here get in
)

func (o Outbound) String() string {
	if o == OutboundAllow {
		return "allow"
	}
	return "drop"
}

// ParseOutbound reads "drop" or "allow".
func ParseOutbound(s string) (Outbound, error) {
	switch s {
	case "drop":
		return OutboundDrop, nil
	case "allow":
		return OutboundAllow, nil
	}
	return 0, fmt.Errorf("outbound %q: write drop or allow", s)
}

// DefaultLockTimeout is how long one iptables command waits for the xtables lock.
const DefaultLockTimeout = 5 * time.Second

// Options are common to all backends.
type Options struct {
	Outbound    Outbound
	Counters    bool          // count packets for each entry: see Hits
	Logger      *slog.Logger  // nil = silent
	IPTables    string        // name or path of the IPv4 command; "" = "iptables"; the IPv6 one is named after it
	LockTimeout time.Duration // whole seconds, rounded up; 0 = DefaultLockTimeout
	Refused     error         // if set, why the kernel is left alone, so that only NameNone works
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.IPTables == "" {
		o.IPTables = "iptables"
	}
	if o.LockTimeout <= 0 {
		o.LockTimeout = DefaultLockTimeout
	}
	return o
}

// Errors that callers branch on.
var (
	// ErrPermission: the process may not change the firewall.
	ErrPermission = errors.New("needs root or CAP_NET_ADMIN")
	// ErrUnsupported: this machine lacks what the backend needs.
	ErrUnsupported = errors.New("not supported here")
	// ErrLocked: another program held the xtables lock for all of LockTimeout.
	ErrLocked = errors.New("the xtables lock is held by another program")
	// ErrClaimed: another agent's bans are in this kernel, under the same names.
	ErrClaimed = errors.New("another agent enforces bans in this kernel")
)

// PartialError says that a batch or load is enforced except for some entries or, if Left is 0, that all of it is
// enforced but something else went wrong.
type PartialError struct {
	Left    int       // entries not enforced
	Why     string    // in plain words
	Refused []Refusal // those entries, including any that had to make room for others of the batch
}

// Refusal is an entry that the kernel does not hold; only the key of Entry counts.
type Refusal struct {
	Entry
	Why string // one of few texts, in plain words
}

func (e *PartialError) Error() string {
	if e.Left == 0 {
		return e.Why
	}
	return fmt.Sprintf("%d not enforced: %s", e.Left, e.Why)
}

// Reasons why a backend does not hold an entry.
const (
	whyFull   = "the kernel's set is full"
	whyPorts  = "too many ports, of this ban or of all together"
	whyPrefix = "no prefix that can be dropped"
)

// refusedError returns an error that names the entries that are not enforced; nil if there are none.
func refusedError(refused []Refusal) error {
	if len(refused) == 0 {
		return nil
	}
	return &PartialError{Left: len(refused), Why: refused[0].Why, Refused: refused}
}

// notRemoved returns the error for leftovers of another backend that could not be removed.
func notRemoved(refused []Refusal, err error) error {
	return &PartialError{Left: len(refused), Why: "what another backend left could not be removed, and may drop what was lifted: " + err.Error() +
		"; remove the rules of others that use it, then restart the agent", Refused: refused}
}
