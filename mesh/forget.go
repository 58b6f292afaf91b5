package mesh

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/meshban/meshban/mesh/frame"
)

// An operator may say that a member is gone for good; it then leaves the list. A forgotten member stays in the table,
// hidden, and is still searched for. It returns as soon as it gives a sign of life, so a captured node cannot hide a live
// member. What others say of it does not bring it back.

const (
	// forgetAfter is how long a member must have been silent before it is forgotten. Time before this node started does
	// not count.
	forgetAfter = time.Minute
	// protectSilent is how long there must have been neither a sign of life nor news of a member before this node may ban
	// its addresses if only another node has forgotten it: a member that is restarting, or is cut off for a while, must find its way back.
	protectSilent = time.Hour
)

var (
	// errHeard: the member was heard from a short while ago.
	errHeard = errors.New("it was heard within the last minute")
	// ErrNoMember: no such member is known.
	ErrNoMember = errors.New("it is no member that this node remembers")
)

// forgotten is a statement that a member is gone for good.
type forgotten struct {
	By   frame.ID  // who said it
	Said time.Time // a later sign of life voids it
	// Sure says that this node's operator or the mesh's authority said it: the addresses may be banned at once.
	Sure bool
	kept bool // from an earlier run: it hides the member before this node has listened for forgetAfter
}

// silentFor returns how long a peer has been silent while this node was listening.
func (t *peerTable) silentFor(now time.Time, p *peer) time.Duration {
	if p.State == StateAlive || p.answers {
		return 0
	}
	last := p.seen
	if last.Before(t.since) {
		last = t.since
	}
	return now.Sub(last)
}

// hidden reports whether a peer is forgotten.
func (t *peerTable) hidden(now time.Time, p *peer) bool {
	silent := t.silentFor(now, p)
	return !p.word.Said.IsZero() && p.seen.Before(p.word.Said) && (silent >= forgetAfter || p.word.kept && silent > 0)
}

// unprotected reports whether a peer's addresses may be banned.
func (t *peerTable) unprotected(now time.Time, p *peer) bool {
	silent := t.silentFor(now, p)
	quiet := silent >= protectSilent && p.State != StateSuspect && now.Sub(p.told) >= protectSilent
	return t.hidden(now, p) && silent >= forgetAfter && (p.word.Sure || quiet)
}

// forgetWord records a statement that a peer is gone for good, and reports whether it is new.
func (t *peerTable) forgetWord(now time.Time, id frame.ID, w forgotten) bool {
	if w.Said.After(now) {
		w.Said = now
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers[id]
	if p == nil || p.State == StateAlive || !p.seen.Before(w.Said) {
		return false
	}
	if stands := p.seen.Before(p.word.Said); stands && (p.word.Sure || !w.Sure) {
		return false // repeating it would cost storing it again
	}
	p.word = w
	t.changedWordsLocked(now)
	return true
}

// unforget voids the statements of a node.
func (t *peerTable) unforget(now time.Time, by frame.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.peers {
		if p.word.By == by {
			p.word = forgotten{}
		}
	}
	t.changedWordsLocked(now)
}

// changedWordsLocked makes the notifier store the peer list and announce the known addresses again.
func (t *peerTable) changedWordsLocked(now time.Time) {
	t.dirty, t.knownChanged = true, true
	t.targetsLocked(now)
	wake(t.wake)
}

// CheckForget reports whether a member can be forgotten now: nil, or an error that matches ErrNoMember or
// says when it was heard.
func (m *Mesh) CheckForget(id frame.ID) error {
	t, now := m.peers, m.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers[id]
	if p == nil {
		return ErrNoMember
	}
	if silent := t.silentFor(now, p); silent < forgetAfter {
		return fmt.Errorf("%w: it can be forgotten in %.0f s", errHeard, math.Ceil((forgetAfter - silent).Seconds()))
	}
	return nil
}

// Forget records a node's statement that a member is gone for good, and reports whether it is new. It takes effect once
// the member has been silent for a minute, and lasts until the member is heard again: meanwhile Members and Known omit
// it. said is when the statement was made; sure says that this node's operator or the mesh's authority made it. Unless
// sure, Known still lists the member until it has been silent for an hour. Forget may be called before Run.
func (m *Mesh) Forget(id, by frame.ID, said time.Time, sure bool) bool {
	return m.peers.forgetWord(m.now(), id, forgotten{By: by, Said: said, Sure: sure})
}

// Unforget voids what a node said with Forget.
func (m *Mesh) Unforget(by frame.ID) { m.peers.unforget(m.now(), by) }
