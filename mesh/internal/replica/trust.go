package replica

import (
	"iter"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/pki"
)

const (
	// maxAwaitingCert bounds the frames that wait for the certificate of their origin; the oldest make room.
	maxAwaitingCert = 4096
	// maxRejected bounds the origins whose streams peers are told not to offer, and maxRejectedOf those streams per
	// origin: any holder of the mesh's key can name any epoch of a revoked node.
	maxRejected, maxRejectedOf = 256, 16
	// maxStandings bounds the nodes whose certificates and revocations are known.
	maxStandings = 1 << 16
	// MaxAuthorityFrames bounds the live frames of pki.AuthorityEpoch, of all nodes with the authority's key
	// together: 21 MB. Those with the lowest numbers stay.
	MaxAuthorityFrames = 1 << 14
)

// trust knows which origins are trusted: those that the mesh's authority has certified and not revoked, while the
// certificate lasts. It is derived from the records that the ledger holds.
type trust struct {
	authority    frame.ID // of the key that signs records; zero: every origin is trusted
	nodes        map[frame.ID]*standing
	awaitingCert []frame.Frame         // verified frames of origins whose certificate has not come; oldest first
	rejected     map[frame.ID][]uint64 // epochs
	grants       grants
}

// standing is what the authority has said about a node.
type standing struct {
	cert    pki.Certificate // the latest; Serial 0: none
	ended   bool            // there was a certificate, and it has ended
	revoked *pki.Revocation
}

// allSeen is the window sent for a refused stream: it leaves the reader nothing to offer.
var allSeen = window{{1, math.MaxUint64}}

// stands says whether an origin is trusted, as VerdictNew, VerdictUnknown, VerdictEnded or VerdictRevoked. A node
// always trusts itself.
func (c *Core) stands(now time.Time, origin frame.ID) Verdict {
	if c.authority.IsZero() || origin == c.self || origin == c.authority {
		return VerdictNew
	}
	st := c.nodes[origin]
	switch {
	case st == nil:
		return VerdictUnknown
	case st.revoked != nil:
		return VerdictRevoked
	case st.cert.Serial != 0 && st.cert.NotAfter.After(now):
		return VerdictNew
	case st.cert.Serial != 0 || st.ended:
		return VerdictEnded
	}
	return VerdictUnknown
}

// Authority returns the origin of the records that say which origins are trusted; zero: every origin is trusted.
func (c *Core) Authority() frame.ID { return c.authority }

// Trusts reports whether an origin is trusted now.
func (c *Core) Trusts(now time.Time, origin frame.ID) bool {
	return c.stands(now, origin) == VerdictNew
}

// Nodes yields the nodes that the authority has said anything about, in no order.
func (c *Core) Nodes() iter.Seq[frame.ID] { return maps.Keys(c.nodes) }

// Certificate returns a node's latest certificate, unless it has ended by now.
func (c *Core) Certificate(now time.Time, node frame.ID) (cert pki.Certificate, ok bool) {
	st := c.nodes[node]
	if st == nil || st.cert.Serial == 0 || !st.cert.NotAfter.After(now) {
		return pki.Certificate{}, false
	}
	return st.cert, true
}

// Revocation returns a node's revocation, or nil.
func (c *Core) Revocation(node frame.ID) *pki.Revocation {
	if st := c.nodes[node]; st != nil {
		return st.revoked
	}
	return nil
}

// Judge returns what would become of a frame. It is cheap and runs before the signature is checked.
func (c *Core) Judge(now time.Time, f frame.Frame) Verdict {
	v := c.ledger.judge(now, f)
	if v == VerdictFull && f.Origin == c.authority && !c.authority.IsZero() {
		v = VerdictNew // an origin that filled the ledger must not keep its own revocation out
	}
	if v == VerdictNew && f.Origin == c.authority && f.Epoch == pki.AuthorityEpoch {
		if last, full := c.lastOfAuthority(); full && last < f.Seq {
			return VerdictFull
		}
	}
	if v == VerdictNew || v == VerdictEquivocal {
		if s := c.stands(now, f.Origin); s != VerdictNew {
			return s
		}
	}
	return v
}

