package hook

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/hostinfo"
)

// What AbuseIPDB takes from a free account: docs.abuseipdb.com, "API Daily Rate Limits" and "REPORT Endpoint".
const (
	reportsPerDay = 1000
	reportAgain   = 15 * time.Minute // the same address
)

// Categories of abuseipdb.com/categories.
const (
	categoriesSSH = "18,22" // brute force, SSH
	categoryOther = "18"
)

// reportable reports whether a ban may be reported: a single public address from a log line.
func reportable(e control.Event) bool {
	return (e.Source == "line" || strings.HasPrefix(e.Source, "line:")) && e.Prefix.IsValid() && e.Prefix.IsSingleIP() &&
		hostinfo.IsPublic(e.Prefix.Addr())
}

// reporter reports addresses within the service's limits.
type reporter struct {
	mu     sync.Mutex // guards what follows
	day    time.Time  // to which today belongs
	today  int
	recent map[netip.Addr]time.Time // at most reportsPerDay
}

// mayReport reports whether an address may be reported now, and counts it.
func (r *reporter) mayReport(now time.Time, addr netip.Addr) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if day := now.UTC().Truncate(24 * time.Hour); !day.Equal(r.day) {
		r.day, r.today = day, 0
	}
	for a, at := range r.recent {
		if now.Sub(at) >= reportAgain {
			delete(r.recent, a)
		}
	}
	if _, again := r.recent[addr]; again || r.today >= reportsPerDay {
		return false
	}
	if r.recent == nil {
		r.recent = map[netip.Addr]time.Time{}
	}
	r.recent[addr] = now
	r.today++
	return true
}

// report sends one report for each address of a message. The comment names the jail and holds nothing of the log.
//
// An address that is refused holds up no other: another machine with the same key may have reported it a moment ago. It
// fails with the first refusal if no report was taken.
func (r *reporter) report(ctx context.Context, w config.Webhook, to target, m *message) error {
	taken, first := false, error(nil)
	for _, e := range m.Events {
		addr := e.Prefix.Addr()
		if !r.mayReport(time.Now(), addr) {
			continue
		}
		comment, categories := "banned by a log line", categoryOther
		if _, jail, ok := strings.Cut(e.Source, ":"); ok {
			comment = "banned by fail2ban " + clean(jail)
			if strings.Contains(jail, "ssh") {
				categories = categoriesSSH
			}
		}
		body := url.Values{
			"ip": {addr.String()}, "categories": {categories}, "timestamp": {e.Time.Format(time.RFC3339)},
			"comment": {comment},
		}.Encode()
		header := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "Accept": {"application/json"}}
		var refused *refusal
		err := retry(ctx, w.Tries, func() error {
			err := post(ctx, w.Timeout, to, []byte(body), header)
			if bad, ok := errors.AsType[*refusal](err); ok && (bad.status == http.StatusTooManyRequests || bad.status == http.StatusUnprocessableEntity) {
				refused = bad
				return nil // not tried again
			}
			return err
		})
		switch {
		case err != nil:
			return err
		case refused == nil:
			taken = true
		case refused.pause >= maxPause: // the key has had its share of today
			return refused
		case first == nil:
			first = refused
		}
	}
	if taken {
		return nil
	}
	return first
}
