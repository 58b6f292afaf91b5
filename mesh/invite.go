package mesh

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/wire"
	"github.com/meshban/meshban/mesh/pki"
)

const (
	// maxInviteUses bounds how many machines one token can admit.
	maxInviteUses = 1000
	// maxInviteLife bounds a token's life.
	maxInviteLife = 30 * 24 * time.Hour
	// maxInvites bounds the invitations kept, including those that ended recently.
	maxInvites = 256
	// inviteMemory is how long an expired invitation is remembered, so that its user learns why it does not work.
	inviteMemory = 24 * time.Hour
	// maxInviteFile bounds what LoadInvites may return, in bytes.
	maxInviteFile = maxInvites * (96 + maxInviteUses*18)
	// inviteFields is the number of fields of an invitation; one with other caps than the default has one more.
	inviteFields = 4
	knockDomain  = "meshban knock v1\x00"
)

var (
	// ErrInviteExpired: the token has expired.
	ErrInviteExpired = errors.New("the join token has expired")
	// ErrInviteUsed: the token has admitted as many machines as it may.
	ErrInviteUsed = errors.New("the join token is used up")
	// ErrInviteUnknown: the inviter does not know the token.
	ErrInviteUnknown = errors.New("the inviter does not know this join token (of another mesh, or withdrawn)")
)

// invite is an invitation that this node made. The secret itself is not kept.
type invite struct {
	Hash    [32]byte // SHA-256 of the secret
	Expires time.Time
	Uses    uint64     // at most
	Used    []frame.ID // nodes that came; each may come again
	Caps    pki.Caps   // for the nodes that it admits
}

// invites are the invitations that this node has made.
type invites struct {
	mu   sync.Mutex
	list []invite
	save func([]byte) error
}

func newInvites() *invites { return &invites{} }

func (v *invites) load(cfg Config, now time.Time) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.save = cfg.SaveInvites
	if cfg.LoadInvites == nil {
		return nil
	}
	b, err := cfg.LoadInvites()
	if err != nil || len(b) == 0 {
		return err
	}
	list, err := decodeInvites(b)
	if err != nil {
		return err
	}
	v.list = list
	v.pruneLocked(now)
	return nil
}

func (v *invites) pruneLocked(now time.Time) {
	v.list = slices.DeleteFunc(v.list, func(i invite) bool { return now.Sub(i.Expires) > inviteMemory })
}

func (v *invites) storeLocked() error {
	if v.save == nil {
		return nil
	}
	return v.save(encodeInvites(v.list))
}

// add opens an invitation; it is stored when add returns.
func (v *invites) add(now time.Time, i invite) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.pruneLocked(now)
	if len(v.list) >= maxInvites {
		// Make room by forgetting one that has expired or is used up.
		at := slices.IndexFunc(v.list, func(i invite) bool { return !i.Expires.After(now) || uint64(len(i.Used)) >= i.Uses })
		if at < 0 {
			return fmt.Errorf("%d invitations are open, want at most %d", len(v.list), maxInvites)
		}
		v.list = slices.Delete(v.list, at, at+1)
	}
	v.list = append(v.list, i)
	if err := v.storeLocked(); err != nil {
		v.list = v.list[:len(v.list)-1]
		return fmt.Errorf("store the invitation: %w", err)
	}
	return nil
}

// redeem admits a node and returns its caps, or an error that says why not. again says that the node was admitted
// before: its first answer may have been lost. The use is stored when redeem returns.
func (v *invites) redeem(now time.Time, secret [16]byte, id frame.ID) (caps pki.Caps, again bool, err error) {
	hash := sha256.Sum256(secret[:])
	v.mu.Lock()
	defer v.mu.Unlock()
	var found *invite
	for i := range v.list {
		if subtle.ConstantTimeCompare(v.list[i].Hash[:], hash[:]) == 1 {
			found = &v.list[i]
		}
	}
	switch {
	case found == nil:
		return pki.Caps{}, false, ErrInviteUnknown
	case !found.Expires.After(now):
		return pki.Caps{}, false, ErrInviteExpired
	case slices.Contains(found.Used, id):
		return found.Caps, true, nil
	case uint64(len(found.Used)) >= found.Uses:
		return pki.Caps{}, false, ErrInviteUsed
	}
	found.Used = append(found.Used, id)
	if err := v.storeLocked(); err != nil {
		found.Used = found.Used[:len(found.Used)-1]
		return pki.Caps{}, false, fmt.Errorf("store the use of the invitation: %w", err)
	}
	return found.Caps, false, nil
}