// untrusted reports whether a verified frame's origin is not trusted, and handles the frame if so.
func (c *Core) untrusted(now time.Time, f frame.Frame, by Via, out *Actions) bool {
	v := c.Judge(now, f)
	switch v {
	case VerdictUnknown:
		if by != ViaRestore {
			c.awaitCert(f)
		}
	case VerdictRevoked, VerdictEnded:
		c.reject(f.Origin, f.Epoch)
	default:
		return false
	}
	out.Verdicts[v]++
	switch {
	case by != ViaRestore:
	case v == VerdictUnknown && len(c.early.stored) > 0: // its origin's certificate may be among the stored ones
		c.early.keep(f)
	default:
		out.Expired = append(out.Expired, f.Ref()) // peers send it again once its origin is trusted
	}
	return true
}

// awaitCert keeps a frame until the certificate of its origin comes.
func (c *Core) awaitCert(f frame.Frame) {
	if slices.ContainsFunc(c.awaitingCert, func(p frame.Frame) bool { return p.Ref() == f.Ref() }) {
		return
	}
	if len(c.awaitingCert) >= maxAwaitingCert {
		c.awaitingCert = slices.Delete(c.awaitingCert, 0, 1)
	}
	c.awaitingCert = append(c.awaitingCert, f)
}

// takeAwaiting removes and returns the frames of an origin that wait for its certificate.
func (c *Core) takeAwaiting(origin frame.ID) (frames []frame.Frame) {
	c.awaitingCert = slices.DeleteFunc(c.awaitingCert, func(f frame.Frame) bool {
		if f.Origin == origin {
			frames = append(frames, f)
		}
		return f.Origin == origin
	})
	return frames
}

// reject makes this node tell peers not to offer a stream, because it would be refused.
func (c *Core) reject(origin frame.ID, epoch uint64) {
	epochs, known := c.rejected[origin]
	if (known || len(c.rejected) < maxRejected) && len(epochs) < maxRejectedOf && !slices.Contains(epochs, epoch) {
		c.rejected[origin] = append(epochs, epoch)
	}
}

// takeRecord takes in a record of the authority, or a frame that the authority signed for the daemon. A record that
// this version does not understand is held and passed on.
func (c *Core) takeRecord(now time.Time, f frame.Frame, by Via, out *Actions) {
	v := c.Judge(now, f)
	if v == VerdictEquivocal && f.Epoch == pki.AuthorityEpoch {
		c.takeTwin(f, by, out)
		return
	}
	if v != VerdictNew {
		out.Verdicts[v]++
		if v == VerdictEquivocal {
			out.Equivocal = append(out.Equivocal, f)
		}
		if by == ViaRestore {
			c.restored(f, v, out)
		}
		return
	}
	record := pki.Record(f)
	cert, isCertificate := record.(pki.Certificate)
	revocation, isRevocation := record.(pki.Revocation)
	grant, isGrant := record.(pki.Grant)
	var st *standing
	switch {
	case f.Epoch == pki.AuthorityEpoch:
		if last, full := c.lastOfAuthority(); full {
			c.remove(c.streams[StreamKey{f.Origin, f.Epoch}], last)
			out.Expired = append(out.Expired, frame.Ref{Origin: f.Origin, Epoch: f.Epoch, Seq: last})
		}
	case isCertificate:
		if st = c.standing(cert.ID()); st != nil && st.cert.Serial > cert.Serial {
			c.superseded(f, by, out)
			return
		}
	case isRevocation:
		st = c.standing(revocation.Node)
	case isGrant:
		if grant.Version < c.grants.version {
			c.superseded(f, by, out)
			return
		}
		c.newerGrants(grant.Version, out)
		c.grants.records[grant.Serial] = grant
		out.Granted = true
	}
	c.insert(f)
	out.Verdicts[VerdictNew]++
	if by != ViaRestore {
		out.Admitted = append(out.Admitted, f)
		out.spread(f, by)
	}
	if f.Epoch == pki.AuthorityEpoch && by != ViaRestore && by != ViaOwn {
		out.Deliver = append(out.Deliver, f)
	}
	switch {
	case st == nil:
	case isCertificate:
		if old := st.cert; old.Serial != 0 {
			c.remove(c.streams[StreamKey{c.authority, pki.EpochCertificate}], old.Serial)
			out.Expired = append(out.Expired, old.Frame.Ref())
		}
		st.cert, st.ended = cert, false
		out.Own = out.Own || cert.ID() == c.self
		c.certified(now, cert.ID(), out)
	case st.revoked == nil:
		st.revoked = &revocation
		out.Own = out.Own || revocation.Node == c.self
		c.takeAwaiting(revocation.Node)
		c.withdraw(revocation.Node, out)
	}
}

