package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

const (
	sourceImport = "import"
	namedLines   = 10       // bad lines, and refusals, that are named; the rest is counted
	importBuffer = 64 << 10 // bytes read ahead
	// importBlock is how many addresses are put in order before they are sent: 64 MB, at that number.
	importBlock = 1 << 20
)

func (c *command) importVerb() *verb {
	return &verb{
		name: "import", args: "FILE|-", short: "ban a list of addresses",
		long: `FILE is a plain list: one address or CIDR at the start of each line, comments after
# or ;, further columns ignored. - is stdin. Each address is banned as by meshban ban.

A bad line is named with its number and the reason (the first 10; the rest is
counted), the good ones are banned all the same, and the exit code is 1. Addresses
that a rule refuses are named likewise; without bad lines the exit code is then 4.
A summary, and progress when stderr is a terminal, goes to stderr.`,
		flags: []cli.Flag{
			text("for", "`D` how long: 90s, 30m, 12h, 7d12h (default: bans.for of the agent's config, 30m)"),
			text("reason", "`TEXT` shown to everyone who asks why"),
		},
		examples: `meshban import drop.txt --for 7d --reason "spamhaus drop"
zcat list.gz | meshban import - --for 24h`,
		action: c.importList,
	}
}

// importer bans a list block by block, and each in requests that the agent takes as a whole.
type importer struct {
	c       *command
	client  *control.Client
	req     control.BanRequest
	file    string
	list    *listReader
	show    *progress
	banned  int
	bad     int    // lines
	refused int    // addresses
	unsaved string // why not all of it is on the agent's disk
	worst   control.Code
	hints   []string
}

func (c *command) importList(ctx *cli.Context) error {
	im := importer{c: c, client: c.client(), req: control.BanRequest{Source: sourceImport, ErrorsOnly: true}}
	var err error
	if im.file, err = oneArg(ctx, "a file", "meshban import list.txt"); err != nil {
		return err
	}
	if im.req.For, err = readDuration(ctx, "for"); err != nil {
		return err
	}
	if im.req.Reason, err = readText(ctx, "reason", control.MaxReason); err != nil {
		return err
	}
	in, size := c.in, int64(0)
	if im.file != "-" {
		f, err := os.Open(im.file)
		if err != nil {
			return fmt.Errorf("open list: %w", err)
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return fmt.Errorf("open list: %w", err)
		}
		if info.IsDir() {
			return fmt.Errorf("open list: %q is a folder", im.file)
		}
		in, size = f, info.Size()
	} else {
		im.file = "stdin"
	}
	im.list = newListReader(bufio.NewReaderSize(in, importBuffer))
	im.show = newProgress(c, size)
	err = im.run(ctx.Context)
	im.show.end()
	return im.sum(err)
}

// ahead is how many requests are on their way: the agent then never waits for this side.
const ahead = 2

// asked is a request on its way.
type asked struct {
	reply chan answer // its goroutine sends once; capacity 1, so that it never waits
	bytes int64       // of the list, up to there
}

type answer struct {
	rep control.BanReply
	err error
}

// run reads and bans until the list ends. A bad line and a refused address do not stop it.
func (im *importer) run(ctx context.Context) error {
	if err := im.list.sniff(); err != nil {
		if e, ok := errors.AsType[*control.Error](err); ok {
			return &control.Error{Code: control.CodeFailed, Message: im.file + ": " + e.Message, Hint: e.Hint}
		}
		return fmt.Errorf("read %s: %w", im.file, err)
	}
	for more := true; more; {
		begin := im.list.bytes
		block, err := im.block()
		if more = err == nil; !more && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read %s after line %d: %w", im.file, im.list.line, err)
		}
		if err := im.banAll(ctx, block, begin); err != nil {
			return err
		}
	}
	return nil
}

// block reads on: importBlock addresses, or what is left and io.EOF.
func (im *importer) block() (block []netip.Prefix, err error) {
	for len(block) < importBlock {
		p, err := im.list.next()
		wrong, isLine := errors.AsType[*control.Error](err)
		switch {
		case err == nil:
			block = append(block, p)
		case isLine:
			im.badLine(wrong)
		default:
			return block, err
		}
	}
	return block, nil
}

