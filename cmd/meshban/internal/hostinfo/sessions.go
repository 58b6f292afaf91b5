package hostinfo

import (
	"net/netip"
	"slices"
	"time"
)

const (
	// SessionOf begins what is said of an address from where a user is logged in.
	SessionOf = "ssh session of "
	// SessionsEvery is how often a caller should look for ssh sessions: who has just logged in is covered that soon.
	SessionsEvery = time.Second
	// MaxSessions bounds the addresses. Beyond it, who came first is covered.
	MaxSessions = 256
	// SessionLinger is how long an address stays covered when its last session is over, so that an administrator whose
	// line broke gets back in.
	SessionLinger = 2 * time.Minute
)

// Sessions knows from where users are logged in by ssh. Only sessions of an authenticated user count: connections that
// are still being authenticated, and those whose password was wrong, never do. It is not safe for concurrent use.
type Sessions struct {
	procDir   string                // /proc
	logindDir string                // where systemd-logind keeps its sessions
	others    map[int]bool          // processes seen that are no sshd
	allAgain  time.Time             // when they are looked at anew
	peers     map[socket]netip.Addr // of the sockets of the last look
	covered   map[netip.Addr]cover
}

// socket is one that a process of sshd holds.
type socket struct {
	pid   int
	inode uint64
}

// cover is one address that is on the list.
type cover struct {
	user string
	seen time.Time // last
}

// session is what a look finds.
type session struct {
	addr netip.Addr
	user string
}

// NewSessions returns one that has seen nothing yet.
func NewSessions() *Sessions {
	return &Sessions{procDir: "/proc", logindDir: "/run/systemd/sessions", covered: map[netip.Addr]cover{}}
}

// Read returns an Entry for each address with a session now or within SessionLinger, sorted. An error tells of sessions
// whose address could not be found; the others are returned beside it.
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

// forget makes room by letting go of the address whose session ended first; false when all have one.
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
