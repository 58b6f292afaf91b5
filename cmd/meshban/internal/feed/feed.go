// Package feed writes what is banned in the forms that routers, proxies and other programs read.
//
// It streams: without a limit its memory does not depend on the number of bans. Each form has only what its reader
// can take; the other bans are left out and counted. Nothing of a ban's reason or source reaches a form that a program
// executes or parses, except for JSON.
package feed

import (
	"bufio"
	"context"
	"io"
	"net/netip"
	"time"
)

// Entry is a ban in force.
type Entry struct {
	Prefix  netip.Prefix // masked and unmapped
	Ports   string       // canonical; "" = all
	Issued  time.Time    // when the ban that lasts longest was made
	Until   time.Time
	Origins []string // names of the nodes that ban it
	Source  string
	Reason  string
}

// Source is what is banned.
type Source interface {
	// Entries calls yield for each ban in force, in any order, and stops with its error. No address of an entry is on the
	// never-ban list. yield may keep an entry. It must not be called with a lock held: it waits for the disk.
	Entries(ctx context.Context, yield func(Entry) error) error
}

// Count says what became of a source's entries.
type Count struct {
	Written int
	LeftOut int // the format has no form for them
}

// Write writes the entries of source that q asks for.
func Write(ctx context.Context, out io.Writer, f Format, q Query, source Source) (n Count, err error) {
	form := forms[f]
	w := bufio.NewWriterSize(out, 64<<10)
	w.WriteString(form.head)
	write := func(e Entry) error {
		line := w.AvailableBuffer()
		if n.Written > 0 {
			line = append(line, form.between...)
		}
		start := len(line)
		if e.Ports == "" || form.ports {
			line = form.line(line, e)
		}
		if len(line) == start {
			n.LeftOut++
			return nil
		}
		n.Written++
		_, err := w.Write(line)
		return err
	}
	if err := q.each(ctx, source, write); err != nil {
		return n, err
	}
	w.WriteString(form.tail)
	return n, w.Flush()
}
