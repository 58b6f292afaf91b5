package replica

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
	for seq := uint64(1); seq <= 8; seq++ { // of two, the lower hash stays: that would be the broken frame about half of the time
		signed := testFrame(t, signers[1], 1, seq, s.now, time.Hour, "payload")
		raw := bytes.Clone(signed.Raw)
		raw[bytes.Index(raw, []byte("payload"))] ^= 1
		broken, err := frame.Decode(raw)
		if err != nil {
			t.Fatal(err)
		}
		c.Step(s.now, FramesEvent{Via: ViaRestore, Frames: []frame.Frame{broken}})
		out := c.Step(s.now, FramesEvent{Via: ViaPush, Frames: []frame.Frame{signed}})
		if len(out.Equivocal) > 0 || len(out.Replaced) != 1 || len(out.Deliver) != 1 {
			t.Fatalf("frame %d: %d accusations, %d replaced, %d delivered", seq, len(out.Equivocal), len(out.Replaced), len(out.Deliver))
		}
		if held, _ := c.get(signed.Ref()); !bytes.Equal(held, signed.Raw) {
			t.Fatalf("frame %d is still the broken one", seq)
		}
	}
	other := testFrame(t, signers[1], 1, 1, s.now, time.Hour, "another")
	if out := c.Step(s.now, FramesEvent{Via: ViaPush, Frames: []frame.Frame{other}}); len(out.Equivocal) != 1 {
		t.Errorf("two signed frames of one name: %d accusations", len(out.Equivocal))
	}
}
