package ban

import "slices"

// A timeline says what ends next. It is a heap with four children a node, in chunks that never move: a slice would be
// copied again and again while a million ends come in. Ends that move later are not searched for in it: whoever pops a
// mark of something that lives longer pushes it again.
type timeline struct {
	chunks []*[1 << chunkBits]due
	n      int
}

type due struct {
	at int64 // Unix milliseconds
	id uint32
}

func (t *timeline) len() int { return t.n }

func (t *timeline) at(i int) *due { return &t.chunks[i>>chunkBits][i&(1<<chunkBits-1)] }

// first is what ends next; there is one.
func (t *timeline) first() due { return *t.at(0) }

// add puts d at the end, where it may break the order: heapify follows.
func (t *timeline) add(d due) {
	if t.n>>chunkBits == len(t.chunks) {
		t.chunks = append(t.chunks, new([1 << chunkBits]due))
	}
	t.n++
	*t.at(t.n - 1) = d
}

func (t *timeline) push(d due) {
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

func (t *timeline) pop() due {
	top, last := *t.at(0), *t.at(t.n - 1)
	t.n--
	if t.n == 0 {
		t.clear()
		return top
	}
	// A chunk is kept in reserve: who goes over its edge again and again allocates nothing.
	if spare := t.n>>chunkBits + 2; spare < len(t.chunks) {
		t.chunks[spare] = nil
		t.chunks = t.chunks[:spare]
	}
	t.sink(0, last)
	return top
}

// clear forgets all, and gives back what a flood took.
func (t *timeline) clear() {
	*t = timeline{chunks: slices.Clip(t.chunks[:min(len(t.chunks), 1)])}
}

// reserve allocates the first chunk.
func (t *timeline) reserve() {
	if len(t.chunks) == 0 {
		t.chunks = append(t.chunks, new([1 << chunkBits]due))
	}
}

// sink puts d at i or below.
func (t *timeline) sink(i int, d due) {
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

// heapify puts into order what was added in any.
func (t *timeline) heapify() {
	for i := (t.n - 2) / 4; i >= 0 && t.n > 1; i-- {
		t.sink(i, *t.at(i))
	}
}
