package filter

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/meshtest"
	"github.com/meshban/meshban/mesh/internal/mlwire"
	"github.com/meshban/meshban/mesh/internal/wire"
)

// paced is a guard with its own clock and a source that sends it frames.
type paced struct {
	*guard
	now    time.Time
	told   int
	packet []byte
}

func newPaced(t *testing.T, size int) *paced {
	p := &paced{now: meshtest.Start, packet: meshtest.Sealed(t, guardKey, 1, wire.AppendPacked([]byte{mlwire.User, wire.KindPush}, meshtest.RawOf(1, size)), nil)}
	p.guard, _ = testGuard(func(netip.Addr) { p.told++ })
	p.guard.now = func() time.Time { return p.now }
	return p
}

// passes advances the clock by d while the process runs.
func (p *paced) passes(d time.Duration) {
	for end := p.now.Add(d); p.now.Before(end); {
		p.now = p.now.Add(pulseEvery)
		p.pauses.note(p.now)
	}
}

// say sends n frames at once and returns how many passed.
func (p *paced) say(n int) (passed int) {
	for range n {
		if p.guard.packet(p.packet, netip.MustParseAddr("192.0.2.1")) {
			passed++
		}
	}
	return passed
}

func (p *paced) origin() frame.ID {
	return frame.IDOf(meshtest.RawOf(1, wire.FreshSize)[frame.KeyAt : frame.KeyAt+ed25519.PublicKeySize])
}

// An agent does not know that a peer has slowed it, and says no more than before: the excess is dropped, and nobody is told
// of a flood. A node that says more than any agent does is still reported.
func TestNobodyIsAccusedForBeingSlowed(t *testing.T) {
	for _, tt := range []struct {
		name         string
		size, second int // size of a frame, frames an agent sends in a second
	}{
		{"small frames", 100, SayRate},
		{"an import", wire.FreshSize + 1, 180},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPaced(t, tt.size)
			p.say(SayBurst)
			passed := 0
			for range 100 { // ten seconds
				p.slow(p.origin())
				p.passes(pulseEvery)
				passed += p.say(tt.second / 10)
			}
			if passed == 0 || passed >= 5*tt.second {
				t.Errorf("%d of %d passed: is it slowed?", passed, 10*tt.second)
			}
			if p.told != 0 {
				t.Errorf("accused %d times", p.told)
			}
			for range 10 {
				p.passes(pulseEvery)
				p.say(1000)
			}
			if p.told == 0 {
				t.Error("a flood is not told of")
			}
		})
	}
}

// What an agent says while its peer is stopped, suspended or starved is read all at once afterwards. It passes, and nobody
// is accused; then the usual limits apply again.
func TestWhoSleptAccusesNobody(t *testing.T) {
	for _, tt := range []struct {
		name  string
		sleep time.Duration
		mono  bool // the monotonic clock goes on meanwhile
	}{
		{"stopped for ten seconds", 10 * time.Second, true},
		{"suspended for ten seconds", 10 * time.Second, false},
		{"starved for a second", time.Second, true},
		{"starved for the least", pauseLeast, true},
		{"stopped for ten seconds in a quiet mesh", 10 * time.Second, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPaced(t, 100)
			p.pauses.rarely = strings.HasSuffix(tt.name, "in a quiet mesh")
			p.now = time.Now()
			p.passes(time.Minute)
			p.say(SayBurst)
			if tt.mono {
				p.now = p.now.Add(tt.sleep)
			} else {
				p.now = p.now.Round(0).Add(tt.sleep)
			}
			n := int(tt.sleep.Seconds()*SayRate) + SayBurst
			if got := p.say(n); got != n || p.told != 0 {
				t.Errorf("%d of %d passed, accused %d times", got, n, p.told)
			}
			p.passes(2 * catchUpFor)
			if got := p.say(10 * originBurst); got > originBurst/smallCost {
				t.Errorf("%d passed at once a while later, want %d", got, originBurst/smallCost)
			}
			if p.told == 0 {
				t.Error("a flood is not told of")
			}
		})
	}
}

// In a quiet mesh the process's pulse is slower: that is no pause.
func TestPulseIsRareInAQuietMesh(t *testing.T) {
	p := newPaced(t, 100)
	if every := p.pauses.adapt(1); every != pulseEvery*pulseRarely {
		t.Fatalf("after one packet the next pulse is due in %v", every)
	}
	for range 10 {
		p.now = p.now.Add(pulseEvery * pulseRarely)
		p.pauses.note(p.now)
		if p.say(1); p.pauses.frames != nil {
			t.Fatal("it counts as a pause that it runs rarely")
		}
	}
	if every := p.pauses.adapt(busyRate); every != pulseEvery {
		t.Errorf("after %d packets in a second the next pulse is due in %v", busyRate, every)
	}
	if every := p.pauses.adapt(busyRate / pulseRarely); every != pulseEvery {
		t.Errorf("after as many a second still: in %v", every)
	}
	if every := p.pauses.adapt(busyRate/pulseRarely - 1); every != pulseEvery*pulseRarely {
		t.Errorf("after fewer: in %v", every)
	}
}

// A process that sleeps again and again, or claims to, catches up on no more than the time that passed.
func TestPausesGiveNoMoreThanTheirTime(t *testing.T) {
	p := newPaced(t, 100)
	p.passes(time.Minute)
	passed := p.say(10000)
	const sleeps = 20
	for range sleeps {
		p.now = p.now.Add(time.Second)
		passed += p.say(10000)
	}
	if most := (originBurst + 2*sleeps*originRate) / smallCost; passed > most {
		t.Errorf("%d passed in %d seconds, want at most %d", passed, sleeps, most)
	}
}

// A sender of badly signed notices in a member's name spends its own address's budget, even by streams and with several in
// a packet, and the member is still heard from its own address.
func TestForgedNoticesStarveNobody(t *testing.T) {
	g, _ := testGuard(func(netip.Addr) {})
	forged := append([]byte{mlwire.User, wire.KindNotice}, make([]byte, 200)...)
	two := []byte{mlwire.Compound, 2, byte(len(forged) >> 8), byte(len(forged)), byte(len(forged) >> 8), byte(len(forged))}
	two = append(append(two, forged...), forged...)
	attacker, member := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	passed := 0
	for range noticesBurst {
		if g.packet(meshtest.Sealed(t, guardKey, 1, two, nil), attacker) {
			passed += 2
		}
	}
	if passed != noticesBurst {
		t.Errorf("%d forged notices passed, want %d", passed, noticesBurst)
	}
	body := append(meshtest.OfMemberlist(t, mlwire.User, mlwire.UserHead{UserMsgLen: len(forged) - 1}), forged[1:]...)
	head := binary.BigEndian.AppendUint32([]byte{mlwire.Encrypt}, uint32(mlwire.Overhead+len(body)))
	stream := append(head, meshtest.Sealed(t, guardKey, 1, body, head)...)
	if _, err := g.stream(stream, attacker); !errors.Is(err, errStreamBudget) {
		t.Errorf("one more by a stream: %v", err)
	}
	if _, err := g.stream(stream, member); err != nil {
		t.Errorf("a member's by a stream: %v", err)
	}
	if !g.packet(meshtest.Sealed(t, guardKey, 1, forged, nil), member) {
		t.Error("the member is not heard")
	}
}
