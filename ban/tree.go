package ban

// A tree finds entries by their path: one of them, or all under a common beginning. It is a crit-bit
// tree: each node tests the first bit in which the paths below it differ, so a search takes at most
// pathBits steps whatever a peer chooses to ban, and one entry costs one node of 12 bytes.
type tree struct {
	roots [2]uint32 // of IPv6 and IPv4; as in node.child
	nodes slab[node]
}

type node struct {
	child [2]uint32 // a node's number, or an entry's with leafFlag set, or 0
	bit   uint8     // children differ here; greater than the bit of every node above
}

const leafFlag = 1 << 31

func rootOf(form uint8) int {
	if form >= form4 {
		return 1
	}
	return 0
}

// near returns the one leaf that can hold p, or 0 if the tree is empty.
func (b *book) near(p *path, root int) uint32 {
	n := b.tree.roots[root]
	for n != 0 && n&leafFlag == 0 {
		x := b.tree.nodes.at(n)
		n = x.child[p.bit(x.bit)]
	}
	return n &^ leafFlag
}

// find returns the entry of k and ports, or 0.
func (b *book) find(k pkey, ports uint32) uint32 {
	p := k.path(ports)
	i := b.near(&p, rootOf(k.form))
	if i == 0 {
		return 0
	}
	if q := b.entries.at(i).path(); p != q {
		return 0
	}
	return i
}

// insert adds the entry i, whose path is not in the tree.
func (b *book) insert(i uint32) {
	e := b.entries.at(i)
	p := e.path()
	at := &b.tree.roots[rootOf(e.form)]
	near := b.near(&p, rootOf(e.form))
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

// remove takes the entry i out.
func (b *book) remove(i uint32) {
	e := b.entries.at(i)
	p := e.path()
	at := &b.tree.roots[rootOf(e.form)]
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

// under yields the entries whose path begins with the first n bits of p, in the order of their
// paths. The tree must not change meanwhile.
func (b *book) under(root int, p path, n int, yield func(i uint32) bool) {
	at := b.tree.roots[root]
	if at == 0 {
		return
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
	for first := true; ; first = false {
		for at&leafFlag == 0 {
			x := b.tree.nodes.at(at)
			stack[depth] = x.child[1]
			depth++
			at = x.child[0]
		}
		if first { // all here agree in the first n bits, or none does
			if q := b.entries.at(at &^ leafFlag).path(); p.differ(&q) < n {
				return
			}
		}
		if !yield(at&^leafFlag) || depth == 0 {
			return
		}
		depth--
		at = stack[depth]
	}
}

// inside yields the entries of k and of every prefix inside it.
func (b *book) inside(k pkey) func(yield func(i uint32) bool) {
	return func(yield func(i uint32) bool) {
		b.under(rootOf(k.form), k.path(0), k.len(), func(i uint32) bool {
			// A wider prefix may begin with the same bits.
			return b.entries.at(i).form < k.form || yield(i)
		})
	}
}

// exactly yields the entries of k with any ports.
func (b *book) exactly(k pkey) func(yield func(i uint32) bool) {
	return func(yield func(i uint32) bool) {
		b.under(rootOf(k.form), k.path(0), prefixBits, yield)
	}
}

// covering yields the entries of k and of every prefix that contains it, the narrowest first.
func (b *book) covering(k pkey) func(yield func(i uint32) bool) {
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
