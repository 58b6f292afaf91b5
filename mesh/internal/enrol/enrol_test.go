package enrol

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/wire"
	"github.com/meshban/meshban/mesh/pki"
)

var start = time.Date(2026, 11, 22, 11, 0, 0, 0, time.UTC)

func TestInviteBounds(t *testing.T) {
	now := start
	v := &Invites{}
	secret := [16]byte{7}
	for i := range maxInvites {
		if err := v.Add(now, [16]byte{byte(i), byte(i >> 8), 1}, now.Add(time.Hour), 1, pki.DefaultCaps()); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.Add(now, [16]byte{}, now.Add(time.Hour), 1, pki.DefaultCaps()); err == nil {
		t.Error("more open invitations than the bound")
	}
	if err := v.Add(now.Add(2*time.Hour), [16]byte{}, now.Add(3*time.Hour), 1, pki.DefaultCaps()); err != nil {
		t.Errorf("ended invitations make no room: %v", err)
	}
	if _, _, code, err := v.Redeem(now, secret, frame.ID{}); code != Unknown || err != nil {
		t.Errorf("code %d, %v", code, err)
	}
	if _, _, code, err := v.Redeem(now.Add(4*time.Hour), secret, frame.ID{}); code != Unknown || err != nil {
		t.Errorf("code %d, %v", code, err)
	}
	late := invite{Hash: sha256.Sum256(secret[:]), Expires: now.Add(3 * time.Hour), Uses: 1}
	v.list[0] = late
	if _, _, code, err := v.Redeem(late.Expires, secret, frame.ID{}); code != Expired || err != nil {
		t.Errorf("at its end: code %d, %v; want %d", code, err, Expired)
	}
	v.save = func([]byte) error { return errors.New("disk full") }
	if err := v.Add(now.Add(2*time.Hour), [16]byte{}, now.Add(3*time.Hour), 1, pki.DefaultCaps()); err == nil || len(v.list) > maxInvites {
		t.Errorf("not stored, and yet %v, %d invitations", err, len(v.list))
	}
	v.list[0] = invite{Hash: late.Hash, Expires: now.Add(3 * time.Hour), Uses: 1}
	if _, _, code, err := v.Redeem(now, secret, frame.ID{1}); code != Failed || err == nil || len(v.list[0].Used) != 0 {
		t.Errorf("a use that was not stored: code %d, %v, %d uses", code, err, len(v.list[0].Used))
	}
}

// A stranger's hello costs no hash for each token: what a token's hello looks like is known when it is made or read.
func TestKnocks(t *testing.T) {
	v := &Invites{}
	secrets := [][16]byte{{1}, {2}, {3}}
	for i, secret := range secrets {
		if err := v.Add(start, secret, start.Add(time.Duration(i+1)*time.Hour), 1, pki.DefaultCaps()); err != nil {
			t.Fatal(err)
		}
	}
	read, err := LoadInvites(start, encodeInvites(v.list), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []*Invites{v, read} {
		for i, secret := range secrets {
			if name := Knock(secret); !v.Knocks(start, name) || v.Knocks(start.Add(time.Duration(i+1)*time.Hour), name) {
				t.Errorf("token %d: open %v, ended %v", i, v.Knocks(start, name), v.Knocks(start.Add(time.Duration(i+1)*time.Hour), name))
			}
		}
		name := Knock([16]byte{9})
		if v.Knocks(start, name) || v.Knocks(start, "") {
			t.Error("a made-up knock counts")
		}
		if n := testing.AllocsPerRun(10, func() { v.Knocks(start, name) }); n != 0 {
			t.Errorf("%v allocations: a hash is made for each hello", n)
		}
	}
}

// An invitation without caps, as earlier versions stored them, means the default.
func TestInviteDefaultCaps(t *testing.T) {
	plain := encodeInvites([]invite{{Hash: [32]byte{1}, Expires: start, Uses: 1, Caps: pki.DefaultCaps()}})
	if plain[1] != wire.AppendArray(nil, inviteFields)[0] {
		t.Errorf("an invitation with the default caps begins with %#x", plain[1])
	}
	if list, err := decodeInvites(plain); err != nil || list[0].Caps != pki.DefaultCaps() {
		t.Errorf("%+v, %v", list, err)
	}
	long := append([]byte{plain[0], plain[1] + 1}, plain[2:]...)
	if list, err := decodeInvites(pki.DefaultCaps().Append(wire.AppendArray(long, pki.CapsFields))); err == nil {
		t.Errorf("the default caps in a longer form: %+v", list)
	}
}

// What is accepted of a message has exactly one encoding.
func FuzzDecode(f *testing.F) {
	old := pki.GossipKey{Generation: 1, Key: [32]byte{2}}
	f.Add(Request{Secret: [16]byte{1}, Name: "web1"}.Encode())
	f.Add(Answer{Secrets: pki.Secrets{MeshID: [16]byte{1}}, Join: []string{"192.0.2.1:7946"}}.Encode())
	f.Add(Answer{Code: Used}.Encode())
	f.Add(Answer{Secrets: pki.Secrets{MeshID: [16]byte{1}}.WithKeys([]pki.GossipKey{{Generation: 2, Key: [32]byte{1}}, old}, old.Version())}.Encode())
	f.Add(KeysRequest{[16]byte{1}, 1 << 40, []byte{1}}.Encode())
	f.Add(KeysReply{Uses: 7, Records: [][]byte{{1, 2}, {3}}}.Encode())
	f.Add(encodeInvites([]invite{{Hash: [32]byte{1}, Expires: start, Uses: 3, Used: []frame.ID{{1}, {2}}, Caps: pki.DefaultCaps()}}))
	f.Add(encodeInvites([]invite{{Hash: [32]byte{1}, Expires: start, Uses: 1, Caps: pki.Caps{Rate: 1, Active: 2, MinBits4: 24, MinBits6: 48, MaxTTL: time.Hour, UnbanAny: true}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if q, err := DecodeRequest(b); err == nil && !bytes.Equal(q.Encode(), b) {
			t.Errorf("request encoded as %x, was %x", q.Encode(), b)
		}
		if a, err := DecodeAnswer(b); err == nil && !bytes.Equal(a.Encode(), b) {
			t.Errorf("answer encoded as %x, was %x", a.Encode(), b)
		}
		if q, err := DecodeKeysRequest(b); err == nil && !bytes.Equal(q.Encode(), b) {
			t.Errorf("question for keys encoded as %x, was %x", q.Encode(), b)
		}
		if a, err := DecodeKeysReply(b); err == nil && !bytes.Equal(a.Encode(), b) {
			t.Errorf("answer with keys encoded as %x, was %x", a.Encode(), b)
		}
		if list, err := decodeInvites(b); err == nil && !bytes.Equal(encodeInvites(list), b) {
			t.Errorf("invitations encoded as %x, were %x", encodeInvites(list), b)
		}
	})
}

func TestCancelledInvitation(t *testing.T) {
	now := time.Unix(1_800_000_000, 0).UTC()
	var saved []byte
	var full error
	v, err := LoadInvites(now, nil, func(b []byte) error {
		if full == nil {
			saved = b
		}
		return full
	})
	if err != nil {
		t.Fatal(err)
	}
	secrets := [][16]byte{{1}, {2}, {3}}
	for n, secret := range secrets {
		if err := v.Add(now, secret, now.Add(time.Hour), n+1, pki.DefaultCaps()); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, code, err := v.Redeem(now, secrets[0], frame.ID{9}); code != OK || err != nil {
		t.Fatal(code, err)
	}
	open := v.Open(now)
	if len(open) != 2 || open[0].Uses != 2 || open[1].Uses != 3 || open[0].ID == open[1].ID {
		t.Fatalf("one of three is used up: %+v", open)
	}
	if found, err := v.Cancel(now, "00000000"); found || err != nil {
		t.Errorf("an unknown id: %v, %v", found, err)
	}
	full = errors.New("no space")
	if _, err := v.Cancel(now, open[0].ID); err == nil || len(v.Open(now)) != 2 {
		t.Errorf("not stored: %v, open %+v", err, v.Open(now))
	}
	full = nil
	if found, err := v.Cancel(now, open[0].ID); !found || err != nil {
		t.Errorf("%v, %v", found, err)
	}
	again, err := LoadInvites(now, saved, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]*Invites{"before": v, "after a restart": again} {
		if list := v.Open(now); len(list) != 1 || list[0].Uses != 3 {
			t.Errorf("%s: open %+v", name, list)
		}
		if _, _, code, err := v.Redeem(now, secrets[1], frame.ID{8}); code != Expired || err != nil {
			t.Errorf("%s: a cancelled token: %v, %v", name, code, err)
		}
		if v.Knocks(now, Knock(secrets[1])) || !v.Knocks(now, Knock(secrets[2])) {
			t.Errorf("%s: knocks of a cancelled token count, or those of an open one do not", name)
		}
	}
	if found, err := v.Cancel(now, open[0].ID); found || err != nil {
		t.Errorf("cancelled twice: %v, %v", found, err)
	}
}
