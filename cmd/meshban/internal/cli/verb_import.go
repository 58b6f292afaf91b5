package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/banlist"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

const (
	sourceImport = "import"
	sourceList   = sourceImport + ":" // followed by the name of a list
	namedLines   = 10                 // how many bad lines, and refusals, are named; the rest is counted
	importBuffer = 64 << 10           // bytes read ahead of a terminal
	ruleNever    = "never-ban list"
	ruleAllow    = "allow list"
)

// importer bans a list in requests of the size that the agent accepts.
type importer struct {
	c        *command
	client   *control.Client
	req      control.BanRequest
	file     string
	name     string // name of a list that replaces itself; "" = none
	force    bool
	skipBad  bool
	show     *progress
	sum      importSummary
	banned   tally
	notes    []*remark
	unsaved  string   // why some of it is not on the agent's disk
	hints    []string // about refusals
	worst    control.Code
	reported int // refusals that were reported
}

// importSummary is what --json prints.
type importSummary struct {
	List      string `json:"list,omitempty"`
	DryRun    bool   `json:"dry_run,omitempty"`
	Addresses int    `json:"addresses"`
	Prefixes  int    `json:"prefixes"`
	Banned    int    `json:"banned"`
	New       int    `json:"new"`
	Prolonged int    `json:"prolonged"`
	Never     int    `json:"never"`   // left out by the never-ban list or the allow list
	Refused   int    `json:"refused"` // by other rules
	Lifted    int    `json:"lifted"`
	Kept      int    `json:"kept"` // off this list, but still on another
	BadLines  int    `json:"bad_lines"`
	Masked    int    `json:"masked"`
	Repeated  int    `json:"repeated"`
	Skipped   int    `json:"skipped"`

	Elsewhere []*remark `json:"elsewhere,omitempty"`
}

// tally counts addresses and wider prefixes separately.
type tally struct{ addrs, prefixes int }

func (t *tally) add(p netip.Prefix, n int) {
	if p.IsSingleIP() {
		t.addrs += n
	} else {
		t.prefixes += n
	}
}

func (t tally) String() string {
	switch {
	case t.prefixes == 0:
		return plural(t.addrs, "address", "addresses")
	case t.addrs == 0:
		return plural(t.prefixes, "prefix", "prefixes")
	}
	return plural(t.addrs, "address", "addresses") + " and " + plural(t.prefixes, "prefix", "prefixes")
}

// remark is what the agent notes about several bans.
type remark struct {
	Note   string `json:"note"`
	Hint   string `json:"hint,omitempty"`
	Count  int    `json:"count"`
	widest netip.Prefix
}

func (c *command) importList(ctx *cli.Context) error {
	im := &importer{
		c: c, client: c.client(), req: control.BanRequest{Source: sourceImport, ErrorsOnly: true, DryRun: ctx.Bool("dry-run")},
		name: ctx.String("list"), force: ctx.Bool("force"), skipBad: ctx.Bool("skip-bad"),
	}
	var err error
	if im.file, err = oneArg(ctx, "a file", "meshban import list.txt"); err != nil {
		return err
	}
	v := values{ctx: ctx}
	if im.req.For, im.req.Reason = v.duration("for"), v.reason(); v.err != nil {
		return v.err
	}
	switch {
	case ctx.IsSet("list") && !control.ValidListName(im.name):
		return usagef(fmt.Sprintf("write 1 to %d letters, digits, . _ or -", control.MaxListName), "--list: %q is no name for a list", im.name)
	case im.force && im.name == "":
		return usagef("", "--force goes with --list")
	case im.name != "":
		im.req.Source = sourceList + im.name
	}
	im.sum.List, im.sum.DryRun = im.name, im.req.DryRun
	list, err := im.read()
	if err != nil {
		return err
	}
	im.show = newProgress(c, int64(len(list.Entries)))
	err = im.run(ctx.Context, list)
	im.show.clear()
	im.tell(list, err)
	if err == nil && ctx.Bool("json") {
		im.sum.Elsewhere = im.notes
		err = writeObject(c.out, im.sum)
	}
	switch {
	case err != nil:
		return err
	case im.sum.BadLines > 0:
		return reported{control.CodeFailed}
	case im.worst != "":
		return reported{im.worst}
	}
	return nil
}

