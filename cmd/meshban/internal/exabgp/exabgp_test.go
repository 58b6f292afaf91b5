package exabgp

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/feed"
)

var start = time.Date(2026, 11, 22, 11, 0, 0, 0, time.UTC)

func ban(prefix string, left time.Duration, origins ...string) feed.Entry {
	if origins == nil {
		origins = []string{"web1"}
	}
	return feed.Entry{Prefix: netip.MustParsePrefix(prefix), Until: start.Add(left), Origins: origins}
}

// router is what a router with ExaBGP has after the commands so far.
type router struct {
	*Routes
	out  *strings.Builder
	has  []string
	left Left
}

func newRouter(change func(*Options)) *router {
	opts := Default()
	change(&opts)
	out := new(strings.Builder)
	return &router{Routes: New(opts, out), out: out}
}

func (r *router) sync(t *testing.T, after time.Duration, except string, bans ...feed.Entry) {
	t.Helper()
	var prefixes []netip.Prefix
	for _, p := range strings.Fields(except) {
		prefixes = append(prefixes, netip.MustParsePrefix(p))
	}
	var err error
	r.left, err = r.Sync(start.Add(after), feed.NewExceptions(prefixes), listOf(bans))
	if err != nil {
		t.Fatal(err)
	}
	r.obey(t)
}

func listOf(bans []feed.Entry) func(func(feed.Entry) error) error {
	return func(yield func(feed.Entry) error) error {
		for _, b := range bans {
			if err := yield(b); err != nil {
				return err
			}
		}
		return nil
	}
}

// obey does what the commands say. A route that is announced twice, or withdrawn when it is not there, is a fault.
func (r *router) obey(t *testing.T) {
	t.Helper()
	for line := range strings.Lines(r.out.String()) {
		verb, what, _ := strings.Cut(strings.TrimSpace(line), " ")
		i := slices.Index(r.has, what)
		switch {
		case verb == "announce" && i < 0:
			r.has = append(r.has, what)
		case verb == "withdraw" && i >= 0:
			r.has = slices.Delete(r.has, i, i+1)
		default:
			t.Errorf("%q, and there is %q", line, r.has)
		}
		if !strings.Contains(what, "no-export") {
			t.Errorf("it may leave the AS: %q", line)
		}
	}
	r.out.Reset()
	slices.Sort(r.has)
}

// wants fails unless the router has routes for these prefixes, and no other.
func (r *router) wants(t *testing.T, prefixes ...string) {
	t.Helper()
	var got []string
	for _, what := range r.has {
		words := strings.Fields(what)
		if words[0] == "route" {
			got = append(got, words[1])
		} else {
			got = append(got, strings.TrimSuffix(words[slices.Index(words, "source")+1], ";"))
		}
	}
	slices.Sort(got)
	slices.Sort(prefixes)
	if !slices.Equal(got, prefixes) || len(got) != len(r.in) {
		t.Errorf("the router has %q, want %q", got, prefixes)
	}
}

func TestCommands(t *testing.T) {
	r := newRouter(func(o *Options) { o.Communities = []string{"65000:1"} })
	r.sync(t, 0, "", ban("192.0.2.0/24", 2*time.Hour), ban("2001:db8::1/128", 2*time.Hour))
	want := []string{
		"flow route { match { source 192.0.2.0/24; } then { discard; community [ no-export 65000:1 ]; } }",
		"flow route { match { source 2001:db8::1/128; } then { discard; community [ no-export 65000:1 ]; } }",
	}
	if !slices.Equal(r.has, want) {
		t.Errorf("%q", r.has)
	}
	r = newRouter(func(o *Options) { o.Blackhole, o.Communities = true, []string{"65535:666"} })
	r.sync(t, 0, "", ban("192.0.2.7/32", 2*time.Hour), ban("2001:db8::1/128", 2*time.Hour), ban("198.51.100.0/24", 2*time.Hour))
	want = []string{
		"route 192.0.2.7/32 next-hop 192.0.2.1 community [ no-export 65535:666 ]",
		"route 2001:db8::1/128 next-hop 100::1 community [ no-export 65535:666 ]",
	}
	if !slices.Equal(r.has, want) || r.left.Forms != 1 {
		t.Errorf("%q, %+v", r.has, r.left)
	}
}

func TestRoutesFollowBans(t *testing.T) {
	r := newRouter(func(*Options) {})
	a, b := ban("192.0.2.1/32", 2*time.Hour), ban("192.0.2.2/32", 3*time.Hour)
	r.sync(t, 0, "", a)
	r.sync(t, 0, "", a, b)
	r.wants(t, "192.0.2.1/32", "192.0.2.2/32")
	r.sync(t, time.Minute, "", b)
	r.wants(t, "192.0.2.2/32")
	r.sync(t, 150*time.Minute, "", b) // it has less than an hour left, and stays
	r.wants(t, "192.0.2.2/32")
	if err := r.Expire(start.Add(3*time.Hour - 1)); err != nil {
		t.Error(err)
	}
	r.obey(t)
	r.wants(t, "192.0.2.2/32")
	if err := r.Expire(start.Add(3 * time.Hour)); err != nil {
		t.Error(err)
	}
	r.obey(t)
	r.wants(t)
	r.sync(t, 0, "", a, b)
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	r.obey(t)
	r.wants(t)
}

