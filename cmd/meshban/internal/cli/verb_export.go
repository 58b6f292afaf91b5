package cli

import (
	"bufio"
	"cmp"
	"encoding/csv"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// exporter writes bans in one format. Only bans limited to ports may be held in memory: they are few.
type exporter interface {
	entry(e control.ListEntry) error
	end() error // after the last
}

// exporters begin an export in each format; most is about how many entries will come. A write error stays in out
// until it is flushed.
var exporters = map[string]func(out *bufio.Writer, now time.Time, most int) exporter{
	"plain": func(out *bufio.Writer, _ time.Time, _ int) exporter { return plainExport{out} },
	"json":  func(out *bufio.Writer, _ time.Time, _ int) exporter { return jsonExport{out} },
	"csv":   newCSVExport,
	"ipset": newIpsetExport,
	"nft":   newNftExport,
}

// formats are the names of the exporters.
var formats = slices.Sorted(maps.Keys(exporters))

func (c *command) export(ctx *cli.Context) error {
	format := cmp.Or(ctx.String("format"), "plain")
	if ctx.Bool("json") {
		if format = cmp.Or(ctx.String("format"), "json"); format != "json" {
			return usagef("leave out one of them", "--json and --format %s exclude each other", format)
		}
	}
	start, ok := exporters[format]
	if !ok {
		hint := "write plain, json, csv, ipset or nft"
		if meant := config.Nearest(format, formats); meant != "" {
			hint = fmt.Sprintf("did you mean %q?", meant)
		}
		return usagef(hint, "--format: there is no format %q", format)
	}
	client := c.client()
	most := 0
	if format == "ipset" {
		s, err := client.Status(ctx.Context)
		if err != nil {
			return err
		}
		most = s.Bans.Active
	}
	ex := start(c.out, c.now(), most)
	err := client.List(ctx.Context, false, func(e control.ListEntry) error {
		if e.State != control.StateEnforced && e.State != control.StateNotEnforced {
			return nil
		}
		return ex.entry(e)
	})
	if err != nil {
		return err
	}
	return ex.end()
}

type plainExport struct{ out *bufio.Writer }

func (x plainExport) entry(e control.ListEntry) error {
	text := e.Prefix.String()
	if e.Ports != "" {
		text = fmt.Sprintf("# %s only on ports %s", text, e.Ports)
	}
	x.out.WriteString(text)
	return x.out.WriteByte('\n') // an earlier error stays in the writer
}

func (plainExport) end() error { return nil }

type jsonExport struct{ out *bufio.Writer }

func (x jsonExport) entry(e control.ListEntry) error {
	x.out.Write(e.AppendJSON(x.out.AvailableBuffer()))
	return x.out.WriteByte('\n') // an earlier error stays in the writer
}

func (jsonExport) end() error { return nil }

type csvExport struct{ w *csv.Writer }

func newCSVExport(out *bufio.Writer, _ time.Time, _ int) exporter {
	x := csvExport{csv.NewWriter(out)}
	_ = x.w.Write([]string{"prefix", "ports", "until", "origins", "reason", "source", "state"}) // end returns its error
	return x
}

func (x csvExport) entry(e control.ListEntry) error {
	cells := []string{
		e.Prefix.String(), e.Ports, e.Until.String(), strings.Join(e.Origins, " "), e.Reason, e.Source, e.State,
	}
	for i, cell := range cells {
		// A spreadsheet would run a cell that begins like this, and a reason may come from anywhere.
		if cell != "" && strings.ContainsRune("=+-@\t\r", rune(cell[0])) {
			cells[i] = "'" + cell
		}
	}
	return x.w.Write(cells)
}

func (x csvExport) end() error {
	x.w.Flush()
	return x.w.Error()
}
