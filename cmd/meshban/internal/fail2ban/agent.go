package fail2ban

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// every is the least time between two calls, however much peers lift: what comes meanwhile is gathered.
	every = time.Second
	// maxQueue bounds the prefixes that wait for a call; what is beyond it is counted.
	maxQueue = 1 << 16
	// lookEvery is how often the jails are looked at, and freshFor how old the last look may be when status is asked:
	// troubledFor while something is wrong, because then somebody works on it. lookWait bounds how long status waits.
	lookEvery                       = 5 * time.Minute
	freshFor, troubledFor, lookWait = time.Minute, 5 * time.Second, 3 * time.Second
	// peerWait bounds how long a peer's question may take, maxPeerBans how many bans the answer names, and peerBurst how
	// many such questions run the client at once; after that one does every second.
	peerWait    = time.Second
	maxPeerBans = 8
	peerBurst   = 4
)

// ErrBusy says that peers ask more often than the server may be asked for them.
var ErrBusy = errors.New("fail2ban was asked too often for other nodes")

// Config is what an Agent needs.
type Config struct {
	Client    Client
	LineFile  string
	Installed func() bool  // whether fail2ban is to be asked at all
	Unban     func() bool  // whether the server is to let go of what the mesh lifts
	Problem   func(string) // what to show as a problem; "" = there is none. Called from Run's goroutine
}

// State is what the last look has found.
type State struct {
	At     time.Time // zero = not looked yet, or nothing to look at
	Tells  []string  // jails that tell the mesh of their bans
	Silent []string  // jails that do not
	Err    error     // why the jails are not known

	reads map[string]bool // by jail: whether it reads the line file
}

// Agent follows the server while the node runs, and makes it let go of what the mesh lifts. Its methods may be called from
// any goroutine; only Run talks to the server for them.
type Agent struct {
	cfg   Config
	peers *rate.Limiter // of runs of the client for peers
	wake  chan struct{} // holds one token: there is something to do. Anyone sends, Run receives

	mu     sync.Mutex // guards what follows
	state  State
	queue  map[netip.Prefix]bool // to be let go of; true = somebody waits for it
	lost   uint64
	round  *round        // the next one
	looked chan struct{} // closed by the next look; nil = nobody waits
}

// round is one call that lifts, and its outcome once done is closed.
type round struct {
	done  chan struct{}
	still []Ban
	err   error
}

// New starts nothing.
func New(cfg Config) *Agent {
	return &Agent{
		cfg: cfg, peers: rate.NewLimiter(rate.Every(every), peerBurst),
		wake: make(chan struct{}, 1), queue: map[netip.Prefix]bool{}, round: newRound(),
	}
}

func newRound() *round { return &round{done: make(chan struct{})} }

func (a *Agent) kick() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// Lift has the server let go of what it bans inside prefix. It never blocks.
func (a *Agent) Lift(prefix netip.Prefix) {
	if !a.cfg.Installed() || !a.cfg.Unban() {
		return
	}
	a.mu.Lock()
	if _, waits := a.queue[prefix]; !waits && len(a.queue) >= maxQueue {
		a.lost++
	} else if !waits {
		a.queue[prefix] = false
	}
	a.mu.Unlock()
	a.kick()
}

// Confirm lifts prefixes, waits until the server was asked what it still bans, and returns that.
func (a *Agent) Confirm(ctx context.Context, prefixes []netip.Prefix) ([]Ban, error) {
	if !a.cfg.Installed() || len(prefixes) == 0 {
		return nil, nil
	}
	if !a.cfg.Unban() {
		still, err := a.cfg.Client.Banned(ctx, prefixes)
		if Absent(err) {
			err = nil
		}
		return still, err
	}
	a.mu.Lock()
	for _, p := range prefixes[:min(len(prefixes), MaxAtOnce)] {
		a.queue[p] = true
	}
	r := a.round
	a.mu.Unlock()
	a.kick()
	select {
	case <-ctx.Done():
		return nil, errors.New("fail2ban has not answered yet")
	case <-r.done:
	}
	return slices.DeleteFunc(slices.Clone(r.still), func(b Ban) bool {
		return !slices.ContainsFunc(prefixes, b.Prefix.Overlaps)
	}), r.err
}

// Banned asks the server what it bans that overlaps one of prefixes.
func (a *Agent) Banned(ctx context.Context, prefixes ...netip.Prefix) ([]Ban, error) {
	if !a.cfg.Installed() {
		return nil, nil
	}
	return a.cfg.Client.Banned(ctx, prefixes)
}

// BannedForPeer answers a peer's question: what this server bans that overlaps prefix, at most maxPeerBans bans of different
// jails first. It returns within peerWait, and ErrBusy where peers ask too often. Where no server runs, nothing is banned.
func (a *Agent) BannedForPeer(ctx context.Context, prefix netip.Prefix) ([]Ban, error) {
	if !a.cfg.Installed() {
		return nil, nil
	}
	if !a.peers.Allow() {
		return nil, ErrBusy
	}
	ctx, cancel := context.WithTimeout(ctx, peerWait)
	defer cancel()
	bans, err := a.cfg.Client.Banned(ctx, []netip.Prefix{prefix})
	if Absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	seen := make(map[string]int, maxPeerBans)
	rank := make(map[Ban]int, len(bans))
	for _, b := range bans {
		rank[b] = seen[b.Jail]
		seen[b.Jail]++
	}
	slices.SortStableFunc(bans, func(x, y Ban) int { return cmp.Compare(rank[x], rank[y]) })
	return bans[:min(len(bans), maxPeerBans)], nil
}

