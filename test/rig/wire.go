//go:build linux && netns

package rig

import "fmt"

// Cut takes the carrier from the node's mesh0, as if its cable were pulled. Its
// addresses and routes stay.
func (n *Node) Cut() error { return n.port.fabric.handle.LinkSetDown(n.port.link) }

// Heal undoes Cut.
func (n *Node) Heal() error { return n.port.fabric.handle.LinkSetUp(n.port.link) }

// Traffic counts what went over a node's mesh0, Ethernet headers included.
type Traffic struct{ Sent, Received, SentPackets, ReceivedPackets uint64 }

// Sub returns the traffic since earlier.
func (t Traffic) Sub(earlier Traffic) Traffic {
	return Traffic{
		t.Sent - earlier.Sent, t.Received - earlier.Received,
		t.SentPackets - earlier.SentPackets, t.ReceivedPackets - earlier.ReceivedPackets,
	}
}

// Traffic reads the counters of the node's bridge port.
func (n *Node) Traffic() (Traffic, error) {
	link, err := n.port.fabric.handle.LinkByIndex(n.port.link.Attrs().Index)
	if err != nil {
		return Traffic{}, fmt.Errorf("counters of %s: %w", n.Name, err)
	}
	s := link.Attrs().Statistics
	// The port receives what the node sends.
	return Traffic{s.RxBytes, s.TxBytes, s.RxPackets, s.TxPackets}, nil
}

// WireBytes returns the sum of what all nodes have sent over mesh0. It counts
// every byte on the wire once, also that of a broadcast.
func (f *Fleet) WireBytes() (uint64, error) {
	var sum uint64
	for _, n := range f.Nodes {
		t, err := n.Traffic()
		if err != nil {
			return 0, err
		}
		sum += t.Sent
	}
	return sum, nil
}
