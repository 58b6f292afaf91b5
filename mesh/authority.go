package mesh

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/replica"
	"github.com/meshban/meshban/mesh/internal/spread"
	"github.com/meshban/meshban/mesh/internal/wire"
	"github.com/meshban/meshban/mesh/pki"
)

const (
	// renewEvery is the time between two searches for certificates to renew; maxRenewals bounds the renewals of each.
	renewEvery, maxRenewals = time.Minute, 16
	// warnBefore is how long before this node's certificate ends its operator is warned.
	warnBefore = pki.CertificateLife / 6
	// tellEvery is the least time between two messages that tell a revoked node of its revocation.
	tellEvery = 2 * time.Second
)

// Standing is what the mesh's authority has said about a node.
type Standing struct {
	ID          frame.ID
	Certificate *pki.Certificate // nil: none, or it has ended
	Revoked     *pki.Revocation  // nil: it is not revoked
}

// Standing returns what the authority has said about a node; if that is nothing, only ID is set.
func (m *Mesh) Standing(id frame.ID) Standing {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.standingLocked(id)
}

func (m *Mesh) standingLocked(id frame.ID) Standing {
	s := Standing{ID: id, Revoked: m.core.Revocation(id)}
	if c, ok := m.core.Certificate(m.now(), id); ok {
		s.Certificate = &c
	}
	return s
}

