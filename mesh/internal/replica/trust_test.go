package replica

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/meshtest"
	"github.com/meshban/meshban/mesh/pki"
	"pgregory.net/rapid"
)

// recorder signs an authority's records, dated at the simulation's start.
type recorder struct {
	tb meshtest.TB
	a  pki.Authority
}

func newRecorder(tb meshtest.TB) recorder {
	a, err := pki.NewAuthority()
	if err != nil {
		tb.Fatal(err)
	}
	return recorder{tb, a}
}

func (r recorder) cert(key ed25519.PublicKey, serial uint64, life time.Duration) frame.Frame {
	c, err := r.a.Certify(pki.Certificate{Serial: serial, Node: key, NotBefore: simStart, NotAfter: simStart.Add(life)})
	if err != nil {
		r.tb.Fatal(err)
	}
	return c.Frame
}

func (r recorder) revoke(id frame.ID, serial uint64) frame.Frame {
	v, err := r.a.Revoke(pki.Revocation{Serial: serial, Node: id, Issued: simStart})
	if err != nil {
		r.tb.Fatal(err)
	}
	return v.Frame
}

func (s *simulation) trust(r recorder) {
	for _, c := range s.cores {
		c.authority = r.a.Identity.ID()
	}
}

func TestCoreTrust(t *testing.T) {
	s := newSimulation(t, 1, 1)
	r := newRecorder(t)
	s.trust(r)
	origin := signers[0]
	said := func(seq uint64) frame.Frame { return testFrame(t, origin, 1, seq, s.now, 10*time.Hour, "ban") }
	give := func(fs ...frame.Frame) Actions { return s.step(0, FramesEvent{Via: ViaPush, Frames: fs}) }

	if out := give(said(1), said(1), said(2)); len(out.Deliver) != 0 || len(s.cores[0].awaitingCert) != 2 {
		t.Fatalf("without a certificate: delivered %d, %d wait", len(out.Deliver), len(s.cores[0].awaitingCert))
	}
	// Another authority's certificate changes nothing: it is a frame like any other, from an origin without a certificate.
	if out := give(newRecorder(t).cert(origin.Public(), 9, time.Hour)); len(out.Admitted) != 0 || len(out.Deliver) != 0 {
		t.Errorf("a certificate of another authority was taken: %+v", out)
	}
	if out := give(r.cert(signers[1].Public(), 3, 30*time.Hour)); len(out.Deliver) != 0 {
		t.Errorf("the certificate of another node let %d frames in", len(out.Deliver))
	}
	if out := give(r.cert(origin.Public(), 5, time.Hour)); len(out.Deliver) != 2 || len(out.Admitted) != 3 || len(out.Readmitted) != 1 {
		t.Errorf("the certificate came: delivered %d, admitted %d", len(out.Deliver), len(out.Admitted))
	}
	if out := give(r.cert(origin.Public(), 4, 20*time.Hour)); len(out.Admitted) != 0 || out.Verdicts[VerdictDuplicate] != 1 {
		t.Errorf("an older certificate took the place of a newer one: %+v", out)
	}
	if out := give(r.cert(origin.Public(), 6, 2*time.Hour)); len(out.Admitted) != 1 || len(out.Expired) != 1 || out.Expired[0].Seq != 5 {
		t.Errorf("renewed: %+v", out)
	}

	// The certificate's end withdraws what it let in, and a new one lets it in again.
	s.now = simStart.Add(2 * time.Hour)
	if out := s.step(0, TickEvent{}); len(out.Withdrawn) != 1 || len(out.Expired) != 3 || s.cores[0].count != 1 {
		t.Errorf("the certificates ended: withdrawn %v, expired %v, held %d", out.Withdrawn, out.Expired, s.cores[0].count)
	}
	if out := give(said(3)); out.Verdicts[VerdictEnded] != 1 || len(out.Admitted) != 0 {
		t.Errorf("after the end: %+v", out.Verdicts)
	}
	if out := give(r.cert(origin.Public(), 7, 5*time.Hour), said(1), said(2)); len(out.Deliver) != 2 {
		t.Errorf("certified again: delivered %d", len(out.Deliver))
	}

	// Revoked within the step that delivers: nothing of the origin reaches the daemon.
	out := give(said(4), r.revoke(origin.ID(), 1), said(5))
	if len(out.Deliver) != 0 || len(out.Withdrawn) != 1 || out.Verdicts[VerdictRevoked] != 1 {
		t.Errorf("revoked: delivered %d, withdrawn %v, %v", len(out.Deliver), out.Withdrawn, out.Verdicts)
	}
	// Neither a certificate nor a replay undoes it.
	out = give(r.cert(origin.Public(), 99, 9*time.Hour), said(1), said(6))
	if len(out.Deliver) != 0 || len(out.Readmitted) != 0 || out.Verdicts[VerdictRevoked] != 2 {
		t.Errorf("after the revocation: delivered %d, readmitted %v, %v", len(out.Deliver), out.Readmitted, out.Verdicts)
	}
	s.live(0)

	// The number of waiting frames is bounded, and the newest stay.
	for seq := range uint64(maxAwaitingCert + 10) {
		give(testFrame(t, signers[2], 1, seq+1, s.now, 10*time.Hour, "x"))
	}
	if n := len(s.cores[0].awaitingCert); n != maxAwaitingCert {
		t.Errorf("%d frames wait, want %d", n, maxAwaitingCert)
	}
	if out := give(r.cert(signers[2].Public(), 8, 9*time.Hour)); len(out.Deliver) != maxAwaitingCert {
		t.Errorf("delivered %d, want %d", len(out.Deliver), maxAwaitingCert)
	}
}

