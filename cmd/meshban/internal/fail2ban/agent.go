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
	// minInterval is the least time between two calls, however much peers lift; requests are gathered meanwhile.
	minInterval = time.Second
	// maxQueue bounds the prefixes that wait for a call; those beyond it are counted.
	maxQueue = 1 << 16
	// jailInterval is how often the jails are queried. When status is asked, the last result may be freshFor old, or
	// troubledFor while something is wrong, since then somebody works on it. jailWait bounds how long status waits.
	jailInterval                    = 5 * time.Minute
	freshFor, troubledFor, jailWait = time.Minute, 5 * time.Second, 3 * time.Second
	// peerWait bounds how long a peer's question may take: less than the peer waits, but more than Python takes to
	// start. maxPeerBans is how many bans the answer names. peerBurst is how many such questions may run the client
	// at once; after that, one per minInterval may.
	peerWait    = 550 * time.Millisecond
	maxPeerBans = 8
	peerBurst   = 4
)

// ErrBusy means that peers ask more often than the server may be queried for them.
var ErrBusy = errors.New("other nodes ask fail2ban too often")

type Config struct {
	Client    Client
	LineFile  string
	Installed func() bool  // whether to query fail2ban at all
	Unban     func() bool  // whether the server lifts what the mesh lifts
	Problem   func(string) // shows a problem; "" = none. Called from Run's goroutine
}

// State is what is known of the jails.
type State struct {
	At     time.Time // of the last query; zero = none yet, or fail2ban is not installed
	Tells  []string  // jails that report their bans to the mesh
	Silent []string  // jails that do not
	Err    error     // why the jails are not known

	reads map[string]bool // by jail: whether it reads the line file
}

// Agent watches the server while the node runs, and makes it lift what the mesh lifts. Its methods may be called from
// any goroutine; except for Confirm, Banned and BannedForPeer, only Run talks to the server.
type Agent struct {
	cfg   Config
	peers *rate.Limiter // limits runs of the client for peers
	woken chan struct{} // holds one token: there is something to do. Anyone sends, Run receives

	mu     sync.Mutex // guards what follows
	state  State
	queue  map[netip.Prefix]bool // to be lifted; true = somebody waits for it
	lost   uint64
	round  *round        // the next one
	looked chan struct{} // closed by the next query of the jails; nil = nobody waits
}

// round is one unban call and its outcome, which is set when done is closed.
type round struct {
	done  chan struct{}
	still []Ban
	err   error
}

// New starts nothing.
func New(cfg Config) *Agent {
	return &Agent{
		cfg: cfg, peers: rate.NewLimiter(rate.Every(minInterval), peerBurst),
		woken: make(chan struct{}, 1), queue: map[netip.Prefix]bool{}, round: newRound(),
	}
}

func newRound() *round { return &round{done: make(chan struct{})} }

func (a *Agent) wake() {
	select {
	case a.woken <- struct{}{}:
	default:
	}
}

// Lift queues the server's bans inside prefix to be lifted. It never blocks.
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
	a.wake()
}

// Confirm lifts prefixes, waits for the outcome, and returns what the server still bans.
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
	a.wake()
	select {
	case <-ctx.Done():
		return nil, errors.New("no answer from fail2ban yet")
	case <-r.done:
	}
	return slices.DeleteFunc(slices.Clone(r.still), func(b Ban) bool {
		return !slices.ContainsFunc(prefixes, b.Prefix.Overlaps)
	}), r.err
}

// Banned returns the server's bans that overlap one of prefixes.
func (a *Agent) Banned(ctx context.Context, prefixes ...netip.Prefix) ([]Ban, error) {
	if !a.cfg.Installed() {
		return nil, nil
	}
	return a.cfg.Client.Banned(ctx, prefixes)
}

// BannedForPeer answers a peer's question: the server's bans that overlap prefix, at most maxPeerBans, one of each
// jail first. It returns within peerWait, and returns ErrBusy if peers ask too often. If no server runs, nothing is
// banned.
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