// read reads the list, and reports the lines that it does not understand.
func (im *importer) read() (*banlist.List, error) {
	var in io.Reader = im.c.in
	if im.file == "-" {
		im.file = "stdin"
	} else {
		if strings.EqualFold(filepath.Base(im.file), "hosts.allow") {
			return nil, &control.Error{
				Code: control.CodeFailed, Message: im.file + " lists whom to let through: nothing was banned",
				Hint: "to protect addresses from bans: meshban allow",
			}
		}
		f, err := os.Open(im.file)
		if err != nil {
			return nil, fmt.Errorf("open list: %w", err)
		}
		defer f.Close()
		if info, err := f.Stat(); err == nil && info.IsDir() {
			return nil, fmt.Errorf("open list: %q is a folder", im.file)
		}
		in = f
	}
	list, err := banlist.Read(in, im.badLine)
	if e, ok := errors.AsType[*banlist.Error](err); ok {
		return nil, &control.Error{Code: control.CodeFailed, Message: placeIn(im.file, e) + e.Problem + ": nothing was banned", Hint: e.Remedy}
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", im.file, err)
	}
	if more := im.sum.BadLines - namedLines; more > 0 {
		fmt.Fprintf(im.c.err, "meshban: error: and %s more bad lines\n", control.Count(more))
	}
	if im.sum.BadLines > 0 && !im.skipBad {
		return nil, &control.Error{
			Code: control.CodeFailed, Message: fmt.Sprintf("nothing was banned: %s", plural(im.sum.BadLines, "bad line", "bad lines")),
			Hint: "correct the list, or ban the rest of it with --skip-bad",
		}
	}
	for _, e := range list.Entries {
		if e.Prefix.IsSingleIP() {
			im.sum.Addresses++
		} else {
			im.sum.Prefixes++
		}
	}
	return list, nil
}

// badLine reports the first bad lines, and continues.
func (im *importer) badLine(e *banlist.Error) bool {
	if im.sum.BadLines++; im.sum.BadLines <= namedLines {
		text := e.Problem
		if e.Remedy != "" {
			text += ", " + e.Remedy
		}
		fmt.Fprintf(im.c.err, "meshban: error: %s%s\n", control.Printable(placeIn(im.file, e)), control.Printable(text))
	}
	return true
}

// run bans the list, and lifts what is no longer on it.
func (im *importer) run(ctx context.Context, list *banlist.List) error {
	var before control.ListedReply
	if im.name != "" {
		var err error
		if before, err = im.client.Listed(ctx, control.ListedRequest{List: im.name}); err != nil {
			return err
		}
		if n := len(list.Entries); !im.force && (n == 0 || n < before.Bans-n) {
			return &control.Error{
				Code: control.CodePolicy, Rule: "less than half of the list",
				Message: fmt.Sprintf("%s has %s, and the list %s holds %s: nothing was changed", im.file, plural(n, "entry", "entries"), im.name, control.Count(before.Bans)),
				Hint:    "if the file is right, repeat this with --force",
			}
		}
	}
	byPorts := map[string][]netip.Prefix{}
	for _, e := range list.Entries {
		byPorts[e.Ports] = append(byPorts[e.Ports], e.Prefix)
	}
	for ports, prefixes := range byPorts {
		im.req.Ports = ports
		if err := im.banAll(ctx, prefixes); err != nil {
			return err
		}
	}
	im.sum.Prolonged = im.sum.Banned - im.sum.New
	if im.name == "" {
		return nil
	}
	if im.req.DryRun {
		im.sum.Lifted = max(0, before.Bans-im.sum.Kept)
		im.sum.Kept = 0
		return nil
	}
	for {
		rep, err := im.client.Listed(ctx, control.ListedRequest{List: im.name, Until: &before.Mark})
		im.sum.Lifted += rep.Lifted
		im.sum.Kept += rep.Kept
		if err != nil || !rep.More {
			return err
		}
	}
}

// ahead is how many requests are in flight: with two, the agent never waits for this side.
const ahead = 2

// asked is a request in flight.
type asked struct {
	reply chan answer // its goroutine sends once; capacity 1, so that it never blocks
	some  []netip.Prefix
}

type answer struct {
	rep control.BanReply
	err error
}

// banAll bans prefixes.
func (im *importer) banAll(ctx context.Context, prefixes []netip.Prefix) error {
	ctx, cancel := context.WithCancel(ctx)
	var waiting []asked
	defer func() {
		cancel()
		for _, a := range waiting {
			<-a.reply
		}
	}()
	hear := func(most int) error { // takes answers until no more than most are outstanding
		for len(waiting) > most {
			a := waiting[0]
			waiting = waiting[1:]
			if err := im.heard(<-a.reply, a); err != nil {
				return err
			}
		}
		return nil
	}
	for some := range slices.Chunk(prefixes, control.MaxAddrs) {
		most := ahead - 1
		if im.req.DryRun {
			most = 0 // what other nodes take depends on how many were new before
		}
		if err := hear(most); err != nil {
			return err
		}
		if im.req.DryRun {
			im.req.Before = im.sum.New
		}
		waiting = append(waiting, im.ask(ctx, some))
	}
	return hear(0)
}

// ask sends a request; the caller must await its answer.
func (im *importer) ask(ctx context.Context, some []netip.Prefix) asked {
	a := asked{make(chan answer, 1), some}
	req := im.req
	req.Addrs = some
	go func() {
		rep, err := im.client.Ban(ctx, req)
		a.reply <- answer{rep, err}
	}()
	return a
}