// A store is read back in any order of origins; frames that do not count are dropped from it.
func TestCoreTrustRestore(t *testing.T) {
	s := newSimulation(t, 1, 1)
	r := newRecorder(t)
	s.trust(r)
	out := s.step(0, FramesEvent{Via: ViaRestore, Frames: []frame.Frame{
		r.cert(signers[0].Public(), 1, time.Hour), r.cert(signers[1].Public(), 2, time.Hour), r.revoke(signers[1].ID(), 3),
		testFrame(t, signers[0], 1, 1, s.now, time.Hour, "counts"),
		testFrame(t, signers[1], 1, 1, s.now, time.Hour, "revoked"),
		testFrame(t, signers[2], 1, 1, s.now, time.Hour, "unknown"),
	}})
	if len(out.Expired) != 2 || s.cores[0].count != 4 || len(s.cores[0].awaitingCert) != 0 {
		t.Errorf("dropped %v, held %d, %d wait", out.Expired, s.cores[0].count, len(s.cores[0].awaitingCert))
	}
}

// In whatever order and place frames, certificates and revocations arrive, all nodes end with the same frames, and hold
// exactly those of origins that are certified and not revoked.
func TestCoresConvergeOnTrust(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(2, 4).Draw(rt, "nodes")
		s := newSimulation(rt, n, rapid.Uint64().Draw(rt, "seed"))
		s.loss = rapid.Float64Range(0, 0.3).Draw(rt, "loss")
		r := newRecorder(rt)
		s.trust(r)
		var all []frame.Frame
		trusted := make(map[frame.ID]bool)
		for i, id := range signers {
			for seq := range rapid.Uint64Range(0, 8).Draw(rt, "frames") {
				all = append(all, testFrame(rt, id, 1, seq+1, s.now, time.Hour, fmt.Sprint(i, seq)))
			}
			certs := rapid.Uint64Range(0, 3).Draw(rt, "certificates")
			for c := range certs {
				all = append(all, r.cert(id.Public(), uint64(10*(i+1))+c, 2*time.Hour))
			}
			revoked := rapid.Bool().Draw(rt, "revoked")
			if revoked {
				all = append(all, r.revoke(id.ID(), uint64(i+1)))
			}
			trusted[id.ID()] = certs > 0 && !revoked
		}
		s.connect()
		for _, f := range rapid.Permutation(all).Draw(rt, "order") {
			// Each frame begins at one node, and perhaps at others too.
			at := rapid.IntRange(0, n-1).Draw(rt, "where")
			for i := range n {
				if i == at || rapid.Bool().Draw(rt, "too") {
					s.step(i, FramesEvent{Via: ViaPush, Frames: []frame.Frame{f}})
				}
			}
			if rapid.IntRange(0, 9).Draw(rt, "pause") == 0 {
				s.run(time.Second)
			}
		}
		s.loss = 0
		s.run(5 * time.Minute)
		s.checkEqual()
		held := s.live(0)
		for _, f := range all {
			_, ok := held[f.Ref()]
			if want := trusted[f.Origin]; f.Origin != r.a.Identity.ID() && ok != want {
				rt.Errorf("frame %v of a trusted origin: %v, held: %v", f.Ref(), want, ok)
			}
		}
	})
}

