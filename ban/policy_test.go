package ban

import (
	"errors"
	"strings"
	"testing"
	"time"
)

const day = 24 * time.Hour

func TestPolicy(t *testing.T) {
	tb := newTable(t, Config{Never: []NeverEntry{
		{pfx("198.51.100.7"), "own address"},
		{pfx("203.0.113.0/24"), "allow list in meshban.yaml"},
	}})
	tb.Merge(base, []Record{
		record(peerA, 1, KindAllow, "192.0.2.0/28", 1000, because("the office")),
		record(peerB, 1, KindAllow, "192.0.2.64", 1000),
	})
	op := func(k Kind, prefix string, lasts time.Duration) Op {
		o := Op{Kind: k, Prefix: pfx(prefix), Until: base.Add(lasts)}
		if k == KindUnban || k == KindUnallow {
			o.Marks = []Mark{upTo(peerA, 1)}
		}
		return o
	}
	const local = -1 << 62
	tests := []struct {
		name   string
		op     Op
		issued time.Duration // relative to base; local means said by this node
		rule   string        // "" means accepted
		detail string        // part of the error
	}{
		{"ok: an address", op(KindBan, "192.0.2.77", time.Hour), local, "", ""},
		{"ok: 30 days", op(KindBan, "192.0.2.77", 30*day), local, "", ""},
		{"ok: /8 here", op(KindBan, "20.0.0.0/8", time.Hour), local, "", ""},
		{"ok: /19 of IPv6 here", op(KindBan, "2001::/19", time.Hour), local, "", ""},
		{"ok: allow of /8 here", op(KindAllow, "20.0.0.0/8", time.Hour), local, "", ""},
		{"ok: a CIDR that contains never-ban addresses", op(KindBan, "198.51.100.0/24", time.Hour), local, "", ""},
		{"ok: a CIDR that contains allowed addresses", op(KindBan, "192.0.2.0/24", time.Hour), local, "", ""},
		{"ok: allow for a year", op(KindAllow, "20.0.0.1", MaxAllowFor), local, "", ""},
		{"bad: allow for more than a year", op(KindAllow, "20.0.0.1", MaxAllowFor+time.Second), local, RuleLong, "too long"},
		{"ok: allow what is on the never-ban list", op(KindAllow, "127.0.0.1", time.Hour), local, "", ""},
		{"ok: unban outlives", op(KindUnban, "192.0.2.77", 30*day+10*time.Minute), local, "", ""},
		{"bad: own address", op(KindBan, "198.51.100.7", time.Hour), local, RuleNever, "198.51.100.7 is on the never-ban list: own address"},
		{"bad: inside the never-ban list", op(KindBan, "203.0.113.9", time.Hour), local, RuleNever, "203.0.113.9 is on the never-ban list: allow list in meshban.yaml (203.0.113.0/24)"},
		{"bad: loopback", op(KindBan, "127.0.0.1", time.Hour), local, RuleNever, "loopback"},
		{"bad: loopback of IPv6", op(KindBan, "::1", time.Hour), local, RuleNever, "loopback"},
		{"bad: link-local", op(KindBan, "fe80::1", time.Hour), local, RuleNever, "link-local"},
		{"bad: multicast", op(KindBan, "224.0.0.0/24", time.Hour), local, RuleNever, "multicast"},
		{"bad: broadcast", op(KindBan, "255.255.255.255", time.Hour), local, RuleNever, "broadcast"},
		{"bad: unspecified", op(KindBan, "0.0.0.0", time.Hour), local, RuleNever, "unspecified"},
		{"bad: allowed with a reason", op(KindBan, "192.0.2.7", time.Hour), local, RuleAllow, "192.0.2.7 is on the allow list: the office (192.0.2.0/28)"},
		{"bad: allowed without", op(KindBan, "192.0.2.64", time.Hour), local, RuleAllow, "allowed by b2000000"},
		{"bad: /7", op(KindBan, "20.0.0.0/7", time.Hour), local, RuleWide, "20.0.0.0/7: prefix too wide, the shortest allowed is /8"},
		{"bad: /18 of IPv6", op(KindBan, "2001::/18", time.Hour), local, RuleWide, "/19"},
		{"bad: allow everything", op(KindAllow, "0.0.0.0/0", time.Hour), local, RuleWide, "too wide"},
		{"bad: unban everything", op(KindUnban, "::/0", time.Hour), local, RuleWide, "too wide"},
		{"bad: longer than 30 days", op(KindBan, "192.0.2.77", 30*day+time.Millisecond), local, RuleLong, "too long"},
		{"bad: unban too long", op(KindUnban, "192.0.2.77", 30*day+10*time.Minute+time.Millisecond), local, RuleLong, "too long"},
		{"bad: ends now", op(KindBan, "192.0.2.77", 0), local, RuleExpired, "has expired"},
		{"bad: no kind", op(0, "192.0.2.77", time.Hour), local, RuleMalformed, "unknown kind"},

		{"ok: a peer's address", op(KindBan, "192.0.2.77", time.Hour), 0, "", ""},
		{"ok: a peer's /24", op(KindBan, "20.0.0.0/24", time.Hour), 0, "", ""},
		{"ok: a peer's /48", op(KindBan, "2001:db8::/48", time.Hour), 0, "", ""},
		{"ok: a peer's ban of what is never banned is held, not refused", op(KindBan, "127.0.0.1", time.Hour), 0, "", ""},
		{"ok: a peer's allow of /24", op(KindAllow, "20.0.0.0/24", time.Hour), 0, "", ""},
		{"ok: a peer's allow for a year", op(KindAllow, "20.0.0.1", MaxAllowFor), 0, "", ""},
		{"ok: a peer's unallow after a year", op(KindUnallow, "20.0.0.1", MaxAllowFor+10*time.Minute), 0, "", ""},
		{"ok: a peer's unban of /24", op(KindUnban, "20.0.0.0/24", time.Hour), 0, "", ""},
		{"ok: a peer's unallow of /48", op(KindUnallow, "2001:db8::/48", time.Hour), 0, "", ""},
		{"bad: a peer's unallow of /47", op(KindUnallow, "2001:db8::/47", time.Hour), 0, RuleWide, "/48"},
		{"ok: a peer's clock is 5 minutes ahead", op(KindBan, "192.0.2.77", time.Hour), 5 * time.Minute, "", ""},
		{"ok: 30 days by a clock ahead", op(KindBan, "192.0.2.77", 30*day+5*time.Minute), 5 * time.Minute, "", ""},
		{"ok: a peer's unban outlives", op(KindUnban, "192.0.2.77", 30*day+10*time.Minute), 0, "", ""},
		{"ok: issued long ago", op(KindBan, "192.0.2.77", time.Hour), -29 * day, "", ""},
		{"bad: a peer's /23", op(KindBan, "20.0.0.0/23", time.Hour), 0, RuleWide, "/24"},
		{"bad: a peer's /47", op(KindBan, "2001:db8::/47", time.Hour), 0, RuleWide, "/48"},
		{"bad: a peer's allow of /23", op(KindAllow, "20.0.0.0/23", time.Hour), 0, RuleWide, "/24"},
		{"bad: a peer's allow for more than a year", op(KindAllow, "20.0.0.1", MaxAllowFor+10*time.Minute), 0, RuleLong, "too long"},
		{"bad: a peer's unallow after more than a year", op(KindUnallow, "20.0.0.1", MaxAllowFor+11*time.Minute), 0, RuleLong, "too long"},
		{"bad: a peer's unban of /23", op(KindUnban, "20.0.0.0/23", time.Hour), 0, RuleWide, "/24"},
		{"bad: from the future", op(KindBan, "192.0.2.77", time.Hour), 5*time.Minute + time.Millisecond, RuleFuture, "from the future"},
		{"bad: longer than 30 days and skew from now", op(KindBan, "192.0.2.77", 30*day+5*time.Minute+time.Millisecond), 5 * time.Minute, RuleLong, "too long"},
		{"bad: longer than 30 days and skew from its issue", op(KindBan, "192.0.2.77", time.Hour), -30 * day, RuleLong, "too long"},
		{"bad: a peer's unban too long", op(KindUnban, "192.0.2.77", 30*day+10*time.Minute+time.Millisecond), 0, RuleLong, "too long"},
		{"bad: it has ended", op(KindBan, "192.0.2.77", -time.Second), -time.Hour, RuleExpired, "expired"},
		{"bad: a peer's op is malformed", op(KindUnban+8, "192.0.2.77", time.Hour), 0, RuleMalformed, "unknown kind"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var err error
			if tt.issued == local {
				err = tb.CheckLocal(base, tt.op)
			} else {
				err = tb.CheckRemote(base, Record{Op: tt.op, Origin: peerA, Issued: base.Add(tt.issued)})
			}
			var refused *PolicyError
			switch {
			case tt.rule == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tt.rule != "" && (!errors.As(err, &refused) || refused.Rule != tt.rule || !strings.Contains(err.Error(), tt.detail)):
				t.Errorf("got %v, want rule %q: %q", err, tt.rule, tt.detail)
			}
		})
	}
}

