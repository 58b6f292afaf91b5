package mesh

import (
	"bytes"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
)

// A frame restored without a valid signature, because a disk flipped a bit, yields to the signed one. It once counted as a
// second frame under one number, and a member was accused of having signed both.
func TestRestoredFrameThatIsNotSigned(t *testing.T) {
	s := newSimulation(t, 1, 21)
	c := s.cores[0]
	for seq := uint64(1); seq <= 8; seq++ { // the lower hash of two stays: about half of the broken frames would
		signed := testFrame(t, signers[1], 1, seq, s.now, time.Hour, "payload")
		raw := bytes.Clone(signed.Raw)
		raw[bytes.Index(raw, []byte("payload"))] ^= 1
		broken, err := frame.Decode(raw)
		if err != nil {
			t.Fatal(err)
		}
		c.step(s.now, evFrames{via: viaRestore, frames: []frame.Frame{broken}})
		out := c.step(s.now, evFrames{via: viaPush, frames: []frame.Frame{signed}})
		if len(out.equivocs) > 0 || len(out.replaced) != 1 || len(out.deliver) != 1 {
			t.Fatalf("frame %d: %d accusations, %d replaced, %d delivered", seq, len(out.equivocs), len(out.replaced), len(out.deliver))
		}
		if held, _ := c.get(signed.Ref()); !bytes.Equal(held, signed.Raw) {
			t.Fatalf("frame %d is still the broken one", seq)
		}
	}
	other := testFrame(t, signers[1], 1, 1, s.now, time.Hour, "another")
	if out := c.step(s.now, evFrames{via: viaPush, frames: []frame.Frame{other}}); len(out.equivocs) != 1 {
		t.Errorf("two signed frames of one name: %d accusations", len(out.equivocs))
	}
}
