package logsrc

import (
	"net/netip"
	"time"
)

// Bounds of a line and its fields.
const (
	// MaxLine is the longest line that is parsed, in bytes without its newline. Longer lines are skipped whole and
	// counted as [TooLong].
	MaxLine = 4096
	// MaxJail is the most bytes kept of a jail's name.
	MaxJail = 48
	// MaxTag is the most bytes kept of a program's tag; RFC 5424 allows an APP-NAME of 48.
	MaxTag = 48
	// MaxOrigin is the longest host name that is read from a line, and the longest origin that is emitted.
	MaxOrigin = 64
	// MaxBanTime is the longest ban; a longer one is cut to it. fail2ban's numbers are unbounded, time.Duration is
	// not.
	MaxBanTime = 10 * 365 * 24 * time.Hour
	// MaxFailures is the greatest count of failures; a greater one is cut to it.
	MaxFailures = 1_000_000
)

// Line is one accepted line.
type Line struct {
	// Addr is a literal from the line: unmapped (never 4-in-6) and without a zone.
	Addr netip.Addr
	// Net is the prefix length if the line names a prefix, whose masked address is Addr; 0 = one address. Only a line
	// with jail=, as our fail2ban action writes it, may name a prefix.
	Net int
	// Misread is the first of BadPort, UnknownService and BadOption that applies; 0 = none. The ports or the option
	// are then ignored.
	Misread Reason
	// Ports is canonical text: "" means all ports; otherwise a sorted, comma-separated list of at most [MaxPortItems]
	// items such as "22/tcp", "80", "8000-8010/udp". Names are resolved and duplicates dropped; overlapping ranges
	// are not merged.
	Ports string
	// BanTime is the value of bantime=: 0 = not given, negative = permanent, otherwise at most [MaxBanTime].
	BanTime time.Duration
	// Jail is the value of jail=, cut to [MaxJail]; it has only letters, digits, '.', '_' and '-'.
	Jail string
	// Failures is the value of failures=, 0 to [MaxFailures].
	Failures int

	// Tag is the program that wrote the line ("root", "newbans") if it was recognised, cut to [MaxTag].
	Tag string
	// Pid is the number in brackets after the tag, or 0.
	Pid int
	// Origin is the word before the tag if it can be a host name. On an emitted line it is the node that made the
	// ban.
	Origin string
	// Emitted reports whether the line is byte for byte what [Emitter] writes, or the beginning of that: an earlier run
	// of this node wrote it, or another program that copies this form. A line of "logger -t newbans -i -s" differs: it
	// has "<13>" and no host name. But what a syslog daemon writes in the traditional format for "logger -t newbans -i"
	// cannot be told apart: Origin is then the machine that logged.
	Emitted bool
}

// Reason says why a line, or a part of it, was ignored. Its text can serve as a metric label.
type Reason uint8

// The reasons, in the order in which they are checked.
const (
	TooLong        Reason = iota + 1 // longer than [MaxLine]
	Empty                            // only blanks
	NoHost                           // no word HOST with something after it
	NoPort                           // no PORT after HOST and one word
	BadAddress                       // not an IP address
	Zone                             // an address with a zone, which means nothing on another machine
	BadPort                          // not a port, list or range; or more than [MaxPortItems]
	UnknownService                   // a service that neither the table nor /etc/services has
	BadOption                        // bantime= or failures= without a number
	TrailingText                     // text after the ports that is not key=value
	ReadBefore                       // a line of a rewritten file that was read before the rewrite
	endOfReasons
)

var reasonText = [endOfReasons]string{
	TooLong:        "too long",
	Empty:          "empty",
	NoHost:         "no HOST",
	NoPort:         "no PORT",
	BadAddress:     "bad address",
	Zone:           "zone",
	BadPort:        "bad port",
	UnknownService: "unknown service",
	BadOption:      "bad option",
	TrailingText:   "trailing text",
	ReadBefore:     "read before",
}

func (r Reason) String() string {
	if r == 0 || r >= endOfReasons {
		return "none"
	}
	return reasonText[r]
}

// Reasons returns every reason, so that a metric can start each at 0.
func Reasons() []Reason {
	all := make([]Reason, 0, endOfReasons-1)
	for r := TooLong; r < endOfReasons; r++ {
		all = append(all, r)
	}
	return all
}
