package wire

import (
	"bytes"
	"math"
	"testing"

	"github.com/hashicorp/go-msgpack/v2/codec"
)

// Our encoding is msgpack that other implementations can read.
func TestWireIsMsgpack(t *testing.T) {
	numbers := []uint64{0, 1, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x10000, math.MaxUint32, math.MaxUint32 + 1, math.MaxUint64}
	blob, long := bytes.Repeat([]byte{1}, 300), "a text of more than thirty-one bytes"
	b := AppendArray(nil, len(numbers)+4)
	for _, n := range numbers {
		b = AppendUint(b, n)
	}
	b = AppendBin(AppendBin(b, blob), []byte{9})
	b = AppendStr(AppendStr(b, long), "short")
	var h codec.MsgpackHandle
	h.WriteExt, h.RawToString = true, false
	var got []any
	if err := codec.NewDecoderBytes(b, &h).Decode(&got); err != nil {
		t.Fatal(err)
	}
	r := Reader{Rest: b}
	r.ArrayOf(len(numbers) + 4)
	for i, n := range numbers {
		if v := r.Uint(); v != n {
			t.Errorf("read %d, want %d", v, n)
		}
		switch v := got[i].(type) {
		case uint64:
			if v != n {
				t.Errorf("codec read %d, want %d", v, n)
			}
		case int64:
			if uint64(v) != n {
				t.Errorf("codec read %d, want %d", v, n)
			}
		default:
			t.Errorf("codec read %T for %d", v, n)
		}
	}
	if !bytes.Equal(r.Bin(1000), blob) || !bytes.Equal(got[len(numbers)].([]byte), blob) || len(r.Bin(5)) != 1 {
		t.Error("bytes differ")
	}
	if r.Str(100) != long || r.Str(100) != "short" || r.End() != nil {
		t.Errorf("texts differ: %v", r.Err)
	}
}
