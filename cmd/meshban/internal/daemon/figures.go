package daemon

import (
	"cmp"
	"context"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/fw"
	"github.com/meshban/meshban/logsrc"
	"github.com/meshban/meshban/mesh"
)

const (
	metricsPrefix = "meshban_"
	// maxMemberSeries bounds the members that have series of their own.
	maxMemberSeries = 256
	// maxSourceSeries bounds the sources of bans that have series of their own; the rest is otherSources.
	maxSourceSeries = 20
	otherSources    = "other"
	// countSourcesEvery is the least time between two counts of the table by source.
	countSourcesEvery = time.Minute
	// askDroppedEvery is the least time between two questions to the kernel, which may start two processes;
	// askDroppedLimit bounds one.
	askDroppedEvery, askDroppedLimit = 5 * time.Second, 2 * time.Second
)

// figure is a metric that is read at each scrape.
type figure struct {
	name   string // after metricsPrefix; that of a counter, and of nothing else, ends with _total
	help   string
	labels []string
	read   func(s *scrape, put put)
}

// put adds a sample. The values of labels are in the order of figure.labels.
type put func(value float64, labels ...string)

// scrape is what figures read, looked up once for all of them.
type scrape struct {
	d       *Daemon
	now     time.Time
	counts  ban.Counts
	kernel  fw.Status
	mesh    mesh.Stats
	members []mesh.Member
	status  control.Status
	sources map[sourceState]int
	dropped map[string]fw.Dropped // by family
}

type sourceState struct{ source, state string }

// one is a figure without labels.
func one(name, help string, read func(s *scrape) float64) figure {
	return figure{name, help, nil, func(s *scrape, put put) { put(read(s)) }}
}

// figures returns all figures.
func figures() []figure {
	return slices.Concat(banFigures(), meshFigures(), outletFigures())
}

func banFigures() []figure {
	return []figure{
		one("bans_active", "Bans in force.", func(s *scrape) float64 { return float64(s.counts.Active) }),
		one("bans_pending", "Bans that wait for more nodes to see the same.", func(s *scrape) float64 { return float64(s.counts.Pending) }),
		one("bans_held", "Bans of peers that wait for the operator.", func(s *scrape) float64 { return float64(s.counts.Held) }),
		one("paused", "1 while this node is paused and drops nothing.", func(s *scrape) float64 { return float64(count(s.kernel.Paused)) }),
		one("bans_allowed", "Bans without effect, because the address is allowed.", func(s *scrape) float64 { return float64(s.counts.Allowed) }),
		{"bans", "Bans by source and state, counted once a minute at most; the rarest sources are called other.", []string{"source", "state"}, func(s *scrape, put put) {
			for of, n := range s.sources {
				put(float64(n), of.source, of.state)
			}
		}},
		one("own_bans_held_by_peers", "Bans of this node that peers report as held.", func(s *scrape) float64 { return float64(s.d.heldByPeers()) }),
		one("kernel_entries", "Entries that the kernel holds.", func(s *scrape) float64 { return float64(s.kernel.Enforced) }),
		one("kernel_entries_missing", "Entries that the kernel should hold but does not.", func(s *scrape) float64 { return float64(s.kernel.NotEnforced) }),
		one("kernel_repairs_total", "Times that something of ours was missing in the kernel and was restored.", func(s *scrape) float64 { return float64(s.kernel.Repairs) }),
		{"dropped_packets_total", "Packets of banned addresses that the kernel has dropped, by family; restarts from 0 when the rules are replaced.", []string{"family"}, func(s *scrape, put put) {
			for family, n := range s.dropped {
				put(float64(n.Packets), family)
			}
		}},
		{"dropped_bytes_total", "Bytes of those packets.", []string{"family"}, func(s *scrape, put put) {
			for family, n := range s.dropped {
				put(float64(n.Bytes), family)
			}
		}},
		one("lines_accepted_total", "Lines of the line file that were understood.", func(s *scrape) float64 { return float64(s.d.follower.Stats().Accepted) }),
		{"lines_ignored_total", "Lines of the line file without effect, by reason.", []string{"reason"}, func(s *scrape, put put) {
			for _, r := range logsrc.Reasons() {
				put(float64(s.status.Lines.IgnoredBy[r.String()]), r.String())
			}
			put(float64(s.d.lines.refused.Load()), refusedLine)
		}},
		one("lines_echoes_total", "Lines that repeat what this node wrote itself.", func(s *scrape) float64 { return float64(s.d.lines.echoes.Load()) }),
		one("lines_emitted_total", "Lines that this node wrote for bans of peers.", func(s *scrape) float64 { return float64(s.d.lines.emitted.Load()) }),
		one("lines_unemitted_total", "Lines for bans of peers that could not be written.", func(s *scrape) float64 { return float64(s.d.lines.unemitted.Load() + s.d.emit.dropped()) }),
	}
}

