package mesh

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// A member that is gone for good leaves the list when somebody says so. What is forgotten stays in the table, out of sight, and
// is looked for as before: one that is heard again is back, so that the word of a captured node hides nobody who lives.

const (
	// forgetAfter is how long a member must have been silent before it is forgotten. What was heard before this node started
	// does not count as silence.
	forgetAfter = time.Minute
	// protectSilent is how long a member that another node had forgotten must have been silent before this node may ban its
	// addresses: one that only starts again, or is cut off for a while, must find its place.
	protectSilent = time.Hour
)

var (
	// ErrHeard: a member was heard a short while ago.
	ErrHeard = errors.New("it was heard within the last minute")
	// ErrNoMember: no such member is known.
	ErrNoMember = errors.New("it is no member that this node remembers")
)

// forgotten is the word that a member is gone for good.
type forgotten struct {
	By   ID        // who said it
	Said time.Time // what is heard later voids it
	// Sure is set where the operator of this node or the mesh's authority said it: the addresses may be banned at once.
	Sure bool
	kept bool // it comes from an earlier run: the member stays out of the list while this node has not listened for long
}

// silentFor is how long nothing was heard of a peer, while this node has listened.
func (t *peerTable) silentFor(now time.Time, p *peer) time.Duration {
	if p.State == StateAlive || p.State == StateSuspect || p.answers {
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

// unprotected reports whether the addresses of a peer may be banned.
func (t *peerTable) unprotected(now time.Time, p *peer) bool {
	silent := t.silentFor(now, p)
	return t.hidden(now, p) && silent >= forgetAfter && (p.word.Sure || silent >= protectSilent)
}

// forgetWord takes the word that a peer is gone for good, and reports whether it is news.
func (t *peerTable) forgetWord(now time.Time, id ID, w forgotten) bool {
	if w.Said.After(now) {
		w.Said = now
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers[id]
	if p == nil || p.State == StateAlive || p.State == StateSuspect || !p.seen.Before(w.Said) || p.word.Sure && !w.Sure {
		return false
	}
	if stands := p.seen.Before(p.word.Said); stands && p.word.Sure == w.Sure {
		return false // to say it again costs a look at it
	}
	p.word = w
	t.changedWordsLocked(now)
	return true
}

// unforget voids what a node has said.
func (t *peerTable) unforget(now time.Time, by ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.peers {
		if p.word.By == by {
			p.word = forgotten{}
		}
	}
	t.changedWordsLocked(now)
}

// changedWordsLocked has the list to remember stored and the known addresses told.
func (t *peerTable) changedWordsLocked(now time.Time) {
	t.dirty, t.knownChanged = true, true
	t.targetsLocked(now)
	signal(t.wake)
}

// CheckForget reports whether a member can be forgotten now: nil, or an error that matches ErrNoMember or ErrHeard.
func (m *Mesh) CheckForget(id ID) error {
	t, now := m.peers, m.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers[id]
	if p == nil {
		return ErrNoMember
	}
	if silent := t.silentFor(now, p); silent < forgetAfter {
		return fmt.Errorf("%w: it can be forgotten in %.0f s", ErrHeard, math.Ceil((forgetAfter - silent).Seconds()))
	}
	return nil
}

// Forget takes the word of a node that a member is gone for good, and reports whether that is news. It counts once the member
// has been silent for a minute and until it is heard again: then Members and Known leave it out. said is when the word was
// given; sure says that the operator of this node or the mesh's authority gave it. Without, Known goes on until the member
// has been silent for an hour. It may be called before Run.
func (m *Mesh) Forget(id, by ID, said time.Time, sure bool) bool {
	return m.peers.forgetWord(m.now(), id, forgotten{By: by, Said: said, Sure: sure})
}

// Unforget voids what a node has said by Forget.
func (m *Mesh) Unforget(by ID) { m.peers.unforget(m.now(), by) }
