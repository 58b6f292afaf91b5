package fw

import "testing"

func TestPortsText(t *testing.T) {
	for name, c := range map[string]struct {
		in   []PortRange
		want string
	}{
		"ok: none is all ports":    {nil, ""},
		"ok: both protocols":       {[]PortRange{{Proto: ProtoAny, First: 80, Last: 80}}, "80"},
		"ok: sorted, no repeats":   {[]PortRange{{ProtoUDP, 8000, 8010}, {ProtoTCP, 22, 22}, {ProtoTCP, 22, 22}}, "22/tcp,8000-8010/udp"},
		"ok: one port, two protos": {[]PortRange{{ProtoUDP, 53, 53}, {ProtoTCP, 53, 53}}, "53/tcp,53/udp"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := PortsText(c.in); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
