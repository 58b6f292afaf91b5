package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"maps"
	mathrand "math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/mesh/pki"
)

// attacks holds the attacks by name. Each goes on until its context ends.
var attacks = map[string]func(context.Context, *world) error{
	"forge":        forge,
	"replay":       replay,
	"equivocate":   equivocate,
	"future":       future,
	"expired":      expired,
	"wide":         wide,
	"storm":        storm,
	"half":         half,
	"bans":         onlyBans,
	"malformed":    malformed,
	"giant":        giant,
	"crash":        crash,
	"names":        names,
	"sybil":        sybil,
	"slander":      slander,
	"lies":         lies,
	"endless":      endless,
	"checks":       checks,
	"wants":        wants,
	"vectors":      vectors,
	"chunks":       chunks,
	"certificates": certificates,
	"authority":    authority,
	"hoard":        hoard,
	"garbage":      garbage,
	"enrol":        enrol,
	"allow":        allow,
	"ports":        ports,
	"sway":         sway,
	"flap":         flap,
	"tombs":        tombs,
	"refresh":      refresh,
	"words":        words,
	"moments":      moments,
	"lift":         lift,
	"ahead":        liftAhead,
	"each":         each,
	"cancels":      cancels,
	"bomb":         unbans,
	"marks":        farMarks,
	"elsewhere":    elsewhere,
	"doom":         doom,
	"source":       forgeSource,
	"claim":        claim,
	"stall":        stall,
	"versions":     oddVersions,
}

// next signs this member's next frame.
func (w *world) next(payload []byte, issued, expires time.Time) []byte {
	w.seq++
	return crafted{
		mesh: w.secrets.MeshID, key: w.key.Public().(ed25519.PublicKey), epoch: w.epoch, seq: w.seq,
		issued: issued, expires: expires, payload: payload,
	}.sign(w.key)
}

// op signs a frame that bans prefixes from now on.
func (w *world) op(prefixes ...netip.Prefix) []byte {
	now := time.Now()
	return w.next(bans(now.Add(w.life), prefixes...), now, now.Add(w.life))
}

// forge sends frames in the name of other members, and frames signed with an uncertified key.
func forge(ctx context.Context, w *world) error {
	keys := slices.Collect(maps.Values(w.members()))
	if len(keys) == 0 {
		return errors.New("nobody is there")
	}
	_, stranger, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	every(ctx, 5000, func(i int) {
		now := time.Now()
		f := crafted{
			mesh: w.secrets.MeshID, key: keys[i%len(keys)], epoch: w.epoch, seq: uint64(i + 1),
			issued: now, expires: now.Add(w.life), payload: bans(now.Add(w.life), w.bans...),
		}
		signer := w.key
		if i%4 == 0 {
			f.key, signer = stranger.Public().(ed25519.PublicKey), stranger
		}
		w.say(packet(kindPush+byte(i%2), f.sign(signer)))
	})
	return nil
}

// replay repeats the frames that it has heard, in random order. In a fixed order, a node that accepts only one of
// every len(heard) messages would get the same frame each time.
func replay(ctx context.Context, w *world) error {
	var heard [][]byte
	every(ctx, 500, func(int) {
		for more := true; more; {
			select {
			case b := <-w.heard:
				if b[0] == kindPush && len(heard) < 10_000 {
					heard = append(heard, b)
				}
			default:
				more = false
			}
		}
		if len(heard) > 0 {
			w.say(heard[mathrand.IntN(len(heard))])
		}
	})
	return nil
}

// equivocate signs two frames with each sequence number and sends one to the first node, the other to the rest.
func equivocate(ctx context.Context, w *world) error {
	all := w.targets
	every(ctx, 20, func(i int) {
		w.targets = all[:1]
		w.say(packet(kindPush, w.op(w.bans[0])))
		w.seq--
		w.targets = all[1:]
		w.say(packet(kindPush, w.op(w.bans[1])))
	})
	return nil
}

func future(ctx context.Context, w *world) error {
	every(ctx, 200, func(int) {
		at := time.Now().Add(10 * time.Minute)
		w.say(packet(kindPush, w.next(bans(at.Add(w.life), w.bans...), at, at.Add(w.life))))
	})
	return nil
}

func expired(ctx context.Context, w *world) error {
	every(ctx, 200, func(int) {
		now := time.Now()
		w.say(packet(kindPush, w.next(bans(now.Add(-time.Second), w.bans...), now.Add(-time.Hour), now.Add(-time.Second))))
		// This frame is valid, but the bans in it have expired.
		w.say(packet(kindPush, w.next(bans(now.Add(-time.Second), w.bans...), now, now.Add(w.life))))
	})
	return nil
}

