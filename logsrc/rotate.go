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
	// maxSiblings is how many files beside the line file are looked at for what was rotated away.
	maxSiblings = 64
	// minCopyMatch is how many bytes must have been read of a file before another file is taken for a copy of
	// it because it holds the same text: about one line with its time.
	minCopyMatch = 32
)

// plan says what has to be read after pos, in order: the rest of the file that pos speaks of, wherever it is now;
// generations between it and today's file; today's file (now, nil = there is none), from where it was left or from its
// beginning. Lines that were read before are recognised in whatever is read from its beginning (see recall). The readers
// belong to the caller.
func (f *Follower) plan(pos Position, now *reader) []*reader {
	if now != nil && now.id.inode == pos.Inode && found(now, pos) {
		f.startOver(now, false)
		return []*reader{now}
	}
	beside := siblings(f.cfg.Path)
	old := openOld(beside, pos, now, func(s sibling) bool { return s.inode == pos.Inode })
	if old == nil && pos.Offset >= minCopyMatch {
		// Saved by an editor, restored, or on a file system that numbers its files anew at each mount.
		if now != nil && found(now, pos) {
			return []*reader{now}
		}
		// Copied and truncated.
		old = openOld(beside, pos, now, func(s sibling) bool { return s.size >= pos.Offset })
	}
	var queue []*reader
	if old != nil {
		queue = append(queue, old)
		for _, r := range between(beside, old, now) {
			f.startOver(r, false)
			queue = append(queue, r)
		}
	}
	if now != nil {
		now.rewind()
		if len(f.marks.all) == 0 && pos.Offset > 0 && old == nil {
			// Nothing tells old lines from new ones, so it begins at the end. That is told now: pos leads nowhere any more,
			// and a restart would take what is appended until then for old.
			if now.seekEnd() == nil { // an error comes back when it is read
				f.tell(now.position())
			}
		}
		f.startOver(now, old == nil || !rotated(old.name, f.cfg.Path))
		queue = append(queue, now)
	}
	return queue
}

// startOver has lines that were read before recognised in a reader that stands at the beginning of its file.
func (f *Follower) startOver(r *reader, edited bool) {
	r.recall = nil
	if r.offset == 0 && len(f.marks.all) > 0 {
		r.recall = &recall{edited: edited, until: f.now.Add(settle)}
	}
}

// rotated reports whether name is path with a number or a date behind it, and not what an editor calls its copy.
func rotated(name, path string) bool {
	suffix := strings.TrimPrefix(filepath.Base(name), filepath.Base(path))
	return len(suffix) > 1 && '0' <= suffix[1] && suffix[1] <= '9'
}

// found says whether r holds the text that was read up to pos, and seeks there. A file that cannot be read counts
// as one that does not.
func found(r *reader, pos Position) bool {
	same, err := r.seek(pos)
	return err == nil && same
}

// openOld opens the first of beside that is wanted and holds the text that was read up to pos.
func openOld(beside []sibling, pos Position, now *reader, wanted func(sibling) bool) *reader {
	for _, s := range beside {
		if !wanted(s) || (now != nil && s.inode == now.id.inode) {
			continue
		}
		r, err := openReader(s.path)
		if err != nil {
			continue
		}
		if found(r, pos) {
			return r
		}
		r.close()
	}
	return nil
}

// between opens the whole generations that are younger than old: only where their names count them, as in
// "newbans.log.2", is it certain that they are not an administrator's copies.
func between(beside []sibling, old, now *reader) []*reader {
	generation := map[int]sibling{}
	from := 0
	for _, s := range beside {
		generation[s.number] = s
		if s.path == old.name {
			from = s.number
		}
	}
	var queue []*reader
	for n := from - 1; n >= 1; n-- {
		s, ok := generation[n]
		if now != nil && ok && s.inode == now.id.inode {
			break // now was rotated away itself since: the younger ones come after it
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

// sibling is a file that may be a former generation of the line file.
type sibling struct {
	path    string
	inode   uint64
	size    int64
	changed time.Time
	number  int // 1 for "newbans.log.1"; 0 = its name does not count
}

// siblings gives the maxSiblings youngest files whose names begin with the line file's.
func siblings(path string) []sibling {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	dir, base := filepath.Split(path)
	entries, err := os.ReadDir(filepath.Clean(dir))
	if err != nil {
		return nil // the folder is gone, and with it what was there
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
