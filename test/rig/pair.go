//go:build linux && netns

package rig

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// Settle is how long a pair must have been silent to count as enforced.
	Settle = 300 * time.Millisecond
	// controlRun is how many probes in a row must be answered before a trial;
	// a sparse prober sends fewer in the same time, so fewer suffice.
	controlRun, sparseRun = 20, 4
	// controlLimit bounds the wait for them: the first ones wait for neighbour
	// discovery.
	controlLimit = 30 * time.Second
	// maxGap is the longest gap between probes over which a pair's state is taken to have lasted: a virtual processor
	// stands still for a second now and then, and the prober's thread with it.
	maxGap = 3 * time.Second
	// maxStep is the longest time between two probes that counts as watched.
	maxStep = 100 * time.Millisecond
)

// Pair is one source address and one node, probed every millisecond.
type Pair struct {
	Src  netip.Addr
	Node *Node
	Port uint16

	prober  *Prober
	source  uint16
	frame   *synFrame // used by the prober's thread alone
	to      unix.SockaddrLinklayer
	history history
}

func (p *Pair) String() string {
	return fmt.Sprintf("%v to port %d of %s", p.Src, p.Port, p.Node.Name)
}

// Stop ends the probing; the history stays.
func (p *Pair) Stop() { p.prober.forget(p) }

// Window summarizes the probes of a pair in a time span.
type Window struct {
	Sent, Answered int
	Gap            time.Duration // the longest time between two probes
	Watched        time.Duration // the sum of all times between two probes of at most maxStep
}

// Count summarizes the probes sent at or after from and before to. Answers to
// the last ones may still be on their way.
func (p *Pair) Count(from, to time.Time) Window {
	var w Window
	h, first, last := &p.history, from.Sub(p.prober.start), to.Sub(p.prober.start)
	before := first
	step := func(at time.Duration) {
		w.Gap = max(w.Gap, at-before)
		if at-before <= maxStep {
			w.Watched += at - before
		}
		before = at
	}
	for i := range h.sent() {
		at := h.at(i)
		if at < first || at >= last {
			continue
		}
		w.Sent++
		step(at)
		if h.answered(i) {
			w.Answered++
		}
	}
	step(min(last, time.Since(p.prober.start)))
	return w
}

// Lost waits at most PingLimit for answers to the probes sent between from and to. It returns how many were sent, and how
// many of them were not answered.
func (p *Pair) Lost(from, to time.Time) (sent, lost int) {
	_ = Within(PingLimit, func() error {
		w := p.Count(from, to)
		if sent, lost = w.Sent, w.Sent-w.Answered; lost > 0 {
			return errors.New("not answered")
		}
		return nil
	})
	return sent, lost
}

// run is how many probes in a row must be answered, or must not be, to mean anything.
func (p *Pair) run() int { return max(sparseRun, controlRun/p.prober.every) }

// Control waits until the newest probes have all been answered.
func (p *Pair) Control() error {
	err := Within(controlLimit, func() error {
		h, run := &p.history, p.run()
		end := h.replied()
		if end < run || h.sent()-end > run {
			return errors.New("no answer")
		}
		for i := end - run; i < end; i++ {
			if !h.answered(i) {
				return errors.New("not every probe is answered")
			}
		}
		return nil
	})
	if err != nil {
		return errors.Join(fmt.Errorf("positive control of %v: %w", p, err), p.prober.err())
	}
	return nil
}

// Enforced waits until no probe has been answered for Settle and returns the
// send time of the first probe after the last answered one. The kernel began to
// drop between these two probes.
func (p *Pair) Enforced(limit time.Duration) (time.Time, error) {
	var at time.Time
	err := Within(limit+Settle, func() error {
		h := &p.history
		silent, sent := h.replied(), h.sent()
		if sent-silent < p.run() || h.at(sent-1)-h.at(silent) < Settle {
			return errors.New("still answered")
		}
		at = p.prober.start.Add(h.at(silent))
		return nil
	})
	if err != nil {
		return at, errors.Join(fmt.Errorf("%v: %w", p, err), p.prober.err())
	}
	return at, nil
}

// Open waits for an answer to a probe sent at or after from, and returns when
// that probe was sent.
func (p *Pair) Open(from time.Time, limit time.Duration) (time.Time, error) {
	var at time.Time
	first := from.Sub(p.prober.start)
	err := Within(limit, func() error {
		h := &p.history
		for i := h.replied() - 1; i >= 0 && h.at(i) >= first; i-- {
			if h.answered(i) {
				at = p.prober.start.Add(h.at(i))
			}
		}
		if at.IsZero() {
			return errors.New("no answer")
		}
		return nil
	})
	if err != nil {
		return at, errors.Join(fmt.Errorf("%v: %w", p, err), p.prober.err())
	}
	return at, nil
}

// Pairs are the pairs of one source, usually one for each node.
type Pairs []*Pair

// Control waits for the positive control of every pair.
func (ps Pairs) Control() error {
	for _, p := range ps {
		if err := p.Control(); err != nil {
			return err
		}
	}
	return nil
}

// Enforced waits until every pair is silent and returns the time of each.
func (ps Pairs) Enforced(limit time.Duration) ([]time.Time, error) {
	end := time.Now().Add(limit)
	at := make([]time.Time, len(ps))
	var errs []error
	for i, p := range ps {
		var err error
		at[i], err = p.Enforced(max(0, time.Until(end)))
		errs = append(errs, err)
	}
	return at, errors.Join(errs...)
}

// Open waits until every pair answers a probe sent at or after from, and
// returns the time of each.
func (ps Pairs) Open(from time.Time, limit time.Duration) ([]time.Time, error) {
	end := time.Now().Add(limit)
	at := make([]time.Time, len(ps))
	var errs []error
	for i, p := range ps {
		var err error
		at[i], err = p.Open(from, max(0, time.Until(end)))
		errs = append(errs, err)
	}
	return at, errors.Join(errs...)
}

// Silent returns an error if any pair has answered a probe sent since from. It waits until the probes suffice to tell.
func (ps Pairs) Silent(from time.Time) error {
	called := time.Now()
	var errs []error
	for _, p := range ps {
		answered := false
		err := Within(controlLimit, func() error {
			w := p.Count(from, time.Now())
			if answered = w.Answered > 0; answered {
				return nil
			}
			return p.tells(w, from, called)
		})
		if answered {
			w := p.Count(from, time.Now())
			err = fmt.Errorf("%v: %d of %d probes were answered", p, w.Answered, w.Sent)
		} else if err != nil {
			err = errors.Join(err, p.prober.err())
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// tells returns nil if the probes since from suffice to tell that a pair was silent: one was sent after the call, no
// gap exceeded maxGap, and the pair was watched for Settle and for at least half of the time.
func (p *Pair) tells(w Window, from, called time.Time) error {
	n := p.history.sent()
	if n > 0 && !p.prober.start.Add(p.history.at(n-1)).Before(called) && w.Gap <= maxGap && w.Watched >= max(Settle, called.Sub(from)/2) {
		return nil
	}
	return fmt.Errorf("%v: watched for %v of %v by %d probes, and for %v there was none (%v)", p, w.Watched, time.Since(from), w.Sent, w.Gap, p.prober.paused.Load())
}

// Stop ends the probing of every pair.
func (ps Pairs) Stop() {
	for _, p := range ps {
		p.Stop()
	}
}

// Last returns the latest of some times.
func Last(times []time.Time) time.Time {
	var last time.Time
	for _, t := range times {
		if t.After(last) {
			last = t
		}
	}
	return last
}