// Standings returns what the authority has said about nodes, sorted by id.
func (m *Mesh) Standings() []Standing {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := []Standing{}
	for id := range m.core.Nodes() {
		if s := m.standingLocked(id); s.Certificate != nil || s.Revoked != nil {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b Standing) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return all
}

// HasAuthority reports whether the authority's key is on this node.
func (m *Mesh) HasAuthority() bool { return !m.cfg.Authority.IsZero() }

// Trusts reports whether an origin is trusted now. After Restore it tells whose restored frames apply.
func (m *Mesh) Trusts(origin frame.ID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.core.Trusts(m.now(), origin)
}

// Certify issues a new certificate for a node and sends it to every member. It lasts at least as long as the node's
// previous one. Errors match pki.ErrNoAuthority, pki.ErrRevoked or ErrStopped.
func (m *Mesh) Certify(node ed25519.PublicKey, name string, caps pki.Caps) (pki.Certificate, error) {
	if m.cfg.Authority.IsZero() {
		return pki.Certificate{}, pki.ErrNoAuthority
	}
	now := m.now()
	id := frame.IDOf(node)
	old := m.Standing(id)
	if old.Revoked != nil {
		return pki.Certificate{}, fmt.Errorf("%w since %s", pki.ErrRevoked, old.Revoked.Issued.Format(time.RFC3339))
	}
	c := pki.Certificate{
		MeshID: m.cfg.Secrets.MeshID, Node: node, Name: name, Caps: caps, NotBefore: now, NotAfter: now.Add(pki.CertificateLife),
	}
	last := uint64(0)
	if old.Certificate != nil {
		last = old.Certificate.Serial
		if old.Certificate.NotAfter.After(c.NotAfter) {
			c.NotAfter = old.Certificate.NotAfter
		}
	}
	var err error
	if c.Serial, err = pki.NewSerial(now, last); err != nil {
		return pki.Certificate{}, err
	}
	if c, err = m.cfg.Authority.Certify(c); err != nil {
		return pki.Certificate{}, err
	}
	return c, m.publishRecord(c.Frame)
}

// Revoke shuts a node out for good: once a member has the revocation, it ignores what the node says and ever said. If
// the node is already revoked, Revoke returns the first revocation. since is for people to read. Errors match
// pki.ErrNoAuthority or ErrStopped.
func (m *Mesh) Revoke(node frame.ID, name string, since time.Time, reason string) (pki.Revocation, error) {
	switch {
	case m.cfg.Authority.IsZero():
		return pki.Revocation{}, pki.ErrNoAuthority
	case node == m.id:
		return pki.Revocation{}, errors.New("a node cannot revoke itself: do it on another one that has the authority's key")
	}
	if old := m.Standing(node); old.Revoked != nil {
		return *old.Revoked, nil
	}
	now := m.now()
	serial, err := pki.NewSerial(now, 0)
	if err != nil {
		return pki.Revocation{}, err
	}
	v, err := m.cfg.Authority.Revoke(pki.Revocation{
		MeshID: m.cfg.Secrets.MeshID, Serial: serial, Node: node, Name: name, Since: since, Issued: now, Reason: reason,
	})
	if err != nil {
		return pki.Revocation{}, err
	}
	if err := m.publishRecord(v.Frame); err != nil {
		return v, err
	}
	m.tellRevoked(now, node)
	return v, nil
}

// tellRevoked sends a revoked node its revocation, because nobody pushes to it any more. It does not wait. A node is
// told at most once per tellEvery, however much arrives in its name.
func (m *Mesh) tellRevoked(now time.Time, id frame.ID) {
	if !m.told.Take(now, id, 1) {
		return
	}
	s, n := m.Standing(id), m.peers.node(id)
	if s.Revoked == nil || n == nil {
		return
	}
	m.pusher.Send(n, wire.AppendPacked([]byte{wire.KindPush}, s.Revoked.Frame.Raw))
}

// AuthorityID returns the origin of what the mesh's authority signs, or zero if the mesh has no authority.
func (m *Mesh) AuthorityID() frame.ID { return m.core.Authority() } // set only by New

// PublishAsAuthority signs payload (at most frame.MaxPayload bytes) with the authority's key and sends it to every
// member, ahead of what nodes publish. Other members get the frame through Config.Deliver, with AuthorityID as Origin,
// pki.AuthorityEpoch as Epoch and now as Issued. Errors match pki.ErrNoAuthority, ErrStopped or ErrFull.
func (m *Mesh) PublishAsAuthority(now time.Time, payload []byte, expires time.Time) (frame.Frame, error) {
	if m.cfg.Authority.IsZero() {
		return frame.Frame{}, pki.ErrNoAuthority
	}
	m.asAuthority.Lock()
	defer m.asAuthority.Unlock()
	serial, err := pki.NewSerial(now, m.lastAuthority)
	if err != nil {
		return frame.Frame{}, err
	}
	f, err := m.cfg.Authority.Sign(frame.Frame{
		MeshID: m.cfg.Secrets.MeshID, Epoch: pki.AuthorityEpoch, Seq: serial, Issued: now, Expires: expires, Payload: payload,
	})
	if err != nil {
		return frame.Frame{}, fmt.Errorf("publish as the authority: %w", err)
	}
	m.mu.Lock()
	v := m.core.Judge(m.now(), f)
	m.mu.Unlock()
	switch v {
	case replica.VerdictNew:
		m.lastAuthority = serial
		return f, m.publishRecord(f)
	case replica.VerdictExpired:
		return frame.Frame{}, errEnded(f)
	case replica.VerdictFull:
		return frame.Frame{}, fmt.Errorf("publish as the authority: %w: %d frames of it are in force", ErrFull, replica.MaxAuthorityFrames)
	}
	return frame.Frame{}, errors.New("publish as the authority: the frame's number is in use, or its time is ahead of the clock")
}

// publishRecord takes in a frame that the authority signed and, if it is new, sends it to every member.
func (m *Mesh) publishRecord(f frame.Frame) error {
	m.mu.Lock()
	if m.phase == phaseEnded {
		m.mu.Unlock()
		return ErrStopped
	}
	fresh := len(m.stepLocked(m.now(), replica.FramesEvent{Via: replica.ViaOwn, Frames: []frame.Frame{f}}).Admitted) > 0
	running := m.phase == phaseRunning
	m.mu.Unlock()
	if fresh && running {
		m.pusher.Put(spread.Job{Frames: []frame.Frame{f}, Direct: true})
		m.gossip.Put(f)
		m.wakeCore()
	}
	return nil
}

// present publishes this node's own certificate: the configured one or, if none is valid and the authority's key is
// here, a new one.
func (m *Mesh) present() error {
	if !m.cfg.Secrets.HasAuthority() {
		return nil
	}
	if c := m.cfg.Certificate; c.Serial != 0 {
		switch err := c.Verify(m.cfg.Secrets.Authority[:], m.cfg.Secrets.MeshID, m.now()); {
		case err == nil:
			if err := m.publishRecord(c.Frame); err != nil {
				return err
			}
		case errors.Is(err, pki.ErrCertificateEarly): // the clock is behind
			m.mu.Lock()
			m.stepLocked(m.now(), replica.FramesEvent{Via: replica.ViaRestore, Frames: []frame.Frame{c.Frame}})
			m.mu.Unlock()
		}
	}
	if m.cfg.Authority.IsZero() || m.Standing(m.id).Certificate != nil {
		return nil
	}
	_, err := m.Certify(m.cfg.Identity.Public(), m.cfg.Name, pki.DefaultCaps())
	return err
}

// renewLoop renews certificates well before they end if the authority's key is here, and warns when this node's own
// certificate is about to end or is no longer valid.
func (m *Mesh) renewLoop(ctx context.Context) {
	if !m.cfg.Secrets.HasAuthority() {
		return
	}
	if m.Standing(m.id).Revoked != nil {
		m.checkOwn()
	}
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			m.renew()
			m.checkOwn()
		case <-ctx.Done():
			return
		}
	}
}

