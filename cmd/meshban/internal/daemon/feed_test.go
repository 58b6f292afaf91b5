package daemon

import (
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/apikey"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/feed"
	"github.com/meshban/meshban/cmd/meshban/internal/hostinfo"
	"github.com/meshban/meshban/cmd/meshban/internal/statedir"
)

// withLists starts a node that writes these files.
func withLists(t *testing.T, prepare func(*Daemon), files ...config.File) *node {
	t.Helper()
	dir := statedir.Dir(t.TempDir())
	cfg := testConfig(dir, "a")
	cfg.Files = files
	if _, _, err := dir.Init(cfg); err != nil {
		t.Fatal(err)
	}
	return startWith(t, dir, cfg, prepare)
}

// listed waits until a file has these lines, in any order.
func (n *node) listed(t *testing.T, name string, want ...string) {
	t.Helper()
	var text []byte
	slices.Sort(want)
	until(t, name+" has "+strings.Join(want, " "), func() bool {
		var err error
		text, err = os.ReadFile(n.listPath(name))
		got := strings.Fields(string(text))
		slices.Sort(got)
		return err == nil && slices.Equal(got, want)
	})
}

// The files follow bans of other nodes, ends, allows and reloads.
func TestListsFollowWhatIsBanned(t *testing.T) {
	t.Parallel()
	a := withLists(t, func(*Daemon) {}, config.File{Name: "a.txt", Format: "plain", Every: time.Second}, config.File{Name: "b.txt", Format: "cidr", Every: time.Second})
	a.listed(t, "a.txt")
	b := a.join(t, "b")
	b.ban(t, time.Hour, "192.0.2.7/32", "2001:db8::7/128")
	a.ban(t, 3*time.Second, "198.51.100.7/32")
	if _, err := a.Ban(t.Context(), control.BanRequest{Addrs: control.Prefixes{netip.MustParsePrefix("192.0.2.8/32")}, Ports: "22/tcp", Source: "cli"}); err != nil {
		t.Fatal(err)
	}
	a.listed(t, "a.txt", "192.0.2.7", "2001:db8::7", "198.51.100.7")
	a.listed(t, "b.txt", "192.0.2.7/32", "2001:db8::7/128", "198.51.100.7/32")
	a.listed(t, "a.txt", "192.0.2.7", "2001:db8::7") // one has ended
	if _, err := b.Allow(t.Context(), control.AllowRequest{Prefixes: control.Prefixes{netip.MustParsePrefix("192.0.2.7/32")}}); err != nil {
		t.Fatal(err)
	}
	a.listed(t, "a.txt", "2001:db8::7")
	a.reloads(t, "name: a\nallow: [\"2001:db8::/64\"]\nfiles: [{name: a.txt, format: plain, every: 1s}, {name: c.txt, format: nginx}]\n")
	a.listed(t, "a.txt")
	a.listed(t, "c.txt")
	if !strings.Contains(a.log.String(), "no longer written") {
		t.Error("the log does not say that b.txt is no longer written")
	}
	for path, want := range map[string]fs.FileMode{a.home.Feeds(): fs.ModeDir | 0o755, a.listPath("a.txt"): 0o644} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	if left, err := os.ReadDir(a.home.Feeds()); err != nil || len(left) != 3 {
		t.Errorf("%v, %v", left, err)
	}
}

// A file that is as it should be is not written again: a program that watches it would reload for nothing.
func TestAListThatIsTheSameIsNotWritten(t *testing.T) {
	t.Parallel()
	a := withLists(t, func(*Daemon) {}, config.File{Name: "a.txt", Format: "plain", Every: time.Second})
	a.ban(t, time.Hour, "192.0.2.7/32")
	a.listed(t, "a.txt", "192.0.2.7")
	before, err := os.Stat(a.listPath("a.txt"))
	if err != nil {
		t.Fatal(err)
	}
	looked := a.looked()
	a.ban(t, 2*time.Hour, "192.0.2.7/32") // for longer: the list is the same
	until(t, "the list was looked at again", func() bool { return a.looked() > looked })
	a.stop()
	a = start(t, a.home, a.cfg)
	until(t, "the list was looked at after a restart", func() bool { return a.looked() > 0 })
	if after, err := os.Stat(a.listPath("a.txt")); err != nil || !os.SameFile(before, after) {
		t.Errorf("it was written again: %v", err)
	}
}

