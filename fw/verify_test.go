package fw

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// watched is a fake that somebody else changes behind the Syncer's back.
type watched struct {
	*fake
	mark    atomic.Int64
	emptied atomic.Bool
	glances atomic.Int64
}

func (w *watched) glance(context.Context) (problems []string, mark string, err error) {
	w.glances.Add(1)
	if w.emptied.Load() {
		problems = []string{"the set was emptied"}
	}
	return problems, fmt.Sprint(w.mark.Load()), nil
}

func (w *watched) Replace(ctx context.Context, now time.Time, state State) error {
	w.emptied.Store(false)
	return w.fake.Replace(ctx, now, state)
}

// Changes by others are noticed within a second; while nothing changes, a full check runs only now and then.
func TestGlances(t *testing.T) {
	var w *watched
	withSyncer(t, func(f *fake) Backend { w = &watched{fake: f}; return w }, func(b *bench) {
		b.submit(b.ban("192.0.2.1/32"))
		b.pass(5 * time.Second)
		b.expect("checks before the first load", b.Status().Checks, 0)
		if err := b.Replace(b.Context()); err != nil {
			t.Fatal(err)
		}
		b.pass(3 * DefaultGlanceEvery)
		b.expect("checks after the load", b.Status().Checks, 1)
		b.pass(10 * DefaultGlanceEvery)
		b.expect("checks while nothing changes", b.Status().Checks, 1)
		w.emptied.Store(true)
		b.pass(DefaultGlanceEvery + time.Millisecond)
		b.expect("repairs", b.Status().Repairs, 1)
		b.expect("told", b.told(), [][]string{{"the set was emptied"}})
		b.pass(2 * DefaultGlanceEvery)
		checks := b.Status().Checks
		b.fake.set(func(f *fake) { f.problems = []string{"the jump is missing"} })
		b.pass(2 * DefaultGlanceEvery)
		b.expect("checks without a change of the mark", b.Status().Checks, checks)
		w.mark.Add(1)
		b.pass(DefaultGlanceEvery + time.Millisecond)
		b.expect("checks once it changed", b.Status().Checks, checks+1)
		b.expect("repairs", b.Status().Repairs, 2)
		synctest.Wait()
	})
}

// polled is a watched fake that counts what it is asked.
type polled struct {
	*watched
	all                   bool // marksAll
	sets, rules, verifies atomic.Int64
}

func (p *polled) marksAll() bool { return p.all }

func (p *polled) checkSets(context.Context) ([]string, error) { p.sets.Add(1); return nil, nil }

func (p *polled) checkRules(context.Context) ([]string, error) { p.rules.Add(1); return nil, nil }

func (p *polled) verify(context.Context, time.Time, *tracker) ([]doubt, error) {
	p.verifies.Add(1)
	return nil, nil
}

// Whoever adds a question to the kernel adds it to this table, and to the CPU time of every idle agent.
func TestQuestionsOfAQuietSyncer(t *testing.T) {
	const window = 10 * time.Minute
	for _, tt := range []struct {
		name  string
		all   bool
		rules int64 // each costs four commands
	}{
		{"ok: the mark tells of every change of rules", true, 0},
		{"ok: it does not", false, int64(window / DefaultCheckEvery)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var p *polled
			withSyncer(t, func(f *fake) Backend { p = &polled{watched: &watched{fake: f}, all: tt.all}; return p }, func(b *bench) {
				b.submit(b.ban("192.0.2.1/32"))
				if err := b.Replace(b.Context()); err != nil {
					t.Fatal(err)
				}
				b.pass(5 * time.Second)
				read := func() []int64 {
					n := []int64{p.glances.Load(), p.sets.Load(), p.rules.Load(), p.verifies.Load()}
					p.set(func(f *fake) { n = append(n, int64(f.replaces), int64(len(f.batches)), int64(f.refills)) })
					return n
				}
				before := read()
				b.pass(window)
				checks := int64(window / DefaultCheckEvery)
				want := []int64{int64(window/DefaultGlanceEvery) + checks, checks, tt.rules, checks, 0, 0, 0}
				for i, n := range read() {
					want[i] += before[i]
					if n != want[i] {
						t.Errorf("question %d: asked %d times in %v, want %d", i, n-before[i], window, want[i]-before[i])
					}
				}
			})
		})
	}
}

