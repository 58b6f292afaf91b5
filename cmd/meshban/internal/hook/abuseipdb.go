package hook

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
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
	addr := e.Prefix.Addr()
	return (e.Source == "line" || strings.HasPrefix(e.Source, "line:")) && e.Prefix.IsValid() && e.Prefix.IsSingleIP() &&
		addr.IsGlobalUnicast() && !addr.IsPrivate()
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
func (r *reporter) report(ctx context.Context, w config.Webhook, to target, m *message) error {
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
		if err := retry(ctx, w.Tries, func() error { return post(ctx, w.Timeout, to, []byte(body), header) }); err != nil {
			return err
		}
	}
	return nil
}
