package ban

import "slices"

// A expiryHeap says what ends next. It is a heap with four children per node, in chunks that never move; a slice would
// be copied again and again while a million ends come in. When an end moves later, its mark stays where it is: whoever
// pops the mark and finds a later end pushes it again.
type expiryHeap struct {
	chunks []*[1 << chunkBits]expiry
	n      int
}

type expiry struct {
	at int64 // Unix milliseconds
	id uint32
}

func (t *expiryHeap) len() int { return t.n }

func (t *expiryHeap) at(i int) *expiry { return &t.chunks[i>>chunkBits][i&(1<<chunkBits-1)] }

// first returns what ends next. The expiry heap must not be empty.
func (t *expiryHeap) first() expiry { return *t.at(0) }

// add puts d at the end, perhaps out of order; call heapify afterwards.
func (t *expiryHeap) add(d expiry) {
	if t.n>>chunkBits == len(t.chunks) {
		t.chunks = append(t.chunks, new([1 << chunkBits]expiry))
	}
	t.n++
	*t.at(t.n - 1) = d
}

func (t *expiryHeap) push(d expiry) {
	t.add(d)
	i := t.n - 1
	for i > 0 {
		up := (i - 1) / 4
		if t.at(up).at <= d.at {
			break
		}
		*t.at(i) = *t.at(up)
		i = up
	}
	*t.at(i) = d
}

func (t *expiryHeap) pop() expiry {
	top, last := *t.at(0), *t.at(t.n - 1)
	t.n--
	if t.n == 0 {
		t.clear()
		return top
	}
	// Keep one spare chunk: crossing a chunk's edge again and again must not allocate.
	if spare := t.n>>chunkBits + 2; spare < len(t.chunks) {
		t.chunks[spare] = nil
		t.chunks = t.chunks[:spare]
	}
	t.sink(0, last)
	return top
}

// clear empties the expiry heap and frees what a flood allocated.
func (t *expiryHeap) clear() {
	*t = expiryHeap{chunks: slices.Clip(t.chunks[:min(len(t.chunks), 1)])}
}

// reserve allocates the first chunk.
func (t *expiryHeap) reserve() {
	if len(t.chunks) == 0 {
		t.chunks = append(t.chunks, new([1 << chunkBits]expiry))
	}
}

// sink puts d at i or below, where it belongs.
func (t *expiryHeap) sink(i int, d expiry) {
	for {
		first := 4*i + 1
		if first >= t.n {
			break
		}
		least := first
		for c := first + 1; c < min(first+4, t.n); c++ {
			if t.at(c).at < t.at(least).at {
				least = c
			}
		}
		if t.at(least).at >= d.at {
			break
		}
		*t.at(i) = *t.at(least)
		i = least
	}
	*t.at(i) = d
}

// heapify restores the order after calls of add.
func (t *expiryHeap) heapify() {
	for i := (t.n - 2) / 4; i >= 0 && t.n > 1; i-- {
		t.sink(i, *t.at(i))
	}
}
