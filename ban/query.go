package ban

import (
	"net/netip"
	"time"
)

// MaxFindings bounds what Why returns.
const MaxFindings = 1000

// Entry is what the table holds of one prefix and ports that a live ban asks for.
type Entry struct {
	Prefix  netip.Prefix
	Ports   Ports
	Until   time.Time // the end that is enforced; of an entry that is not enforced, its latest end
	Issued  time.Time // Issued, Reason and Source are of the ban that lasts longest
	Origins []Origin  // of live bans that nothing cancels, the first to ban in front
	Reason  string
	Source  string
	State   State
}

// Verdict answers whether an address is dropped here.
type Verdict struct {
	Entry                // the entry that drops it; zero if none does
	Exception NeverEntry // what lets it through, if something does; else zero
}

// Finding is one record, or entry of the never-ban list, that bears on an address.
type Finding struct {
	Kind   Kind // KindNever for an entry of the never-ban list
	Prefix netip.Prefix
	Ports  Ports
	Origin Origin    // zero for the never-ban list
	Issued time.Time // zero for the never-ban list
	Until  time.Time // zero for the never-ban list
	Reason string
	Source string
	Status string // in plain words; names another origin by its Short form
	By     Origin // the other origin that Status names, or zero
}

// Counts is how much the table holds.
type Counts struct {
	Active  int    // entries enforced
	Pending int    // entries that wait for more origins
	Held    int    // entries that wait for the operator
	Allowed int    // entries suppressed by the never-ban list or an allow
	Records int    // live records of every kind
	Dropped uint64 // records not merged since the start because the table was full
}