func meshFigures() []figure {
	return []figure{
		one("members_alive", "Members that are alive, this node included.", func(s *scrape) float64 { return float64(s.status.Mesh.Alive) }),
		one("members_in_sync", "Members that are alive and were found to hold what this node holds.", func(s *scrape) float64 { return float64(s.status.Mesh.InSync) }),
		{"members", "Members by state, this node included.", []string{"state"}, func(s *scrape, put put) {
			n := map[mesh.State]int{mesh.StateAlive: 0, mesh.StateSuspect: 0, mesh.StateDead: 0, mesh.StateLeft: 0}
			for _, m := range s.members {
				n[m.State]++
			}
			for state, n := range n {
				put(float64(n), state.String())
			}
		}},
		{"member_last_contact_seconds", "Time since a member was last found to hold what this node holds, for 256 members at most.", []string{"member", "id"}, func(s *scrape, put put) {
			left := maxMemberSeries
			for _, m := range s.members {
				if m.Self || m.State == mesh.StateLeft || m.Confirmed.IsZero() || left == 0 {
					continue
				}
				left--
				put(max(0, s.now.Sub(m.Confirmed).Seconds()), s.d.names.plain(ban.Origin(m.ID)), m.ID.String())
			}
		}},
		{"certificate_expiry_timestamp_seconds", "When this node's certificate ends.", nil, func(s *scrape, put put) {
			for _, m := range s.members {
				if c := s.d.mesh.Standing(m.ID).Certificate; m.Self && c != nil {
					put(float64(c.NotAfter.Unix()))
				}
			}
		}},
		{"clock_skew_seconds", "How far this machine's clock is ahead of the members' median; negative: behind.", nil, func(s *scrape, put put) {
			if skew, ok := s.d.mesh.ClockSkew(); ok {
				put(skew.Seconds())
			}
		}},
		one("frames_held", "Live frames.", func(s *scrape) float64 { return float64(s.mesh.Held) }),
		one("frames_waiting", "Frames that wait for their origin's certificate.", func(s *scrape) float64 { return float64(s.mesh.AwaitingCert) }),
		one("frames_received_total", "Frames that arrived.", func(s *scrape) float64 { return float64(s.mesh.Received) }),
		one("frames_duplicate_total", "Frames that arrived and were there already.", func(s *scrape) float64 { return float64(s.mesh.Duplicates) }),
		{"frames_refused_total", "Frames that were refused, by reason.", []string{"reason"}, func(s *scrape, put put) {
			for reason, n := range s.mesh.Refused {
				put(float64(n), reason)
			}
		}},
		one("frames_sent_total", "Frames pushed to members, counted once per receiver.", func(s *scrape) float64 { return float64(s.mesh.Sent) }),
		one("frames_synced_total", "Frames that a comparison with a member brought.", func(s *scrape) float64 { return float64(s.mesh.Synced) }),
		one("syncs_total", "Comparisons with a member that found a difference.", func(s *scrape) float64 { return float64(s.mesh.Syncs) }),
		one("queue_dropped_total", "Messages lost because a queue was full; comparisons bring them.", func(s *scrape) float64 { return float64(s.mesh.Dropped) }),
		one("stranger_packets_total", "Packets and streams of senders without the mesh's key.", func(s *scrape) float64 { return float64(s.mesh.Strangers) }),
		one("limited_packets_total", "Packets and streams dropped because their sender exceeded its limit.", func(s *scrape) float64 { return float64(s.mesh.Limited) }),
		one("slowed_origins", "Nodes whose rate is reduced now.", func(s *scrape) float64 { return float64(s.mesh.Slowed) }),
		one("notices_received_total", "Notices that ops of this node are held or refused elsewhere.", func(s *scrape) float64 { return float64(s.mesh.Notices) }),
		one("notices_refused_total", "Notices that were not believed.", func(s *scrape) float64 { return float64(s.mesh.NoticesRefused) }),
	}
}

