package ban

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestOriginText(t *testing.T) {
	o := Origin{0x1a, 0x2b, 0x3c, 0x4d, 15: 0xff}
	if o.String() != "1a2b3c4d0000000000000000000000ff" || o.Short() != "1a2b3c4d" {
		t.Error(o.String(), o.Short())
	}
	if got, err := ParseOrigin(o.String()); err != nil || got != o {
		t.Error(got, err)
	}
	for name, s := range map[string]string{
		"bad: empty":     "",
		"bad: short":     o.Short(),
		"bad: long":      o.String() + "00",
		"bad: no hex":    "g" + o.String()[1:],
		"bad: upper":     strings.ToUpper(o.String()),
		"bad: with 0x":   "0x" + o.String()[2:],
		"bad: a newline": o.String()[:31] + "\n",
	} {
		if got, err := ParseOrigin(s); err == nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestNormalize(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.7":              "192.0.2.7/32",
		"192.0.2.7/24":           "192.0.2.0/24",
		"2001:db8::1":            "2001:db8::1/128",
		"2001:DB8:0::1/64":       "2001:db8::/64",
		"::ffff:192.0.2.7":       "192.0.2.7/32",
		"::ffff:192.0.2.7/120":   "192.0.2.0/24",
		"0.0.0.0/0":              "0.0.0.0/0",
		"::ffff:c000:0207/128":   "192.0.2.7/32",
		"255.255.255.255":        "255.255.255.255/32",
		"ffff:ffff:ffff::/48":    "ffff:ffff:ffff::/48",
		"::":                     "::/128",
		"1:2:3:4:5:6:77.77.88.9": "1:2:3:4:5:6:4d4d:5809/128",
	} {
		if p, err := parsePrefix(in); err != nil || p.String() != want {
			t.Errorf("ok: %q gives %v, %v; want %s", in, p, err, want)
		}
	}
	for _, in := range []string{"", "host.example", "192.0.2", "192.0.2.07", "192.0.2.7/33", "192.0.2.7/", "fe80::1%eth0", "::ffff:0:0/80", " 192.0.2.7"} {
		if p, err := parsePrefix(in); err == nil {
			t.Errorf("bad: %q gives %v", in, p)
		}
	}
}

func TestWordsForPeople(t *testing.T) {
	for k, want := range map[Kind]string{
		KindNever: "never", KindBan: "ban", KindRevoke: "revoke", KindUnban: "unban", KindAllow: "allow",
		KindUnallow: "unallow", 9: "kind(9)",
	} {
		if k.String() != want {
			t.Errorf("kind %d: %q", k, k)
		}
	}
	for e, want := range map[Event]string{
		EventBan: "ban", EventRefresh: "refresh", EventUnban: "unban", EventExpire: "expire",
		EventPending: "pending", EventHeld: "held", EventAllow: "allow", EventUnallow: "unallow", 0: "event(0)",
	} {
		if e.String() != want {
			t.Errorf("event %d: %q", e, e)
		}
	}
	for s, want := range map[State]string{
		stateNone: "none", StateEnforced: "enforced", StatePending: "pending", StateHeld: "held",
		StateAllowed: "allowed", 9: "state(9)",
	} {
		if s.String() != want {
			t.Errorf("state %d: %q", s, s)
		}
	}
}

func FuzzCleanText(f *testing.F) {
	for _, s := range []string{"", "plain", " a\tb\n", "\x1b[2J", "a\xffb", "é\u202e\u2028", strings.Repeat("é", 200), "\ufffd"} {
		f.Add(s, 200)
		f.Add(s, 3)
	}
	f.Fuzz(func(t *testing.T, s string, limit int) {
		limit = max(0, min(limit, MaxReason))
		got := CleanText(s, limit)
		if !clean(got, limit) {
			t.Fatalf("CleanText(%q, %d) = %q", s, limit, got)
		}
		if again := CleanText(got, limit); again != got {
			t.Fatalf("%q is cleaned again to %q", got, again)
		}
		if len(s) <= limit && clean(s, limit) && utf8.ValidString(s) && strings.TrimSpace(s) == s && !strings.ContainsRune(s, utf8.RuneError) && got != s {
			t.Fatalf("%q was clean and became %q", s, got)
		}
	})
}
