package hostinfo

import (
	"net/netip"
	"os"
	"slices"
	"time"
)

const (
	// SessionOf begins the Why of an address from which a user is logged in.
	SessionOf = "ssh session of "
	// SessionsEvery is how often a caller should look for ssh sessions, and so how soon a new one is covered.
	SessionsEvery = time.Second
	// MaxSessions bounds the covered addresses. Beyond it, the first to come are covered.
	MaxSessions = 256
	// SessionLinger is how long an address stays covered after its last session ends, so that an administrator whose
	// connection broke can get back in.
	SessionLinger = 2 * time.Minute
)

// Sessions finds the addresses from which users are logged in by ssh. Only sessions of authenticated users count, never
// connections that are still being authenticated or that failed to. It is not safe for concurrent use.
type Sessions struct {
	procDir   string                // /proc
	logindDir string                // where systemd-logind keeps its sessions
	others    map[int]bool          // processes seen that are not sshd
	allAgain  time.Time             // when they are examined again
	peers     map[socket]netip.Addr // of the sockets seen by the last look
	covered   map[netip.Addr]cover
	load      *os.File // /proc/loadavg, which names the newest process
	last      look
}

// look is what one look for sessions found.
type look struct {
	newest   string // process at that time; "" if the look must be repeated anyway
	sessions []session
	err      error
}

// socket is one socket of an sshd process.
type socket struct {
	pid   int
	inode uint64
}

// cover is what is known of one covered address.
type cover struct {
	user string
	seen time.Time // last
}

// session is what a look finds.
type session struct {
	addr netip.Addr
	user string
}

// NewSessions returns a Sessions that has seen nothing yet.
func NewSessions() *Sessions {
	return &Sessions{procDir: "/proc", logindDir: "/run/systemd/sessions", covered: map[netip.Addr]cover{}}
}

// Read returns an Entry for each address with a session now or within SessionLinger, sorted. An error reports sessions
// whose address could not be read; the others are returned with it.
func (s *Sessions) Read(now time.Time) ([]Entry, error) {
	found, err := s.find(now)
	for _, f := range found {
		if _, known := s.covered[f.addr]; !known && len(s.covered) >= MaxSessions && !s.forget(now) {
			continue
		}
		s.covered[f.addr] = cover{f.user, now}
	}
	var out []Entry
	for addr, c := range s.covered {
		if now.Sub(c.seen) > SessionLinger {
			delete(s.covered, addr)
			continue
		}
		out = add(out, addr, SessionOf+c.user)
	}
	slices.SortFunc(out, func(a, b Entry) int { return a.Prefix.Compare(b.Prefix) })
	return out, err
}

// forget makes room by dropping the address whose session ended first. It returns false if all have a session.
func (s *Sessions) forget(now time.Time) bool {
	var oldest netip.Addr
	for addr, c := range s.covered {
		if c.seen.Before(now) && (!oldest.IsValid() || c.seen.Before(s.covered[oldest].seen)) {
			oldest = addr
		}
	}
	delete(s.covered, oldest)
	return oldest.IsValid()
}
