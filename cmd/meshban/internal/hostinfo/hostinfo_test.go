package hostinfo

import (
	"context"
	"net/netip"
	"slices"
	"testing"
)

func TestReadKnowsLoopbackAsOwn(t *testing.T) {
	entries, err := Read()
	if err != nil {
		t.Fatal(err)
	}
	want := Entry{netip.MustParsePrefix("127.0.0.1/32"), "own address"}
	if !slices.Contains(entries, want) {
		t.Errorf("entries = %v, want %v among them", entries, want)
	}
}

func TestParseResolvers(t *testing.T) {
	text := "# comment\nnameserver 192.0.2.53\nsearch example.org\nnameserver fe80::1%eth0\nnameserver junk\nnameserver\n nameserver 2001:db8::53 # x\n"
	got := parseResolvers([]byte(text))
	want := []netip.Addr{netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("fe80::1%eth0"), netip.MustParseAddr("2001:db8::53")}
	if !slices.Equal(got, want) {
		t.Errorf("resolvers = %v, want %v", got, want)
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Watch(ctx, func() {}) }()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
