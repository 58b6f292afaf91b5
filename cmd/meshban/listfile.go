package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/netip"
)

const (
	maxListLine = 4_096 // bytes of one line of a list; a longer one is bad, and skipped
	sniffed     = 512   // bytes at the start of a list that must look like text
)

// utf8BOM is what some editors put in front of a text.
var utf8BOM = []byte("\xef\xbb\xbf")

// listReader reads a plain list: one address or CIDR a line, comments after # or ;, columns behind the address ignored.
type listReader struct {
	in    *bufio.Reader // of at least maxListLine bytes
	line  int           // number of the line that next read last, from 1
	bytes int64         // read so far
}

func newListReader(in *bufio.Reader) *listReader { return &listReader{in: in} }

// sniff tells early that the input is no text: a packed file, a program.
func (r *listReader) sniff() error {
	head, err := r.in.Peek(sniffed)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch {
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		return usagef("unpack it on the way: zcat FILE | meshban import -", "it is packed with gzip, not a list")
	case bytes.HasPrefix(head, []byte("PK\x03\x04")), bytes.HasPrefix(head, []byte("\xfd7zXZ")), bytes.HasPrefix(head, []byte("BZh")):
		return usagef("unpack it first", "it is a packed file, not a list")
	case bytes.HasPrefix(head, []byte("\xff\xfe")), bytes.HasPrefix(head, []byte("\xfe\xff")):
		return usagef("turn it into UTF-8: iconv -f UTF-16 -t UTF-8 FILE | meshban import -", "it is UTF-16, not plain text")
	case bytes.IndexByte(head, 0) >= 0:
		return usagef("a list has one address or CIDR a line", "it is not a text")
	}
	return nil
}

// next returns the next address. A bad line is a usage *control.Error, and reading may go on; io.EOF is the end; any
// other error is the input's.
func (r *listReader) next() (netip.Prefix, error) {
	for {
		line, err := r.in.ReadSlice('\n')
		if len(line) == 0 && err != nil {
			return netip.Prefix{}, err
		}
		r.line++
		r.bytes += int64(len(line))
		if errors.Is(err, bufio.ErrBufferFull) {
			if err := r.skip(); err != nil {
				return netip.Prefix{}, err
			}
			return netip.Prefix{}, usagef("", "the line has more than %d bytes", maxListLine)
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return netip.Prefix{}, err
		}
		if r.line == 1 {
			line = bytes.TrimPrefix(line, utf8BOM)
		}
		p, ok, err := parseListLine(line)
		if ok || err != nil {
			return p, err
		}
	}
}

// skip reads to the end of a line that is too long.
func (r *listReader) skip() error {
	for {
		part, err := r.in.ReadSlice('\n')
		r.bytes += int64(len(part))
		switch {
		case err == nil, errors.Is(err, io.EOF):
			return nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return err
		}
	}
}

// parseListLine reads one line of a list; ok is false when it holds no address, being blank or a comment.
func parseListLine(line []byte) (p netip.Prefix, ok bool, err error) {
	line = bytes.TrimSpace(line)
	if i := bytes.IndexAny(line, " \t\v\f\r,;#|"); i >= 0 {
		if i == 0 && line[0] != '#' && line[0] != ';' {
			return p, false, usagef("", "the line begins with %q instead of an address", line[0])
		}
		line = line[:i]
	}
	if len(line) == 0 {
		return p, false, nil
	}
	p, err = parseAddr(string(line))
	return p, err == nil, err
}
