package ui

import (
	"fmt"
	"io/fs"
	"regexp"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// Whatever the size of the mesh, each node is in the picture, at a place of its own.
func TestEveryNodeHasAPlace(t *testing.T) {
	for _, n := range []int{1, 2, 14, 15, 16, 40, maxDrawn + 1, 1000} {
		members := make([]control.Member, n)
		for i := range members {
			members[i] = control.Member{ID: fmt.Sprint(i), Name: fmt.Sprint("web", i), Self: i == n/2, State: control.MemberAlive, InSync: true}
		}
		p := arrange(members)
		seen := make(map[[2]int]string)
		for _, d := range p.Nodes {
			at := [2]int{d.X, d.Y}
			if other, taken := seen[at]; taken {
				t.Errorf("%d nodes: %s and %s are at one place", n, other, d.Name)
			}
			seen[at] = d.Name
			if d.X < 0 || d.X > p.Width || d.Y < 0 || d.LabelY > p.Height {
				t.Errorf("%d nodes: %s is outside of the picture: %v of %dx%d", n, d.Name, at, p.Width, p.Height)
			}
		}
		if len(p.Nodes)+p.Left != n || len(p.Nodes) > maxDrawn+1 {
			t.Errorf("%d nodes: %d are drawn and %d are not", n, len(p.Nodes), p.Left)
		}
		if !p.Nodes[len(p.Nodes)-1].Self {
			t.Errorf("%d nodes: this one is not on top", n)
		}
	}
}

// The chart shows the busiest minute of each column, in its place.
func TestDraw(t *testing.T) {
	end := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	p := Pace{End: end, Minutes: make([]int, PaceMinutes)}
	p.Minutes[0], p.Minutes[7], p.Minutes[8], p.Minutes[PaceMinutes-1] = 1, 4, 2, 8
	c := draw(p)
	if c.Total != 15 || c.Most != 8 || !c.MostAt.Equal(end.Add(-time.Minute)) || len(c.Columns) != 3 {
		t.Fatalf("%+v", c)
	}
	for i, want := range []column{{X: 0, N: 1}, {X: percent(columnMinutes), N: 4}, {X: percent(PaceMinutes - columnMinutes), N: 8}} {
		got := c.Columns[i]
		if got.X != want.X || got.N != want.N || got.Y+got.Height != chartHeight || got.Y < 0 {
			t.Errorf("column %d is %+v, want %+v", i, got, want)
		}
		if got.X+got.Width > 100 || got.Width <= 0 {
			t.Errorf("column %d is outside of the picture: %+v", i, got)
		}
	}
	if empty := draw(Pace{}); empty.Total != 0 || len(empty.Columns) != 0 {
		t.Errorf("nothing is drawn as %+v", empty)
	}
}

func TestBars(t *testing.T) {
	var counts []Count
	for i := range 20 {
		counts = append(counts, Count{fmt.Sprint("s", i), i + 1})
	}
	got := bars(counts)
	if len(got) != maxBars+1 || got[0].N != 20 || got[maxBars].Name != "others" || got[maxBars].N != 12*13/2 || got[maxBars].Width != 100 {
		t.Errorf("%+v", got)
	}
}

func TestProse(t *testing.T) {
	h := &Handler{now: func() time.Time { return time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC) }}
	for text, want := range map[string]string{
		"run `meshban list` or `x`": "run <code>meshban list</code> or <code>x</code>", "an open ` one": "an open ` one",
		"<b> `<script>`": "&lt;b&gt; <code>&lt;script&gt;</code>", "": "",
		"until 2026-12-24T15:37:17Z.": `until <time datetime="2026-12-24T15:37:17Z" title="2026-12-24 15:37:17 UTC">Dec 24, 15:37 UTC</time>.`,
		"until 2027-01-02T15:37:17Z":  `until <time datetime="2027-01-02T15:37:17Z" title="2027-01-02 15:37:17 UTC">Jan 2, 2027, 15:37 UTC</time>`,
		"until 2026-99-24T15:37:17Z":  "until 2026-99-24T15:37:17Z",
	} {
		if got := string(h.prose(text)); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

// A list with a role of its own is no list to a screen reader, and its entries belong to nothing.
func TestListsHaveNoOtherRole(t *testing.T) {
	names, err := fs.Glob(files, "files/*.html")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		text, err := fs.ReadFile(files, name)
		if err != nil {
			t.Fatal(err)
		}
		if bad := regexp.MustCompile(`<[ou]l[^>]* role=[^>]*>`).Find(text); bad != nil {
			t.Errorf("%s: %s", name, bad)
		}
	}
}
