package ban

// A timeline says what ends next. It is a heap with four children a node. Ends that move later are
// not searched for in it: whoever pops a mark of something that lives longer pushes it again.
type timeline []due

type due struct {
	at int64 // Unix milliseconds
	id uint32
}

func (t *timeline) push(d due) {
	h := append(*t, d)
	i := len(h) - 1
	for i > 0 {
		up := (i - 1) / 4
		if h[up].at <= d.at {
			break
		}
		h[i] = h[up]
		i = up
	}
	h[i] = d
	*t = h
}

func (t *timeline) pop() due {
	h := *t
	top, last := h[0], h[len(h)-1]
	h = h[:len(h)-1]
	*t = h
	if len(h) == 0 {
		*t = nil
		return top
	}
	h.sink(0, last)
	return top
}

// sink puts d at i or below.
func (t timeline) sink(i int, d due) {
	for {
		first := 4*i + 1
		if first >= len(t) {
			break
		}
		least := first
		for c := first + 1; c < min(first+4, len(t)); c++ {
			if t[c].at < t[least].at {
				least = c
			}
		}
		if t[least].at >= d.at {
			break
		}
		t[i] = t[least]
		i = least
	}
	t[i] = d
}

// heapify makes any slice a timeline.
func (t timeline) heapify() {
	if len(t) < 2 {
		return
	}
	for i := (len(t) - 2) / 4; i >= 0; i-- {
		t.sink(i, t[i])
	}
}
