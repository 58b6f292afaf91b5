package ui

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// PaceMinutes is how many minutes Pace goes back.
const PaceMinutes = 24 * 60

// Pace is how many bans there were lately on this node, its own and those of others.
type Pace struct {
	End     time.Time // of the last minute
	Minutes []int     // PaceMinutes, oldest first
	Sources []Count   // of the same bans
}

// Count is how many there are of something.
type Count struct {
	Name string
	N    int
}

// bar is a Count with its length in a chart.
type bar struct {
	Count
	Width int // 0 to 100
}

// maxBars is how many bars a chart has; the rest is one more.
const maxBars = 8

// bars returns the largest counts, largest first.
func bars(counts []Count) (out []bar) {
	slices.SortFunc(counts, func(a, b Count) int { return cmp.Or(b.N-a.N, strings.Compare(a.Name, b.Name)) })
	for i, c := range counts {
		if i < maxBars {
			out = append(out, bar{Count: c})
		} else if i == maxBars {
			out = append(out, bar{Count: Count{"others", c.N}})
		} else {
			out[maxBars].N += c.N
		}
	}
	most := 1
	for _, b := range out {
		most = max(most, b.N)
	}
	for i := range out {
		out[i].Width = max(out[i].N*100/most, 1)
	}
	return out
}

// The height of the chart, how many minutes one of its columns is, and its width in percent of the chart's.
const (
	chartHeight   = 140
	columnMinutes = 5
	columnWidth   = 80.0 * columnMinutes / PaceMinutes
	hourEvery     = 4 * time.Hour
	lastHour      = 93 // in percent; its text needs room
)

// chart is the picture of a Pace. It is as wide as there is room, so what is horizontal is in percent.
type chart struct {
	Columns     []column
	Hours       []hour
	Total, Most int
	MostAt      time.Time
}

// column is the busiest minute of some.
type column struct {
	X, Width     float64
	Y, Height, N int
	At           time.Time
}

// hour is a mark on the axis.
type hour struct {
	X    float64
	At   time.Time
	Less bool // it goes where there is little room
}

// draw returns the chart of a pace.
func draw(p Pace) chart {
	var c chart
	if len(p.Minutes) != PaceMinutes {
		return c
	}
	start := p.End.Add(-PaceMinutes * time.Minute)
	at := func(minute int) time.Time { return start.Add(time.Duration(minute) * time.Minute) }
	for i, n := range p.Minutes {
		c.Total += n
		if n > c.Most {
			c.Most, c.MostAt = n, at(i)
		}
	}
	for i := 0; i < PaceMinutes; i += columnMinutes {
		n := slices.Max(p.Minutes[i : i+columnMinutes])
		if n == 0 {
			continue
		}
		height := max(n*(chartHeight-1)/c.Most, 2)
		c.Columns = append(c.Columns, column{percent(i), columnWidth, chartHeight - height, height, n, at(i)})
	}
	for t := start.Truncate(hourEvery).Add(hourEvery); t.Before(p.End); t = t.Add(hourEvery) {
		if x := percent(int(t.Sub(start).Minutes())); x <= lastHour {
			c.Hours = append(c.Hours, hour{x, t, t.Truncate(2*hourEvery) != t})
		}
	}
	return c
}

// percent returns how far to the right a minute is.
func percent(minute int) float64 { return math.Round(float64(minute)*1e4/PaceMinutes) / 100 }

// Sizes in the picture of the mesh.
const (
	firstRing = 150 // radius, upwards
	ringStep  = 62
	stretch   = 1.6 // of the radius, sideways
	margin    = 60
	perRing   = 14 // nodes on the first ring; each further one has more
	maxDrawn  = 120
	labelled  = 30 // up to so many nodes have their names in the picture
	measured  = 14 // up to so many have their round-trip times
)

// picture is the mesh: this node in the middle, the others around it.
type picture struct {
	Width, Height int
	Nodes         []dot // this node last, so that it is drawn on top
	Left          int   // nodes that are not drawn
	Text          string
}

// dot is a node.
type dot struct {
	control.Member
	X, Y       int
	X0, Y0     int // the middle
	MidX, MidY int // of the line between them
	LabelY     int
	Label      string // "" = none
	Trip       string // round-trip time; "" = not shown
	State      string // in words
	Tone       string
}

// arrange places the members.
func arrange(members []control.Member) (p picture) {
	var others, self []control.Member
	for _, m := range members {
		if m.Self {
			self = append(self, m)
		} else {
			others = append(others, m)
		}
	}
	p.Left = max(len(others)-maxDrawn, 0)
	well := 0
	place := func(m control.Member, x, y float64) {
		d := dot{Member: m, X: int(math.Round(x)), Y: int(math.Round(y))}
		if d.State, d.Tone = stateOf(m); d.Tone == "good" {
			well++
		}
		if len(members) <= labelled {
			d.Label = cutName(m.Name)
		}
		if m.RTTms != nil && len(members) <= measured {
			d.Trip = milliseconds(m.RTTms)
		}
		p.Nodes = append(p.Nodes, d)
	}
	for r, ring := range rings(others[:len(others)-p.Left]) {
		for i, m := range ring {
			angle := 2 * math.Pi * (float64(i) + float64(r)/2) / float64(len(ring))
			if len(ring) > 2 { // few are side by side
				angle -= math.Pi / 2
			}
			radius := float64(firstRing + ringStep*r)
			place(m, stretch*radius*math.Cos(angle), radius*math.Sin(angle))
		}
	}
	for _, m := range self {
		place(m, 0, 0)
	}
	p.fit()
	p.Text = fmt.Sprintf("%d of %s are alive and in sync", well, plural(len(p.Nodes), "node", "nodes"))
	return p
}

// fit gives the picture the size that its nodes need, with the middle, which is at 0, 0, in it.
func (p *picture) fit() {
	var left, top, right, bottom int
	for _, d := range p.Nodes {
		left, top, right, bottom = min(left, d.X), min(top, d.Y), max(right, d.X), max(bottom, d.Y)
	}
	left, top = margin-left, margin-top
	p.Width, p.Height = left+right+margin, top+bottom+margin
	for i := range p.Nodes {
		d := &p.Nodes[i]
		d.X, d.Y, d.X0, d.Y0 = d.X+left, d.Y+top, left, top
		d.MidX, d.MidY, d.LabelY = (d.X+d.X0)/2, (d.Y+d.Y0)/2, d.Y+26
	}
}

// rings cuts the members into what lies on each ring.
func rings(members []control.Member) (out [][]control.Member) {
	for len(members) > 0 {
		n := min(len(members), perRing+perRing*len(out)/2)
		out, members = append(out, members[:n]), members[n:]
	}
	return out
}

// stateOf returns the state of a member in words, and its class.
func stateOf(m control.Member) (words, class string) {
	switch {
	case m.Certificate == control.CertNone:
		return "no certificate: it is ignored", "bad"
	case m.Self:
		return "this node", "good"
	case m.State != control.MemberAlive:
		return m.State, tone(m.State)
	case m.InSync:
		return "in sync", "good"
	}
	return "not known to be in sync", "warn"
}

// maxLabel is the length of a name in the picture.
const maxLabel = 14

func cutName(name string) string {
	if r := []rune(name); len(r) > maxLabel {
		return string(r[:maxLabel-1]) + "…"
	}
	return name
}
