package ban

import "iter"

// A tree finds entries by their path: a single one, or all whose paths begin with the same bits. It is a forest of
// crit-bit trees: each node tests the first bit in which the paths below it differ, so a search takes at most pathBits
// steps whatever a peer chooses to ban, and one entry costs one node of 12 bytes. Each IPv4 /16 has a root of its own,
// and each IPv6 /48 is hashed to one. This saves a search among a million entries most of its steps, which are cache
// misses.
type tree struct {
	roots []uint32 // as in node.child; nil until there is an entry
	nodes arena[node]
}

type node struct {
	child [2]uint32 // a node's number, or an entry's with leafFlag set, or 0
	bit   uint8     // the children differ in this bit; it is greater than that of every node above
}

const leafFlag = 1 << 31

// The layout of the roots.
const (
	rootBits = 16
	split4   = rootBits // IPv4 prefixes at least this long have a root by their first bits
	split6   = 48

	wide6    = 0 // the root of IPv6 prefixes shorter than split6
	wide4    = 1
	roots4   = 2
	roots6   = roots4 + 1<<rootBits
	allRoots = roots6 + 1<<rootBits
)

func rootOf(k pkey) uint32 {
	switch {
	case k.is4() && k.len() >= split4:
		return roots4 + uint32(k.hi>>(64-rootBits))
	case k.is4():
		return wide4
	case k.len() >= split6:
		const spread = 0x9e3779b97f4a7c15 // 2^64 divided by the golden ratio
		return roots6 + uint32(k.hi>>(64-split6)*spread>>(64-rootBits))
	}
	return wide6
}

// near returns the only leaf under the root that can hold p, or 0 if the root is empty.
func (b *recordSet) near(p *path, root uint32) uint32 {
	n := b.tree.roots[root]
	for n != 0 && n&leafFlag == 0 {
		x := b.tree.nodes.at(n)
		n = x.child[p.bit(x.bit)]
	}
	return n &^ leafFlag
}

// find returns the entry of k and ports, or 0.
func (b *recordSet) find(k pkey, ports uint32) uint32 {
	if b.tree.roots == nil {
		return 0
	}
	p := k.path(ports)
	i := b.near(&p, rootOf(k))
	if i == 0 {
		return 0
	}
	if q := b.entries.at(i).path(); p != q {
		return 0
	}
	return i
}

// insert adds the entry i, whose path is not in the tree.
func (b *recordSet) insert(i uint32) {
	e := b.entries.at(i)
	p := e.path()
	if b.tree.roots == nil {
		b.tree.roots = make([]uint32, allRoots)
	}
	root := rootOf(e.key())
	at := &b.tree.roots[root]
	near := b.near(&p, root)
	if near == 0 {
		*at = i | leafFlag
		return
	}
	q := b.entries.at(near).path()
	bit := uint8(p.differ(&q))
	for *at&leafFlag == 0 {
		x := b.tree.nodes.at(*at)
		if x.bit > bit {
			break
		}
		at = &x.child[p.bit(x.bit)]
	}
	n, x := b.tree.nodes.alloc()
	side := p.bit(bit)
	x.bit = bit
	x.child[side] = i | leafFlag
	x.child[1-side] = *at
	*at = n
}

// remove removes entry i.
func (b *recordSet) remove(i uint32) {
	e := b.entries.at(i)
	p := e.path()
	at := &b.tree.roots[rootOf(e.key())]
	var up *uint32
	for *at&leafFlag == 0 {
		x := b.tree.nodes.at(*at)
		up, at = at, &x.child[p.bit(x.bit)]
	}
	if up == nil {
		*at = 0
		return
	}
	n := *up
	x := b.tree.nodes.at(n)
	*up = x.child[1-p.bit(x.bit)]
	b.tree.nodes.release(n)
}