// doubtful is a fake whose sets hold n plain addresses, as far as verify can tell.
type doubtful struct {
	fake
	n int
}

func (d *doubtful) verify(_ context.Context, _ time.Time, held *tracker) ([]doubt, error) {
	want := len(held.v4)
	if d.n == want {
		return nil, nil
	}
	text := fmt.Sprintf("%d addresses, where %d should be", d.n, want)
	if d.n > want {
		return []doubt{{text: text}}, nil
	}
	return []doubt{{text, d.n, isPlain}}, nil
}

// An emptied set is noticed at the first missing entry; an entry about to end, or never given to the kernel, is not missed.
func TestMissing(t *testing.T) {
	const live, ending = 20, 5
	looked := 0
	b := &doubtful{}
	entries := func(yield func(Entry) bool) {
		for i := range live + ending {
			e := Entry{Prefix: netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/32", i)), Until: time.Now().Add(time.Hour)}
			if i >= live {
				e.Until = time.Now().Add(endSlack / 2)
			}
			looked++
			if !yield(e) {
				return
			}
		}
	}
	s, err := NewSyncer(SyncerConfig{Backend: b, Snapshot: func() State { return State{Entries: entries} }})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Replace(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		n, looked int
		want      string
	}{
		{live + ending, 0, "[]"}, // nothing is missing: no entry is looked at
		{live, live + ending, "[]"},
		{live - 1, live, "[19 addresses, where 25 should be]"},
		{0, 1, "[0 addresses, where 25 should be]"},
		{live + ending + 1, 0, "[26 addresses, where 25 should be]"},
	} {
		b.n, looked = tc.n, 0
		problems, err := s.verify(t.Context())
		if err != nil || fmt.Sprint(problems) != tc.want || looked != tc.looked {
			t.Errorf("with %d in the kernel: %v %v after a look at %d, want %s after %d", tc.n, problems, err, looked, tc.want, tc.looked)
		}
	}
	s.work.held.remove(Entry{Prefix: netip.MustParsePrefix("192.0.2.0/32")}) // an update of it is pending
	b.n = live - 1
	if problems, err := s.verify(t.Context()); err != nil || len(problems) > 0 {
		t.Errorf("an entry that the kernel was not given yet is missed: %v %v", problems, err)
	}
}

func TestCompareEntries(t *testing.T) {
	var held tracker
	for _, p := range parsePrefixes("192.0.2.1/32", "192.0.2.2/32", "2001:db8::1/128", "198.18.0.0/16") {
		held.add(Entry{Prefix: p})
	}
	held.add(Entry{Prefix: netip.MustParsePrefix("192.0.2.9/32"), Ports: []PortRange{{ProtoTCP, 22, 22}}})
	for _, c := range []struct {
		name       string
		have       []string
		v6, single bool
		want       string
	}{
		{"ok: addresses", []string{"240.0.0.1/32", "192.0.2.1/32", "192.0.2.2/32"}, false, true, ""},
		{"ok: prefixes", []string{"240.0.0.1/32", "198.18.0.0/16"}, false, false, ""},
		{"ok: no prefixes", []string{"100::f000:1/128"}, true, false, ""},
		{"bad: one too many", []string{"100::f000:1/128", "2001:db8::1/128", "2001:db8::2/128"}, true, true, "the set x holds 1 elements that it should not"},
		{"bad: one instead of another", []string{"240.0.0.1/32", "192.0.2.1/32", "192.0.2.3/32"}, false, true, "the set x holds 1 elements that it should not"},
		{"bad: one is missing", []string{"100::f000:1/128"}, true, true, "the set x lacks 2001:db8::1/128"},
	} {
		t.Run(c.name, func(t *testing.T) {
			have := contents{}
			for _, p := range c.have {
				have.add(p)
			}
			got := ""
			for _, d := range held.compareEntries("x", have, c.v6, c.single, netip.Prefix.String) {
				got = d.text
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