// A ban that is made longer keeps its route for longer; one that is made shorter does not.
func TestEndsAreFollowed(t *testing.T) {
	for _, left := range []time.Duration{4 * time.Hour, 90 * time.Minute} {
		r := newRouter(func(*Options) {})
		r.sync(t, 0, "", ban("192.0.2.1/32", 2*time.Hour))
		r.sync(t, 0, "", ban("192.0.2.1/32", left))
		if err := r.Expire(start.Add(left - 1)); err != nil {
			t.Error(err)
		}
		r.obey(t)
		r.wants(t, "192.0.2.1/32")
		if err := r.Expire(start.Add(left)); err != nil {
			t.Error(err)
		}
		r.obey(t)
		r.wants(t)
	}
}

func TestThresholds(t *testing.T) {
	r := newRouter(func(o *Options) { o.Origins, o.AtLeast = 2, time.Hour })
	port := ban("192.0.2.4/32", 2*time.Hour, "web1", "web2")
	port.Ports = "22/tcp"
	r.sync(t, 0, "",
		ban("192.0.2.1/32", 2*time.Hour, "web1"), ban("192.0.2.2/32", time.Hour-1, "web1", "web2"),
		ban("192.0.2.3/32", time.Hour, "web1", "web2"), port)
	r.wants(t, "192.0.2.3/32")
	if r.left != (Left{Forms: 1}) {
		t.Errorf("%+v", r.left)
	}
	r.sync(t, 0, "", ban("192.0.2.3/32", time.Hour, "web1")) // the other node was revoked
	r.wants(t)
}

func TestCap(t *testing.T) {
	r := newRouter(func(o *Options) { o.Most = 2 })
	a, b, c, d := ban("192.0.2.1/32", 2*time.Hour), ban("192.0.2.2/32", 2*time.Hour), ban("192.0.2.3/32", 2*time.Hour), ban("192.0.2.0/32", 2*time.Hour)
	r.sync(t, 0, "", b, c, a)
	r.wants(t, "192.0.2.2/32", "192.0.2.3/32")
	if r.left.Room != 1 {
		t.Errorf("%+v", r.left)
	}
	r.sync(t, 0, "", d, a, b, c) // those that are there stay
	r.wants(t, "192.0.2.2/32", "192.0.2.3/32")
	if r.left.Room != 2 {
		t.Errorf("%+v", r.left)
	}
	r.sync(t, 0, "", a, c)
	r.wants(t, "192.0.2.1/32", "192.0.2.3/32")
	if r.left.Room != 0 {
		t.Errorf("%+v", r.left)
	}
}

// A router has no list of exceptions: what is allowed in a banned network is cut out of it.
func TestExceptions(t *testing.T) {
	r := newRouter(func(*Options) {})
	wide := ban("192.0.2.0/30", 2*time.Hour)
	r.sync(t, 0, "192.0.2.1/32 10.0.0.0/8", wide, ban("10.1.2.3/32", 2*time.Hour))
	r.wants(t, "192.0.2.0/32", "192.0.2.2/31")
	r.sync(t, 0, "", wide)
	r.wants(t, "192.0.2.0/30")
	var many []string
	for i := range maxPieces {
		many = append(many, netip.AddrFrom4([4]byte{192, 0, 2, byte(2 * i)}).String()+"/32")
	}
	r.sync(t, 0, strings.Join(many, " "), ban("192.0.2.0/24", 2*time.Hour))
	r.wants(t)
	if r.left.Forms != 1 {
		t.Errorf("%+v", r.left)
	}
}

// A list that ends early used to look like bans that have ended.
func TestAListThatFailsChangesNothing(t *testing.T) {
	r := newRouter(func(*Options) {})
	a, b := ban("192.0.2.1/32", 2*time.Hour), ban("192.0.2.2/32", 2*time.Hour)
	r.sync(t, 0, "", a, b)
	broken := errors.New("broken")
	_, err := r.Sync(start, feed.Exceptions{}, func(yield func(feed.Entry) error) error { return errors.Join(yield(a), broken) })
	if !errors.Is(err, broken) || r.out.Len() != 0 {
		t.Errorf("%v, %q", err, r.out)
	}
	r.sync(t, 0, "", b)
	r.wants(t, "192.0.2.2/32")
}

func TestCommunities(t *testing.T) {
	for s, ok := range map[string]bool{
		"65535:666": true, "0:0": true, "blackhole": true, "no-advertise": true,
		"65536:1": false, "1": false, "1:2:3": false, "1:2 ]": false, "-1:2": false, "01:2": false, "": false, "x": false, "no-export; }": false,
	} {
		if got, err := ParseCommunity(s); (err == nil) != ok || ok && got != s {
			t.Errorf("%q: %q, %v", s, got, err)
		}
	}
}