// wide bans prefixes that contain its target.
func wide(ctx context.Context, w *world) error {
	every(ctx, 100, func(i int) {
		at := w.bans[0]
		bits := 1 + i%23
		if at.Addr().Is6() {
			bits = 1 + i%47
		}
		p, err := at.Addr().Prefix(bits)
		if err == nil {
			w.say(packet(kindPush, w.op(p)))
		}
	})
	return nil
}

// storm bans 10,000 addresses a second, each in a frame of its own.
func storm(ctx context.Context, w *world) error {
	every(ctx, 10_000, func(i int) {
		a := netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)})
		w.say(packet(kindPush, w.op(netip.PrefixFrom(a, 32))))
	})
	return nil
}

// half bans 0.0.0.0/1: the first 120 of its /8s, and its /24s.
func half(ctx context.Context, w *world) error {
	var eights []netip.Prefix
	for i := range 120 {
		eights = append(eights, netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(i)}), 8))
	}
	every(ctx, 2000, func(i int) {
		if i%200 == 0 {
			w.say(packet(kindPush, w.op(eights...)))
			return
		}
		some := make([]netip.Prefix, ban.MaxOpsPerFrame)
		for j := range some {
			n := len(some)*i + j
			some[j] = netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(n >> 16 & 127), byte(n >> 8), byte(n)}), 24)
		}
		w.say(packet(kindPush, w.op(some...)))
	})
	return nil
}

// onlyBans sends well-formed bans of prefixes that must not be dropped: addresses of members, 0.0.0.0/0.
func onlyBans(ctx context.Context, w *world) error {
	every(ctx, 100, func(i int) {
		w.say(packet(kindPush, w.op(w.bans[i%len(w.bans)])))
	})
	return nil
}

// certificates presents invalid certificates and signs with the keys that they name.
func certificates(ctx context.Context, w *world) error {
	right, err := pki.LoadAuthority(w.ca)
	if err != nil {
		return err
	}
	other, err := pki.NewAuthority()
	if err != nil {
		return err
	}
	begin := time.Now()
	kinds := []struct {
		by        pki.Authority
		mesh      [16]byte
		from, end time.Time
	}{
		{other, w.secrets.MeshID, begin, begin.Add(time.Hour)},                            // by another authority
		{right, [16]byte{1}, begin, begin.Add(time.Hour)},                                 // for another mesh
		{right, w.secrets.MeshID, begin.Add(-time.Hour), begin.Add(-time.Second)},         // expired
		{right, w.secrets.MeshID, begin.Add(30 * time.Minute), begin.Add(40 * time.Hour)}, // not yet valid
	}
	every(ctx, 50, func(i int) {
		k := kinds[i%len(kinds)]
		pub, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return
		}
		c, err := k.by.Certify(pki.Certificate{
			MeshID: k.mesh, Serial: uint64(begin.UnixMilli()+int64(i)) << 16, Node: pub, Name: "x", NotBefore: k.from, NotAfter: k.end,
		})
		if err != nil {
			return
		}
		now := time.Now()
		f := crafted{mesh: w.secrets.MeshID, key: pub, epoch: 1, seq: 1, issued: now, expires: now.Add(w.life), payload: bans(now.Add(w.life), w.bans...)}
		w.say(packet(kindPush, c.Frame.Raw, f.sign(key)))
	})
	return nil
}

// authority holds the captured key of the authority: it certifies new keys, and each bans its targets.
func authority(ctx context.Context, w *world) error {
	a, err := pki.LoadAuthority(w.ca)
	if err != nil {
		return err
	}
	every(ctx, 50, func(i int) {
		pub, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return
		}
		now := time.Now()
		c, err := a.Certify(pki.Certificate{
			MeshID: w.secrets.MeshID, Serial: uint64(now.UnixMilli())<<16 + uint64(i), Node: pub, Name: "made up",
			NotBefore: now, NotAfter: now.Add(time.Minute), Caps: pki.Caps{UnbanAny: true, Import: true},
		})
		if err != nil {
			return
		}
		f := crafted{mesh: w.secrets.MeshID, key: pub, epoch: 1, seq: 1, issued: now, expires: now.Add(w.life), payload: bans(now.Add(w.life), w.bans...)}
		w.say(packet(kindPush, c.Frame.Raw, f.sign(key)))
	})
	return nil
}

// hoard makes others store as much as it can: large frames that last for a year, each with an epoch of its own. It
// signs many and then sends them at once, so that it floods however few it can sign in a second.
func hoard(ctx context.Context, w *world) error {
	const atOnce = 1000
	every(ctx, 5, func(i int) {
		said := make([][]byte, atOnce)
		for j := range said {
			now := time.Now()
			payload := binary.BigEndian.AppendUint64(make([]byte, 1000), uint64(i*atOnce+j))
			w.epoch++
			said[j] = packet(kindPush, w.next(payload, now, now.Add(365*24*time.Hour)))
		}
		for _, b := range said {
			w.say(b)
		}
	})
	return nil
}