func TestOwnRecordsReadBackMayBeWide(t *testing.T) {
	tb := newTable(t, Config{})
	r := record(self, 1, KindBan, "20.0.0.0/8", 60)
	if err := tb.CheckRemote(base, r); err != nil {
		t.Error(err)
	}
}

func TestNewRefuses(t *testing.T) {
	for name, cfg := range map[string]Config{
		"bad: quorum negative":    {Quorum: Quorum{Origins: -1}},
		"bad: quorum too large":   {Quorum: Quorum{Origins: MaxQuorum + 1}},
		"bad: never without":      {Never: []NeverEntry{{}}},
		"bad: longest too short":  {Limits: Limits{MaxFor: time.Millisecond}},
		"bad: longest too long":   {Limits: Limits{MaxFor: 2 * maxMaxFor}},
		"bad: skew negative":      {Limits: Limits{FutureSkew: -1}},
		"bad: bits of IPv4":       {Limits: Limits{MinBits4: 33}},
		"bad: bits of IPv6":       {Limits: Limits{PeerMinBits6: 129}},
		"bad: bits are negative":  {Limits: Limits{PeerMinBits4: -1}},
		"bad: skew above longest": {Limits: Limits{MaxFor: time.Hour, FutureSkew: 2 * time.Hour}},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := New(Config{Limits: DefaultLimits(), Quorum: Quorum{Origins: MaxQuorum}}); err != nil {
		t.Errorf("ok: %v", err)
	}
}

// A kernel set holds each port of each protocol: an op with too many is refused, wherever it comes from.
func TestTooManyPorts(t *testing.T) {
	tb := newTable(t, Config{})
	for i, tt := range []struct {
		text string
		ok   bool
	}{
		{"", true}, {"1-65535", true}, {"1-512", true}, {"1-1024/tcp", true}, {"1-512/udp,700-1211/tcp", true},
		{"1-513", false}, {"1-1025/udp", false}, {"1-512,700/tcp", false}, {"1-65534", false}, {"1-65535/tcp", false}, {"2-65535", false},
	} {
		p, err := ParsePorts(tt.text)
		if err != nil {
			t.Fatal(err)
		}
		for _, kind := range []Kind{KindBan, KindRevoke} {
			r := record(peerA, i+1, kind, "192.0.2.7", 60)
			r.Ports = p
			for who, err := range map[string]error{"local": tb.CheckLocal(base, r.Op), "remote": tb.CheckRemote(base, r)} {
				var refused *PolicyError
				if tt.ok != (err == nil) || !tt.ok && (!errors.As(err, &refused) || refused.Rule != RulePorts) {
					t.Errorf("%v of %q, %s: %v", kind, tt.text, who, err)
				}
			}
			if kind == KindBan {
				if merged := len(tb.Merge(base, []Record{r})) > 0; merged != tt.ok && !(tt.text == "1-65535") {
					t.Errorf("%q is merged: %v", tt.text, merged)
				}
			}
		}
	}
}
