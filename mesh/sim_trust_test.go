package mesh

import (
	"crypto/ed25519"
	"crypto/sha256"
	"sync"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/pki"
)

// simTrust is the authority of a simulated fleet. The fleet's operator has its key and publishes through any running node,
// which may crash before it has passed the record on.
type simTrust struct {
	authority pki.Authority
	serial    uint64
	latest    map[frame.ID]uint64         // serial of the newest certificate
	revoked   map[frame.ID]pki.Revocation // issued, whether or not they got through
}

// simAuthority is the same in every run.
var simAuthority = sync.OnceValue(func() pki.Authority {
	seed := sha256.Sum256([]byte("simulated authority"))
	return pki.Authority{Identity: pki.IdentityOf(ed25519.NewKeyFromSeed(seed[:]))}
})

// found creates the fleet's authority.
func (w *simWorld) found() {
	w.trust = &simTrust{authority: simAuthority(), latest: make(map[frame.ID]uint64), revoked: make(map[frame.ID]pki.Revocation)}
	copy(w.secrets.Authority[:], w.trust.authority.Public())
}

// certify signs a certificate that is valid on all clocks of the fleet.
func (w *simWorld) certify(id pki.Identity) pki.Certificate {
	from := simEpoch.Add(-2 * time.Hour)
	w.trust.serial++
	c, err := w.trust.authority.Certify(pki.Certificate{
		MeshID: w.secrets.MeshID, Serial: w.trust.serial, Node: id.Public(), Name: "sim", NotBefore: from, NotAfter: from.Add(pki.CertificateLife),
	})
	if err != nil {
		w.fail(-1, "certify: %v", err)
	}
	w.trust.latest[id.ID()] = c.Serial
	w.signed(c.Frame)
	return c
}

// decree publishes a record of the authority through a running node.
func (w *simWorld) decree(f frame.Frame) {
	n := w.up()
	if n == nil {
		return
	}
	w.wanted += uint64(len(w.nodes))
	if err := n.mesh.publishRecord(f); err != nil {
		w.fail(n.slot, "publish a record: %v", err)
	}
	n.process()
}

// renew issues another certificate to a node, which may have left or been revoked.
func (w *simWorld) renew() {
	if w.calm {
		return
	}
	w.faults[faultRenewal]++
	w.decree(w.certify(w.nodes[w.rng.IntN(len(w.nodes))].key).Frame)
}

// revoke shuts out a node or the attacker. At least three trusted nodes stay. The revoked node carries on as if nothing had
// happened.
func (w *simWorld) revoke() {
	victim, i := attacker().ID(), w.rng.IntN(len(w.nodes)+1)
	if i < len(w.nodes) {
		victim = w.nodes[i].key.ID()
	}
	trusted := 0
	for _, n := range w.nodes {
		if !n.gone && !w.isRevoked(n.key.ID()) {
			trusted++
		}
	}
	if w.calm || w.isRevoked(victim) || i < len(w.nodes) && trusted <= 3 {
		return
	}
	w.faults[faultRevocation]++
	w.trust.serial++
	v, err := w.trust.authority.Revoke(pki.Revocation{
		MeshID: w.secrets.MeshID, Serial: w.trust.serial, Node: victim, Issued: simEpoch.Add(w.at), Reason: "sim",
	})
	if err != nil {
		w.fail(-1, "revoke: %v", err)
		return
	}
	w.trust.revoked[victim] = v
	w.signed(v.Frame)
	w.decree(v.Frame)
}

func (w *simWorld) isRevoked(id frame.ID) bool {
	if w.trust == nil {
		return false
	}
	_, is := w.trust.revoked[id]
	return is
}

// retire takes the revoked machines off the network: they keep their own frames and agree with nobody.
func (w *simWorld) retire() {
	for _, n := range w.nodes {
		if w.isRevoked(n.key.ID()) && !n.gone {
			n.gone = true
			n.stop()
		}
	}
}

// insist makes the authority repeat revocations that were lost with the node that published them.
func (w *simWorld) insist() {
	if w.trust == nil {
		return
	}
	for _, key := range simKeys() { // in the same order in every run
		v, is := w.trust.revoked[key.ID()]
		for _, n := range w.nodes {
			is = is && (n.mesh == nil || n.held[v.Frame.Ref()] == "")
		}
		if is {
			w.decree(v.Frame)
		}
	}
}

// passing reports whether a frame may be gone although a node held it: its origin is revoked, or a newer certificate
// replaced it.
func (w *simWorld) passing(f frame.Frame) bool {
	if w.trust == nil || f.Origin != w.trust.authority.Identity.ID() {
		return w.isRevoked(f.Origin)
	}
	c, ok := pki.Record(f).(pki.Certificate)
	return ok && c.Serial < w.trust.latest[c.ID()]
}

// withdraw and readmit do what the daemon does.
func (n *simNode) withdraw(origins []frame.ID) { n.heed(origins, false) }
func (n *simNode) readmit(origins []frame.ID)  { n.heed(origins, true) }

func (n *simNode) heed(origins []frame.ID, trusted bool) {
	if n.dying {
		return
	}
	for _, id := range origins {
		if n.bans.Trust(n.now(), id, trusted); trusted {
			delete(n.withdrawn, id)
		} else {
			n.withdrawn[id] = true
		}
	}
}

// checkTrust checks that every node knows all revocations and holds nothing of a revoked node.
func (n *simNode) checkTrust() {
	if n.w.trust == nil {
		return
	}
	for id := range n.w.trust.revoked {
		if n.mesh.core.Revocation(id) == nil || !n.withdrawn[id] {
			n.w.fail(n.slot, "it does not know that %v is revoked", id.Short())
		}
	}
	for f := range n.mesh.Frames() {
		if n.w.isRevoked(f.Origin) {
			n.w.fail(n.slot, "a frame is held of %v, which is revoked", f.Origin.Short())
		}
	}
}
