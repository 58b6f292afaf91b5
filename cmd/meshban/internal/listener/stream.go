package listener

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/apikey"
)

// patient are the programs that wait for an answer as long as it takes: those of CrowdSec's Go library. Its lua bouncers
// give up after 3 s, traefik's after 10.
var patient = []string{
	"crowdsec-firewall-bouncer/", "crowdsec-custom-bouncer/", "crowdsec-cloudflare-bouncer/", "crowdsec-cloudflare-worker-bouncer/",
	"crowdsec-aws-waf-bouncer/", "crowdsec-fastly-bouncer/", "crowdsec-spoa-bouncer/", "crowdsec-haproxy-spoa-bouncer/", "crowdsec-blocklist-mirror/",
}

func waits(agent string) bool {
	return slices.ContainsFunc(patient, func(p string) bool { return strings.HasPrefix(agent, p) })
}

// stream answers what is in force, or what has changed since this client's last answer.
func (s *Server) stream(server context.Context, w http.ResponseWriter, r *http.Request, k apikey.Key) {
	q, err := parseQuery(r.URL.RawQuery, k)
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	if r.Method == http.MethodHead { // a client tries its key
		newAnswer(w).start()
		return
	}
	who := client{k.Name, r.UserAgent()[:min(len(r.UserAgent()), maxAgent)], clientOf(r)}
	from := uint64(0)
	if !q.startup {
		from = s.cursors.of(who)
	}
	end := time.Now()
	if !q.startup && waits(r.UserAgent()) {
		end = end.Add(s.cfg.API.Hold)
	}
	for {
		first, next, changed := s.changes.look()
		a := newAnswer(w)
		a.open(`{"new":[`)
		var gone []ended
		whole := true // nothing was lost on the way
		if from < first || from > next {
			gone, err = s.everything(r.Context(), a, &q, first, next)
		} else {
			gone, whole, err = s.since(a, &q, from, next)
		}
		if err == nil && a.count == 0 && len(gone) == 0 && from >= first && from <= next && s.wait(server, w, r, changed, end) {
			if _, ok := s.cfg.Keys.Find(secretOf(r), time.Now(), who.addr, r.UserAgent()); !ok {
				refuse(w, http.StatusForbidden, "access forbidden")
				return
			}
			from = next
			continue
		}
		if err == nil {
			err = a.closeStream(gone)
		}
		if err != nil { // the client is gone, or too slow: its cursor stays
			panic(http.ErrAbortHandler)
		}
		if !whole {
			next = 0
		}
		s.cursors.set(who, next)
		return
	}
}

// ended is a value that is no longer banned.
type ended struct {
	prefix netip.Prefix
	list   string
}

// everything writes all that is in force and returns what has ended lately.
func (s *Server) everything(ctx context.Context, a *answer, q *query, first, next uint64) ([]ended, error) {
	select {
	case s.large <- struct{}{}:
		defer func() { <-s.large }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	// What has ended first: a value of these that is banned anew meanwhile comes with the next answer, because its entry
	// in the log is not among these.
	var gone []ended
	oldest := time.Now().Add(-changesKept).Unix()
	if _, err := s.each(first, next, func(e entry, b Ban) error {
		if !b.Prefix.IsValid() && e.at >= oldest && q.lost(e) {
			gone = append(gone, ended{e.prefix, e.list})
		}
		return nil
	}); err != nil {
		return nil, err
	}
	skip := make([]netip.Prefix, len(gone))
	for i, e := range gone {
		skip[i] = e.prefix
	}
	slices.SortFunc(skip, comparePrefix)
	return gone, s.cfg.Agent.Bans(ctx, func(b Ban) error {
		if !q.fits(b) {
			return nil
		}
		if _, ended := slices.BinarySearchFunc(skip, b.Prefix, comparePrefix); ended {
			return nil
		}
		return a.ban(b)
	})
}

func comparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

// since writes what has changed since an entry of the log and is in force, and returns the rest. whole is false if the log
// has lost some of it.
func (s *Server) since(a *answer, q *query, from, next uint64) (gone []ended, whole bool, err error) {
	whole, err = s.each(from, next, func(e entry, b Ban) error {
		switch {
		case b.Prefix.IsValid() && q.fits(b):
			return a.ban(b)
		case e.stale >= from && q.lost(e): // else the client has never heard of it
			gone = append(gone, ended{e.prefix, e.list})
		}
		return nil
	})
	return gone, whole, err
}

// each calls f for each value that the log has from an entry on, before next, once, with its ban now, if it has one.
func (s *Server) each(from, next uint64, f func(entry, Ban) error) (whole bool, err error) {
	var entries []entry
	var prefixes []netip.Prefix
	whole = true
	for from < next && whole {
		entries, from, whole = s.changes.after(from, next, chunk, entries[:0])
		prefixes = prefixes[:0]
		for _, e := range entries {
			prefixes = append(prefixes, e.prefix)
		}
		for i, b := range s.cfg.Agent.Exact(prefixes) {
			if err := f(entries[i], b); err != nil {
				return false, err
			}
		}
	}
	return whole, nil
}

// wait holds an answer until something changes and reports whether it did: not if end passes, the server stops, or too
// many answers are held.
func (s *Server) wait(server context.Context, w http.ResponseWriter, r *http.Request, changed <-chan struct{}, end time.Time) bool {
	left := time.Until(end)
	if left <= 0 {
		return false
	}
	select {
	case s.held <- struct{}{}:
		s.Stats.Held.Add(1)
		defer func() { s.Stats.Held.Add(-1); <-s.held }()
	default:
		return false
	}
	// The deadline for reading the request would end it. A ResponseWriter without one needs no other.
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-changed:
		return true
	case <-timer.C:
	case <-server.Done():
	case <-r.Context().Done():
	}
	return false
}

// answer is JSON that is sent in pieces. Nothing is sent before flushAt bytes, or its end.
type answer struct {
	w       http.ResponseWriter
	buf     []byte
	now     time.Time
	count   int // decisions written
	started bool
}

func newAnswer(w http.ResponseWriter) *answer { return &answer{w: w, now: time.Now()} }

func (a *answer) open(head string) { a.buf = append(a.buf, head...) }

func (a *answer) ban(b Ban) error {
	if a.count++; a.count > 1 {
		a.buf = append(a.buf, ',')
	}
	a.buf = appendDecision(a.buf, b, a.now)
	return a.flush(flushAt)
}

// closeStream writes what has ended, and the end.
func (a *answer) closeStream(gone []ended) error {
	a.buf = append(a.buf, `],"deleted":[`...)
	for i, e := range gone {
		if i > 0 {
			a.buf = append(a.buf, ',')
		}
		a.buf = appendEnded(a.buf, e.prefix, e.list)
		if err := a.flush(flushAt); err != nil {
			return err
		}
	}
	a.buf = append(a.buf, `]}`...)
	return a.flush(0)
}

// flush sends what is buffered, if it has more than some bytes.
func (a *answer) flush(some int) error {
	if len(a.buf) <= some {
		return nil
	}
	deadline(a.w)
	a.start()
	_, err := a.w.Write(a.buf)
	a.buf = a.buf[:0]
	return err
}

func (a *answer) start() {
	if !a.started {
		a.started = true
		a.w.Header().Set("Content-Type", "application/json")
		a.w.WriteHeader(http.StatusOK)
	}
}
