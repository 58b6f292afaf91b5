package logsrc

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	// maxSiblings is how many files beside the line file are examined as its rotated generations.
	maxSiblings = 64
	// minCopyMatch is how many bytes of a file must have been read before another file with the same text counts as its
	// copy: about one line with its time.
	minCopyMatch = 32
)

// plan returns what to read after pos, in order: the rest of the file that pos belongs to, wherever it is now; the
// generations after it; and latest, the file at the path (nil = none), from pos or from its beginning. In each file
// that is read from its beginning, lines that were read before are recognised (see recall). The caller owns the
// readers.
func (f *Follower) plan(pos Position, latest *reader) []*reader {
	if latest != nil && latest.id.inode == pos.Inode && holds(latest, pos) {
		f.expectOldLines(latest, false)
		return []*reader{latest}
	}
	candidates := siblings(f.cfg.Path)
	old := openOld(candidates, pos, latest, func(s sibling) bool { return s.inode == pos.Inode })
	if old == nil && pos.Offset >= minCopyMatch {
		// The file may have been saved by an editor or restored, or its file system renumbers files at each mount.
		if latest != nil && holds(latest, pos) {
			return []*reader{latest}
		}
		old = openOld(candidates, pos, latest, func(s sibling) bool { return s.size >= pos.Offset })
	}
	var queue []*reader
	if old != nil {
		queue = append(queue, old)
		for _, r := range between(candidates, old, latest) {
			f.expectOldLines(r, false)
			queue = append(queue, r)
		}
	}
	if latest != nil {
		latest.rewind()
		if len(f.marks.all) == 0 && pos.Offset > 0 && old == nil {
			// Nothing tells old lines from new ones, so start at the end. Report that position now, because pos no
			// longer leads anywhere: after a restart, lines appended before a later report would count as old.
			if latest.seekEnd() == nil { // the read that follows reports an error
				f.report(latest.position())
			}
		}
		f.expectOldLines(latest, old == nil || !rotated(old.name, f.cfg.Path))
		queue = append(queue, latest)
	}
	return queue
}

// expectOldLines makes r recognise lines that were read before, if r is at the beginning of its file.
func (f *Follower) expectOldLines(r *reader, edited bool) {
	r.recall = nil
	if r.offset == 0 && len(f.marks.all) > 0 {
		r.recall = new(recall)
		if edited {
			r.recall.edit(f.now)
		}
	}
}

// rotated reports whether name is path followed by a number or a date, unlike an editor's copy.
func rotated(name, path string) bool {
	suffix := strings.TrimPrefix(filepath.Base(name), filepath.Base(path))
	return len(suffix) > 1 && '0' <= suffix[1] && suffix[1] <= '9'
}

// holds seeks r to pos and reports whether r holds the text that was read up to there. A file that cannot be read
// does not.
func holds(r *reader, pos Position) bool {
	same, err := r.seek(pos)
	return err == nil && same
}

// openOld opens the first wanted sibling that holds the text that was read up to pos.
func openOld(candidates []sibling, pos Position, latest *reader, wanted func(sibling) bool) *reader {
	for _, s := range candidates {
		if !wanted(s) || (latest != nil && s.inode == latest.id.inode) {
			continue
		}
		r, err := openReader(s.path)
		if err != nil {
			continue
		}
		if holds(r, pos) {
			return r
		}
		r.close()
	}
	return nil
}

// between opens the generations that are newer than old. It takes only files with a generation number, such as
// "newbans.log.2", because others may be copies that an administrator made.
func between(candidates []sibling, old, latest *reader) []*reader {
	generation := map[int]sibling{}
	from := 0
	for _, s := range candidates {
		generation[s.number] = s
		if s.path == old.name {
			from = s.number
		}
	}
	var queue []*reader
	for n := from - 1; n >= 1; n-- {
		s, ok := generation[n]
		if latest != nil && ok && s.inode == latest.id.inode {
			break // latest itself was rotated: newer ones come after it
		}
		if !ok || s.inode == old.id.inode {
			continue
		}
		if r, err := openReader(s.path); err == nil {
			queue = append(queue, r)
		}
	}
	return queue
}

// sibling is a file that may be a rotated generation of the line file.
type sibling struct {
	path    string
	inode   uint64
	size    int64
	changed time.Time
	number  int // 1 for "newbans.log.1"; 0 = not numbered
}

// siblings returns the newest maxSiblings files whose names start with the line file's.
func siblings(path string) []sibling {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	dir, base := filepath.Split(path)
	entries, err := os.ReadDir(filepath.Clean(dir))
	if err != nil {
		return nil // without a folder there are no siblings
	}
	var all []sibling
	for _, entry := range entries {
		suffix, ok := strings.CutPrefix(entry.Name(), base)
		if !ok || suffix == "" || strings.IndexByte(".-_~", suffix[0]) < 0 || entry.Type() != 0 {
			continue
		}
		info, err := entry.Info()
		if err != nil {
			continue
		}
		s := sibling{
			path: filepath.Join(dir, entry.Name()), inode: idOf(info).inode, size: info.Size(), changed: info.ModTime(),
		}
		if n, ok := number([]byte(suffix[1:]), maxSiblings); ok && suffix[0] == '.' && n < maxSiblings {
			s.number = n
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b sibling) int {
		if a.number != 0 && b.number != 0 {
			return cmp.Compare(a.number, b.number)
		}
		return b.changed.Compare(a.changed)
	})
	return all[:min(len(all), maxSiblings)]
}
