package feed

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// maxSorted bounds the entries that a query with a limit keeps in memory, about 200 bytes each.
const maxSorted = 100_000

// Query says which entries are wanted. The zero value is all.
type Query struct {
	Family int    // 4 or 6; 0 = both
	Source string // exact, or the beginning with a * after it; "" = any
	Limit  int    // at most so many, newest first; 0 = all, in any order
	Page   int    // of Limit entries each, from 1; 0 = 1
}

// problem is what is wrong with a query and what to write instead.
type problem struct{ what, remedy string }

func (p *problem) Error() string { return p.what + "; " + p.remedy }

// ParseQuery parses the query of a URL. Its error says what to write.
func ParseQuery(text string) (q Query, err error) {
	values, err := url.ParseQuery(text)
	if err != nil {
		return q, &problem{"the query cannot be read", "write ?family=4&source=line:*&limit=1000&page=1, each as wanted"}
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		list := values[key]
		if len(list) > 1 {
			return Query{}, &problem{fmt.Sprintf("%.40q is given twice", key), "write it once"}
		}
		if err := q.set(key, list[0]); err != nil {
			return Query{}, err
		}
	}
	switch {
	case q.Page > 0 && q.Limit == 0:
		return Query{}, &problem{"page has no limit", "write limit=1000 or the like beside it"}
	case q.Limit > 0 && max(q.Page, 1) > maxSorted/q.Limit:
		return Query{}, &problem{fmt.Sprintf("limit and page reach beyond %d entries", maxSorted), "leave both out to get the whole list"}
	}
	return q, nil
}

func (q *Query) set(key, value string) (err error) {
	switch key {
	case "family":
		if value != "4" && value != "6" {
			return &problem{fmt.Sprintf("family %.40q is not known", value), "write family=4 or family=6"}
		}
		q.Family = int(value[0] - '0')
	case "source":
		if value == "" || strings.Contains(strings.TrimSuffix(value, "*"), "*") {
			return &problem{fmt.Sprintf("%.40q is not a source", value), "write source=line:sshd, or the beginning of one and a *, such as source=line:*"}
		}
		q.Source = value
	case "limit":
		q.Limit, err = number(key, value, maxSorted)
	case "page":
		q.Page, err = number(key, value, maxSorted)
	default:
		return &problem{fmt.Sprintf("there is no parameter %.40q", key), "write family, source, limit or page"}
	}
	return err
}

func number(key, value string, most int) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > most {
		return 0, &problem{fmt.Sprintf("%s %.40q is not a number", key, value), fmt.Sprintf("write 1 to %d", most)}
	}
	return n, nil
}

// Matches reports whether q asks for entries like e.
func (q Query) Matches(e Entry) bool {
	if q.Family == 4 && !e.Prefix.Addr().Is4() || q.Family == 6 && !e.Prefix.Addr().Is6() {
		return false
	}
	if start, ok := strings.CutSuffix(q.Source, "*"); ok {
		return strings.HasPrefix(e.Source, start)
	}
	return q.Source == "" || q.Source == e.Source
}

// each calls yield with what q asks for.
func (q Query) each(ctx context.Context, source Source, yield func(Entry) error) error {
	if q.Limit == 0 {
		return source.Entries(ctx, func(e Entry) error {
			if !q.Matches(e) {
				return nil
			}
			return yield(e)
		})
	}
	skip := (max(q.Page, 1) - 1) * q.Limit
	var newest oldestFirst
	err := source.Entries(ctx, func(e Entry) error {
		switch {
		case !q.Matches(e):
		case len(newest) < skip+q.Limit:
			heap.Push(&newest, e)
		case newer(e, newest[0]) < 0:
			newest[0] = e
			heap.Fix(&newest, 0)
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(newest, newer)
	for _, e := range newest[min(skip, len(newest)):] {
		if err := yield(e); err != nil {
			return err
		}
	}
	return nil
}

// newer orders entries: the newest ban first, and always in the same order.
func newer(a, b Entry) int {
	return cmp.Or(b.Issued.Compare(a.Issued), a.Prefix.Compare(b.Prefix), cmp.Compare(a.Ports, b.Ports))
}

// oldestFirst is a heap.
type oldestFirst []Entry

func (h oldestFirst) Len() int           { return len(h) }
func (h oldestFirst) Less(i, j int) bool { return newer(h[i], h[j]) > 0 }
func (h oldestFirst) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *oldestFirst) Push(x any)        { *h = append(*h, x.(Entry)) }
func (h *oldestFirst) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// Known returns an error that names the formats unless there is one called name.
func Known(name string) (Format, error) {
	f := Format(name)
	if _, ok := forms[f]; ok {
		return f, nil
	}
	return "", &problem{fmt.Sprintf("there is no format %.40q", name), "write " + List()}
}

// List names all formats in a sentence.
func List() string {
	names := make([]string, len(Formats))
	for i, f := range Formats {
		names[i] = string(f)
	}
	end := len(names) - 1
	return strings.Join(names[:end], ", ") + " or " + names[end]
}