// Absent reports whether err means that no server runs here, so nothing is banned.
func Absent(err error) bool { return errors.Is(err, ErrNotInstalled) || errors.Is(err, ErrNotRunning) }

// Reads reports whether jail is known, and whether it reads the line file.
func (a *Agent) Reads(jail string) (reads, known bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	reads, known = a.state.reads[jail]
	return reads, known
}

// State returns what is known of the jails, after a new query if the last one is old.
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
	a.wake()
	silent := false
	wait := time.NewTimer(jailWait)
	defer wait.Stop()
	select {
	case <-looked:
	case <-wait.C:
		silent = true
	case <-ctx.Done():
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.state
	if silent {
		s.Err = ErrSilent
	}
	return s
}

// Run serves the queue and queries the jails until ctx ends.
func (a *Agent) Run(ctx context.Context) error {
	look := time.NewTicker(jailInterval)
	defer look.Stop()
	pause := time.NewTimer(0)
	defer pause.Stop()
	due := true
	for {
		if due && a.cfg.Installed() {
			a.queryJails(ctx)
		}
		due = false
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
			due = true
			continue
		case <-a.woken:
		}
		pause.Reset(minInterval)
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

// queryJails updates the state of the jails.
func (a *Agent) queryJails(ctx context.Context) {
	jails, err := a.cfg.Client.Jails(ctx, a.cfg.LineFile)
	s := State{At: time.Now(), Err: err, reads: make(map[string]bool, len(jails))}
	s.Tells, s.Silent = Split(jails)
	for _, j := range jails {
		s.reads[j.Name] = j.Reads
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		s.reads = a.state.reads // a server that is restarting still has the same jails
	}
	a.state = s
	if err == nil && len(a.queue) > 0 { // left from a time when the server was down
		a.wake()
	}
	if a.looked != nil {
		close(a.looked)
		a.looked = nil
	}
}

// next takes up to MaxAtOnce prefixes from the queue, first those that somebody waits for.
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

// lift makes one unban call for what is queued.
func (a *Agent) lift(ctx context.Context) {
	prefixes, r, more, lost := a.next()
	if len(prefixes) == 0 {
		return
	}
	still, again, err := a.cfg.Client.Unban(ctx, prefixes)
	// A server that is down restores its bans when it starts: try again once it answers.
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
		a.wake()
	}
}

// problemText describes what was not lifted; "" = everything was.
func problemText(still []Ban, err error, lost uint64) string {
	switch {
	case err != nil:
		return fmt.Sprintf("could not lift bans in fail2ban: %v; `fail2ban-client banned` shows what it bans", err)
	case len(still) > 0:
		return Describe("", still)
	case lost > 0:
		return fmt.Sprintf("too many bans were lifted at once for fail2ban, which keeps %d of them; `fail2ban-client banned` shows what it bans", lost)
	}
	return ""
}

// Unknown returns a text: it is not known what a node's fail2ban bans, and why; node "" is this one.
func Unknown(node, why string) string {
	return "whether " + whose(node) + " fail2ban still bans it is not known: " + why
}

func whose(node string) string {
	if node == "" {
		return "this node's"
	}
	return node + "'s"
}

// maxDescribed is the most bans that Describe names.
const maxDescribed = 3

// Describe returns what a node's fail2ban still bans, and which command ends that; node "" is this one.
func Describe(node string, bans []Ban) string {
	var parts []string
	for _, b := range bans[:min(len(bans), maxDescribed)] {
		parts = append(parts, fmt.Sprintf("%s fail2ban (jail %s) still bans %s: `fail2ban-client set %[2]s unbanip %[3]s` ends that", whose(node), b.Jail, text(b.Prefix)))
	}
	if n := len(bans) - len(parts); n > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", n))
	}
	return strings.Join(parts, "; ")
}