// takeTwin decides between two frames of one name that two holders of the authority's key signed: the one with the
// lower hash stays, as for every origin.
func (c *Core) takeTwin(f frame.Frame, by Via, out *Actions) {
	stays, _ := c.put(f, VerdictEquivocal, out)
	out.Verdicts[VerdictEquivocal]++
	out.Equivocal = append(out.Equivocal, f)
	if !stays || by == ViaRestore {
		return
	}
	out.Admitted = append(out.Admitted, f)
	if by != ViaOwn {
		out.Deliver = append(out.Deliver, f)
	}
	out.spread(f, by)
}

// lastOfAuthority reports whether there is no room for one more frame of pki.AuthorityEpoch and, if so, returns the
// highest number among those held.
func (c *Core) lastOfAuthority() (seq uint64, full bool) {
	s := c.streams[StreamKey{c.authority, pki.AuthorityEpoch}]
	if s == nil || s.frames.Len() < MaxAuthorityFrames {
		return 0, false
	}
	last, _ := s.frames.Max()
	return last.seq, true
}

// superseded records that a certificate or grant came after the one that replaces it, so that it is not asked for
// again.
func (c *Core) superseded(f frame.Frame, by Via, out *Actions) {
	out.Verdicts[VerdictDuplicate]++
	if s := c.streams[StreamKey{f.Origin, f.Epoch}]; s != nil && s.frames.Len() > 0 {
		c.see(s, c.origins[f.Origin], f.Seq)
	}
	if by == ViaRestore {
		out.Expired = append(out.Expired, f.Ref())
	}
}

// standing returns what is known of a node, creating it if needed; nil if too many nodes are known.
func (c *Core) standing(id frame.ID) *standing {
	st := c.nodes[id]
	if st == nil && len(c.nodes) < maxStandings {
		st = &standing{}
		c.nodes[id] = st
	}
	return st
}

// certified lets in the frames that wait for an origin's certificate.
func (c *Core) certified(now time.Time, origin frame.ID, out *Actions) {
	if c.stands(now, origin) != VerdictNew {
		return
	}
	delete(c.rejected, origin)
	for _, f := range c.takeAwaiting(origin) {
		c.take(now, f, ViaPush, out)
	}
	out.Readmitted = append(out.Readmitted, origin)
}

// ended withdraws origins whose certificate is among the expired frames, and forgets expired grants.
func (c *Core) ended(out *Actions) {
	if c.authority.IsZero() {
		return
	}
	for _, ref := range out.Expired {
		if ref.Origin == c.authority && ref.Epoch == pki.EpochGrant {
			delete(c.grants.records, ref.Seq)
		}
		if ref.Origin != c.authority || ref.Epoch != pki.EpochCertificate {
			continue
		}
		for id, st := range c.nodes {
			if st.cert.Serial == ref.Seq {
				st.cert, st.ended = pki.Certificate{}, true
				out.Own = out.Own || id == c.self
				c.withdraw(id, out)
			}
		}
	}
}

// withdraw drops everything an origin said. What this node said itself stays: it goes on protecting itself.
func (c *Core) withdraw(origin frame.ID, out *Actions) {
	if origin == c.self {
		return
	}
	for _, s := range c.streamsOf(origin) {
		c.letGo(s)
		c.reject(origin, s.key.Epoch)
	}
	out.Expired = append(out.Expired, c.leave()...)
	ofOrigin := func(f frame.Frame) bool { return f.Origin == origin }
	out.Deliver = slices.DeleteFunc(out.Deliver, ofOrigin)
	out.Relay = slices.DeleteFunc(out.Relay, ofOrigin)
	out.Pass = slices.DeleteFunc(out.Pass, ofOrigin)
	out.Readmitted = slices.DeleteFunc(out.Readmitted, func(id frame.ID) bool { return id == origin })
	out.Withdrawn = append(out.Withdrawn, origin)
}

// rejectedIn returns, in order, the streams that peers are told not to offer: those after one key, up to and including
// another.
func (c *Core) rejectedIn(after, last StreamKey) (keys []StreamKey) {
	for origin, epochs := range c.rejected {
		for _, epoch := range epochs {
			if key := (StreamKey{origin, epoch}); key.compare(after) > 0 && key.compare(last) <= 0 && c.streams[key] == nil {
				keys = append(keys, key)
			}
		}
	}
	slices.SortFunc(keys, StreamKey.compare)
	return keys
}

// refuses reports whether a peer wants nothing of a stream.
func (v *streamVector) refuses() bool {
	return v.Live == 0 && len(v.Seen) == 1 && v.Seen[0] == allSeen[0]
}
