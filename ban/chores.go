package ban

// Bounds of what one call does for peers. What is left is due at once, in the next calls.
const (
	MaxTouch = 1024 // entries inside the unbans and allows of peers that one Merge looks at again, and as many inside own ones
)

// A chore is a prefix of which all entries must be looked at again: a peer's unban or allow came or ended, or its
// origin was withdrawn. Chores are done a slice at a time, and of chores that wait none that lies inside another.
type chore struct {
	allows bool // the book
	k      pkey
}

// chores are in the order in which they came.
type chores struct {
	queue   []chore
	waiting map[chore]waiting
	begun   map[chore]uint64 // those that are done or being done, and how many had come by then
	forms   [2]formCount     // of all these, by book
	came    uint64
	walk    walk // the one that is being done
}

type waiting struct {
	cause cause
	came  uint64
}

// A walk goes through the entries of k and of the prefixes inside it. Between two steps the tree may change.
type walk struct {
	on    bool
	b     *book
	k     pkey
	c     cause
	root  uint32
	after *path // of the entry that was last, under root; nil: none yet
}

func (c *chores) busy() bool { return c.walk.on || len(c.queue) > 0 }

func (x chore) form(c *chores) *formCount {
	if x.allows {
		return &c.forms[1]
	}
	return &c.forms[0]
}

func (t *Table) chore(b *book, k pkey, c cause) {
	x, q := chore{b == &t.allows, k}, &t.chores
	if w, ok := q.waiting[x]; ok { // a walk that has begun may have passed it already
		q.came++
		q.waiting[x] = waiting{w.cause, q.came}
		return
	}
	if q.waiting == nil {
		q.waiting, q.begun = make(map[chore]waiting), make(map[chore]uint64)
	}
	q.came++
	q.waiting[x] = waiting{c, q.came}
	x.form(q).add(k)
	q.queue = append(q.queue, x)
}

// take begins the next chore; false if there is none.
func (t *Table) take() bool {
	q := &t.chores
	for len(q.queue) > 0 {
		x := q.queue[0]
		w := q.waiting[x]
		q.queue = q.queue[1:]
		delete(q.waiting, x)
		if q.covered(x, w.came) {
			t.steps++
			continue
		}
		b := &t.bans
		if x.allows {
			b = &t.allows
		}
		q.begun[x] = q.came
		if q.walk = newWalk(b, x.k); q.walk.on {
			q.walk.c = w.cause
			return true
		}
	}
	*q = chores{}
	return false
}

// covered reports whether x lies inside a chore that waits, or was begun after x came.
func (c *chores) covered(x chore, came uint64) bool {
	for k := range x.form(c).covering(x.k) {
		w := chore{x.allows, k}
		if _, ok := c.waiting[w]; ok || c.begun[w] >= came {
			return true
		}
	}
	return false
}

// work does chores until it has looked at room entries, and returns how much room is left.
func (t *Table) work(room int) int {
	w := &t.chores.walk
	for room > 0 && (w.on || t.take()) {
		room = w.step(room, func(i uint32) { t.touch(w.b, i, w.c) })
	}
	return room
}

// newWalk returns a walk through k that has not begun.
func newWalk(b *book, k pkey) walk {
	return walk{on: b.tree.roots != nil, b: b, k: k, root: rootOf(k)}
}

// step yields entries until room is used up, or the walk is over, and returns how much room is left.
func (w *walk) step(room int, yield func(i uint32)) int {
	if !w.on {
		return room
	}
	for more := true; more; w.root, more = w.b.nextRoot(w.k, w.root) {
		done := w.b.under(w.root, w.k.path(0), w.k.len(), w.after, func(i uint32) bool {
			at := w.b.entries.at(i).path()
			w.after = &at
			if w.b.entries.at(i).form >= w.k.form { // a wider prefix may begin with the same bits
				yield(i)
			}
			room--
			return room > 0
		})
		if !done {
			return 0
		}
		w.after = nil
	}
	*w = walk{}
	return room
}

// rejudge has every entry of k and inside it looked at again: at once where this node asks for it and they are few, else
// when work comes to it.
func (t *Table) rejudge(b *book, k pkey, c cause) {
	if c.origin == t.self && !c.ending && t.atOnce > 0 {
		w := newWalk(b, k)
		left := w.step(t.atOnce, func(i uint32) { t.touch(b, i, c) })
		if t.atOnce = min(t.atOnce, left); !w.on { // a nested rejudge may have left less
			return
		}
	}
	t.chore(b, k, c)
}

// A wake says when the strike ends that cancels a rec longest, if the rec lasts longer: then the rec may count again.
// An unban that UnbanOps made outlasts what it cancels, so there are few.
type wakes struct {
	at   map[uint32]int64 // by rec
	ends timeline         // may hold marks that are no longer in at
}

// wake has the entry of the rec i looked at again then, or before.
func (w *wakes) wake(i uint32, at int64) {
	if old, ok := w.at[i]; ok && old <= at {
		return
	}
	if w.at == nil {
		w.at = make(map[uint32]int64)
	}
	w.at[i] = at
	w.ends.push(due{at, i})
	if w.ends.len() > 2*len(w.at)+staleSlack {
		w.ends.clear()
		for i, at := range w.at {
			w.ends.add(due{at, i})
		}
		w.ends.heapify()
	}
}

// next returns the rec whose turn comes first, or 0.
func (w *wakes) next() (i uint32, at int64) {
	for w.ends.len() > 0 {
		d := w.ends.first()
		if w.at[d.id] == d.at {
			return d.id, d.at
		}
		w.ends.pop()
	}
	return 0, 0
}