// A node that fills the ledger does not keep out the revocation that empties it.
func TestRevocationOfAFullLedger(t *testing.T) {
	s := newSimulation(t, 1, 1)
	r := newRecorder(t)
	s.trust(r)
	c := s.cores[0]
	s.step(0, FramesEvent{Via: ViaPush, Frames: []frame.Frame{
		r.cert(signers[0].Public(), 1, time.Hour), testFrame(t, signers[0], 1, 1, s.now, time.Hour, "x"),
	}})
	c.count += maxHeld
	if v := c.Judge(s.now, testFrame(t, signers[0], 1, 2, s.now, time.Hour, "y")); v != VerdictFull {
		t.Fatalf("verdict %d of one more frame", v)
	}
	if out := s.step(0, FramesEvent{Via: ViaPush, Frames: []frame.Frame{r.revoke(signers[0].ID(), 1)}}); len(out.Withdrawn) != 1 {
		t.Errorf("not revoked: %v", out.Verdicts)
	}
}

// A peer that goes on holding what this node refuses is told so once, and streams none of it.
func TestRefusedIsNotOffered(t *testing.T) {
	s := newSimulation(t, 2, 3)
	r := newRecorder(t)
	s.cores[0].authority = r.a.Identity.ID() // the other believes everybody
	for seq := range uint64(200) {
		f := testFrame(t, signers[0], 1, seq+1, s.now, 10*time.Hour, "harm")
		s.step(1, FramesEvent{Via: ViaPush, Frames: []frame.Frame{f}})
	}
	s.step(0, FramesEvent{Via: ViaPush, Frames: []frame.Frame{r.revoke(signers[0].ID(), 1), testFrame(t, signers[0], 1, 1, s.now, 10*time.Hour, "harm")}})
	s.connect()
	s.run(time.Minute)
	if n := s.cores[0].count; n != 1 {
		t.Errorf("%d frames held, want the revocation", n)
	}
	before := s.bytes
	s.run(time.Hour)
	if got := float64(s.bytes-before) / 3600; got > 50 {
		t.Errorf("%.0f B/s between two who differ by what one refuses", got)
	}
}

// Anybody with the mesh's key can name any number of epochs of a revoked node, without its signature. That neither
// lengthens what this node tells its peers, nor shortens what it compares with them, nor displaces what others said.
func TestEpochsOfARevokedNodeAreBounded(t *testing.T) {
	s := newSimulation(t, 2, 1)
	r := newRecorder(t)
	s.trust(r)
	c := s.cores[0]
	for i := range 2 {
		s.step(0, FramesEvent{Via: ViaPush, Frames: []frame.Frame{r.revoke(signers[i].ID(), uint64(i+1))}})
	}
	for epoch := range uint64(10_000) {
		c.reject(signers[0].ID(), epoch+1)
	}
	c.reject(signers[1].ID(), 7)
	p := newSyncPeer()
	var out Actions
	c.emitVector(s.cores[1].self, p, &session{theirs: 1}, &out)
	m, err := DecodeMessage(out.Send[0].Msg)
	if err != nil {
		t.Fatal(err)
	}
	if m.last != lastKey || len(m.streams) > 1+maxRejectedOf+1 {
		t.Errorf("the vector lists %d streams, up to %v", len(m.streams), m.last)
	}
	if !slices.ContainsFunc(m.streams, func(v streamVector) bool { return v.Key == StreamKey{signers[1].ID(), 7} && v.refuses() }) {
		t.Error("it does not say that what another node said is not wanted")
	}
}

