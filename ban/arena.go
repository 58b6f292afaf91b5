package ban

import "strings"

// chunkBits sets how many items of an arena are allocated together: 1 << chunkBits. A node's first ban waits for the
// first chunk of each arena.
const chunkBits = 8

// An arena stores items under numbers from 1 up. Items never move, and the numbers of freed ones are reused. A number
// takes half the memory of a pointer and gives the garbage collector nothing to follow.
type arena[T any] struct {
	chunks []*[1 << chunkBits]T
	free   []uint32
	end    uint32 // the first number never given out
	live   int
}

func (s *arena[T]) at(i uint32) *T { return &s.chunks[i>>chunkBits][i&(1<<chunkBits-1)] }

func (s *arena[T]) alloc() (uint32, *T) {
	s.live++
	if n := len(s.free); n > 0 {
		i := s.free[n-1]
		s.free = s.free[:n-1]
		return i, s.at(i)
	}
	if s.end == 0 {
		s.end = 1 // 0 means none
	}
	i := s.end
	if int(i>>chunkBits) == len(s.chunks) {
		s.chunks = append(s.chunks, new([1 << chunkBits]T))
	}
	s.end++
	return i, s.at(i)
}

// release frees number i and zeroes its item.
func (s *arena[T]) release(i uint32) {
	if s.live--; s.live == 0 { // free what a flood allocated
		first := s.chunks[0]
		clear(first[:min(s.end, 1<<chunkBits)])
		*s = arena[T]{chunks: []*[1 << chunkBits]T{first}}
		return
	}
	var zero T
	*s.at(i) = zero
	s.free = append(s.free, i)
}

// An internTable stores each distinct value once, under a number, as long as anything refers to it.
type internTable[T comparable] struct {
	ids  map[T]uint32
	vals arena[interned[T]]
}

type interned[T comparable] struct {
	val  T
	refs uint32
}

// get returns the number of v and adds a reference to it.
func (p *internTable[T]) get(v T) uint32 {
	if i, ok := p.ids[v]; ok {
		p.vals.at(i).refs++
		return i
	}
	if p.ids == nil {
		p.ids = make(map[T]uint32)
	}
	i, x := p.vals.alloc()
	*x = interned[T]{v, 1}
	p.ids[v] = i
	return i
}

func (p *internTable[T]) at(i uint32) T { return p.vals.at(i).val }

// put drops one reference.
func (p *internTable[T]) put(i uint32) {
	x := p.vals.at(i)
	if x.refs--; x.refs > 0 {
		return
	}
	delete(p.ids, x.val)
	p.vals.release(i)
}

// An originEpoch is an origin in one of its epochs.
type originEpoch struct {
	origin Origin
	epoch  uint64
}

// words holds the texts of an op, which are for people.
type words struct{ reason, source string }

func (w words) clone() words { return words{strings.Clone(w.reason), strings.Clone(w.source)} }
func (p Ports) clone() Ports { return Ports{strings.Clone(p.text)} }

// A textTable is an internTable of texts. Number 0 is the zero value. It clones texts, so that it does not keep a
// larger buffer alive.
type textTable[T text[T]] struct{ internTable[T] }

type text[T any] interface {
	comparable
	clone() T
}

// find returns the number of v without adding a reference.
func (p *textTable[T]) find(v T) (i uint32, ok bool) {
	var zero T
	if v == zero {
		return 0, true
	}
	i, ok = p.ids[v]
	return i, ok
}

func (p *textTable[T]) get(v T) uint32 {
	i, ok := p.find(v)
	switch {
	case !ok:
		v = v.clone()
	case i == 0:
		return 0
	}
	return p.internTable.get(v)
}

func (p *textTable[T]) at(i uint32) (v T) {
	if i != 0 {
		v = p.internTable.at(i)
	}
	return v
}

func (p *textTable[T]) put(i uint32) {
	if i != 0 {
		p.internTable.put(i)
	}
}

// A tally counts by origin and has no entries of zero.
type tally map[Origin]int

func (c tally) add(o Origin, n int) {
	if c[o] += n; c[o] == 0 {
		delete(c, o)
	}
}
