// Package banlist reads lists of addresses to ban, in the formats of published block lists and of meshban export.
//
// It promises to ban exactly what the list bans: a line that it does not understand is an *Error with the line number
// and what to do, and no part of such a line is used. It recognises the format by the input's structure, not by its
// name. MaxEntries, MaxLine and MaxBytes bound its memory, whatever a packed list unpacks to.
package banlist

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// Bounds on one list.
const (
	MaxEntries = 4 << 20 // prefixes, duplicates included
	MaxLine    = 8 << 20 // bytes of a line, or of a JSON value
	MaxBytes   = 1 << 30 // of the list, unpacked

	bufferSize = 64 << 10
	sniffed    = 512 // bytes at the start that are checked to be text
)

// An Entry is a ban in a list.
type Entry struct {
	Prefix netip.Prefix // masked and unmapped
	Ports  string       // as for meshban ban --port; "" = all
}

// Compare orders entries by prefix and then by ports.
func (e Entry) Compare(f Entry) int {
	// Of masked prefixes, the addresses decide as Prefix.Compare does, which would mask both again.
	if c := e.Prefix.Addr().Compare(f.Prefix.Addr()); c != 0 {
		return c
	}
	if c := cmp.Compare(e.Prefix.Bits(), f.Prefix.Bits()); c != 0 {
		return c
	}
	return strings.Compare(e.Ports, f.Ports)
}

// A List is the content of a list.
type List struct {
	Entries []Entry // sorted, without duplicates
	Repeats int     // duplicates that were dropped
	Masked  int     // prefixes with host bits set
	Example string  // the first of these, such as "192.0.2.1/24 in line 3"
	Hosts   int     // lines that would let an address through in a hosts.allow, which looks like hosts.deny
	Skipped []Skip  // entries that the list marks as not in force
}

// A Skip counts entries that are not in force, by reason.
type Skip struct {
	Why string // "decisions of type captcha"
	N   int
}

// maxSkips is the most reasons that are counted separately.
const maxSkips = 8

// An Error is a part of a list that is not understood, or that must not be banned.
type Error struct {
	Line    int    // from 1; 0 = the whole list
	Problem string // including the offending text
	Remedy  string // what to do; may be empty

	whole bool // refuse the whole list, even if bad entries are skipped
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return e.Problem
	}
	return fmt.Sprintf("line %d: %s", e.Line, e.Problem)
}

// refused makes e refuse the whole list.
func refused(e *Error) *Error {
	e.whole = true
	return e
}

func wrong(remedy, format string, args ...any) *Error {
	return &Error{Problem: fmt.Sprintf(format, args...), Remedy: remedy}
}

// Read reads a list. It calls bad for each *Error about one entry: if bad returns true, Read skips the entry; if bad
// returns false or is nil, Read returns the error. A line of another program's file, or one that lets an address
// through, always ends the list, because it changes what other lines mean. Errors of other types come from in.
func Read(in io.Reader, bad func(*Error) bool) (*List, error) {
	return (&reader{bad: bad, list: new(List), room: MaxEntries}).read(in)
}

func (r *reader) read(in io.Reader) (*List, error) {
	src, err := unpack(in)
	if err != nil {
		return nil, err
	}
	first, err := firstByte(src)
	if err != nil {
		return nil, err
	}
	if first == '{' || first == '[' {
		err = r.json(src)
	} else {
		err = r.text(src)
	}
	if err != nil {
		return nil, err
	}
	read := len(r.list.Entries)
	slices.SortFunc(r.list.Entries, Entry.Compare)
	r.list.Entries = slices.Compact(r.list.Entries)
	r.list.Repeats = read - len(r.list.Entries)
	return r.list, nil
}

// reader reads a list.
type reader struct {
	list  *List
	bad   func(*Error) bool
	room  int // the most entries
	line  int
	atoms []netip.Prefix // scratch
	csv   *columns       // nil = no table row seen yet
	// countLine is the first line whose second column may be a count or a prefix length. counts reports whether
	// another line shows that the column holds counts.
	countLine int
	counts    bool
}

// report returns nil if reading may continue after e, else e with its line number.
func (r *reader) report(e *Error) error {
	if e.Line == 0 {
		e.Line = r.line
	}
	if !e.whole && r.bad != nil && r.bad(e) {
		return nil
	}
	return e
}