// On a frame's path, trust costs a lookup and no allocation.
func TestStandsAllocatesNothing(t *testing.T) {
	s := newSimulation(t, 1, 1)
	r := newRecorder(t)
	s.trust(r)
	s.step(0, FramesEvent{Via: ViaPush, Frames: []frame.Frame{r.cert(signers[0].Public(), 1, time.Hour)}})
	f := testFrame(t, signers[0], 1, 1, s.now, time.Hour, "x")
	if got := s.cores[0].Judge(s.now, f); got != VerdictNew {
		t.Fatalf("verdict %d", got)
	}
	if n := testing.AllocsPerRun(100, func() { s.cores[0].Judge(s.now, f) }); n != 0 {
		t.Errorf("%v allocations a frame", n)
	}
}

// Frames that are dropped together are dropped in a fixed order; a map's order would differ in each run.
func TestLetGoInOrder(t *testing.T) {
	s := newSimulation(t, 1, 1)
	r := newRecorder(t)
	s.trust(r)
	give := func(f frame.Frame) Actions { return s.step(0, FramesEvent{Via: ViaPush, Frames: []frame.Frame{f}}) }
	ordered := func(what string, out Actions, want int) {
		t.Helper()
		if len(out.Expired) != want || !slices.IsSortedFunc(out.Expired, byName) {
			t.Errorf("%s: let go of %v, want %d in order", what, out.Expired, want)
		}
	}
	const epochs = 20
	give(r.cert(signers[0].Public(), 1, time.Hour))
	for epoch := range uint64(epochs) {
		give(testFrame(t, signers[0], epoch+1, 1, s.now, time.Hour, "ban"))
	}
	ordered("the origin is revoked", give(r.revoke(signers[0].ID(), 2)), epochs)
	for serial := range uint64(epochs) {
		give(meshtest.Grant(t, r.a, serial+3, simStart, []pki.GossipKey{meshtest.GossipKey(1, 1)}, signers[1]).Frame)
	}
	ordered("a newer key", give(meshtest.Grant(t, r.a, 99, simStart, []pki.GossipKey{meshtest.GossipKey(2, 1)}, signers[1]).Frame), epochs)
}

// The number of frames signed by the authority is bounded, and all nodes keep the same ones in whatever order they arrive.
func TestAuthorityFramesAreBounded(t *testing.T) {
	a := meshtest.Authority(t)
	sign := func(seq uint64, text string) frame.Frame {
		f, err := a.Identity.Sign(frame.Frame{Epoch: pki.AuthorityEpoch, Seq: seq, Issued: simStart, Expires: simStart.Add(time.Hour), Payload: []byte(text)})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	var cores []*Core
	for i := range uint64(2) {
		c := coreFor(i)
		c.authority = a.Identity.ID()
		for seq := uint64(10); seq < 10+MaxAuthorityFrames-1; seq++ {
			c.insert(frame.Frame{Origin: c.authority, Epoch: pki.AuthorityEpoch, Seq: seq, Expires: simStart.Add(time.Hour), Raw: expiringRaw})
		}
		cores = append(cores, c)
	}
	fs := []frame.Frame{sign(1<<40, "high"), sign(1, "low"), sign(2, "one"), sign(2, "twin"), sign(1<<39, "lower")}
	for i, c := range cores {
		for j := range fs {
			f := fs[j]
			if i == 1 {
				f = fs[len(fs)-1-j]
			}
			c.Step(simStart, FramesEvent{Via: ViaPush, Frames: []frame.Frame{f}})
			if n := c.streams[StreamKey{c.authority, pki.AuthorityEpoch}].frames.Len(); n > MaxAuthorityFrames {
				t.Fatalf("%d frames are held, want at most %d", n, MaxAuthorityFrames)
			}
		}
	}
	for _, f := range fs {
		x, _ := cores[0].get(f.Ref())
		y, _ := cores[1].get(f.Ref())
		if string(x) != string(y) || (x != nil) != (f.Seq < 10) {
			t.Errorf("of %d one node keeps %x, the other %x", f.Seq, x, y)
		}
	}
}

func byName(a, b frame.Ref) int {
	return cmp.Or(bytes.Compare(a.Origin[:], b.Origin[:]), cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.Seq, b.Seq))
}
