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

// The size of the chart and how many minutes one of its columns is.
const (
	chartWidth, chartHeight = 1152, 140
	columnMinutes           = 5
	columnWidth             = chartWidth * columnMinutes / PaceMinutes
)

// chart is the picture of a Pace.
type chart struct {
	Width, Height int
	Columns       []column
	Hours         []hour
	Total, Most   int
	MostAt        time.Time
}

// column is the busiest minute of some.
type column struct {
	X, Y, Width, Height, N int
	At                     time.Time
}

// hour is a mark on the axis.
type hour struct {
	X  int
	At time.Time
}

// draw returns the chart of a pace.
func draw(p Pace) chart {
	c := chart{Width: chartWidth, Height: chartHeight}
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
		c.Columns = append(c.Columns, column{i / columnMinutes * columnWidth, chartHeight - height, columnWidth - 1, height, n, at(i)})
	}
	first := start.Truncate(4 * time.Hour)
	for t := first; t.Before(p.End); t = t.Add(4 * time.Hour) {
		if x := int(t.Sub(start).Minutes()) * columnWidth / columnMinutes; x >= 0 && x <= chartWidth-60 {
			c.Hours = append(c.Hours, hour{x, t})
		}
	}
	return c
}

// The size of the picture of the mesh.
const (
	pictureWidth, pictureHeight = 760, 460
	firstRing                   = 150 // radius
	ringStep                    = 62
	perRing                     = 14 // nodes on the first ring; each further one has more
	maxDrawn                    = 120
	labelled                    = 30 // up to so many nodes have their names in the picture
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
	X, Y   int
	X0, Y0 int // the middle
	LabelY int
	Label  string // "" = none
	State  string // in words
	Tone   string
}

// arrange places the members.
func arrange(members []control.Member) (p picture) {
	p = picture{Width: pictureWidth, Height: pictureHeight}
	others := slices.DeleteFunc(slices.Clone(members), func(m control.Member) bool { return m.Self })
	p.Left = max(len(others)-maxDrawn, 0)
	drawn := others[:len(others)-p.Left]
	well := 0
	place := func(m control.Member, x, y float64) {
		d := dot{Member: m, X: int(math.Round(x)), Y: int(math.Round(y)), X0: pictureWidth / 2, Y0: pictureHeight / 2}
		d.State, d.Tone = stateOf(m)
		if d.Tone == "good" {
			well++
		}
		if d.LabelY = d.Y + 26; len(members) <= labelled {
			d.Label = cutName(m.Name)
		}
		p.Nodes = append(p.Nodes, d)
	}
	for ring, rest := 0, drawn; len(rest) > 0; ring++ {
		n := min(len(rest), perRing+perRing*ring/2)
		for i, m := range rest[:n] {
			angle := 2*math.Pi*(float64(i)+float64(ring)/2)/float64(n) - math.Pi/2
			radius := float64(firstRing + ringStep*ring)
			place(m, pictureWidth/2+1.6*radius*math.Cos(angle), pictureHeight/2+radius*math.Sin(angle))
		}
		rest = rest[n:]
	}
	for _, m := range members {
		if m.Self {
			place(m, pictureWidth/2, pictureHeight/2)
		}
	}
	p.Text = fmt.Sprintf("%d of %s are alive and in sync", well, plural(len(drawn)+1, "node", "nodes"))
	return p
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