// renew issues new certificates for live members whose certificates are past half their life.
func (m *Mesh) renew() {
	if m.cfg.Authority.IsZero() {
		return
	}
	now := m.now()
	due := slices.DeleteFunc(m.Standings(), func(s Standing) bool {
		if s.Revoked != nil || s.Certificate == nil {
			return true
		}
		return s.Certificate.NotAfter.Sub(now) > pki.CertificateLife/2 || s.ID != m.id && m.peers.node(s.ID) == nil
	})
	slices.SortFunc(due, func(a, b Standing) int {
		return cmp.Or(a.Certificate.NotAfter.Compare(b.Certificate.NotAfter), bytes.Compare(a.ID[:], b.ID[:]))
	})
	for _, s := range due[:min(len(due), maxRenewals)] {
		if _, err := m.Certify(s.Certificate.Node, s.Certificate.Name, s.Certificate.Caps); err != nil {
			m.problems.report(now, ProblemCertificate, s.ID.String(), "cannot renew the certificate of "+s.Certificate.Name+": "+err.Error(),
				"see that `meshban ca caps NAME` works here; it is tried again")
			return
		}
		m.cfg.Logger.Info("renewed a certificate", "name", s.Certificate.Name, "id", s.ID.Short())
	}
}

// checkOwn tells the operator when other nodes ignore this one, or soon will.
func (m *Mesh) checkOwn() {
	now := m.now()
	s := m.Standing(m.id)
	const renew = "start the agent of a node that has ca.key: it renews the certificate"
	switch {
	case s.Revoked != nil:
		m.problems.report(now, ProblemCertificate, "own", "this node was revoked at "+s.Revoked.Issued.Format(time.RFC3339)+
			": the others take nothing from it", newStart)
	case s.Certificate == nil:
		m.problems.report(now, ProblemCertificate, "own", "this node has no valid certificate: the others take nothing from it",
			renew+"; or stop this one and `meshban join TOKEN` with a new token")
	case s.Certificate.NotAfter.Sub(now) < warnBefore:
		m.problems.report(now, ProblemCertificate, "own", "this node's certificate ends at "+s.Certificate.NotAfter.Format(time.RFC3339), renew)
	}
}
