package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"net/netip"
	"reflect"
	"testing"
	"time"
)

var until = time.Date(2026, 11, 22, 11, 32, 11, 0, time.UTC)

func TestListEntryJSON(t *testing.T) {
	e := ListEntry{
		Prefix: PrefixOf(netip.MustParsePrefix("203.0.113.7/32")), Ports: "22/tcp", Until: TimeOf(until.Add(-time.Millisecond)),
		Origins: []string{"web1", "web2"}, Reason: "say \"no\"\n\u009b", Source: "line:sshd", State: StateEnforced,
		OriginIDs: []string{"a1", "b2"},
	}
	const want = `{"prefix":"203.0.113.7","ports":"22/tcp","until":"2026-11-22T11:32:11Z","origins":["web1","web2"],` +
		`"reason":"say \"no\"\u000a\u009b","source":"line:sshd","state":"enforced","origin_ids":["a1","b2"]}`
	if got := string(e.AppendJSON(nil)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestFormatTime(t *testing.T) {
	for _, c := range []struct {
		name string
		in   time.Time
		want string
	}{
		{"ok: none", time.Time{}, ""},
		{"ok: whole", until, "2026-11-22T11:32:11Z"},
		{"ok: rounded up", until.Add(time.Millisecond), "2026-11-22T11:32:12Z"},
		{"ok: in UTC", until.In(time.FixedZone("", 3600)), "2026-11-22T11:32:11Z"},
	} {
		if got := FormatTime(c.in); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	for in, want := range map[time.Time]string{
		{}:                                "",
		until:                             "2026-11-22T11:32:11Z",
		until.Add(999 * time.Millisecond): "2026-11-22T11:32:11Z",
		until.Add(time.Millisecond).In(time.FixedZone("", 3600)): "2026-11-22T11:32:11Z",
	} {
		if got := FormatPast(in); got != want {
			t.Errorf("the past %v: %q, want %q", in, got, want)
		}
	}
}

func TestNoPermission(t *testing.T) {
	err := NewClient("/x").unreached(t.Context(), &fs.PathError{Err: fs.ErrPermission})
	if e, ok := errors.AsType[*Error](err); !ok || e.Code != CodePolicy || e.Hint == "" {
		t.Errorf("got %#v, want a policy error with a hint", err)
	}
}

// FuzzRequests checks that a decoded request, encoded again, decodes to the same; that nothing panics; and that all
// bounds hold.
func FuzzRequests(f *testing.F) {
	for _, s := range []string{
		`{"addrs":["192.0.2.1","2001:db8::/64","::ffff:10.0.0.0/104"],"for":"7d12h","ports":"22/tcp","reason":"x","source":"cli"}`,
		`{"prefixes":["192.0.2.0/24"],"reason":"ü"}`, `{"prefixes":["192.0.2.0/24"],"for":"1h"}`,
		`{"addrs":["192.0.2.1"],"addrs":["192.0.2.2"]}`, `{"addrs":["192.0.2.1"]}`, `{"addrs":["192.0.2.1"],}`, `{"addrs":["192.0.2.1"]"for":"1h"}`,
		`{"addrs":["192.0.2.1",],"errors_only":true}`, `{"addrs":["192.0.2.1"],"errors_only":true}`, `{"addrs":["192.0.2.1"],"ADDRS":[]}`,
		`{"action":"drop","prefixes":["192.0.2.0/24"],"origin":"web2"}`, `{"action":"release"}`, `{"action":"drop","prefixes":[]}`,
		`{"uses":3,"for":"24h"}`, `{"uses":3,"caps":{"rate":10,"widest_ipv4":28,"max_for":"1h","unban_any":false}}`, `{"caps":{}}`,
		`{"node":"web2"}`, `{"node":"web2","caps":{"active":7,"widest_ipv6":64,"import":false}}`, `{"node":"web2","caps":{"rate":-1}}`, `{}`, `{"addrs":[null]}`, `[]`, `null`, `{"addrs":["fe80::1%eth0"]}`, `{"for":""}`,
		`{"node":"web3","since":"2026-11-22T12:00:00Z","reason":"stolen"}`, `{"node":"a1b2c3d4"}`, `{"node":""}`,
		`{"what":"mesh-key"}`, `{"what":""}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		again(t, data, Decode[BanRequest])
		again(t, data, Decode[UnbanRequest])
		again(t, data, Decode[AllowRequest])
		again(t, data, Decode[InviteRequest])
		again(t, data, Decode[DecideRequest])
		again(t, data, Decode[CapsRequest])
		again(t, data, Decode[RevokeRequest])
		again(t, data, Decode[RotateRequest])
		if r, err := Decode[BanRequest](data); err == nil {
			if len(r.Addrs) == 0 || len(r.Addrs) > MaxAddrs || r.For < 0 || len(r.Reason) > MaxReason {
				t.Errorf("out of bounds: %+v", r)
			}
			for _, p := range r.Addrs {
				if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() || p.Addr().Zone() != "" {
					t.Errorf("accepted %v", p)
				}
			}
		}
	})
}

func TestHeldEntryRoundTrip(t *testing.T) {
	e := HeldEntry{
		PrefixOf(netip.MustParsePrefix("203.0.113.0/24")), "22/tcp", "web2", "a1", TimeOf(until), TimeOf(until.Add(time.Hour)), "say \"no\"", "line", "breaker", "ban",
	}
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	var back HeldEntry
	if err := json.Unmarshal(text, &back); err != nil || back != e {
		t.Errorf("%s came back as %+v, %v", text, back, err)
	}
}

func again[Req any](t *testing.T, data []byte, decode func([]byte) (Req, error)) {
	first, err := decode(data)
	if err != nil {
		if e := AsError(err); e.Code != CodeUsage {
			t.Errorf("%q: %v is not a usage error", data, err)
		}
		return
	}
	text, err := json.Marshal(first)
	if err != nil {
		t.Fatal(err)
	}
	second, err := decode(text)
	if err != nil || !reflect.DeepEqual(first, second) {
		t.Errorf("%q became %q: %+v, then %+v, %v", data, text, first, second, err)
	}
}

// FuzzListEntry checks that the fast decoder agrees with encoding/json, and that an encoded entry decodes to the
// same.
func FuzzListEntry(f *testing.F) {
	for _, e := range []ListEntry{
		{Prefix: PrefixOf(netip.MustParsePrefix("203.0.113.7/32")), Until: TimeOf(until), Origins: []string{"web1", "web2"}, State: StateHeld},
		{Prefix: PrefixOf(netip.MustParsePrefix("2001:db8::/32")), Ports: "80", Until: TimeOf(until), Reason: "\"\\\x00\xff\u2028", Source: "cli"},
		{Prefix: PrefixOf(netip.MustParsePrefix("203.0.113.7/32")), Until: TimeOf(until), State: StateEnforced, Dropped: &Dropped{Packets: 1 << 63, Bytes: 7}},
	} {
		f.Add(e.AppendJSON(nil))
	}
	// The fast decoder once accepted origins without a comma between them.
	f.Add([]byte(`{"prefix":"192.0.2.7","ports":"","until":"2026-11-22T11:32:11Z","origins":["web1""web2"],"reason":"","source":"","state":""}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		var d entryDecoder
		fast, ok := d.fast(line)
		var slow ListEntry
		err := json.Unmarshal(line, &slow)
		if ok && bytes.IndexFunc(line, func(r rune) bool { return r < 0x20 || r > 0x7e }) < 0 {
			if err != nil || string(fast.AppendJSON(nil)) != string(slow.AppendJSON(nil)) {
				t.Errorf("%q: fast %+v, slow %+v, %v", line, fast, slow, err)
			}
		}
		if err != nil || !slow.Prefix.IsValid() {
			return
		}
		text := slow.AppendJSON(nil)
		if !json.Valid(text) {
			t.Fatalf("wrote %q", text)
		}
		back, err := d.decode(text)
		if err != nil || string(back.AppendJSON(nil)) != string(text) {
			t.Errorf("%q came back as %+v, %v", text, back, err)
		}
	})
}

func BenchmarkListEntryEncode(b *testing.B) {
	e := benchEntry
	var buf []byte
	for b.Loop() {
		buf = e.AppendJSON(buf[:0])
	}
}

func BenchmarkListEntryDecode(b *testing.B) {
	line := benchEntry.AppendJSON(nil)
	var d entryDecoder
	for b.Loop() {
		if _, err := d.decode(line); err != nil {
			b.Fatal(err)
		}
	}
}

var benchEntry = ListEntry{
	Prefix: PrefixOf(netip.MustParsePrefix("203.0.113.7/32")), Until: TimeOf(until), Origins: []string{"web1"}, Reason: "sshd",
	Source: "line:sshd", State: StateEnforced,
}

func BenchmarkBanRequest(b *testing.B) {
	var addrs []netip.Prefix
	for i := range MaxAddrs {
		addrs = append(addrs, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}), 32))
	}
	req := BanRequest{Addrs: addrs, For: Duration(time.Hour), Source: "import", ErrorsOnly: true}
	text, err := json.Marshal(req)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("encode", func(b *testing.B) {
		for b.Loop() {
			if _, err := json.Marshal(req); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/MaxAddrs, "ns/addr")
	})
	b.Run("decode", func(b *testing.B) {
		for b.Loop() {
			if _, err := Decode[BanRequest](text); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/MaxAddrs, "ns/addr")
	})
}