// under yields the entries under the root whose path begins with the first n bits of p, in ascending order, and unless
// after is nil only those greater than after. If yield returns false, under stops and returns false. The tree must not
// change meanwhile.
func (b *recordSet) under(root uint32, p path, n int, after *path, yield func(i uint32) bool) bool {
	at := b.tree.roots[root]
	if at == 0 {
		return true
	}
	for at&leafFlag == 0 {
		x := b.tree.nodes.at(at)
		if int(x.bit) >= n {
			break
		}
		at = x.child[p.bit(x.bit)]
	}
	var stack [pathBits]uint32
	depth := 0
	if after != nil {
		var behind bool
		if at, depth, behind = b.seek(at, after, &stack); !behind {
			if depth == 0 {
				return true
			}
			depth--
			at = stack[depth]
		}
	}
	for first := true; ; first = false {
		for at&leafFlag == 0 {
			x := b.tree.nodes.at(at)
			stack[depth] = x.child[1]
			depth++
			at = x.child[0]
		}
		if first { // all of them share the first n bits of p, or none does
			if q := b.entries.at(at &^ leafFlag).path(); p.differ(&q) < n {
				return true
			}
		}
		if !yield(at &^ leafFlag) {
			return false
		}
		if depth == 0 {
			return true
		}
		depth--
		at = stack[depth]
	}
}

// seek descends from a node towards a path and pushes the subtrees it passes that lie after the path onto the stack. It
// returns where it stopped and the depth of the stack, and reports whether what it stopped at lies after the path too.
func (b *recordSet) seek(from uint32, p *path, stack *[pathBits]uint32) (at uint32, depth int, behind bool) {
	near := from
	for near&leafFlag == 0 {
		x := b.tree.nodes.at(near)
		near = x.child[p.bit(x.bit)]
	}
	q := b.entries.at(near &^ leafFlag).path()
	differ := p.differ(&q)
	for at = from; at&leafFlag == 0; {
		x := b.tree.nodes.at(at)
		if int(x.bit) >= differ {
			break
		}
		if p.bit(x.bit) == 0 {
			stack[depth] = x.child[1]
			depth++
		}
		at = x.child[p.bit(x.bit)]
	}
	return at, depth, differ < pathBits && p.bit(uint8(differ)) == 0
}

// nextRoot returns the root to visit after root when looking for entries inside k; the first is rootOf(k).
func (b *recordSet) nextRoot(k pkey, root uint32) (next uint32, ok bool) {
	first, last := uint32(0), uint32(0)
	switch rootOf(k) {
	case wide4:
		first = roots4 + uint32(k.hi>>(64-rootBits))
		last = first + 1<<(rootBits-k.len())
	case wide6:
		first, last = roots6, allRoots
	}
	if next = root + 1; root == rootOf(k) {
		next = first
	}
	return next, next < last
}

// inside yields the entries of k and of every prefix inside it.
func (b *recordSet) inside(k pkey) iter.Seq[uint32] {
	return func(yield func(i uint32) bool) {
		if b.tree.roots == nil {
			return
		}
		narrow := func(i uint32) bool { // a wider prefix may begin with the same bits
			return b.entries.at(i).form < k.form || yield(i)
		}
		for root, more := rootOf(k), true; more; root, more = b.nextRoot(k, root) {
			if !b.under(root, k.path(0), k.len(), nil, narrow) {
				return
			}
		}
	}
}

// exactly yields the entries of k with any ports.
func (b *recordSet) exactly(k pkey) iter.Seq[uint32] {
	return func(yield func(i uint32) bool) {
		if b.tree.roots != nil {
			b.under(rootOf(k), k.path(0), prefixBits, nil, yield)
		}
	}
}

// covering yields the entries of k and of every prefix that contains it, the narrowest first.
func (b *recordSet) covering(k pkey) iter.Seq[uint32] {
	return func(yield func(i uint32) bool) {
		for w := range b.forms.covering(k) {
			for i := range b.exactly(w) {
				if !yield(i) {
					return
				}
			}
		}
	}
}
