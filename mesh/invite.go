package mesh

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/meshban/meshban/mesh/internal/enrol"
	"github.com/meshban/meshban/mesh/internal/transport"
	"github.com/meshban/meshban/mesh/pki"
)

func (m *Mesh) loadInvites() (err error) {
	var saved []byte
	if m.cfg.LoadInvites != nil {
		if saved, err = m.cfg.LoadInvites(); err != nil {
			return err
		}
	}
	m.invites, err = enrol.LoadInvites(time.Now(), saved, m.cfg.SaveInvites)
	return err
}

// NewInvite makes a token with which up to uses machines (1 to 1000) can enrol within ttl (at most 30 days), to be
// certified with caps. It needs Run, because the token names our addresses. In a mesh with an authority it returns
// pki.ErrNoAuthority unless this node holds the authority's key.
func (m *Mesh) NewInvite(uses int, ttl time.Duration, caps pki.Caps) (string, error) {
	if uses < 1 || uses > enrol.MaxUses {
		return "", fmt.Errorf("uses %d: want 1 to %d", uses, enrol.MaxUses)
	}
	if ttl <= 0 || ttl > enrol.MaxLife {
		return "", fmt.Errorf("a token is good for more than 0 s and at most %d days", enrol.MaxLife/(24*time.Hour))
	}
	if err := caps.Validate(); err != nil {
		return "", err
	}
	if m.cfg.Secrets.HasAuthority() && m.cfg.Authority.IsZero() {
		return "", pki.ErrNoAuthority
	}
	if m.ml.Load() == nil {
		for _, f := range m.Faults() {
			if f.Kind == ProblemAddress {
				return "", errors.New(f.Text)
			}
		}
		return "", errors.New("the mesh port is not open yet")
	}
	now := time.Now()
	t := pki.Token{Addrs: m.tokenAddrs(new(transport.Addrs).Local()), Inviter: m.id, Expires: now.Add(ttl).Truncate(time.Millisecond).UTC()}
	if _, err := rand.Read(t.Secret[:]); err != nil {
		return "", fmt.Errorf("make a secret: %w", err)
	}
	if err := m.invites.Add(now, t.Secret, t.Expires, uses, caps); err != nil {
		return "", err
	}
	return t.Encode(), nil
}

// Invitation is an invitation of this node that can still be used.
type Invitation = enrol.Invitation

// Invitations returns the invitations of this node that can still be used, oldest first.
func (m *Mesh) Invitations() []Invitation { return m.invites.Open(time.Now()) }

// CancelInvite ends an invitation of this node, and reports whether there was one with this id. Whoever it admitted
// stays. An error means that a restart would bring it back.
func (m *Mesh) CancelInvite(id string) (bool, error) { return m.invites.Cancel(time.Now(), id) }

// tokenAddrs returns where a newcomer may reach us: the advertised address first. If the node is bound to all addresses
// and no address is configured, this machine's other addresses follow.
func (m *Mesh) tokenAddrs(local []netip.Addr) []netip.AddrPort {
	own := m.Addr()
	addrs := []netip.AddrPort{own}
	if m.cfg.Advertise.IsValid() && !m.cfg.Advertise.Addr().IsUnspecified() || !m.cfg.Bind.Addr().IsUnspecified() {
		return addrs
	}
	for _, a := range local {
		if a = a.Unmap(); len(addrs) < pki.MaxTokenAddrs && a.IsGlobalUnicast() && a != own.Addr() &&
			(a.Is4() || !m.cfg.Bind.Addr().Is4()) {
			addrs = append(addrs, netip.AddrPortFrom(a, own.Port()))
		}
	}
	return addrs
}
