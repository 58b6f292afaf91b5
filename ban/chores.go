package ban

// Bounds of what one call does for peers. The rest is due at once: the next calls do it.
const (
	MaxTouch = 1024 // entries inside peers' unbans and allows that one Merge re-examines, and as many inside this node's own
)

// A chore is a prefix whose entries must all be re-examined: a peer's unban or allow arrived or ended, or its origin
// was withdrawn. Chores are done a slice at a time. A chore that lies inside another waiting one is skipped.
type chore struct {
	allows bool // the record set
	k      pkey
}

// chores is a queue of chores in order of arrival.
type chores struct {
	queue   []chore
	waiting map[chore]waiting
	begun   map[chore]uint64 // those done or under way, with the value of came when each began
	forms   [2]formCount     // of both maps, by record set
	came    uint64
	walk    walk // the walk under way
}

type waiting struct {
	cause cause
	came  uint64
}

// A walk visits the entries of k and of the prefixes inside it. The tree may change between two steps.
type walk struct {
	on    bool
	b     *recordSet
	k     pkey
	c     cause
	root  uint32
	after *path // the last entry visited under root; nil if none yet
}

func (c *chores) busy() bool { return c.walk.on || len(c.queue) > 0 }

func (x chore) form(c *chores) *formCount {
	if x.allows {
		return &c.forms[1]
	}
	return &c.forms[0]
}

func (t *Table) chore(b *recordSet, k pkey, c cause) {
	x, q := chore{b == &t.allows, k}, &t.chores
	if w, ok := q.waiting[x]; ok { // renew came: a walk under way may have passed x already
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

// take begins the next chore and reports whether there was one.
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

// covered reports whether x lies inside a waiting chore, or inside one that began after x came.
func (c *chores) covered(x chore, came uint64) bool {
	for k := range x.form(c).covering(x.k) {
		w := chore{x.allows, k}
		if _, ok := c.waiting[w]; ok || c.begun[w] >= came {
			return true
		}
	}
	return false
}

// work does chores until it has examined room entries, and returns how much room is left.
func (t *Table) work(room int) int {
	w := &t.chores.walk
	for room > 0 && (w.on || t.take()) {
		room = w.step(room, func(i uint32) { t.touch(w.b, i, w.c) })
	}
	return room
}

// newWalk returns a walk through k that has not begun.
func newWalk(b *recordSet, k pkey) walk {
	return walk{on: b.tree.roots != nil, b: b, k: k, root: rootOf(k)}
}

// step yields entries until room is used up or the walk is over, and returns how much room is left.
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

// rejudge re-examines every entry of k and inside it: at once if this node asked for it and there are few, otherwise as
// a chore.
func (t *Table) rejudge(b *recordSet, k pkey, c cause) {
	if c.origin == t.self && !c.ending && t.atOnce > 0 {
		w := newWalk(b, k)
		left := w.step(t.atOnce, func(i uint32) { t.touch(b, i, c) })
		if t.atOnce = min(t.atOnce, left); !w.on { // a nested rejudge may have left less
			return
		}
	}
	t.chore(b, k, c)
}

// A wake is the time at which a cancelled claim may count again: when the longest-lasting cancel mark on it ends, if
// the claim lasts longer. Unbans made by a Lifting outlast what they cancel, so wakes are few.
type wakes struct {
	at   map[uint32]int64 // by claim
	ends expiryHeap       // may hold ends that are no longer in at
}

// wake schedules another look at the entry of claim i at the given time, unless an earlier one is scheduled already.
func (w *wakes) wake(i uint32, at int64) {
	if old, ok := w.at[i]; ok && old <= at {
		return
	}
	if w.at == nil {
		w.at = make(map[uint32]int64)
	}
	w.at[i] = at
	w.ends.add(at, i, len(w.at), w.end)
}

// end returns when claim i is due, or 0 if it is not.
func (w *wakes) end(i uint32) int64 { return w.at[i] }

// next returns the claim that is due first, or 0.
func (w *wakes) next() (i uint32, at int64) { return w.ends.next(w.end) }
