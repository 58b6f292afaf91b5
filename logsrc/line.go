package logsrc

import (
	"net/netip"
	"time"
)

// Bounds of what a line may say.
const (
	// MaxLine is the longest line, in bytes without its end, that is looked at. Longer ones are skipped whole
	// and counted as [TooLong].
	MaxLine = 4096
	// MaxJail is how many bytes of a jail's name are kept.
	MaxJail = 48
	// MaxTag is how many bytes of a program's tag are kept; RFC 5424 allows an APP-NAME of 48.
	MaxTag = 48
	// MaxOrigin is the longest host name in front of a tag that is kept, and the longest origin that is
	// emitted.
	MaxOrigin = 64
	// MaxBanTime is where a longer bantime is cut. (fail2ban's numbers have no bound, time.Duration has.)
	MaxBanTime = 10 * 365 * 24 * time.Hour
	// MaxFailures is where a greater count of failures is cut.
	MaxFailures = 1_000_000
)

// Line is one accepted line.
type Line struct {
	// Addr is a literal from the line, unmapped (never 4-in-6), without a zone.
	Addr netip.Addr
	// Net is the length of a prefix that begins at Addr, masked; 0 = the address alone. Only a line with the word jail=,
	// as our fail2ban action writes it, may name a prefix.
	Net int
	// Misread is the first of BadPort, UnknownService and BadOption that is wrong with the line; 0 = nothing. The ports or
	// the option count as not said.
	Misread Reason
	// Ports is canonical text: "" means all ports, else a sorted comma list of items such as "22/tcp", "80",
	// "8000-8010/udp". Names are resolved, double items dropped, overlapping ones not merged. At most
	// [MaxPortItems] items.
	Ports string
	// BanTime is what the word bantime= said: 0 = not said, negative = permanent, else at most [MaxBanTime].
	BanTime time.Duration
	// Jail is what the word jail= said, cut to [MaxJail]; only letters, digits, '.', '_' and '-'.
	Jail string
	// Failures is what the word failures= said, 0..[MaxFailures].
	Failures int

	// Tag is the program in front of the text ("root", "newbans"), where one could be recognised, cut to
	// [MaxTag].
	Tag string
	// Pid is the number in brackets behind the tag, or 0.
	Pid int
	// Origin is the word in front of the tag where it can be a host name. On an emitted line it is the name
	// of the node where the ban began.
	Origin string
	// Emitted says that the line has byte for byte the form that [Emitter] writes. A former run of this node
	// wrote it, or another program that copies this form. A real "logger -t newbans -i" is told apart when it
	// writes the file by itself ("logger -s": it puts "<13>" in front and no host name), and cannot be told
	// apart when a syslog daemon writes the file in the traditional format: then Origin is the name of the
	// machine that logged.
	Emitted bool
}

// Reason says why a line was ignored, or what of it was. It is the error that [Parse] returns, and its text is fit to be
// a metric label.
type Reason uint8

// The reasons, in the order in which a line is judged.
const (
	TooLong        Reason = iota + 1 // longer than [MaxLine]
	Empty                            // nothing but blanks
	NoHost                           // the word HOST, followed by something, is not there
	NoPort                           // HOST and a word, and then not PORT
	BadAddress                       // not an IP address
	Zone                             // an address with a zone, which means nothing on another machine
	BadPort                          // not a port, list or range, or more than [MaxPortItems]
	UnknownService                   // a name that neither the table nor /etc/services knows
	BadOption                        // bantime= or failures= without a number
	TrailingText                     // something after the ports that is not key=value
	ReadBefore                       // a line of a rewritten file that was read before it was rewritten
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

// Error makes a Reason an error.
func (r Reason) Error() string { return r.String() }

// Reasons gives every reason, so that a metric can start each of them at 0.
func Reasons() []Reason {
	all := make([]Reason, 0, endOfReasons-1)
	for r := TooLong; r < endOfReasons; r++ {
		all = append(all, r)
	}
	return all
}
