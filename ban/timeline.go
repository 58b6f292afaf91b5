package ban

import "slices"

// A timeline says what ends next. It is a heap with four children per node, in chunks that never move; a slice would be
// copied again and again while a million ends come in. When an end moves later, its mark stays where it is: whoever
// pops the mark and finds a later end pushes it again.
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

// first returns what ends next. The timeline must not be empty.
func (t *timeline) first() due { return *t.at(0) }

// add puts d at the end, perhaps out of order; call heapify afterwards.
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
	// Keep one spare chunk: crossing a chunk's edge again and again must not allocate.
	if spare := t.n>>chunkBits + 2; spare < len(t.chunks) {
		t.chunks[spare] = nil
		t.chunks = t.chunks[:spare]
	}
	t.sink(0, last)
	return top
}

// clear empties the timeline and frees what a flood allocated.
func (t *timeline) clear() {
	*t = timeline{chunks: slices.Clip(t.chunks[:min(len(t.chunks), 1)])}
}

// reserve allocates the first chunk.
func (t *timeline) reserve() {
	if len(t.chunks) == 0 {
		t.chunks = append(t.chunks, new([1 << chunkBits]due))
	}
}

// sink puts d at i or below, where it belongs.
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

// heapify restores the order after calls of add.
func (t *timeline) heapify() {
	for i := (t.n - 2) / 4; i >= 0 && t.n > 1; i-- {
		t.sink(i, *t.at(i))
	}
}
