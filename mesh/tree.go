package mesh

import (
	"encoding/binary"
	"slices"
)

const (
	// maxDirect is the number of members up to which the origin pushes to each itself.
	maxDirect = 100
	// treeFan is the number of children in a tree.
	treeFan = 8
)

// treeChildren gives the members that self passes a frame on to. The origin stands at place 0 of a heap; the others
// follow in an order that the frame's hash shuffles, so that inner places differ from frame to frame and nothing needs
// to be kept up. The children of place p are p*fan+1..p*fan+fan. Nodes whose views differ leave gaps or send twice; both
// are repaired elsewhere.
func treeChildren(frame [32]byte, origin, self ID, members []ID, fan int) []ID {
	type place struct {
		rank uint64
		id   ID
	}
	a, b := binary.LittleEndian.Uint64(frame[:]), binary.LittleEndian.Uint64(frame[8:])
	order := make([]place, 0, len(members)+1)
	selfIn := false
	for _, id := range members {
		if id == origin {
			continue
		}
		selfIn = selfIn || id == self
		order = append(order, place{treeRank(a, b, id), id})
	}
	if !selfIn && self != origin {
		order = append(order, place{treeRank(a, b, self), self})
	}
	slices.SortFunc(order, func(x, y place) int {
		switch {
		case x.rank < y.rank:
			return -1
		case x.rank > y.rank:
			return 1
		}
		return slices.Compare(x.id[:], y.id[:])
	})
	at := 0
	if self != origin {
		at = 1 + slices.IndexFunc(order, func(p place) bool { return p.id == self })
	}
	var children []ID
	for i := at*fan + 1; i <= at*fan+fan && i <= len(order); i++ {
		children = append(children, order[i-1].id)
	}
	return children
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
