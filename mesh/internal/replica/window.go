package replica

import (
	"encoding/binary"
	"errors"
	"slices"
)

// maxSpans bounds a window, in spans (16 bytes each). Beyond it the lower half of the gaps is closed: the window then
// claims frames that were never seen, which the comparison of hashes (detail.go) still finds.
const maxSpans = 1 << 16

// span is the range of sequence numbers first..last, both included.
type span struct{ first, last uint64 }

// window is the set of sequence numbers seen in one stream: sorted spans that neither touch nor overlap.
type window []span

// find returns the index of the first span that ends at or after v, or len(w).
func (w window) find(v uint64) int {
	if n := len(w); n == 0 || w[n-1].last < v {
		return n // the usual case: a newer number
	}
	i, _ := slices.BinarySearchFunc(w, v, func(s span, v uint64) int {
		switch {
		case s.last < v:
			return -1
		case s.last > v:
			return 1
		}
		return 0
	})
	return i
}

// add adds v and reports whether it was new.
func (w *window) add(v uint64) bool {
	s := *w
	i := s.find(v)
	if i < len(s) && s[i].first <= v {
		return false
	}
	afterPrev := i > 0 && s[i-1].last+1 == v
	beforeNext := i < len(s) && v+1 == s[i].first
	switch {
	case afterPrev && beforeNext:
		s[i-1].last = s[i].last
		s = slices.Delete(s, i, i+1)
	case afterPrev:
		s[i-1].last = v
	case beforeNext:
		s[i].first = v
	default:
		s = slices.Insert(s, i, span{v, v})
		if len(s) > maxSpans {
			s.closeLower()
		}
	}
	*w = s
	return true
}

// closeLower closes the lower half of the gaps.
func (w *window) closeLower() {
	if s, half := *w, len(*w)/2; half > 0 {
		s[half].first = s[0].first
		*w = slices.Delete(s, 0, half)
	}
}

// gaps returns the numbers from first to last, both included, that are not in the window. The window must lie within
// that range.
func (w window) gaps(first, last uint64) window {
	var g window
	for _, s := range w {
		if s.first > first {
			g = append(g, span{first, s.first - 1})
		}
		first = s.last + 1
	}
	if len(w) == 0 || w[len(w)-1].last < last {
		g = append(g, span{first, last})
	}
	return g
}

var errWindow = errors.New("bad window")

// appendWindow writes for each span, as varints, its distance from the end of the previous one and its length less one.
func appendWindow(b []byte, w window) []byte {
	last := uint64(0)
	for _, s := range w {
		b = binary.AppendUvarint(b, s.first-last)
		b = binary.AppendUvarint(b, s.last-s.first)
		last = s.last
	}
	return b
}

// decodeWindow decodes what appendWindow wrote, with at most this many spans. It refuses anything that appendWindow
// would write differently.
func decodeWindow(b []byte, spans int) (window, error) {
	var w window
	last := uint64(0)
	for len(b) > 0 {
		if len(w) >= spans {
			return nil, errWindow
		}
		gap, n := uvarint(b)
		length, k := uvarint(b[n:])
		if n == 0 || k == 0 {
			return nil, errWindow
		}
		b = b[n+k:]
		least := uint64(2) // spans that touch would be one span
		if len(w) == 0 {
			least = 1
		}
		first := last + gap
		if gap < least || first < last || first+length < first {
			return nil, errWindow
		}
		last = first + length
		w = append(w, span{first, last})
	}
	return w, nil
}

// uvarint reads a varint in its shortest form; n is 0 for anything else.
func uvarint(b []byte) (v uint64, n int) {
	v, n = binary.Uvarint(b)
	if n <= 0 || (n > 1 && b[n-1] == 0) {
		return 0, 0
	}
	return v, n
}
