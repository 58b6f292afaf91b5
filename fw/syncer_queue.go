package fw

import (
	"net/netip"
	"slices"
)

const (
	// maxFresh bounds the updates of one submission that may overtake a bulk.
	maxFresh = 16
	// maxOwnFresh bounds how many of this node's own bans may overtake it, whatever peers send meanwhile.
	maxOwnFresh = 1024
	// maxSliceElements is how many elements of entries with ports are worth a separate Apply: about 1 ms.
	maxSliceElements = MaxPortElements
	// indexAbove is the number of updates above which a bulk gets an index: comparing fewer with a fresh one costs 20
	// us per thousand, and most bulks meet none.
	indexAbove = 2048
)

// submission is what one call queued.
type submission struct {
	updates []Update
	done    done // or nil
}

// queue is a list of submissions in order.
type queue struct {
	list    []submission
	updates int // in all of them
	waiting int // submissions with a done
	// index counts the updates of each prefix; nil until it is needed.
	index map[netip.Prefix]int
}

func (q *queue) put(updates []Update, done done) {
	if len(updates) == 0 && done == nil {
		return
	}
	q.list = append(q.list, submission{updates, done})
	q.updates += len(updates)
	if q.index != nil {
		q.count(updates)
	}
	if done != nil {
		q.waiting++
	}
}

// drop discards the updates; their callbacks keep waiting.
func (q *queue) drop() {
	for i := range q.list {
		q.list[i].updates = nil
	}
	q.updates, q.index = 0, nil
}

func (q *queue) count(updates []Update) {
	for i := range updates {
		q.index[updates[i].Prefix]++
	}
}

// has reports whether an update of the queue is about a prefix of updates.
func (q *queue) has(updates []Update) bool {
	if q.index == nil && q.updates > indexAbove {
		q.index = make(map[netip.Prefix]int, q.updates)
		for _, sub := range q.list {
			q.count(sub.updates)
		}
	}
	about := func(p netip.Prefix) bool {
		return slices.ContainsFunc(updates, func(u Update) bool { return u.Prefix == p })
	}
	if q.index != nil {
		return slices.ContainsFunc(updates, func(u Update) bool { return q.index[u.Prefix] > 0 })
	}
	return slices.ContainsFunc(q.list, func(sub submission) bool {
		return slices.ContainsFunc(sub.updates, func(u Update) bool { return about(u.Prefix) })
	})
}

// take takes submissions until they have n updates or more, or maxSliceElements elements. It splits a submission that
// exceeds the elements.
func (q *queue) take(n int) (updates []Update, waiting []done) {
	i, room := 0, maxSliceElements
	for i < len(q.list) && (i == 0 || len(updates) < n) {
		sub := &q.list[i]
		if k := fitting(sub.updates, &room); k < len(sub.updates) {
			updates = append(updates, sub.updates[:k]...)
			sub.updates = sub.updates[k:]
			break
		}
		updates = append(updates, sub.updates...)
		if sub.done != nil {
			waiting = append(waiting, sub.done)
		}
		*sub = submission{}
		i++
	}
	q.updates -= len(updates)
	q.waiting -= len(waiting)
	if q.list = q.list[i:]; len(q.list) == 0 {
		q.list, q.index = nil, nil
	}
	if q.index != nil {
		for i := range updates {
			if p := updates[i].Prefix; q.index[p] > 1 {
				q.index[p]--
			} else {
				delete(q.index, p)
			}
		}
	}
	return updates, waiting
}

// fitting returns how many of the updates have room for their elements, and deducts those from room.
func fitting(updates []Update, room *int) int {
	for i := range updates {
		if n := len(updates[i].Ports); n > 0 {
			if n = min(elementsOf(updates[i].Ports), MaxPortElements); n > *room {
				return i
			}
			*room -= n
		}
	}
	return len(updates)
}

// passes reports whether updates may overtake the bulk: they are few, and nothing in it is about the same prefixes.
func (in *inbox) passes(updates []Update) bool {
	if len(updates) == 0 || len(updates) > maxFresh {
		return false
	}
	most := maxInline
	if updates[0].Own {
		most = maxOwnFresh
	}
	return in.fresh.updates+len(updates) <= most && !in.bulk.has(updates)
}

// some takes all that is fresh, and then from the bulk until there are n updates or more. What a take cuts off stays
// queued.
func (in *inbox) some(n int) (updates []Update, waiting []done) {
	updates, waiting = in.fresh.take(MaxQueued)
	if len(updates) < n && len(in.fresh.list) == 0 {
		more, others := in.bulk.take(n - len(updates))
		updates, waiting = append(updates, more...), append(waiting, others...)
	}
	return updates, waiting
}

// front puts updates and their callbacks before everything queued.
func (in *inbox) front(updates []Update, waiting []done) {
	if in.reload {
		updates = nil
	}
	var all queue
	all.put(updates, nil)
	for _, done := range waiting {
		all.put(nil, done)
	}
	for _, q := range [2]queue{in.fresh, in.bulk} {
		for _, sub := range q.list {
			all.put(sub.updates, sub.done)
		}
	}
	in.fresh, in.bulk = queue{}, all
}
