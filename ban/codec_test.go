package ban

import (
	"bytes"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// someOps returns one op of each shape that travels.
func someOps() []Op {
	ms := []Mark{{Origin{1}, 1, 2}, {Origin{2}, 1 << 40, 1 << 63}}
	return []Op{
		{Kind: KindBan, Prefix: pfx("192.0.2.7"), Until: tick(60), Reason: "sshd: 5 failures", Source: "line:sshd"},
		{Kind: KindBan, Prefix: pfx("192.0.2.0/25"), Ports: ports("22/tcp,8000-8010/udp"), Until: tick(30)},
		{Kind: KindBan, Prefix: pfx("2001:db8::1"), Until: tick(61), Source: "cli"},
		{Kind: KindRevoke, Prefix: pfx("2001:db8::/61"), Ports: ports("80"), Until: tick(5000)},
		{Kind: KindUnban, Prefix: pfx("10.0.0.0/8"), Until: tick(7), Marks: ms, Reason: strings.Repeat("é", 100)},
		{Kind: KindAllow, Prefix: pfx("::/0"), Until: fromMillis(maxMillis), Source: "api"},
		{Kind: KindUnallow, Prefix: pfx("0.0.0.0/0"), Until: time.Unix(1, 0).UTC(), Marks: ms[:1]},
		{Kind: KindBan, Prefix: pfx("192.0.2.8"), Until: tick(60), Reason: "sshd: 5 failures", Source: "line:sshd"},
	}
}

func TestOpsComeBackAsTheyWere(t *testing.T) {
	ops := someOps()
	for n := range ops {
		b, err := AppendOps([]byte("head"), ops[:n+1])
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeOps(b[4:])
		if err != nil || string(b[:4]) != "head" {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, ops[:n+1]) {
			t.Errorf("got  %+v\nwant %+v", got, ops[:n+1])
		}
	}
}

func TestPlainBansTravelShort(t *testing.T) {
	var ops []Op
	for _, r := range plainBans(7) {
		r.Until, r.Reason = tick(3600), ""
		ops = append(ops, r.Op)
	}
	one, _ := AppendOps(nil, ops[:1])
	all, _ := AppendOps(nil, ops)
	if each := (len(all) - len(one)) / 6; each > 5 {
		t.Errorf("%d bytes for each ban more, want at most 5", each)
	}
}

func TestAppendOpsRefuses(t *testing.T) {
	good := someOps()[0]
	edit := func(f func(*Op)) []Op { o := good; f(&o); return []Op{o} }
	for name, ops := range map[string][]Op{
		"bad: none":                 nil,
		"bad: too many":             slices.Repeat([]Op{good}, MaxOpsPerFrame+1),
		"bad: no kind":              edit(func(o *Op) { o.Kind = 0 }),
		"bad: unknown kind":         edit(func(o *Op) { o.Kind = 6 }),
		"bad: no prefix":            edit(func(o *Op) { o.Prefix = pfx("::/0"); o.Prefix = Rule{}.Prefix }),
		"bad: no end":               edit(func(o *Op) { o.Until = time.Time{} }),
		"bad: end after year 9999":  edit(func(o *Op) { o.Until = time.Unix(maxUnix+1, 0) }),
		"bad: reason too long":      edit(func(o *Op) { o.Reason = strings.Repeat("x", MaxReason+1) }),
		"bad: reason with newline":  edit(func(o *Op) { o.Reason = "a\nb" }),
		"bad: reason with escape":   edit(func(o *Op) { o.Reason = "\x1b[2J" }),
		"bad: reason with C1":       edit(func(o *Op) { o.Reason = "a\u009bb" }),
		"bad: reason reorders text": edit(func(o *Op) { o.Reason = "a\u202eb" }),
		"bad: reason is not UTF-8":  edit(func(o *Op) { o.Reason = "a\xff" }),
		"bad: source too long":      edit(func(o *Op) { o.Source = strings.Repeat("x", MaxSource+1) }),
		"bad: ban with marks":       edit(func(o *Op) { o.Marks = []Mark{{}} }),
		"bad: allow with ports":     edit(func(o *Op) { o.Kind, o.Ports = KindAllow, ports("22") }),
		"bad: unban without marks":  edit(func(o *Op) { o.Kind = KindUnban }),
		"bad: unban with ports":     edit(func(o *Op) { o.Kind, o.Ports, o.Marks = KindUnban, ports("22"), []Mark{{}} }),
		"bad: marks out of order":   edit(func(o *Op) { o.Kind, o.Marks = KindUnban, []Mark{{Origin: Origin{2}}, {Origin: Origin{1}}} }),
		"bad: too many marks":       edit(func(o *Op) { o.Kind, o.Marks = KindUnban, make([]Mark, MaxMarks+1) }),
	} {
		if b, err := AppendOps([]byte("x"), ops); err == nil || string(b) != "x" {
			t.Errorf("%s: got %q %v", name, b, err)
		}
	}
}

func TestDecodeOpsRefuses(t *testing.T) {
	encode := func(ops ...Op) []byte {
		b, err := AppendOps(nil, ops)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	plain := Op{Kind: KindBan, Prefix: pfx("192.0.2.7"), Until: fromMillis(1_000_000)}
	good := encode(plain)
	// 93 format, 91 95 kind ports reason source marks, string, tag address until
	want := "\x93\x02\x91\x95\x01\xa0\xa0\xa0\xc0\xa8\x04\xc0\x00\x02\x07\x80\x89\x7a"
	if string(good) != want {
		t.Fatalf("the format changed: %q", good)
	}
	put := func(i int, s string) []byte { return []byte(want[:i] + s + want[i+len(s):]) }
	items := func(s string) []byte { return append([]byte(want[:9]), append([]byte{byte(0xa0 + len(s))}, s...)...) }
	wide := encode(Op{Kind: KindBan, Prefix: pfx("2001:db8::/32"), Until: fromMillis(1_000_000)})
	next := plain
	next.Prefix = pfx("192.0.2.8")
	two := encode(plain, next)
	if string(two) != string(items(want[10:]+"\x18\x08")) {
		t.Fatalf("the format changed: %q", two)
	}
	for name, b := range map[string][]byte{
		"bad: empty":                  {},
		"bad: cut short":              good[:len(good)-1],
		"bad: a byte too many":        append(slices.Clone(good), 0),
		"bad: two payloads":           append(slices.Clone(good), good...),
		"bad: unknown format":         put(1, "\x03"),
		"bad: format as float":        append([]byte("\x93\xca\x40\x00\x00\x00"), want[2:]...),
		"bad: format in long form":    append([]byte("\x93\xcc\x02"), want[2:]...),
		"bad: a field too many":       append([]byte("\x94"), append(slices.Clone(good[1:]), 0xc0)...),
		"bad: a field too few":        []byte("\x92" + want[1:9]),
		"bad: a map":                  []byte("\x80"),
		"bad: nil":                    []byte("\xc0"),
		"bad: nil for text":           put(5, "\xc0"),
		"bad: unknown kind":           put(4, "\x09"),
		"bad: no items":               []byte(want[:9] + "\xa0"),
		"bad: nil items":              []byte(want[:9] + "\xc0"),
		"bad: no such note":           items("\x05\x01" + want[11:]),
		"bad: note said again":        items("\x05\x00" + want[11:]),
		"bad: length said again":      items("\x06\x20" + want[11:]),
		"bad: length 33 of IPv4":      items("\x06\xff" + want[11:]),
		"bad: bits behind the length": items("\x06\x1f" + want[11:]),
		"bad: only a tag":             items("\x04"),
		"bad: a bit too many":         put(10, "\x84"),
		"bad: no end":                 items("\x00" + want[11:15]),
		"bad: end said again":         items(want[10:] + "\x1c\x08\x00"),
		"bad: address said again":     items(want[10:] + "\x10\x02\x08"),
		"bad: more shared than there": items(want[10:] + "\x28"),
		"bad: shared with IPv6":       items("\x06\x41\x20\x01\x0d\xb8\x80\x89\x7a" + "\x0a\x20\x0d\x00\x00"),
		"bad: until overlong":         items(want[10:17] + "\xfa\x00"),
		"bad: until negative":         put(15, "\x81\x89\x7a"),
		"bad: array of 4 billion":     []byte("\x93\x02\xdd\xff\xff\xff\xff"),
		"bad: string of 4 billion":    []byte("\x93\x02\x90\xdb\xff\xff\xff\xff"),
		"bad: unused note":            []byte("\x93\x02\x92" + want[3:9] + want[3:9] + want[9:]),
		"bad: too long":               make([]byte, MaxPayloadBytes+1),
		"bad: deep":                   bytes.Repeat([]byte("\x91"), 10_000),
		"bad: 4-in-6":                 items("\x06\xa1\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc0\x00\x02\x07\x80\x89\x7a"),
		"bad: format 1":               []byte("\x93\x01\x91\x95\x01\xa0\xa0\xa0\xc0\xa9\x00\x20\xc0\x00\x02\x07\x80\x89\x7a"),
	} {
		if ops, err := DecodeOps(b); err == nil {
			t.Errorf("%s: got %+v", name, ops)
		}
	}
	for _, b := range [][]byte{good, wide, two} {
		if _, err := DecodeOps(b); err != nil {
			t.Errorf("ok: %v", err)
		}
	}
}

// Each run encodes within the limit and is as long as possible.
func TestSplitOpsFillsFrames(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		shapes := someOps()
		var ops []Op
		for range rapid.IntRange(0, 300).Draw(t, "ops") {
			o := rapid.SampledFrom(shapes).Draw(t, "op")
			o.Until = tick(rapid.SampledFrom([]int{0, 1, 60, 100_000, 1_000_000_000}).Draw(t, "until"))
			if rapid.IntRange(0, 9).Draw(t, "new words") == 0 {
				o.Reason = rapid.SampledFrom([]string{"", "x", strings.Repeat("y", 31), strings.Repeat("z", 32), strings.Repeat("w", 200)}).Draw(t, "reason")
			}
			ops = append(ops, o)
		}
		limit := rapid.IntRange(1, 1200).Draw(t, "limit")
		var joined []Op
		runs := SplitOps(ops, limit)
		for i, run := range runs {
			b, err := AppendOps(nil, run)
			if err != nil || len(b) > limit && len(run) > 1 {
				t.Fatalf("%d ops take %d bytes, limit %d: %v", len(run), len(b), limit, err)
			}
			if i+1 < len(runs) && len(run) < MaxOpsPerFrame {
				if b, err := AppendOps(nil, append(slices.Clone(run), runs[i+1][0])); err != nil || len(b) <= limit {
					t.Fatalf("one more op would take %d bytes, limit %d: %v", len(b), limit, err)
				}
			}
			joined = append(joined, run...)
		}
		if !reflect.DeepEqual(joined, ops) {
			t.Fatal("the runs are not the ops")
		}
	})
}