// knock returns the server name in the TLS hello of a joiner: the inviter sees by it that somebody has a token, before it
// does anything that costs much. hash is that of the secret.
func knock(hash [32]byte) string {
	sum := sha256.Sum256(append([]byte(knockDomain), hash[:]...))
	return hex.EncodeToString(sum[:16])
}

// knocks reports whether a server name is the knock of a token that is valid or was used up.
func (v *invites) knocks(now time.Time, name string) bool {
	if len(name) != 2*16 {
		return false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.ContainsFunc(v.list, func(i invite) bool { return i.Expires.After(now) && knock(i.Hash) == name })
}

func encodeInvites(list []invite) []byte {
	b := wire.AppendArray(nil, len(list))
	for _, i := range list {
		fields := inviteFields
		if i.Caps != pki.DefaultCaps() {
			fields++
		}
		b = wire.AppendArray(b, fields)
		b = wire.AppendBin(b, i.Hash[:])
		b = wire.AppendUint(b, uint64(i.Expires.UnixMilli()))
		b = wire.AppendUint(b, i.Uses)
		b = wire.AppendArray(b, len(i.Used))
		for _, id := range i.Used {
			b = wire.AppendBin(b, id[:])
		}
		if fields > inviteFields {
			b = i.Caps.Append(wire.AppendArray(b, pki.CapsFields))
		}
	}
	return b
}

func decodeInvites(b []byte) ([]invite, error) {
	if len(b) > maxInviteFile {
		return nil, fmt.Errorf("invitations of %d bytes, want at most %d", len(b), maxInviteFile)
	}
	r := wire.Reader{Rest: b}
	list := make([]invite, r.Array(maxInvites))
	for n := range list {
		i := &list[n]
		fields := r.Array(inviteFields + 1)
		if fields < inviteFields {
			r.Fail(fmt.Errorf("list of %d, want %d or %d", fields, inviteFields, inviteFields+1))
		}
		r.Fixed(i.Hash[:])
		ms := r.Uint()
		i.Uses = r.Uint()
		if ms > wire.MaxMillis || i.Uses > maxInviteUses {
			r.Fail(errors.New("number out of range"))
		}
		i.Expires = time.UnixMilli(int64(ms)).UTC()
		for k := r.Array(maxInviteUses); k > 0 && r.Err == nil; k-- {
			var id frame.ID
			r.Fixed(id[:])
			i.Used = append(i.Used, id)
		}
		if i.Caps = pki.DefaultCaps(); fields > inviteFields {
			r.ArrayOf(pki.CapsFields)
			if i.Caps = pki.ReadCaps(&r); i.Caps == pki.DefaultCaps() {
				r.Fail(wire.ErrCanonical)
			}
		}
	}
	if err := r.End(); err != nil {
		return nil, fmt.Errorf("invitations: %w", err)
	}
	return list, nil
}

// NewInvite makes a token with which up to uses machines (1 to 1000) can enrol within ttl (at most 30 days), to be
// certified with caps. It needs Run, because the token names our addresses. In a mesh with an authority it returns pki.ErrNoAuthority unless this node holds the authority's key.
func (m *Mesh) NewInvite(uses int, ttl time.Duration, caps pki.Caps) (string, error) {
	if uses < 1 || uses > maxInviteUses {
		return "", fmt.Errorf("uses %d: want 1 to %d", uses, maxInviteUses)
	}
	if ttl <= 0 || ttl > maxInviteLife {
		return "", fmt.Errorf("a token is good for more than 0 s and at most %d days", maxInviteLife/(24*time.Hour))
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
	t := pki.Token{Addrs: m.tokenAddrs(new(location).localAddrs()), Inviter: m.id, Expires: now.Add(ttl).Truncate(time.Millisecond).UTC()}
	if _, err := rand.Read(t.Secret[:]); err != nil {
		return "", fmt.Errorf("make a secret: %w", err)
	}
	if err := m.invites.add(now, invite{Hash: sha256.Sum256(t.Secret[:]), Expires: t.Expires, Uses: uint64(uses), Caps: caps}); err != nil {
		return "", err
	}
	return t.Encode(), nil
}

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
