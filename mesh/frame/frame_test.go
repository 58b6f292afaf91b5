package frame

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/internal/wire"
)

var start = time.UnixMilli(1_800_000_000_000).UTC()

func TestRoundTrip(t *testing.T) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	want := Frame{
		MeshID: [16]byte{1}, Epoch: math.MaxUint64 - 1, Seq: math.MaxUint64 - 1,
		Issued: start, Expires: start.Add(MaxLife), Payload: bytes.Repeat([]byte{7}, MaxPayload),
	}
	f, err := Sign(key, want)
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Raw) > MaxSize {
		t.Errorf("the largest frame has %d bytes, want at most %d", len(f.Raw), MaxSize)
	}
	got, err := Decode(f.Raw)
	if err != nil {
		t.Fatal(err)
	}
	if got.MeshID != want.MeshID || got.Epoch != want.Epoch || got.Seq != want.Seq || !got.Issued.Equal(want.Issued) ||
		!got.Expires.Equal(want.Expires) || !bytes.Equal(got.Payload, want.Payload) || got.Origin != IDOf(key.Public().(ed25519.PublicKey)) {
		t.Errorf("decoded %+v", got)
	}
	if err := got.Verify(); err != nil {
		t.Error(err)
	}
	for _, at := range []int{0, 5, 40, 100, len(f.Raw) - 1} {
		bent := bytes.Clone(f.Raw)
		bent[at] ^= 1
		if g, err := Decode(bent); err == nil && g.Verify() == nil {
			t.Errorf("a frame with byte %d changed is accepted", at)
		}
	}
	// The signature counts for a frame only: the same bytes signed without the domain are refused.
	body := f.Raw[:len(f.Raw)-ed25519.SignatureSize]
	forged := append(bytes.Clone(body), ed25519.Sign(key, body)...)
	if g, err := Decode(forged); err != nil || !errors.Is(g.Verify(), ErrSignature) {
		t.Errorf("a signature over something else is accepted: %v", err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	ok := Frame{Key: key.Public().(ed25519.PublicKey), Epoch: 1, Seq: 1, Issued: start, Expires: start.Add(time.Hour), Payload: []byte("x")}
	sig := make([]byte, ed25519.SignatureSize)
	encode := func(edit func(*Frame)) []byte {
		f := ok
		edit(&f)
		return append(encodeBody(f), sig...)
	}
	if _, err := Decode(encode(func(*Frame) {})); err != nil {
		t.Fatalf("ok: %v", err)
	}
	body := encodeBody(ok)
	for name, raw := range map[string][]byte{
		"bad: empty":             {},
		"bad: only a signature":  sig,
		"bad: cut short":         encode(func(*Frame) {})[:80],
		"bad: trailing bytes":    append(append(bytes.Clone(body), 0), sig...),
		"bad: too large":         make([]byte, MaxSize+1),
		"bad: another version":   append(append([]byte{body[0], 2}, body[2:]...), sig...),
		"bad: too few fields":    append(append([]byte{body[0] - 1}, body[1:]...), sig...),
		"bad: a longer number":   append(append(append([]byte{body[0]}, 0xcc, 1), body[2:]...), sig...),
		"bad: a short key":       encode(func(f *Frame) { f.Key = f.Key[:31] }),
		"bad: epoch 0":           encode(func(f *Frame) { f.Epoch = 0 }),
		"bad: seq 0":             encode(func(f *Frame) { f.Seq = 0 }),
		"bad: the last seq":      encode(func(f *Frame) { f.Seq = math.MaxUint64 }),
		"bad: ends as it begins": encode(func(f *Frame) { f.Expires = f.Issued }),
		"bad: lives too long":    encode(func(f *Frame) { f.Expires = f.Issued.Add(MaxLife + time.Millisecond) }),
		"bad: ends in year 10000": encode(func(f *Frame) {
			f.Issued = time.UnixMilli(wire.MaxMillis)
			f.Expires = time.UnixMilli(wire.MaxMillis + 1)
		}),
		"bad: a payload of a list":  append(append(bytes.Clone(body[:len(body)-3]), 0x91, 1), sig...),
		"bad: time before 1970":     encode(func(f *Frame) { f.Issued = time.UnixMilli(-5) }),
		"bad: bytes behind the sig": append(encode(func(*Frame) {}), 0),
	} {
		if f, err := Decode(raw); !errors.Is(err, errBad) {
			t.Errorf("%s: %+v, %v", name, f, err)
		}
	}
	if _, err := Sign(key, Frame{Epoch: 1, Seq: 1, Issued: start, Expires: start.Add(1), Payload: make([]byte, MaxPayload+1)}); err == nil {
		t.Error("bad: a payload above the bound was signed")
	}
}

// What is accepted has exactly one encoding, so encoding it again yields the same bytes.
func FuzzDecode(f *testing.F) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	for _, fr := range []Frame{
		{Epoch: 3, Seq: 9, Issued: start, Expires: start.Add(time.Hour), Payload: []byte("payload")},
		{Epoch: 1, Seq: 1 << 40, Issued: start, Expires: start.Add(time.Millisecond)},
	} {
		good, err := Sign(key, fr)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(good.Raw)
		f.Add(good.Raw[:50])
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		fr, err := Decode(raw)
		if err != nil {
			return
		}
		if len(raw) > MaxSize || !bytes.Equal(fr.Raw, raw) {
			t.Fatal("Raw is not what was decoded")
		}
		b := encodeBody(fr)
		if !bytes.Equal(b, raw[:len(b)]) {
			t.Errorf("encoded as %x, was %x", b, raw)
		}
		if !fr.Expires.After(fr.Issued) || fr.Origin != IDOf(fr.Key) {
			t.Errorf("accepted %+v", fr)
		}
		_ = fr.Verify()
	})
}
