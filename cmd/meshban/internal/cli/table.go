package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// learned is how many rows a table reads ahead to find its column widths. A wider cell that comes later pushes its row
// to the right; the table never holds more than these rows.
const learned = 256

// table writes aligned columns while rows are still coming. Cells are cleaned. On a terminal, cells are cut so that rows
// fit, except in the first column, which people copy.
type table struct {
	out    *bufio.Writer
	screen screen
	state  int // the column whose words have a colour; -1 = none
	widths []int
	rows   [][]string // nil once the widths are fixed
	fixed  bool
}

func (c *command) newTable(head ...string) *table {
	return &table{out: c.out, screen: c.screen, state: slices.Index(head, "STATE"), widths: make([]int, len(head)), rows: [][]string{head}}
}

// row adds a row with as many cells as the head; the last ones may be empty.
func (t *table) row(cells ...string) error {
	for i := range cells {
		cells[i] = control.Printable(cells[i])
	}
	if t.fixed {
		return t.write(cells)
	}
	t.rows = append(t.rows, cells)
	if len(t.rows) > learned {
		return t.fix()
	}
	return nil
}

func (t *table) fix() error {
	for _, row := range t.rows {
		for i, cell := range row {
			t.widths[i] = max(t.widths[i], utf8.RuneCountInString(cell))
		}
	}
	t.fit()
	rows := t.rows
	t.rows, t.fixed = nil, true
	for _, row := range rows {
		if err := t.write(row); err != nil {
			return err
		}
	}
	return nil
}

const blanks = "                                                                "

func (t *table) write(cells []string) error {
	last := len(cells) - 1
	for last > 0 && cells[last] == "" {
		last--
	}
	for i, cell := range cells[:last+1] {
		if t.screen.width > 0 && i > 0 {
			cell = cut(cell, t.widths[i])
		}
		style := ""
		if i == t.state {
			style = styles[cell]
		}
		t.out.WriteString(t.screen.paint(style, cell))
		if i == last {
			break
		}
		pad := max(t.widths[i]-utf8.RuneCountInString(cell), 0) + 2
		for ; pad > len(blanks); pad -= len(blanks) {
			t.out.WriteString(blanks)
		}
		t.out.WriteString(blanks[:pad])
	}
	return t.out.WriteByte('\n') // an earlier error stays in the writer
}

// close writes the rows held back. A table without rows is not written at all.
func (t *table) close() error {
	if t.fixed || len(t.rows) == 1 {
		return nil
	}
	return t.fix()
}

// show prints the entries of a stream: as objects with --json, else as rows of t. It says none if there are no rows.
func show[T any](c *command, ctx *cli.Context, t *table, none string, row func(T) []string, stream func(context.Context, func(T) error) error) error {
	asJSON := ctx.Bool("json")
	err := stream(ctx.Context, func(e T) error {
		if asJSON {
			return writeObject(c.out, e)
		}
		return t.row(row(e)...)
	})
	if err != nil || asJSON {
		return err
	}
	if !t.fixed && len(t.rows) == 1 {
		fmt.Fprintln(c.err, "meshban: "+none)
	}
	return t.close()
}

// streamed yields the entries of an answer.
func streamed[T any](all []T) func(context.Context, func(T) error) error {
	return func(_ context.Context, yield func(T) error) error {
		for _, e := range all {
			if err := yield(e); err != nil {
				return err
			}
		}
		return nil
	}
}

func writeObject(out io.Writer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	return nil
}

// field writes "name  value" lines; only the first has the name, and empty lines are left out.
func field(out io.Writer, name string, lines ...string) {
	for i, line := range lines {
		if i > 0 {
			name = ""
		}
		if line == "" {
			continue
		}
		fmt.Fprintln(out, strings.TrimRight(fmt.Sprintf("%-9s %s", name, control.Printable(line)), " "))
	}
}
