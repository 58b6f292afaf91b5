package logsrc

import (
	"bytes"
	"errors"
	"io"
	"time"
)

const (
	// maxRecall is how many bytes at the end of a file are searched for lines that were read before.
	maxRecall = 16 << 20
	// settle is how long a rewritten file may stay half written; each further part of it prolongs that, up to
	// settleMost.
	settle     = 5 * time.Second
	settleMost = time.Minute
)

// recall tells old lines from new ones in a file that is read from its beginning.
//
// A new generation, as log rotation makes it, has only new lines, but may begin with a tail of the old file. Any
// other file was edited: lines may be missing, in another order, or have other words around the address. A line of an
// edited file is old if its address was read before. But after the last line whose text is known, it is old only if
// its address was read after that line.
//
// While the file may be half written, each remembered line makes at most one line of the file old. Once settle has
// passed since the edit, it does so only if it comes after all lines that were found again. So a line appended
// meanwhile about a known address is new.
type recall struct {
	edited bool
	// If edited:
	since, until time.Time // when that was noticed, and until when the file may be half written
	found        int       // texts were found again up to this index in the marks of that time
	reached      int       // and addresses up to this one
	texts, addrs map[uint32]readBefore
}

// readBefore counts the lines with one text, or about one address, that were read before the file was edited.
type readBefore struct {
	at   int // index of the last one
	left int // how many were not found again yet
}

// recalled is a line of the file that recognise examines.
type recalled struct {
	mark
	offset int64
}

// recognise sets r.old to the lines of r, from its offset on, that were read before. r.recall is set.
func (f *Follower) recognise(r *reader) error {
	rc := r.recall
	if rc.edited && f.now.After(rc.until) {
		if r.offset > 0 {
			r.recall = nil
			return nil
		}
		rc.edited = false // it was emptied; what comes now is a new generation
	}
	lines, err := r.unreadLines()
	if err != nil || len(lines) == 0 {
		return err
	}
	old, isCopy := f.marks.match(lines)
	if !rc.edited && !isCopy {
		r.recall = nil
	} else {
		if !rc.edited {
			rc.edit(f.now)
		}
		if rc.texts == nil {
			rc.remember(f.marks.all)
		}
		old = rc.oldLines(f.now, f.marks.complete(), lines)
	}
	if len(old) > 0 {
		r.old = make(map[int64]struct{}, len(old))
		for _, l := range old {
			r.old[l.offset] = struct{}{}
		}
	}
	return nil
}

// unreadLines returns the good lines after r's offset without moving it, except to skip all but the last maxRecall bytes.
func (r *reader) unreadLines() ([]recalled, error) {
	info, err := r.file.Stat()
	if err != nil {
		return nil, err
	}
	if from := info.Size() - maxRecall; from > r.offset {
		r.rewind()
		if _, err := r.load(from); err != nil {
			return nil, err
		}
		r.skip = r.before[len(r.before)-1] != 0 // a hole is not a line
	}
	text := make([]byte, max(0, info.Size()-r.offset))
	n, err := r.file.ReadAt(text, r.offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return goodLines(text[:n], r.offset), nil
}

// goodLines returns the complete lines of text, which starts at offset, that parse accepts.
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

// match returns the lines at the beginning of lines that are the last ones read. It also reports whether lines are a
// copy of what was read: most of the texts, and more than one, are known.
func (m *marks) match(lines []recalled) (old []recalled, isCopy bool) {
	// Knuth, Morris and Pratt: lines[:back[i]] is the longest proper prefix of lines that lines[:i+1] ends with.
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

// edit records that the file was edited and may be half written.
func (rc *recall) edit(now time.Time) {
	*rc = recall{edited: true, since: now, until: now.Add(settle)}
}

// remember copies the marks of the lines that were read before the edit.
func (rc *recall) remember(all []mark) {
	rc.texts, rc.addrs = make(map[uint32]readBefore, len(all)), make(map[uint32]readBefore, len(all))
	for i, k := range all {
		rc.texts[k.text] = readBefore{i, rc.texts[k.text].left + 1}
		rc.addrs[k.addr] = readBefore{i, rc.addrs[k.addr].left + 1}
	}
}

// oldLines returns the lines of an edited file that were read before; complete reports whether all of these are
// remembered.
func (rc *recall) oldLines(now time.Time, complete bool, lines []recalled) (old []recalled) {
	from, late := rc.reached, now.After(rc.since.Add(settle))
	known := func(l recalled) (at int, ok bool) {
		k := rc.addrs[l.addr]
		return k.at, k.left > 0 && (!late || k.at >= from)
	}
	lastText, lastAddr := -1, -1
	for i, l := range lines {
		at, ok := known(l)
		if !ok {
			continue
		}
		lastAddr, rc.reached = i, max(rc.reached, at+1)
		if text := rc.texts[l.text]; text.left > 0 {
			lastText, rc.found = i, max(rc.found, text.at+1)
		}
	}
	// Lines that were read but forgotten come before remembered ones. If no line is known, all are taken for old.
	forgotten := -1
	if !complete && rc.found == 0 {
		forgotten = lastAddr
		if lastAddr < 0 {
			forgotten = len(lines) - 1
		}
	} else if !complete {
		forgotten = lastText
	}
	for i, l := range lines {
		at, ok := known(l)
		if i <= forgotten || ok && (i <= lastText || at >= rc.found) {
			old = append(old, l)
		}
	}
	for _, l := range old {
		foundAgain(rc.texts, l.text)
		foundAgain(rc.addrs, l.addr)
	}
	if rc.reached > from {
		rc.until = now.Add(settle)
		if last := rc.since.Add(settleMost); rc.until.After(last) {
			rc.until = last
		}
	}
	return old
}

func foundAgain(of map[uint32]readBefore, key uint32) {
	if k := of[key]; k.left > 0 {
		of[key] = readBefore{k.at, k.left - 1}
	}
}

// rememberRead remembers the lines before r's offset. f.marks must be empty.
func (f *Follower) rememberRead(r *reader) error {
	from := max(0, r.offset-maxRecall)
	text := make([]byte, r.offset-from)
	n, err := r.file.ReadAt(text, from)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if from > 0 {
		f.marks.setIncomplete()
	}
	for _, l := range goodLines(text[:n], from) {
		f.marks.add(l.mark)
	}
	return nil
}