// looked returns the version of the table with which lists were last compared.
func (n *node) looked() uint64 { return n.listLooked.Load() }

func TestAListThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	a := withLists(t, func(d *Daemon) {
		if err := os.WriteFile(d.home.Feeds(), nil, 0o600); err != nil {
			t.Error(err)
		}
	}, config.File{Name: "a.txt", Format: "plain", Every: time.Second})
	told := func() bool {
		return slices.ContainsFunc(a.problems.list(time.Now()), func(p string) bool {
			return strings.HasPrefix(p, "file a.txt: the list is not up to date: ") && strings.Contains(p, "`")
		})
	}
	until(t, "the problem is told", told)
	if err := os.Remove(a.home.Feeds()); err != nil {
		t.Fatal(err)
	}
	a.listed(t, "a.txt")
	until(t, "the problem is over", func() bool { return !told() })
}

// entries returns what lists show.
func (n *node) entries(t *testing.T) (all []string) {
	t.Helper()
	err := n.Entries(t.Context(), func(e feed.Entry) error {
		all = append(all, e.Prefix.String())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return all
}

// The kernel looks at exceptions first. A list has no such order: a banned network used to take what is allowed in it along.
func TestListsLeaveOutWhatIsNeverBanned(t *testing.T) {
	t.Parallel()
	own := netip.MustParsePrefix("198.51.100.0/26")
	a := withLists(t, func(d *Daemon) {
		d.host = func() ([]hostinfo.Entry, error) {
			return []hostinfo.Entry{{Prefix: own, Why: hostinfo.OwnNetwork}}, nil
		}
	})
	until(t, "the own network is known", func() bool { return a.networks.Load() != nil })
	if _, err := a.Allow(t.Context(), control.AllowRequest{Prefixes: control.Prefixes{netip.MustParsePrefix("192.0.2.2/32")}}); err != nil {
		t.Fatal(err)
	}
	a.ban(t, time.Hour, "192.0.2.0/30", "192.0.2.2/32", "198.51.100.0/24", "198.51.100.9/32")
	want := []string{"192.0.2.0/31", "192.0.2.3/32", "198.51.100.128/25", "198.51.100.64/26", "198.51.100.9/32"}
	until(t, "the kernel has left the network out", func() bool { return slices.Equal(a.entries(t), want) })
}

// What is on hold, or waits for a quorum, is not in force.
func TestListsHaveOnlyWhatIsInForce(t *testing.T) {
	t.Parallel()
	a := first(t, "a")
	b := a.join(t, "b")
	a.reloads(t, "name: a\nbans: {quorum: 2}\n")
	b.ban(t, time.Hour, "192.0.2.7/32")
	until(t, "the ban waits", func() bool { return a.counts().Pending == 1 })
	if all := a.entries(t); len(all) != 0 {
		t.Errorf("%v", all)
	}
	a.ban(t, time.Hour, "192.0.2.7/32")
	if all := a.entries(t); !slices.Equal(all, []string{"192.0.2.7/32"}) {
		t.Errorf("%v", all)
	}
}

// The listener shows lists of what a key may read.
func TestListsOfAKey(t *testing.T) {
	t.Parallel()
	a := withAPI(t)
	a.ban(t, time.Hour, "192.0.2.7/32", "2001:db8::7/128")
	a.write(t, "HOST 192.0.2.8 PORT 22 jail=sshd\n")
	until(t, "the line has banned", func() bool { return a.enforces(t, "192.0.2.8/32") })
	for want, key := range map[string]apikey.Key{
		"192.0.2.7 192.0.2.8 2001:db8::7": {Name: "all", May: []string{apikey.Read}},
		"192.0.2.7 192.0.2.8":             {Name: "four", May: []string{apikey.Read}, Family: 4},
		"192.0.2.8":                       {Name: "lines", May: []string{apikey.Read}, Sources: []string{"line:*"}},
	} {
		rep, err := a.AddKey(t.Context(), control.AddKeyRequest{Key: key})
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Fields(bouncer{a, rep.Key}.call(t, "GET", "/feed/plain", ""))
		slices.Sort(got)
		if strings.Join(got, " ") != want {
			t.Errorf("key %s reads %q, want %s", key.Name, got, want)
		}
	}
}