func outletFigures() []figure {
	return []figure{
		{"build_info", "1; the labels say what runs.", []string{"version", "goversion"}, func(s *scrape, put put) { put(1, s.d.version, runtime.Version()) }},
		{"problem", "Problems in `meshban status`, by kind; none if there are none.", []string{"kind"}, func(s *scrape, put put) {
			n := map[string]int{}
			for _, text := range s.status.Problems {
				kind, _, _ := strings.Cut(text, ": ")
				n[kind]++
			}
			for kind, n := range n {
				put(float64(n), kind)
			}
		}},
		one("api_requests_total", "Requests to the api listener.", func(s *scrape) float64 { return float64(s.d.api.Stats.Requests.Load()) }),
		one("api_forbidden_total", "Requests with a wrong key, or none.", func(s *scrape) float64 { return float64(s.d.api.Stats.Forbidden.Load()) }),
		one("api_dropped_total", "Connections without a key that made room for others.", func(s *scrape) float64 { return float64(s.d.api.Stats.Dropped.Load()) }),
		one("api_answers_held", "Requests of the api listener that wait for changes now.", func(s *scrape) float64 { return float64(s.d.api.Stats.Held.Load()) }),
		one("api_bans_left_out", "Bans that bouncers do not get: those for some ports only, and ranges with an exception inside.", func(s *scrape) float64 {
			return float64(int(s.d.api.portBans.Load()) + s.d.api.rangesLeftOut())
		}),
		{"api_key_last_pull_timestamp_seconds", "When a key of the api listener was last used.", []string{"key"}, func(s *scrape, put put) {
			for _, k := range s.d.api.keys.List() {
				if !k.Use.At.IsZero() {
					put(float64(k.Use.At.Unix()), k.Name)
				}
			}
		}},
		one("hooks_sent_total", "Messages that hooks sent.", func(s *scrape) float64 { return float64(s.d.hooks.Stats().Sent) }),
		one("hooks_failed_total", "Messages that hooks could not send.", func(s *scrape) float64 { return float64(s.d.hooks.Stats().Failed) }),
		one("hooks_dropped_events_total", "Events that came too fast for hooks.", func(s *scrape) float64 { return float64(s.d.hooks.Stats().Dropped) }),
		one("audit_lost_total", "Changes that the audit log lacks.", func(s *scrape) float64 { return float64(s.d.audit.Lost()) }),
		one("store_commits_total", "Writes to the store.", func(s *scrape) float64 { return float64(s.d.store.Stats().Commits) }),
		{"store_bytes", "Size of the store's file.", nil, func(s *scrape, put put) {
			if info, err := os.Stat(s.d.home.Store()); err == nil {
				put(float64(info.Size()))
			}
		}},
	}
}

// scraper collects the figures of a node.
type scraper struct {
	d       *Daemon
	figures []figure
	descs   []*prometheus.Desc

	mu      sync.Mutex // guards what follows
	sources map[sourceState]int
	counted time.Time             // when sources was counted
	dropped map[string]fw.Dropped // by family; nil = unknown
	asked   time.Time             // when the kernel was asked for dropped
}

func newScraper(d *Daemon) *scraper {
	c := &scraper{d: d, figures: figures()}
	for _, f := range c.figures {
		c.descs = append(c.descs, prometheus.NewDesc(metricsPrefix+f.name, f.help, f.labels, nil))
	}
	return c
}

// Describe implements prometheus.Collector.
func (c *scraper) Describe(to chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (c *scraper) Collect(to chan<- prometheus.Metric) {
	d := c.d
	s := &scrape{
		d: d, now: time.Now(), counts: d.state.Counts(), kernel: d.fw.Status(), mesh: d.mesh.Stats(), members: d.mesh.Members(),
		status: d.localStatus(), sources: c.bySource(), dropped: c.byFamily(),
	}
	for i, f := range c.figures {
		kind := prometheus.GaugeValue
		if strings.HasSuffix(f.name, "_total") {
			kind = prometheus.CounterValue
		}
		f.read(s, func(value float64, labels ...string) {
			to <- prometheus.MustNewConstMetric(c.descs[i], kind, value, labels...)
		})
	}
}

// byFamily returns what the kernel has dropped, or nil if it does not say.
func (c *scraper) byFamily() map[string]fw.Dropped {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if now.Sub(c.asked) < askDroppedEvery {
		return c.dropped
	}
	ctx, cancel := context.WithTimeout(context.Background(), askDroppedLimit)
	defer cancel()
	v4, v6, err := c.d.fw.Dropped(ctx)
	c.dropped, c.asked = map[string]fw.Dropped{"ipv4": v4, "ipv6": v6}, now
	if err != nil {
		c.dropped = nil
		c.d.log.Debug("the kernel does not say what it has dropped", "err", err)
	}
	return c.dropped
}

// bySource counts bans by source and state.
func (c *scraper) bySource() map[sourceState]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); c.sources == nil || now.Sub(c.counted) >= countSourcesEvery {
		bans := map[sourceState]int{}
		c.d.state.Entries(func(e ban.Entry) bool {
			bans[sourceState{e.Source, e.State.String()}]++
			return true
		})
		c.sources, c.counted = commonSources(bans), now
	}
	return c.sources
}

// commonSources returns counts in which the rarest sources go by one name.
func commonSources(bans map[sourceState]int) map[sourceState]int {
	sums := map[string]int{}
	for of, n := range bans {
		sums[of.source] += n
	}
	sources := slices.SortedFunc(maps.Keys(sums), func(a, b string) int { return cmp.Or(sums[b]-sums[a], strings.Compare(a, b)) })
	sources = sources[:min(len(sources), maxSourceSeries)] // peers may name any number
	common := map[sourceState]int{}
	for of, n := range bans {
		if !slices.Contains(sources, of.source) {
			of.source = otherSources
		}
		common[of] += n
	}
	return common
}
