// Package fw makes the kernel drop what is banned.
//
// A [Backend] knows one way to do that (ipset, nftables, plain iptables rules, or none at all); [Open] picks one by
// really trying. A [Syncer] owns the backend: it carries every change to the kernel at once, looks from time to time
// whether the kernel still holds what it should, and mends what somebody else took away.
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

// Names of the backends, as [Open] takes them. NameAuto stands for all the others in the order of preference.
const (
	NameAuto     = "auto"
	NameIPSet    = "ipset"
	NameNFTables = "nftables"
	NameIPTables = "iptables"
	NameNone     = "none"
)

// MaxPortElements is the most ports times protocols that an entry may have: sets hold each as an element.
const MaxPortElements = 1024

// Entry is one thing to drop: packets whose source lies in Prefix, and whose destination port is among Ports.
type Entry struct {
	Prefix netip.Prefix // an address is a prefix of full length; never 4-in-6, never of length 0
	Ports  []PortRange  // nil = every packet, of whatever protocol
	Until  time.Time    // the end; an entry that is over counts as removed
	Own    bool         // this node's own: it passes what peers say, and its ports may use the room that is kept for such
}

// Update is a change of one entry. Adding an entry that is there already sets its end anew.
type Update struct {
	Entry
	Remove bool // take it out; Until is not looked at; no error if it is not there
}

// State is all entries that the kernel should hold.
type State struct {
	Entries iter.Seq[Entry] // each key once; may be gone through only once
	Len     int             // about how many, to size sets; need not be exact
	// Meanwhile yields entries that came since it, or Entries, was last gone through. A Replace that still sends elements after
	// the end of Entries goes through it after each slice of them, so that a fresh entry waits for one at most. nil = none come.
	Meanwhile iter.Seq[Entry]
}

// Backend is one way to make the kernel drop packets. It is not safe for concurrent use: the [Syncer] owns it.
type Backend interface {
	// Name is the name that Open takes.
	Name() string
	// Replace makes the kernel hold exactly the entries. It creates what is missing and switches from old to new so
	// that no packet of an address listed in both passes meanwhile, unless ctx has ended by then. SetExceptions may be
	// called while it goes through the entries.
	Replace(ctx context.Context, now time.Time, state State) error
	// Apply carries out a batch that holds each key at most once. A *PartialError says that some could not be
	// enforced and all others are; any other error leaves it open which were.
	Apply(ctx context.Context, now time.Time, updates []Update) error
	// SetExceptions makes x what is never dropped. Both lists are sorted and within their bounds, and no prefix of a list
	// lies inside another. From is what the kernel holds, and only the difference is sent; nil = unknown, both lists are
	// written anew. After an error each prefix in both from and x is still excepted; nothing else is certain.
	SetExceptions(ctx context.Context, x Exceptions, from *Exceptions) error
	// Check says in plain words what of ours is missing, altered or not in its place. It reads only, costs a few
	// milliseconds at most, and does not look into the sets.
	Check(ctx context.Context) (problems []string, err error)
	// Teardown takes everything of this backend out of the kernel. It is idempotent.
	Teardown(ctx context.Context) error
	// Close frees sockets; the kernel keeps on dropping.
	Close() error
}

// Outbound says what becomes of connections that this machine itself opens to a banned address.
type Outbound uint8

const (
	OutboundDrop  Outbound = iota // the answers are dropped too: nothing of a banned address gets in
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

// Options are what all backends share.
type Options struct {
	Outbound    Outbound
	Logger      *slog.Logger  // nil = silent
	IPTables    string        // name or path of the IPv4 command; "" = "iptables"; the IPv6 one is named after it
	LockTimeout time.Duration // whole seconds, rounded up; 0 = DefaultLockTimeout
	Refused     error         // why the kernel is left alone, so that only NameNone works; nil = it is not
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
	// ErrLocked: somebody else held the xtables lock for all of LockTimeout.
	ErrLocked = errors.New("the xtables lock is held by another program")
	// ErrClaimed: another agent's bans are in this kernel, under the same names.
	ErrClaimed = errors.New("another agent enforces bans in this kernel")
)

// PartialError says that all of a batch or load is enforced except for some entries, or that it all is and something
// beside it went wrong.
type PartialError struct {
	Left    int       // entries not enforced
	Why     string    // in plain words
	Refused []Refusal // the entries, and such as had to make room for others of the batch
}

// Refusal is an entry that the kernel does not hold; of Entry only the key counts.
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

// Why a backend does not hold an entry.
const (
	whyFull   = "the kernel's set is full"
	whyPorts  = "too many ports, of this ban or of all together"
	whyPrefix = "no prefix that can be dropped"
)

// refusedError names the entries that are not enforced; nil if there are none.
func refusedError(refused []Refusal) error {
	if len(refused) == 0 {
		return nil
	}
	return &PartialError{Left: len(refused), Why: refused[0].Why, Refused: refused}
}

// notRemoved says that what another backend left is still there.
func notRemoved(refused []Refusal, err error) error {
	return &PartialError{Left: len(refused), Why: "what another backend left could not be removed: " + err.Error(), Refused: refused}
}