// FuzzReplies checks that a decoded reply, encoded again, decodes to the same.
func FuzzReplies(f *testing.F) {
	network := netip.MustParsePrefix("203.0.113.0/24")
	prefix, end := PrefixOf(network), TimeOf(until)
	for _, v := range []any{
		Result{prefix, end, StateEnforced, "already banned", "", &Error{Code: CodePolicy, Message: "no", Hint: "ask"}},
		AllowEntry{prefix, end, "web1", "office", "mesh", "a1"},
		WhyReply{prefix, VerdictDropped, "dropped", []Finding{{Kind: "ban", Prefix: prefix, Origin: "web1", Issued: end, Until: end}}, []NodeAnswer{{Name: "web2", Verdict: VerdictUnknown, Why: "no answer"}}},
		HeldEntry{Prefix: prefix, Origin: "web2", ID: "a1", Issued: end, Until: end, By: "breaker"},
		InviteReply{"mb1-x", 3, end}, AuditEntry{Time: until, What: "ban", Prefixes: []netip.Prefix{network}, Via: ViaMesh, Node: "web1"},
		Event{Time: until, Name: "ban", Prefix: prefix, Until: end, LatencyMS: new(3.7)}, Event{Time: until, Name: "join", Origin: "web3"},
		Member{Name: "web1", State: MemberAlive, Caps: &Caps{Rate: 7, MaxFor: Duration(time.Hour), NoImport: true}},
		RevokeReply{Name: "web1", Revoked: until, Last: []LastBan{{Prefix: prefix, Ports: "22/tcp", Issued: until, Arrived: until}}},
	} {
		text, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		roundTrip[Result](t, data)
		roundTrip[AllowEntry](t, data)
		roundTrip[WhyReply](t, data)
		roundTrip[HeldEntry](t, data)
		roundTrip[InviteReply](t, data)
		roundTrip[Event](t, data)
		roundTrip[AuditEntry](t, data)
		roundTrip[Member](t, data)
		roundTrip[RevokeReply](t, data)
	})
}