// Absent reports whether err says that no server runs here, so that it bans nothing.
func Absent(err error) bool { return errors.Is(err, ErrNotInstalled) || errors.Is(err, ErrNotRunning) }

// Reads reports whether jail is known, and whether it reads the line file.
func (a *Agent) Reads(jail string) (reads, known bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	reads, known = a.state.reads[jail]
	return reads, known
}

// State returns what is known of the jails, after a new look where the last one is old.
func (a *Agent) State(ctx context.Context) State {
	if !a.cfg.Installed() {
		return State{}
	}
	a.mu.Lock()
	fresh := freshFor
	if a.state.Err != nil || len(a.state.Silent) > 0 || len(a.state.Tells) == 0 {
		fresh = troubledFor
	}
	if time.Since(a.state.At) < fresh {
		defer a.mu.Unlock()
		return a.state
	}
	if a.looked == nil {
		a.looked = make(chan struct{})
	}
	looked := a.looked
	a.mu.Unlock()
	a.kick()
	wait := time.NewTimer(lookWait)
	defer wait.Stop()
	select {
	case <-looked:
	case <-wait.C:
	case <-ctx.Done():
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.state
}

// Run talks to the server until ctx ends.
func (a *Agent) Run(ctx context.Context) error {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	pause := time.NewTimer(0)
	defer pause.Stop()
	due := true
	for {
		if due && a.cfg.Installed() {
			a.look(ctx)
		}
		due = false
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
			due = true
			continue
		case <-a.wake:
		}
		pause.Reset(every)
		select {
		case <-ctx.Done():
			return nil
		case <-pause.C:
		}
		a.lift(ctx)
		a.mu.Lock()
		due = a.looked != nil
		a.mu.Unlock()
	}
}

// look asks about the jails.
func (a *Agent) look(ctx context.Context) {
	jails, err := a.cfg.Client.Jails(ctx, a.cfg.LineFile)
	s := State{At: time.Now(), Err: err, reads: make(map[string]bool, len(jails))}
	s.Tells, s.Silent = Split(jails)
	for _, j := range jails {
		s.reads[j.Name] = j.Reads
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		s.reads = a.state.reads // a server that restarts still has the same jails
	}
	a.state = s
	if err == nil && len(a.queue) > 0 { // left from when the server was down
		a.kick()
	}
	if a.looked != nil {
		close(a.looked)
		a.looked = nil
	}
}

// next takes up to MaxAtOnce prefixes from the queue, those that somebody waits for first.
func (a *Agent) next() (prefixes []netip.Prefix, r *round, more bool, lost uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, waits := range []bool{true, false} {
		for p, w := range a.queue {
			if w == waits && len(prefixes) < MaxAtOnce {
				prefixes = append(prefixes, p)
			}
		}
	}
	for _, p := range prefixes {
		delete(a.queue, p)
	}
	r = a.round
	if len(prefixes) > 0 {
		a.round = newRound()
	}
	return prefixes, r, len(a.queue) > 0, a.lost
}

// lift makes one call for what is queued.
func (a *Agent) lift(ctx context.Context) {
	prefixes, r, more, lost := a.next()
	if len(prefixes) == 0 {
		return
	}
	still, again, err := a.cfg.Client.Unban(ctx, prefixes)
	// A server that is down bans again when it starts what it had banned: it is asked again once it answers.
	down := errors.Is(err, ErrNotRunning)
	if again || err != nil && !errors.Is(err, ErrNotInstalled) {
		a.mu.Lock()
		for _, p := range prefixes {
			if _, ok := a.queue[p]; !ok && len(a.queue) < maxQueue {
				a.queue[p] = false
			}
		}
		a.mu.Unlock()
	}
	if down {
		err = nil
	}
	r.still, r.err = still, err
	close(r.done)
	a.cfg.Problem(problemText(still, err, lost))
	if err == nil && !down && (more || again) {
		a.kick()
	}
}

// problemText says what was not lifted; "" = everything was.
func problemText(still []Ban, err error, lost uint64) string {
	switch {
	case err != nil:
		return fmt.Sprintf("could not make fail2ban let go of what was lifted: %v; `fail2ban-client banned` shows what it bans", err)
	case len(still) > 0:
		return Describe("", still)
	case lost > 0:
		return fmt.Sprintf("too much was lifted at once to tell fail2ban: %d addresses were left out; `fail2ban-client banned` shows what it bans", lost)
	}
	return ""
}

// maxDescribed is how many bans Describe names.
const maxDescribed = 3

// Describe says that node's fail2ban still bans something, and what to type there; node "" is this one.
func Describe(node string, bans []Ban) string {
	whose := "this node's"
	if node != "" {
		whose = node + "'s"
	}
	var parts []string
	for _, b := range bans[:min(len(bans), maxDescribed)] {
		parts = append(parts, fmt.Sprintf("%s fail2ban (jail %s) still bans %s: `fail2ban-client set %[2]s unbanip %[3]s` ends that", whose, b.Jail, text(b.Prefix)))
	}
	if n := len(bans) - len(parts); n > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", n))
	}
	return strings.Join(parts, "; ")
}