// banAll bans a block of the list, which begins at a byte of it.
func (im *importer) banAll(ctx context.Context, block []netip.Prefix, begin int64) error {
	ctx, cancel := context.WithCancel(ctx)
	var waiting []asked
	defer func() {
		cancel()
		for _, a := range waiting {
			<-a.reply
		}
	}()
	hear := func(most int) error { // takes answers until at most so many are due
		for len(waiting) > most {
			a := waiting[0]
			waiting = waiting[1:]
			if err := im.heard(<-a.reply, a); err != nil {
				return err
			}
		}
		return nil
	}
	sent := 0
	for some := range slices.Chunk(neighbours(block), control.MaxAddrs) {
		if err := hear(ahead - 1); err != nil {
			return err
		}
		sent += len(some)
		waiting = append(waiting, im.ask(ctx, some, begin+(im.list.bytes-begin)*int64(sent)/int64(len(block))))
	}
	return hear(0)
}

// neighbours puts together what shares an IPv4 /16, and keeps the order otherwise. Every node of the mesh then finds its
// way to the next address where it was for the one before; in a shuffled list of a million, each step of the way misses
// the processor's caches.
func neighbours(block []netip.Prefix) []netip.Prefix {
	ends := make([]int, 2<<16) // of those in a place, once they are there
	for _, p := range block {
		ends[placeOf(p)]++
	}
	at := 0
	for i, n := range ends {
		ends[i] = at
		at += n
	}
	sorted := make([]netip.Prefix, len(block))
	for _, p := range block {
		i := placeOf(p)
		sorted[ends[i]] = p
		ends[i]++
	}
	return sorted
}

// placeOf gives the first 16 bits of an IPv4 address, and behind them the second of an IPv6 address: its first hardly
// differ.
func placeOf(p netip.Prefix) int {
	if a := p.Addr(); a.Is4() {
		b := a.As4()
		return int(binary.BigEndian.Uint16(b[:]))
	}
	b := p.Addr().As16()
	return 1<<16 | int(binary.BigEndian.Uint16(b[2:]))
}

// ask sends a request; who calls must await its answer.
func (im *importer) ask(ctx context.Context, some []netip.Prefix, bytes int64) asked {
	a := asked{make(chan answer, 1), bytes}
	req := im.req
	req.Addrs = some
	go func() {
		rep, err := im.client.Ban(ctx, req)
		a.reply <- answer{rep, err}
	}()
	return a
}

func (im *importer) badLine(e *control.Error) {
	if im.bad++; im.bad <= namedLines {
		im.show.clear()
		text := e.Message
		if e.Hint != "" {
			text += ", " + e.Hint
		}
		fmt.Fprintf(im.c.err, "meshban: error: %s:%d: %s\n", clean(im.file), im.list.line, clean(text))
	}
}

// heard counts an answer and names the first refusals.
func (im *importer) heard(got answer, a asked) error {
	if got.err != nil {
		return got.err
	}
	im.banned += got.rep.Omitted
	for _, r := range got.rep.Results {
		if r.Err == nil {
			im.banned++
			if strings.HasPrefix(r.Note, control.NotOnDisk) {
				im.unsaved = r.Note
			}
			continue
		}
		im.worst = worse(im.worst, r.Err.Code)
		if im.refused++; im.refused <= namedLines {
			im.show.clear()
			fmt.Fprintf(im.c.err, "meshban: error: %s\n", refusal(r))
			if h := r.Err.Hint; h != "" && !slices.Contains(im.hints, h) {
				im.hints = append(im.hints, h)
			}
		}
	}
	im.show.at(im.banned, a.bytes)
	return nil
}

// sum says what was done, also when err ended it early, and decides how the process exits.
func (im *importer) sum(err error) error {
	for i, n := range []int{im.bad, im.refused} {
		if n > namedLines {
			what := [...]string{"bad lines", "refused addresses"}[i]
			fmt.Fprintf(im.c.err, "meshban: error: and %s more %s\n", count(n-namedLines), what)
		}
	}
	for _, h := range im.hints {
		tellHint(im.c.err, h)
	}
	if im.unsaved != "" {
		fmt.Fprintf(im.c.err, "meshban: %s\n", clean(im.unsaved))
	}
	text := plural(im.banned, "address", "addresses") + " banned"
	if im.refused > 0 {
		text += ", " + count(im.refused) + " refused"
	}
	if im.bad > 0 {
		text += ", " + plural(im.bad, "bad line", "bad lines")
	}
	if err != nil {
		if im.banned > 0 || im.bad > 0 {
			fmt.Fprintf(im.c.err, "meshban: stopped: %s; import it once more, what is banned already is only prolonged\n", text)
		}
		return err
	}
	fmt.Fprintf(im.c.err, "meshban: %s\n", text)
	switch {
	case im.bad > 0:
		return reported{control.CodeFailed}
	case im.refused > 0:
		return reported{im.worst}
	}
	return nil
}
