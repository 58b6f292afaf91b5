package logsrc

import (
	"bytes"
	"errors"
	"io"
	"time"
)

const (
	// maxRecall is how much of a file is searched, from its end, for lines that were read before.
	maxRecall = 16 << 20
	// settle is how long a rewritten file may still be half written.
	settle = 5 * time.Second
)

// recall says how to tell which lines were read before in a file that is read from its beginning.
//
// A new generation, as log rotation makes it, is new but for a tail of the old one that may stand at its beginning.
// Any other file was edited: it may lack lines, or have them in another order or with other words around the address.
// A line of an edited file is old if its address was read before; but not where it stands behind the last line with a
// known text, unless its address was read after that line.
type recall struct {
	edited bool
	until  time.Time // edited: when the file no longer counts as half written
	found  int       // edited: up to which place in marks lines were found again
}

// recalled is a line of a file that is looked through.
type recalled struct {
	mark
	offset int64
}

// recognise notes in r.again which lines of r, from its offset on, were read before.
func (f *Follower) recognise(r *reader) error {
	r.again = nil
	rc := r.recall
	if rc == nil {
		return nil
	}
	if rc.edited && f.now.After(rc.until) {
		if r.offset > 0 {
			r.recall = nil
			return nil
		}
		rc.edited = false // it was emptied; what it gets from now on is a new generation
	}
	lines, err := r.look()
	if err != nil || len(lines) == 0 {
		return err
	}
	old, isCopy := f.marks.common(lines)
	if !rc.edited && !isCopy {
		r.recall = nil
	} else {
		if !rc.edited {
			rc.edited, rc.until = true, f.now.Add(settle)
		}
		old = f.marks.edited(rc, lines)
		if len(old) > 0 {
			rc.until = f.now.Add(settle)
		}
	}
	if len(old) > 0 {
		r.again = make(map[int64]struct{}, len(old))
		for _, l := range old {
			r.again[l.offset] = struct{}{}
		}
	}
	return nil
}

// look finds the good lines behind r's offset, without moving it. Of more than maxRecall bytes it skips the beginning.
func (r *reader) look() ([]recalled, error) {
	info, err := r.file.Stat()
	if err != nil {
		return nil, err
	}
	if from := info.Size() - maxRecall; from > r.offset {
		r.rewind()
		if _, err := r.load(from); err != nil {
			return nil, err
		}
		r.skip = r.before[len(r.before)-1] != 0 // a hole is no line
	}
	text := make([]byte, max(0, info.Size()-r.offset))
	n, err := r.file.ReadAt(text, r.offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return goodLines(text[:n], r.offset), nil
}

// goodLines finds the whole lines of text, which begins at offset, that Parse takes.
func goodLines(text []byte, offset int64) []recalled {
	var found []recalled
	var l Line
	for {
		n := bytes.IndexByte(text, '\n')
		if n < 0 {
			return found
		}
		if parse(text[:n], &l) == 0 {
			found = append(found, recalled{markOf(text[:n], &l), offset})
		}
		text, offset = text[n+1:], offset+int64(n)+1
	}
}

// common returns the lines at the beginning that are the last ones that were read, and reports whether most of lines
// are known by their text, or all as one piece of what was read.
func (m *marks) common(lines []recalled) (old []recalled, isCopy bool) {
	// Knuth, Morris and Pratt: back[i] is how many of the first lines the i+1 lines up to i end with.
	back := make([]int, len(lines))
	for i, n := 1, 0; i < len(lines); i++ {
		for n > 0 && lines[i].text != lines[n].text {
			n = back[n-1]
		}
		if lines[i].text == lines[n].text {
			n++
		}
		back[i] = n
	}
	known := make(map[uint32]struct{}, len(m.all))
	n := 0
	for _, k := range m.all {
		known[k.text] = struct{}{}
		if n == len(lines) {
			n = back[n-1]
		}
		for n > 0 && k.text != lines[n].text {
			n = back[n-1]
		}
		if k.text == lines[n].text {
			n++
		}
	}
	if n > 0 {
		return lines[:n], false
	}
	same := 0
	for _, l := range lines {
		if _, ok := known[l.text]; ok {
			same++
		}
	}
	return nil, same > 1 && 2*same > len(lines)
}

// edited returns those of lines that were read before.
func (m *marks) edited(rc *recall, lines []recalled) (old []recalled) {
	texts, addrs := make(map[uint32]int, len(m.all)), make(map[uint32]int, len(m.all))
	for i, k := range m.all {
		texts[k.text], addrs[k.addr] = i, i
	}
	lastText, lastAddr := -1, -1
	for i, l := range lines {
		if at, ok := texts[l.text]; ok {
			lastText, rc.found = i, max(rc.found, at+1)
		}
		if _, ok := addrs[l.addr]; ok {
			lastAddr = i
		}
	}
	// Lines that are remembered no more stand in front of those that are. Where none is known, it begins at the end.
	forgotten := -1
	if !m.complete() && rc.found == 0 {
		forgotten = lastAddr
		if lastAddr < 0 {
			forgotten = len(lines) - 1
		}
	} else if !m.complete() {
		forgotten = lastText
	}
	for i, l := range lines {
		at, known := addrs[l.addr]
		if i <= forgotten || known && (i <= lastText || at >= rc.found) {
			old = append(old, l)
		}
	}
	return old
}

// learn remembers the lines in front of r's offset, of which nothing is remembered.
func (f *Follower) learn(r *reader) error {
	from := max(0, r.offset-maxRecall)
	text := make([]byte, r.offset-from)
	n, err := r.file.ReadAt(text, from)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if from > 0 {
		f.marks.forgetSome()
	}
	for _, l := range goodLines(text[:n], from) {
		f.marks.add(l.mark)
	}
	return nil
}
