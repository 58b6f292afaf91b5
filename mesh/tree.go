package mesh

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"slices"
)

const (
	// maxDirect is the number of members up to which the origin pushes to each itself.
	maxDirect = 100
	// treeFan is the number of children in a tree.
	treeFan = 8
	// treeCount is the number of trees a frame goes along at once. A packet lost or a node that is gone cuts off a part of
	// one tree; with two, each node is behind two others (1 % of both at 10,000 nodes: one tree misses
	// 4 % of them, two 0.02 %).
	treeCount = 2
	// passAbove is the number of members above which each of them also passes a small frame that was pushed directly on to
	// one other, so that whom the origin's packet did not reach need not wait for a sync. Of 100 nodes, with 1 % of packets
	// lost and 1 % of nodes dead, the origin's packets reach 99 %, with this 99.97 %. With few nodes one lost packet in a
	// hundred is a ban late on one node in ten; the wire matters more there.
	passAbove = 16
)

// successor gives the member that self passes a directly pushed frame on to: the next in the order that the frame's hash
// makes of all but the origin. It returns the zero id where there is none.
func successor(frame [32]byte, origin, self ID, members []target) (next ID) {
	a, b := binary.LittleEndian.Uint64(frame[:]), binary.LittleEndian.Uint64(frame[8:])
	own := place{treeRank(a, b, self), self}
	var after, first place // the least behind own, and the least of all
	for _, t := range members {
		if t.id == origin || t.gone {
			continue
		}
		p := place{treeRank(a, b, t.id), t.id}
		if first.id.IsZero() || p.compare(first) < 0 {
			first = p
		}
		if p.compare(own) > 0 && (after.id.IsZero() || p.compare(after) < 0) {
			after = p
		}
	}
	if after.id.IsZero() {
		after = first
	}
	return after.id
}

// treesChildren gives the members that self passes a frame on to, in all trees.
func treesChildren(frame [32]byte, origin, self ID, members []ID) (children []ID) {
	for i := range treeCount {
		half := frame // treeChildren looks at 16 bytes
		copy(half[:16], frame[16*i:])
		for _, id := range treeChildren(half, origin, self, members, treeFan) {
			if !slices.Contains(children, id) {
				children = append(children, id)
			}
		}
	}
	return children
}

// treeChildren gives the members that self passes a frame on to. The origin stands at place 0 of a heap; the others
// follow in an order that the frame's hash shuffles, so that inner places differ from frame to frame and nothing needs
// to be kept up. The children of place p are p*fan+1..p*fan+fan. Nodes whose views differ leave gaps or send twice; both
// are repaired elsewhere.
func treeChildren(frame [32]byte, origin, self ID, members []ID, fan int) []ID {
	a, b := binary.LittleEndian.Uint64(frame[:]), binary.LittleEndian.Uint64(frame[8:])
	// Ranks are even, so a table of their upper bits finds what stands at a place without sorting all (at 10,000 members
	// 0.4 ms instead of 3).
	shift := 64 - bits.Len(uint(len(members)+1))
	order := make([]place, 0, len(members)+1)
	counts := make([]int, 1<<(64-shift))
	add := func(id ID) {
		p := place{treeRank(a, b, id), id}
		order = append(order, p)
		counts[p.rank>>shift]++
	}
	selfIn := false
	for _, id := range members {
		if id != origin {
			selfIn = selfIn || id == self
			add(id)
		}
	}
	if !selfIn && self != origin {
		add(self)
	}
	at := 0
	if self != origin {
		own := place{treeRank(a, b, self), self}
		for _, p := range order {
			if p.compare(own) <= 0 {
				at++
			}
		}
	}
	first, end := at*fan, min(at*fan+fan, len(order)) // in order, which lacks the origin
	if first >= end {
		return nil
	}
	var near []place // those of the table's rows in which the children are
	before, skipped := 0, 0
	for row := range counts {
		n := counts[row]
		counts[row] = 0
		if before < end && before+n > first {
			counts[row] = 1
		} else if before+n <= first {
			skipped += n
		}
		before += n
	}
	for _, p := range order {
		if counts[p.rank>>shift] == 1 {
			near = append(near, p)
		}
	}
	slices.SortFunc(near, place.compare)
	children := make([]ID, 0, end-first)
	for _, p := range near[first-skipped : end-skipped] {
		children = append(children, p.id)
	}
	return children
}

// place is a member in a frame's order.
type place struct {
	rank uint64
	id   ID
}

func (p place) compare(q place) int {
	if c := cmp.Compare(p.rank, q.rank); c != 0 {
		return c
	}
	return slices.Compare(p.id[:], q.id[:])
}

// treeRank mixes a node's id with a frame's hash. The constants are those of splitmix64's finalizer (Steele, Lea and
// Flood: Fast Splittable Pseudorandom Number Generators, 2014).
func treeRank(a, b uint64, id ID) uint64 {
	x := a ^ binary.LittleEndian.Uint64(id[:])
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x ^= b ^ binary.LittleEndian.Uint64(id[8:])
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
