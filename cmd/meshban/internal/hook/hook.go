package hook

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

const (
	// queueSize is how many events wait for Run.
	queueSize = 8192
	// startQuiet is how long after the start nothing is told that every start brings: problems that pass, members that are
	// met again, and revocations of old.
	startQuiet = time.Minute
	// testTimeout bounds Test; a command that waits for it gives up after 30 s.
	testTimeout = 20 * time.Second
)

// Whose says whose doing an event is.
type Whose int

// The values of Whose.
const (
	Own   Whose = iota // of this node
	Peers              // of another node, which tells of it itself
	Mesh               // what each node sees: Config.Speaks decides who tells of it
)

// Config is what Hooks need; all are required.
type Config struct {
	Node   func() string // this node's name
	Speaks func() bool   // whether this node speaks for the mesh
	// Problem is told that a hook could not send, and with nil that it can again. It may be called concurrently.
	Problem func(name string, err error)
	Logger  *slog.Logger
}

// Hooks are the hooks of a node.
type Hooks struct {
	cfg     Config
	queue   chan *event   // Tell sends, Run receives; what does not fit is dropped
	changed chan struct{} // holds one token: list is new. Set sends, Run receives
	wanted  atomic.Uint64 // bit kind*2 + (0: own or of the mesh, 1: of peers)

	sent, failed, dropped atomic.Uint64

	mu   sync.Mutex
	list []config.Hook // guarded by mu

	reporter  reporter                 // of all hooks, which share an account
	newSender func(config.Hook) sender // a test replaces it
}

// sender sends a message to a hook's receiver. It is called by one goroutine at a time.
type sender func(ctx context.Context, m *message) error

// Stats counts since the start.
type Stats struct {
	Sent    uint64 // messages
	Failed  uint64 // messages that no try delivered
	Dropped uint64 // events that the queue had no room for
}

type event struct {
	control.Event
	kind  string // one of config.HookEvents
	whose Whose
}

// New returns Hooks that Run serves.
func New(cfg Config, list []config.Hook) *Hooks {
	h := &Hooks{cfg: cfg, queue: make(chan *event, queueSize), changed: make(chan struct{}, 1)}
	h.newSender = func(c config.Hook) sender { return newSender(c, &h.reporter) }
	h.Set(list)
	return h
}

// Set replaces the hooks and has the files with their URLs read again.
func (h *Hooks) Set(list []config.Hook) {
	var wanted uint64
	for _, c := range list {
		for _, kind := range c.On {
			wanted |= bit(kind, Own)
			if c.Whose == config.WhoseAll {
				wanted |= bit(kind, Peers)
			}
		}
	}
	h.mu.Lock()
	h.list = slices.Clone(list)
	h.mu.Unlock()
	h.wanted.Store(wanted)
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

func bit(kind string, whose Whose) uint64 {
	b := uint64(1) << (2 * slices.Index(config.HookEvents(), kind))
	if whose == Peers {
		b <<= 1
	}
	return b
}

// Wants reports whether any hook may tell of such an event, so that others need not be built.
func (h *Hooks) Wants(kind string, whose Whose) bool {
	wanted := h.wanted.Load()
	return wanted != 0 && wanted&bit(kind, whose) != 0
}

// Tell queues an event. It never blocks.
func (h *Hooks) Tell(kind string, whose Whose, e control.Event) {
	if !h.Wants(kind, whose) {
		return
	}
	select {
	case h.queue <- &event{e, kind, whose}:
	default:
		h.dropped.Add(1)
	}
}

// Stats returns what was sent so far.
func (h *Hooks) Stats() Stats {
	return Stats{Sent: h.sent.Load(), Failed: h.failed.Load(), Dropped: h.dropped.Load()}
}

func (h *Hooks) hooks() []config.Hook {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.list
}

// Test sends a message by the hook with this name, with one try.
func (h *Hooks) Test(ctx context.Context, name string) error {
	list := h.hooks()
	i := slices.IndexFunc(list, func(c config.Hook) bool { return c.Name == name })
	if i < 0 {
		return &control.Error{Code: control.CodeNotFound, Message: fmt.Sprintf("no hook is called %q", name), Hint: "meshban.yaml names them under `hooks:`"}
	}
	c := list[i]
	if c.Webhook.Preset == config.PresetAbuseIPDB {
		return &control.Error{Code: control.CodePolicy, Rule: "abuseipdb", Message: "a test would report an address to AbuseIPDB", Hint: "look at the hook's next report"}
	}
	ctx, cancel := context.WithTimeout(ctx, testTimeout)
	defer cancel()
	c.Webhook.Tries, c.Webhook.Timeout = 1, min(c.Webhook.Timeout, testTimeout)
	m := &message{Node: h.cfg.Node(), Hook: name, Time: time.Now().UTC(), Kind: kindTest}
	if err := h.newSender(c)(ctx, m); err != nil {
		return &control.Error{Code: control.CodeFailed, Message: fmt.Sprintf("hook %s: %v", name, err)}
	}
	return nil
}

// receiver is a hook while Run serves it.
type receiver struct {
	cfg     config.Hook
	send    sender
	batch   *batch    // nil = nothing to send
	due     time.Time // when batch is sent; of a heartbeat, always set
	busy    bool      // a message is on its way
	dropped uint64    // of Hooks.dropped, told already
}

// result is how sending one message ended.
type result struct {
	to  *receiver
	err error
}

// Run serves the hooks until ctx ends. It returns after what it started has returned.
func (h *Hooks) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	started := time.Now()
	all := h.renew(nil)
	var sending sync.WaitGroup
	defer sending.Wait()
	defer cancel()
	done := make(chan result) // the senders send, this loop receives
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-h.changed:
			all = h.renew(all)
		case e := <-h.queue:
			now := time.Now()
			if (e.kind == "join" || e.kind == "revoke") && now.Sub(started) < startQuiet {
				continue
			}
			for _, r := range all {
				if h.wantedBy(r, e) {
					r.add(now, e)
				}
			}
		case d := <-done:
			d.to.busy = false
			h.report(d)
		case <-timer.C:
		}
		now := time.Now()
		var next time.Time
		for _, r := range all {
			if m := h.dueMessage(now, r); m != nil {
				r.busy = true
				sending.Go(func() {
					select {
					case done <- result{r, r.send(ctx, m)}:
					case <-ctx.Done():
					}
				})
			}
			if !r.busy && !r.due.IsZero() && (next.IsZero() || r.due.Before(next)) {
				next = r.due
			}
		}
		if !next.IsZero() {
			timer.Reset(max(next.Sub(now), 0))
		}
	}
}

