package mesh

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"
)

func TestFrameRoundTrip(t *testing.T) {
	id := signers[0]
	secrets := newSecrets(t)
	want := Frame{
		MeshID: secrets.MeshID, Epoch: math.MaxUint64 - 1, Seq: math.MaxUint64 - 1,
		Issued: simStart, Expires: simStart.Add(MaxLife), Payload: bytes.Repeat([]byte{7}, MaxPayload),
	}
	f, err := signFrame(id, want)
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Raw()) > MaxFrame {
		t.Errorf("the largest frame has %d bytes, want at most %d", len(f.Raw()), MaxFrame)
	}
	got, err := DecodeFrame(f.Raw())
	if err != nil {
		t.Fatal(err)
	}
	if got.MeshID != want.MeshID || got.Epoch != want.Epoch || got.Seq != want.Seq || !got.Issued.Equal(want.Issued) ||
		!got.Expires.Equal(want.Expires) || !bytes.Equal(got.Payload, want.Payload) || got.Origin != id.ID() {
		t.Errorf("decoded %+v", got)
	}
	if err := got.Verify(); err != nil {
		t.Error(err)
	}
	for _, at := range []int{0, 5, 40, 100, len(f.Raw()) - 1} {
		bent := bytes.Clone(f.Raw())
		bent[at] ^= 1
		if g, err := DecodeFrame(bent); err == nil && g.Verify() == nil {
			t.Errorf("a frame with byte %d changed is accepted", at)
		}
	}
	// The signature counts for a frame only: the same bytes signed without the domain are refused.
	body := f.Raw()[:len(f.Raw())-ed25519.SignatureSize]
	forged := append(bytes.Clone(body), ed25519.Sign(id.key, body)...)
	if g, err := DecodeFrame(forged); err != nil || !errors.Is(g.Verify(), ErrBadSignature) {
		t.Errorf("a signature over something else is accepted: %v", err)
	}
}

func TestDecodeFrameRefuses(t *testing.T) {
	ok := Frame{Key: signers[0].Public(), Epoch: 1, Seq: 1, Issued: simStart, Expires: simStart.Add(time.Hour), Payload: []byte("x")}
	sig := make([]byte, ed25519.SignatureSize)
	encode := func(edit func(*Frame)) []byte {
		f := ok
		edit(&f)
		return append(encodeBody(f), sig...)
	}
	if _, err := DecodeFrame(encode(func(*Frame) {})); err != nil {
		t.Fatalf("ok: %v", err)
	}
	body := encodeBody(ok)
	for name, raw := range map[string][]byte{
		"bad: empty":                {},
		"bad: only a signature":     sig,
		"bad: cut short":            encode(func(*Frame) {})[:80],
		"bad: trailing bytes":       append(append(bytes.Clone(body), 0), sig...),
		"bad: too large":            make([]byte, MaxFrame+1),
		"bad: another version":      append(append([]byte{body[0], 2}, body[2:]...), sig...),
		"bad: too few fields":       append(append([]byte{body[0] - 1}, body[1:]...), sig...),
		"bad: a longer number":      append(append(append([]byte{body[0]}, mpUint8, 1), body[2:]...), sig...),
		"bad: a short key":          encode(func(f *Frame) { f.Key = f.Key[:31] }),
		"bad: epoch 0":              encode(func(f *Frame) { f.Epoch = 0 }),
		"bad: seq 0":                encode(func(f *Frame) { f.Seq = 0 }),
		"bad: the last seq":         encode(func(f *Frame) { f.Seq = math.MaxUint64 }),
		"bad: ends as it begins":    encode(func(f *Frame) { f.Expires = f.Issued }),
		"bad: lives too long":       encode(func(f *Frame) { f.Expires = f.Issued.Add(MaxLife + time.Millisecond) }),
		"bad: ends in year 10000":   encode(func(f *Frame) { f.Issued = time.UnixMilli(maxMillis); f.Expires = time.UnixMilli(maxMillis + 1) }),
		"bad: a payload of a list":  append(append(bytes.Clone(body[:len(body)-3]), 0x91, 1), sig...),
		"bad: time before 1970":     encode(func(f *Frame) { f.Issued = time.UnixMilli(-5) }),
		"bad: bytes behind the sig": append(encode(func(*Frame) {}), 0),
	} {
		if f, err := DecodeFrame(raw); !errors.Is(err, ErrBadFrame) {
			t.Errorf("%s: %+v, %v", name, f, err)
		}
	}
	if _, err := signFrame(signers[0], Frame{Epoch: 1, Seq: 1, Issued: simStart, Expires: simStart.Add(1), Payload: make([]byte, MaxPayload+1)}); err == nil {
		t.Error("bad: a payload above the bound was signed")
	}
}

// Our encoding is msgpack that other implementations can read.
func TestWireIsMsgpack(t *testing.T) {
	numbers := []uint64{0, 1, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x10000, math.MaxUint32, math.MaxUint32 + 1, math.MaxUint64}
	blob, long := bytes.Repeat([]byte{1}, 300), "a text of more than thirty-one bytes"
	b := appendArray(nil, len(numbers)+4)
	for _, n := range numbers {
		b = appendUint(b, n)
	}
	b = appendBin(appendBin(b, blob), []byte{9})
	b = appendStr(appendStr(b, long), "short")
	var h codec.MsgpackHandle
	h.WriteExt, h.RawToString = true, false
	var got []any
	if err := codec.NewDecoderBytes(b, &h).Decode(&got); err != nil {
		t.Fatal(err)
	}
	r := reader{b: b}
	r.arrayOf(len(numbers) + 4)
	for i, n := range numbers {
		if v := r.uint(); v != n {
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
	if !bytes.Equal(r.bin(1000), blob) || !bytes.Equal(got[len(numbers)].([]byte), blob) || len(r.bin(5)) != 1 {
		t.Error("bytes differ")
	}
	if r.str(100) != long || r.str(100) != "short" || r.end() != nil {
		t.Errorf("texts differ: %v", r.err)
	}
}

func TestIdentityFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.key")
	if _, err := LoadIdentity(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing key: %v", err)
	}
	id, err := CreateIdentity(path)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	if _, err := CreateIdentity(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second key at the same place: %v", err)
	}
	back, err := LoadIdentity(path)
	if err != nil || back.ID() != id.ID() || !back.Public().Equal(id.Public()) {
		t.Errorf("loaded %v, %v; want %v", back.ID(), err, id.ID())
	}
	if parsed, err := ParseID(id.ID().String()); err != nil || parsed != id.ID() || len(id.ID().Short()) != 8 {
		t.Errorf("parsed %v, %v", parsed, err)
	}
	for _, bad := range []string{"", "x", id.ID().String()[:31], "ABCDEF" + id.ID().String()[6:], id.ID().String() + "0"} {
		if _, err := ParseID(bad); err == nil {
			t.Errorf("id %q accepted", bad)
		}
	}

	secrets := newSecrets(t)
	for range 2 { // the second time, the file is replaced
		if err := secrets.Save(path); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := LoadSecrets(path); err != nil || got != secrets {
		t.Errorf("loaded other secrets, %v", err)
	}
	if _, err := LoadIdentity(path); err == nil {
		t.Error("secrets were loaded as a key")
	}
	for name, content := range map[string][]byte{"empty": nil, "text": []byte("hello"), "large": make([]byte, maxKeyFile+1)} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadSecrets(path); err == nil {
			t.Errorf("%s file was loaded", name)
		}
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