// add appends a ban of each prefix.
func (r *reader) add(ports string, prefixes ...netip.Prefix) error {
	if len(r.list.Entries)+len(prefixes) > r.room {
		return refused(wrong("import it in parts", "the list has more than %d prefixes", r.room))
	}
	if n := len(r.list.Entries); n+len(prefixes) > cap(r.list.Entries) { // append would copy a long list four times as often
		r.list.Entries = slices.Grow(r.list.Entries, max(n, len(prefixes)))
	}
	for _, p := range prefixes {
		r.list.Entries = append(r.list.Entries, Entry{p, ports})
	}
	return nil
}

// addText adds the bans of an address, CIDR or range.
func (r *reader) addText(ports, s string) error {
	prefixes, masked, err := appendAtom(r.atoms[:0], s)
	if err != nil {
		return err
	}
	r.atoms = prefixes
	if masked {
		if r.list.Masked++; r.list.Masked == 1 {
			r.list.Example = fmt.Sprintf("%s in line %d", s, r.line)
		}
	}
	return r.add(ports, prefixes...)
}

// skip counts an entry that the list marks as not in force.
func (r *reader) skip(why string) {
	if len(why) > 80 {
		why = why[:80]
	}
	i := slices.IndexFunc(r.list.Skipped, func(s Skip) bool { return s.Why == why })
	if i < 0 && len(r.list.Skipped) < maxSkips {
		r.list.Skipped = append(r.list.Skipped, Skip{Why: why})
		i = len(r.list.Skipped) - 1
	} else if i < 0 {
		i = maxSkips - 1
		r.list.Skipped[i].Why = "other entries that are not bans"
	}
	r.list.Skipped[i].N++
}

var webPage = regexp.MustCompile(`(?i)^\s*<(!doctype html|html)`)

// unpack decompresses gzip and refuses what is not text. After MaxBytes, the result returns an *Error.
func unpack(in io.Reader) (*bufio.Reader, error) {
	src := bufio.NewReaderSize(in, bufferSize)
	head, err := src.Peek(2)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if bytes.Equal(head, []byte("\x1f\x8b")) {
		unzipped, err := gzip.NewReader(src)
		if err != nil {
			return nil, wrong("download it again", "the gzip file is damaged: %v", err)
		}
		src = bufio.NewReaderSize(damaged{unzipped}, bufferSize)
	}
	src = bufio.NewReaderSize(&bounded{in: src, left: MaxBytes}, bufferSize)
	if head, err = src.Peek(sniffed); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte("\xef\xbb\xbf")):
		_, err = src.Discard(3)
		return src, err
	case bytes.HasPrefix(head, []byte("\x1f\x8b")), bytes.HasPrefix(head, []byte("PK\x03\x04")), bytes.HasPrefix(head, []byte("\xfd7zXZ")),
		bytes.HasPrefix(head, []byte("BZh")), bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")), bytes.HasPrefix(head, []byte("7z\xbc\xaf")):
		return nil, wrong("unpack it first", "it is a compressed file, not a list")
	case bytes.HasPrefix(head, []byte("\xff\xfe")), bytes.HasPrefix(head, []byte("\xfe\xff")):
		return nil, wrong("convert it to UTF-8: iconv -f UTF-16 -t UTF-8 FILE | meshban import -", "it is UTF-16, not plain text")
	case webPage.Match(head):
		return nil, wrong("download the list itself: this page may say why it did not come", "it is a web page, not a list")
	case bytes.HasPrefix(head, []byte("[{'")):
		return nil, wrong("for each JAIL: fail2ban-client get JAIL banip | meshban import -", "it is a Python list, as fail2ban-client banned prints it")
	case bytes.IndexByte(head, 0) >= 0:
		return nil, wrong("a list has one address or CIDR a line", "it is not a text file")
	}
	return src, nil
}

// damaged marks errors of the gzip file.
type damaged struct{ in io.Reader }

func (d damaged) Read(p []byte) (int, error) {
	n, err := d.in.Read(p)
	if errors.Is(err, gzip.ErrChecksum) || errors.Is(err, gzip.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = wrong("download it again", "the gzip file is damaged: %v", err)
	}
	return n, err
}

// bounded returns an *Error instead of the first byte beyond left.
type bounded struct {
	in   io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.in.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, wrong("import it in parts", "the list has more than %d bytes", MaxBytes)
	}
	return n, err
}

// firstByte returns the first non-blank byte in the buffer, or 0.
func firstByte(src *bufio.Reader) (byte, error) {
	head, err := src.Peek(sniffed)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	if head = bytes.TrimLeft(head, " \t\r\n"); len(head) == 0 {
		return 0, nil
	}
	return head[0], nil
}
