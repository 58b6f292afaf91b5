package fw

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
)

func TestTimeoutsStayInWhatTheKernelTakes(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	for name, c := range map[string]struct {
		left time.Duration
		want uint32
	}{
		"ok: whole seconds":          {time.Hour, 3600},
		"ok: rounded up":             {1001 * time.Millisecond, 2},
		"ok: 0 would mean for ever":  {time.Nanosecond, 1},
		"bad: over already":          {-time.Hour, 1},
		"bad: longer than there are": {30 * 24 * time.Hour, maxIPSetTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			if got := timeoutSeconds(now, now.Add(c.left)); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

func TestLargestMessageFitsItsAttribute(t *testing.T) {
	elements := slices.Repeat([]element{{prefix: netip.MustParsePrefix("2001:db8::/64"), proto: 6, port: 1, timeout: 1, hits: &Dropped{1, 2}}}, maxElements)
	m := elementsMessage(nil, "meshban6p", elements)
	if len(m) > 1<<16 {
		t.Fatalf("%d bytes", len(m))
	}
	ad, err := netlink.NewAttributeDecoder(m[4:])
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for ad.Next() {
		if ad.Type() == attrADT {
			ad.Nested(func(list *netlink.AttributeDecoder) error {
				for list.Next() {
					n++
				}
				return nil
			})
		}
	}
	if ad.Err() != nil || n != maxElements {
		t.Errorf("%d elements, %v", n, ad.Err())
	}
}

func TestElementsAreReadAsWritten(t *testing.T) {
	want := []element{
		{prefix: netip.MustParsePrefix("192.0.2.1/32"), hits: &Dropped{1, 1 << 40}},
		{prefix: netip.MustParsePrefix("2001:db8::/64"), proto: ProtoUDP, port: 53, hits: &Dropped{1 << 33, 7}},
		{prefix: netip.MustParsePrefix("198.18.0.0/15")},
	}
	var got []element
	err := listedElements(elementsMessage(nil, "meshban4", want), func(e element) error {
		got = append(got, e)
		return nil
	})
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
}

func FuzzParseHeader(f *testing.F) {
	for _, spec := range ipsetSpecs[1] {
		f.Add(spec.typeName, spec.family(), []byte(nil))
	}
	f.Add("", uint8(0), []byte{4, 0, 3, 0})
	f.Fuzz(func(t *testing.T, typeName string, family uint8, noise []byte) {
		_, _ = parseHeader(noise)
		if len(typeName) > 31 || strings.ContainsRune(typeName, 0) {
			return
		}
		m := newMessage(nil, "meshban4")
		m.string(attrTypeName, typeName)
		m.uint8(attrFamily, family)
		h, err := parseHeader(m)
		if err != nil || h.typeName != typeName || h.family != family {
			t.Errorf("got %+v, %v", h, err)
		}
	})
}

func FuzzParseListing(f *testing.F) {
	f.Add("-P PREROUTING ACCEPT\n-N MESHBAN\n-A PREROUTING ! -i lo -j MESHBAN\n-A MESHBAN -s ::1.2.3.4/128 -g MESHBAN-HIT\n")
	f.Add("-A MESHBAN-HIT -m comment --comment meshban-made-table -j DROP")
	f.Add("-A PREROUTING -m comment --comment \"a b\" -j MESHBAN\n-A\n-P\n")
	f.Add("-A\n-A \t 0")
	f.Add("-A PREROUTING\f \xa4\n-A PREROUTING \xd6")
	f.Fuzz(func(t *testing.T, out string) {
		l := parseListing(out)
		var again strings.Builder
		for chain, rules := range l.rules {
			again.WriteString("-N " + chain + "\n")
			for _, rule := range rules {
				again.WriteString("-A " + chain + " " + rule + "\n")
			}
		}
		second := parseListing(again.String())
		for chain, rules := range l.rules {
			if !slices.Equal(second.rules[chain], rules) {
				t.Errorf("%q: %q, then %q", chain, rules, second.rules[chain])
			}
		}
		if l.jumpInPlace() && len(l.jumps()) != 1 {
			t.Error("in place, but not one jump")
		}
	})
}
