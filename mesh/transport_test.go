package mesh

import (
	"net/netip"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/filter"
)

// A send to a member that accepts the stream and never reads it comes to an end.
func TestStreamsEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h, here, there := newHub(), netip.MustParseAddrPort("10.0.0.1:7946"), netip.MustParseAddrPort("10.0.0.2:7946")
		inner, err := h.open(here)
		if err != nil {
			t.Fatal(err)
		}
		deaf, err := h.open(there)
		if err != nil {
			t.Fatal(err)
		}
		tr := filter.New(inner, filter.Config{
			Identity: signers[0], Keys: func() [][]byte { return nil }, Now: time.Now, Count: &filter.Count{},
			Members: newPeerTable(signers[0].ID(), nil, func(frame.ID) bool { return true }),
		})
		go func() { <-deaf.StreamCh() }()
		conn, err := tr.DialAddressTimeout(memberlist.Address{Addr: there.String()}, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		if n, err := conn.Write(make([]byte, 256<<10)); err == nil {
			t.Errorf("%d bytes went to a node that reads none", n)
		}
		if took := time.Since(begun); took > filter.StreamTimeout {
			t.Errorf("ended after %v", took)
		}
		for _, f := range []func() error{conn.Close, tr.Shutdown, deaf.Shutdown} {
			if err := f(); err != nil {
				t.Error(err)
			}
		}
	})
}
