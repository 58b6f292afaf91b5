package ban

import "strings"

// chunkBits sets how many items of an arena are allocated together: 1 << chunkBits.
const chunkBits = 11

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

// reserve allocates the first chunk.
func (s *arena[T]) reserve() {
	if len(s.chunks) == 0 {
		s.chunks = append(s.chunks, new([1 << chunkBits]T))
	}
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

// A internTable stores each distinct value once, under a number, while anything refers to it.
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

func (p *internTable[T]) at(i uint32) *T { return &p.vals.at(i).val }

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

// interns holds values that many records share. Number 0 means no ports or no words.
type interns struct {
	epochs   internTable[originEpoch]
	origins  internTable[Origin] // of the epochs; refs counts their claims
	originOf []uint32            // by epoch
	words    internTable[words]
	ports    internTable[Ports]
}

// getEpoch is epochs.get and also counts one more claim of the origin.
func (t *interns) getEpoch(s originEpoch) uint32 {
	i := t.epochs.get(s)
	if t.epochs.vals.at(i).refs > 1 {
		t.origins.vals.at(t.originOf[i]).refs++
		return i
	}
	for int(i) >= len(t.originOf) {
		t.originOf = append(t.originOf, 0)
	}
	t.originOf[i] = t.origins.get(s.origin)
	return i
}

func (t *interns) putEpoch(i uint32) {
	if o := t.originOf[i]; t.origins.vals.at(o).refs > 1 {
		t.origins.vals.at(o).refs--
	} else {
		t.origins.put(o)
	}
	t.epochs.put(i)
}

func (t *interns) getWords(reason, source string) uint32 {
	w := words{reason, source}
	if w == (words{}) {
		return 0
	}
	if _, ok := t.words.ids[w]; !ok { // do not keep the buffer that they were cut from
		w = words{strings.Clone(reason), strings.Clone(source)}
	}
	return t.words.get(w)
}

func (t *interns) putWords(i uint32) {
	if i != 0 {
		t.words.put(i)
	}
}

func (t *interns) wordsAt(i uint32) words {
	if i == 0 {
		return words{}
	}
	return *t.words.at(i)
}

// findPorts returns the number of p without adding a reference.
func (t *interns) findPorts(p Ports) (uint32, bool) {
	if p.IsAll() {
		return 0, true
	}
	i, ok := t.ports.ids[p]
	return i, ok
}

func (t *interns) getPorts(p Ports) uint32 {
	if p.IsAll() {
		return 0
	}
	if _, ok := t.ports.ids[p]; !ok {
		p = Ports{strings.Clone(p.text)}
	}
	return t.ports.get(p)
}

func (t *interns) putPorts(i uint32) {
	if i != 0 {
		t.ports.put(i)
	}
}

func (t *interns) portsAt(i uint32) Ports {
	if i == 0 {
		return Ports{}
	}
	return *t.ports.at(i)
}
