package meta

import (
	"math"
	"math/rand/v2"
	"testing"
)

// Whatever news of a node passes under incarnations up to its ceiling, the node is never at a higher incarnation than it
// thinks, and the next ceiling that it announces leaves room above.
func TestCeilingStaysAbove(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var c Ceiling
		at := uint32(1) // memberlist's incarnation
		c.Next()
		for range 1000 {
			switch before := c.Now(); rng.IntN(4) {
			case 0: // it announces something
				at++
				c.Next()
			case 1: // an earlier ceiling of its own comes back, as after a restart
				before = uint32(min(uint64(before)+rng.Uint64N(1<<20), MostCeiling))
				fallthrough
			default:
				inc := uint32(rng.Uint64N(uint64(before) + 1))
				if rng.IntN(2) == 0 {
					inc = before - min(uint32(rng.IntN(3)), before)
				}
				c.Heard(inc)
				if inc >= at { // refute: see memberlist
					at = max(at+1, inc+1)
				}
			}
			if at > c.most {
				t.Fatalf("seed %d: at %d, thinks at most %d", seed, at, c.most)
			}
			if says := c.Now(); says < at && says != MostCeiling || says != MostCeiling && says-c.most < ceilingRoom/2 {
				t.Fatalf("seed %d: at %d, at most %d, says %d", seed, at, c.most, says)
			}
		}
	}
	c := Ceiling{most: math.MaxUint32 - 3}
	for range 9 {
		c.Heard(math.MaxUint32)
		c.Next()
	}
	if c.most != math.MaxUint32 || c.says != MostCeiling {
		t.Errorf("at most %d, says %d", c.most, c.says)
	}
}