// renew returns the receivers of the current list. One whose configuration is the same keeps its batch.
func (h *Hooks) renew(old []*receiver) []*receiver {
	var all []*receiver
	for _, c := range h.hooks() {
		r := &receiver{cfg: c, dropped: h.dropped.Load()}
		if i := slices.IndexFunc(old, func(o *receiver) bool { return reflect.DeepEqual(o.cfg, c) }); i >= 0 && !old[i].busy {
			r = old[i]
		} else if i >= 0 { // its message is on its way by the old sender
			r.batch, r.due = old[i].batch, old[i].due
		}
		r.send = h.newSender(c)
		if c.Heartbeat() && r.due.IsZero() {
			r.due = time.Now()
		}
		all = append(all, r)
	}
	for _, o := range old {
		if !slices.ContainsFunc(all, func(r *receiver) bool { return r.cfg.Name == o.cfg.Name }) {
			h.cfg.Problem(o.cfg.Name, nil)
		}
	}
	return all
}

func (h *Hooks) wantedBy(r *receiver, e *event) bool {
	c := r.cfg
	if !slices.Contains(c.On, e.kind) {
		return false
	}
	if c.Whose != config.WhoseAll && (e.whose == Peers || e.whose == Mesh && !h.cfg.Speaks()) {
		return false
	}
	if c.Webhook.Preset == config.PresetAbuseIPDB && (e.whose != Own || !reportable(e.Event)) {
		return false
	}
	return len(c.Sources) == 0 || !e.Prefix.IsValid() || slices.ContainsFunc(c.Sources, func(s string) bool { return matches(s, e.Source) })
}

// matches reports whether a pattern, whose * at the end stands for any rest, matches a source.
func matches(pattern, source string) bool {
	if head, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(source, head)
	}
	return pattern == source
}

// add puts an event into the message that is sent next.
func (r *receiver) add(now time.Time, e *event) {
	if r.batch == nil {
		r.batch = newBatch(r.cfg)
		r.due = now.Add(r.cfg.Every)
		if r.cfg.Digest() { // at the same times of day, also after a restart
			r.due = now.Truncate(r.cfg.Every).Add(r.cfg.Every)
		}
	}
	r.batch.add(e)
}

// dueMessage returns the message that r has to send now, or nil.
func (h *Hooks) dueMessage(now time.Time, r *receiver) *message {
	if r.busy || r.due.IsZero() || r.due.After(now) {
		return nil
	}
	m := &message{Node: h.cfg.Node(), Hook: r.cfg.Name, Time: now.UTC()}
	if r.cfg.Heartbeat() {
		m.Kind, r.due = config.HookAlive, now.Add(r.cfg.Every)
		return m
	}
	r.batch.fill(m)
	dropped := h.dropped.Load()
	m.Dropped, r.dropped = dropped-r.dropped, dropped
	r.batch, r.due = nil, time.Time{}
	return m
}

// report counts a message and says what became of it.
func (h *Hooks) report(d result) {
	name := d.to.cfg.Name
	if d.err != nil {
		h.failed.Add(1)
		h.cfg.Logger.Warn("a hook could not send a message", "hook", name, "err", d.err)
	} else {
		h.sent.Add(1)
	}
	if slices.ContainsFunc(h.hooks(), func(c config.Hook) bool { return c.Name == name }) {
		h.cfg.Problem(name, d.err)
	}
}
