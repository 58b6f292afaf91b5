package wire

import (
	"bytes"
	"slices"
	"testing"
)

func TestPack(t *testing.T) {
	const limit = 1300
	var raws [][]byte
	for i := range 40 {
		raws = append(raws, bytes.Repeat([]byte{byte(i)}, 200))
	}
	raws = append(raws, make([]byte, limit))
	var got [][]byte
	for _, p := range Pack(KindPush, raws) {
		if len(p) > MaxPacket || p[0] != KindPush {
			t.Errorf("packet of %d bytes, kind %d", len(p), p[0])
		}
		for rest := p[1:]; len(rest) > 0; {
			raw, tail, ok := NextPacked(rest, limit)
			if !ok {
				t.Fatal("a packet cannot be taken apart")
			}
			got, rest = append(got, raw), tail
		}
	}
	if !slices.EqualFunc(got, raws, bytes.Equal) {
		t.Errorf("%d frames out, %d in", len(got), len(raws))
	}
	for _, bad := range [][]byte{{}, {0}, {0, 0}, {0, 2, 1}, {0xff, 0xff, 1, 2, 3}} {
		if _, _, ok := NextPacked(bad, limit); ok {
			t.Errorf("%x taken apart", bad)
		}
	}
}