// heard counts an answer and reports the first refusals.
func (im *importer) heard(got answer, a asked) error {
	if got.err != nil {
		return got.err
	}
	im.sum.New += got.rep.Fresh
	if im.req.DryRun {
		im.sum.Kept += got.rep.Listed
	}
	for _, p := range a.some {
		im.banned.add(p, 1)
	}
	im.sum.Banned += len(a.some)
	for _, r := range got.rep.Results {
		if r.Err == nil && strings.HasPrefix(r.Note, control.NotOnDisk) {
			im.unsaved = r.Note
		} else if r.Err == nil {
			im.remark(r)
		}
		if r.Err == nil {
			continue
		}
		im.banned.add(r.Prefix.Prefix, -1)
		im.sum.Banned--
		if r.Err.Rule == ruleNever || r.Err.Rule == ruleAllow {
			im.sum.Never++
		} else {
			im.sum.Refused++
		}
		im.worst = worse(im.worst, r.Err.Code)
		if im.reported++; im.reported <= namedLines {
			im.show.clear()
			fmt.Fprintf(im.c.err, "meshban: error: %s\n", refusal(r))
			im.hints = addHint(im.hints, r.Err.Hint)
		}
	}
	im.show.at(im.sum.Banned, int64(im.sum.Banned))
	return nil
}

// remark collects equal notes about several bans. It keeps the hint of the widest ban, which suffices for all.
func (im *importer) remark(r control.Result) {
	i := slices.IndexFunc(im.notes, func(m *remark) bool { return m.Note == r.Note })
	if i < 0 {
		if len(im.notes) == namedLines {
			return
		}
		i = len(im.notes)
		im.notes = append(im.notes, &remark{Note: r.Note})
	}
	m := im.notes[i]
	if m.Count++; m.Count == 1 || r.Prefix.Bits() < m.widest.Bits() {
		m.widest, m.Hint = r.Prefix.Prefix, r.Hint
	}
}

// tell reports what was done, even if err ended it early.
func (im *importer) tell(list *banlist.List, err error) {
	out := im.c.err
	say := func(format string, args ...any) { fmt.Fprintf(out, "meshban: "+format+"\n", args...) }
	if more := im.reported - namedLines; more > 0 {
		say("error: and %s more refused", control.Count(more))
	}
	for _, h := range im.hints {
		tellHint(out, h)
	}
	if list.Masked > 0 {
		im.sum.Masked = list.Masked
		say("%s had host bits set and %s masked, such as %s", plural(list.Masked, "prefix", "prefixes"), cmp.Or(map[bool]string{true: "was"}[list.Masked == 1], "were"), control.Printable(list.Example))
	}
	if list.Hosts > 0 && !strings.EqualFold(filepath.Base(im.file), "hosts.deny") {
		say("%s of the form of hosts.deny, which hosts.allow has too: taken as bans", plural(list.Hosts, "line is", "lines are"))
	}
	for _, s := range list.Skipped {
		im.sum.Skipped += s.N
		say("left out %s: %s", plural(s.N, "entry", "entries"), control.Printable(s.Why))
	}
	if im.sum.Repeated = list.Repeats; list.Repeats > 0 {
		say("%s stood there more than once", plural(list.Repeats, "entry", "entries"))
	}
	for _, m := range im.notes {
		say("%s of these, such as %s: %s", control.Count(m.Count), control.FormatPrefix(m.widest), control.Printable(m.Note))
		tellHint(out, m.Hint)
	}
	if im.unsaved != "" {
		say("%s", control.Printable(im.unsaved))
	}
	text := im.summary()
	if err == nil {
		say("%s", text)
	} else if im.sum.Banned > 0 || im.sum.BadLines > 0 {
		say("stopped: %s; import it once more, what is banned already is only prolonged", text)
	}
}

// summary returns the last line.
func (im *importer) summary() string {
	would := ""
	if im.req.DryRun {
		would = "would be "
	}
	parts := []string{im.banned.String() + " " + would + "banned"}
	add := func(n int, format string) {
		if n > 0 {
			parts = append(parts, fmt.Sprintf(format, control.Count(n)))
		}
	}
	if im.name != "" {
		parts[0] += fmt.Sprintf(" (%s new, %s prolonged)", control.Count(im.sum.New), control.Count(im.sum.Prolonged))
		parts = append(parts, control.Count(im.sum.Lifted)+" "+would+"lifted")
		add(im.sum.Kept, "%s kept for another list")
	}
	add(im.sum.Never, "%s left out by the never-ban list")
	add(im.sum.Refused, "%s refused")
	if n := im.sum.BadLines; n > 0 {
		parts = append(parts, plural(n, "bad line", "bad lines"))
	}
	return strings.Join(parts, ", ")
}