// roundTrip decodes a T, encodes it, decodes that and compares the two. The first decoding may cut off fractions of a
// second.
func roundTrip[T any](t *testing.T, data []byte) {
	var first, second T
	if json.Unmarshal(data, &first) != nil {
		return
	}
	text, err := json.Marshal(first)
	if err != nil {
		return // a year beyond 9999
	}
	if err := json.Unmarshal(text, &second); err != nil {
		t.Fatalf("%T: %s: %v", first, text, err)
	}
	if again, err := json.Marshal(second); err != nil || string(again) != string(text) {
		t.Errorf("%T: %s, then %s (%v)", first, text, again, err)
	}
}

// FuzzHeldEntry is FuzzListEntry for held entries.
func FuzzHeldEntry(f *testing.F) {
	f.Add(benchHeld.AppendJSON(nil))
	f.Add(HeldEntry{Prefix: benchHeld.Prefix, Reason: "\"\\\x00\xff\u2028", Issued: TimeOf(until)}.AppendJSON(nil))
	f.Fuzz(func(t *testing.T, line []byte) {
		var d entryDecoder
		quick, ok := d.fastHeld(line)
		var slow HeldEntry
		err := json.Unmarshal(line, &slow)
		if ok && bytes.IndexFunc(line, func(r rune) bool { return r < 0x20 || r > 0x7e }) < 0 {
			if err != nil || string(quick.AppendJSON(nil)) != string(slow.AppendJSON(nil)) {
				t.Errorf("%q: quick %+v, slow %+v, %v", line, quick, slow, err)
			}
		}
		if err != nil || !slow.Prefix.IsValid() {
			return
		}
		text := slow.AppendJSON(nil)
		if !json.Valid(text) {
			t.Fatalf("wrote %q", text)
		}
		back, err := d.decodeHeld(text)
		if err != nil || string(back.AppendJSON(nil)) != string(text) {
			t.Errorf("%q came back as %+v, %v", text, back, err)
		}
	})
}

// `held list` of 32,768 ops took more than a second: each went through encoding/json at both ends.
func TestHeldEntriesAreCheap(t *testing.T) {
	var d entryDecoder
	var line []byte
	allocs := testing.AllocsPerRun(100, func() {
		line = benchHeld.AppendJSON(line[:0])
		if _, ok := d.fastHeld(line); !ok {
			t.Fatalf("%s is not read the quick way", line)
		}
	})
	if allocs > 2 {
		t.Errorf("an entry costs %.0f allocations", allocs)
	}
}

// benchHeld is a held entry as nearly all are.
var benchHeld = HeldEntry{
	Prefix: PrefixOf(netip.MustParsePrefix("203.0.113.7/32")), Origin: "web2", ID: "3ff02d44a05faf89d2e9d1d2d142f973",
	Issued: TimeOf(until), Until: TimeOf(until), Source: "cli", By: "rate of its origin", Kind: "ban",
}

func BenchmarkHeldEntry(b *testing.B) {
	var d entryDecoder
	var line []byte
	for b.Loop() {
		line = benchHeld.AppendJSON(line[:0])
		if _, err := d.decodeHeld(line); err != nil {
			b.Fatal(err)
		}
	}
}
