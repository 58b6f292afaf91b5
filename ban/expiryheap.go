package ban

import (
	"cmp"
	"container/heap"
	"slices"
)

// An expiryHeap says what ends next. If the end of an item moves later, next corrects its place when it meets it. The
// stale end of an item that is gone, or now ends sooner, stays in the heap until next or add drops it.
type expiryHeap []expiry

type expiry struct {
	at int64 // Unix milliseconds
	id uint32
}

// Len, Less, Swap, Push and Pop are for container/heap.
func (h expiryHeap) Len() int           { return len(h) }
func (h expiryHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h expiryHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *expiryHeap) Push(x any)        { *h = append(*h, x.(expiry)) }
func (h *expiryHeap) Pop() any {
	n := len(*h) - 1
	x := (*h)[n]
	if *h = (*h)[:n]; cap(*h) > 4*n+staleSlack { // free what a flood allocated
		*h = slices.Clone(*h)
	}
	return x
}

// staleSlack is how many stale ends an expiry heap may hold, however few items there are.
const staleSlack = 1024

// add notes that item id ends at the given time. If the heap then holds too many stale ends for that many live items,
// add removes them. end returns when an item ends, or 0 if it is gone.
func (h *expiryHeap) add(at int64, id uint32, live int, end func(id uint32) int64) {
	if heap.Push(h, expiry{at, id}); len(*h) <= 2*live+staleSlack {
		return
	}
	all := slices.DeleteFunc(*h, func(x expiry) bool { return end(x.id) == 0 })
	for i, x := range all {
		all[i].at = end(x.id)
	}
	slices.SortFunc(all, func(x, y expiry) int { return cmp.Or(cmp.Compare(x.at, y.at), cmp.Compare(x.id, y.id)) })
	*h = slices.Compact(all) // a sorted slice is a heap
}

// next returns the item that ends first, or 0.
func (h *expiryHeap) next(end func(id uint32) int64) (id uint32, at int64) {
	for len(*h) > 0 {
		x := &(*h)[0]
		switch at := end(x.id); {
		case at == x.at:
			return x.id, at
		case at > x.at:
			x.at = at
			heap.Fix(h, 0)
		default:
			heap.Pop(h)
		}
	}
	return 0, 0
}

// pop removes what next returned.
func (h *expiryHeap) pop() { heap.Pop(h) }