func TestLargestOpFitsAFrame(t *testing.T) {
	op := Op{Kind: KindUnban, Prefix: pfx("2001:db8::1"), Until: fromMillis(maxMillis), Reason: strings.Repeat("r", MaxReason), Source: strings.Repeat("s", MaxSource)}
	for i := range MaxMarks {
		op.Marks = append(op.Marks, Mark{Origin{byte(i)}, 1<<64 - 1, 1<<64 - 1})
	}
	b, err := AppendOps(nil, []Op{op})
	if err != nil || len(b) > 1000 {
		t.Errorf("%d bytes %v", len(b), err)
	}
}

func TestExpiresIsTheLatestEnd(t *testing.T) {
	if got := Expires([]Op{{Until: tick(1)}, {Until: tick(9)}, {Until: tick(3)}}); !got.Equal(tick(9)) {
		t.Error(got)
	}
}

// AppendOps writes whatever DecodeOps accepts as it was, each op can be merged, and the table stays sound.
func FuzzDecodeOps(f *testing.F) {
	ops := someOps()
	for i := range ops {
		for _, run := range [][]Op{ops[i:], ops[:i+1], ops[i : i+1]} {
			b, err := AppendOps(nil, run)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		ops, err := DecodeOps(b)
		if err != nil {
			return
		}
		again, err := AppendOps(nil, ops)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("encoded again: %q %v, was %q", again, err, b)
		}
		if same, err := DecodeOps(again); err != nil || !reflect.DeepEqual(same, ops) {
			t.Fatalf("decoded again: %+v %v, was %+v", same, err, ops)
		}
		tb := newTable(t, Config{})
		var rs []Record
		for i, op := range ops {
			rs = append(rs, Record{Op: op, Origin: peerA, Version: Version{1, 1, uint16(i)}, Issued: base})
			tb.CheckLocal(base, op)
			tb.CheckRemote(base, rs[i])
			tb.Why(op.Prefix)
		}
		kernel := map[ruleKey]int64{}
		for _, now := range []time.Time{time.Unix(0, 0), base, base.AddDate(9000, 0, 0)} {
			if err := fold(kernel, tb.Merge(now, rs)); err != nil {
				t.Fatal(err)
			}
			if d := diffMaps(kernel, enforcedOf(tb)); d != "" {
				t.Fatal(d)
			}
			if err := sound(tb); err != nil {
				t.Fatal(err)
			}
		}
	})
}
