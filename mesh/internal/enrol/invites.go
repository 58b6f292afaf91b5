package enrol

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/wire"
	"github.com/meshban/meshban/mesh/pki"
)

const (
	// MaxUses bounds how many machines one token can admit.
	MaxUses = 1000
	// MaxLife bounds an invitation's life.
	MaxLife = 30 * 24 * time.Hour
	// maxInvites bounds the invitations kept, including those that ended recently.
	maxInvites = 256
	// inviteMemory is how long an expired invitation is remembered, so that its user learns why it does not work.
	inviteMemory = 24 * time.Hour
	// maxInviteFile bounds what LoadInvites takes, in bytes.
	maxInviteFile = maxInvites * (96 + MaxUses*18)
	// inviteFields is the number of fields of an invitation; one with other caps than the default has one more.
	inviteFields = 4
	knockDomain  = "meshban knock v1\x00"
)

// invite is an invitation that this node made. The secret itself is not kept.
type invite struct {
	Hash    [32]byte // SHA-256 of the secret
	Expires time.Time
	Uses    uint64     // at most
	Used    []frame.ID // nodes that it admitted; each may come again
	Caps    pki.Caps   // for the nodes that it admits

	knock string // not stored
}

// Invites are the invitations that this node has made.
type Invites struct {
	mu   sync.Mutex
	list []invite
	save func([]byte) error
}

// LoadInvites returns the invitations that save stored; saved is empty if there are none. save may be nil.
func LoadInvites(now time.Time, saved []byte, save func([]byte) error) (*Invites, error) {
	v := &Invites{save: save}
	if len(saved) > 0 {
		list, err := decodeInvites(saved)
		if err != nil {
			return nil, err
		}
		v.list = list
	}
	v.pruneLocked(now)
	return v, nil
}

func (v *Invites) pruneLocked(now time.Time) {
	v.list = slices.DeleteFunc(v.list, func(i invite) bool { return now.Sub(i.Expires) > inviteMemory })
}

func (v *Invites) storeLocked() error {
	if v.save == nil {
		return nil
	}
	return v.save(encodeInvites(v.list))
}

// Add opens an invitation for up to uses nodes; it is stored when Add returns.
func (v *Invites) Add(now time.Time, secret [16]byte, expires time.Time, uses int, caps pki.Caps) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.pruneLocked(now)
	if len(v.list) >= maxInvites {
		// Make room by forgetting one that has expired or is used up.
		at := slices.IndexFunc(v.list, func(i invite) bool { return !i.open(now) })
		if at < 0 {
			return fmt.Errorf("%d invitations are open, want at most %d", len(v.list), maxInvites)
		}
		v.list = slices.Delete(v.list, at, at+1)
	}
	hash := sha256.Sum256(secret[:])
	v.list = append(v.list, invite{Hash: hash, Expires: expires, Uses: uint64(uses), Caps: caps, knock: knock(hash)})
	if err := v.storeLocked(); err != nil {
		v.list = v.list[:len(v.list)-1]
		return fmt.Errorf("store the invitation: %w", err)
	}
	return nil
}

// Redeem admits a node and returns its caps, or a code that says why not. again says that the node was admitted before:
// its first answer may have been lost. The use is stored when Redeem returns; err says why it was not.
func (v *Invites) Redeem(now time.Time, secret [16]byte, id frame.ID) (caps pki.Caps, again bool, code Code, err error) {
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
		return pki.Caps{}, false, Unknown, nil
	case !found.Expires.After(now):
		return pki.Caps{}, false, Expired, nil
	case slices.Contains(found.Used, id):
		return found.Caps, true, OK, nil
	case uint64(len(found.Used)) >= found.Uses:
		return pki.Caps{}, false, Used, nil
	}
	found.Used = append(found.Used, id)
	if err := v.storeLocked(); err != nil {
		found.Used = found.Used[:len(found.Used)-1]
		return pki.Caps{}, false, Failed, fmt.Errorf("store the use of the invitation: %w", err)
	}
	return found.Caps, false, OK, nil
}

// Invitation is an invitation that can still be used.
type Invitation struct {
	ID         string // names it in commands; it does not admit anyone
	Expires    time.Time
	Uses, Used int // at most, so far
	Caps       pki.Caps
}

// id returns the name of an invitation for people: 8 hex digits.
func (i invite) id() string { return hex.EncodeToString(i.Hash[:4]) }

func (i invite) open(now time.Time) bool { return i.Expires.After(now) && uint64(len(i.Used)) < i.Uses }

// Open returns the invitations that can still be used, oldest first.
func (v *Invites) Open(now time.Time) (list []Invitation) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, i := range v.list {
		if i.open(now) {
			list = append(list, Invitation{ID: i.id(), Expires: i.Expires, Uses: int(i.Uses), Used: len(i.Used), Caps: i.Caps})
		}
	}
	return list
}

// Cancel ends the open invitations with an id, and reports whether there is one. The end is stored when Cancel returns;
// err says why it was not.
func (v *Invites) Cancel(now time.Time, id string) (found bool, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	before := slices.Clone(v.list)
	for n := range v.list {
		if i := &v.list[n]; i.id() == id && i.open(now) {
			i.Expires, found = now.Truncate(time.Millisecond), true
		}
	}
	if !found {
		return false, nil
	}
	if err := v.storeLocked(); err != nil {
		v.list = before
		return true, fmt.Errorf("store the end of the invitation: %w", err)
	}
	return true, nil
}

// Knock returns the server name for a joiner's TLS hello. It shows the inviter that the joiner has a token, before the
// inviter does anything expensive.
func Knock(secret [16]byte) string { return knock(sha256.Sum256(secret[:])) }

func knock(hash [32]byte) string {
	sum := sha256.Sum256(append([]byte(knockDomain), hash[:]...))
	return hex.EncodeToString(sum[:16])
}

// Knocks reports whether a server name is the knock of a token that has not expired, even if it is used up.
func (v *Invites) Knocks(now time.Time, name string) bool {
	if len(name) != 2*16 {
		return false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.ContainsFunc(v.list, func(i invite) bool { return i.knock == name && i.Expires.After(now) })
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
		i.knock = knock(i.Hash)
		ms := r.Uint()
		i.Uses = r.Uint()
		if ms > wire.MaxMillis || i.Uses > MaxUses {
			r.Fail(errors.New("number out of range"))
		}
		i.Expires = time.UnixMilli(int64(ms)).UTC()
		for k := r.Array(MaxUses); k > 0 && r.Err == nil; k-- {
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
