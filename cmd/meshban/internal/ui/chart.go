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
	drawn := rings(others[:len(others)-p.Left])
	radius := firstRing + ringStep*max(len(drawn)-1, 0)
	p.Height = 2 * (radius + margin)
	p.Width = int(2*stretch*float64(radius)) + 2*margin
	well := 0
	place := func(m control.Member, dx, dy float64) {
		d := dot{Member: m, X0: p.Width / 2, Y0: p.Height / 2}
		d.X, d.Y = d.X0+int(math.Round(dx)), d.Y0+int(math.Round(dy))
		d.MidX, d.MidY, d.LabelY = (d.X+d.X0)/2, (d.Y+d.Y0)/2, d.Y+26
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
	for r, ring := range drawn {
		for i, m := range ring {
			angle := 2*math.Pi*(float64(i)+float64(r)/2)/float64(len(ring)) - math.Pi/2
			radius := float64(firstRing + ringStep*r)
			place(m, stretch*radius*math.Cos(angle), radius*math.Sin(angle))
		}
	}
	for _, m := range self {
		place(m, 0, 0)
	}
	p.Text = fmt.Sprintf("%d of %s are alive and in sync", well, plural(len(p.Nodes), "node", "nodes"))
	return p
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
