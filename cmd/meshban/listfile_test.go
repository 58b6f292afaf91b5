package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

func readAll(in io.Reader) (all []netip.Prefix, bad []int, err error) {
	r := newListReader(bufio.NewReaderSize(in, maxListLine))
	for {
		p, err := r.next()
		switch {
		case errors.Is(err, io.EOF):
			return all, bad, nil
		case err == nil:
			all = append(all, p)
		case errors.As(err, new(*control.Error)):
			bad = append(bad, r.line)
		default:
			return all, bad, err
		}
	}
}

func TestListReader(t *testing.T) {
	long := strings.Repeat("x", maxListLine)
	for _, c := range []struct {
		name, text string
		want       string // addresses, then lines that are bad
	}{
		{"ok: nothing", "", "[] []"},
		{"ok: one without newline", "192.0.2.1", "[192.0.2.1/32] []"},
		{"ok: carriage returns", "192.0.2.1\r\n\r\n192.0.2.2\r\n", "[192.0.2.1/32 192.0.2.2/32] []"},
		{"ok: comments", "# a\n; b\n  # c\n192.0.2.1# d\n192.0.2.2 ; e", "[192.0.2.1/32 192.0.2.2/32] []"},
		{"ok: columns", "192.0.2.1\t5\n192.0.2.2,US\n192.0.2.3|x\n192.0.2.4;y\n 2001:db8::/32 z", "[192.0.2.1/32 192.0.2.2/32 192.0.2.3/32 192.0.2.4/32 2001:db8::/32] []"},
		{"ok: byte order mark", "\ufeff192.0.2.1\n", "[192.0.2.1/32] []"},
		{"ok: 4-in-6", "::ffff:192.0.2.1\n", "[192.0.2.1/32] []"},
		{"bad: lines are numbered", "x\n192.0.2.1\n192.0.2.1/24\n\n,\n", "[192.0.2.1/32] [1 3 5]"},
		{"bad: a long line is one line", "192.0.2.1\n" + long + long + "\n192.0.2.2", "[192.0.2.1/32 192.0.2.2/32] [2]"},
		{"bad: a long last line", "192.0.2.1\n" + long + long, "[192.0.2.1/32] [2]"},
		{"ok: a comment as long as a line may be", "#" + long[2:] + "\n192.0.2.1", "[192.0.2.1/32] []"},
	} {
		t.Run(c.name, func(t *testing.T) {
			all, bad, err := readAll(strings.NewReader(c.text))
			if got := fmt.Sprint(all, " ", bad); err != nil || got != c.want {
				t.Errorf("got %s, %v, want %s", got, err, c.want)
			}
		})
	}
}

func TestListReaderFails(t *testing.T) {
	broken := errors.New("disk on fire")
	all, _, err := readAll(io.MultiReader(strings.NewReader("192.0.2.1\n"), iotestErr{broken}))
	if len(all) != 1 || !errors.Is(err, broken) {
		t.Errorf("%v, %v", all, err)
	}
}

type iotestErr struct{ err error }

func (e iotestErr) Read([]byte) (int, error) { return 0, e.err }

func TestSniff(t *testing.T) {
	for _, c := range []struct {
		name, text, want string
	}{
		{"ok: text", "# a list\n", ""},
		{"ok: empty", "", ""},
		{"bad: gzip", "\x1f\x8b\x08\x00", "gzip"},
		{"bad: zip", "PK\x03\x04", "packed"},
		{"bad: UTF-16", "\xff\xfe1\x009\x00", "UTF-16"},
		{"bad: program", "\x7fELF\x02\x01\x01\x00", "not a text"},
	} {
		err := newListReader(bufio.NewReaderSize(strings.NewReader(c.text), maxListLine)).sniff()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// FuzzListLine: a line gives an address, nothing, or a usage error; and an address is read back from what export
// writes of it.
func FuzzListLine(f *testing.F) {
	for _, s := range []string{
		"192.0.2.1", "192.0.2.0/24 ; x", "# c", " \t", "2001:db8::1,5", "192.0.2.1/24", "::ffff:1.2.3.4", "1.2.3.4:22",
		"[::1]", "fe80::1%eth0", "1.2.3.4-1.2.3.9", "a.example", "\xff", "192.0.2.0/255.255.255.0",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		p, ok, err := parseListLine(bytes.Clone(line))
		switch {
		case err != nil:
			if ok || control.AsError(err).Code != control.CodeUsage {
				t.Errorf("%q: %v, %v", line, ok, err)
			}
		case ok:
			if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() {
				t.Errorf("%q: took %v", line, p)
			}
			again, ok, err := parseListLine([]byte(control.FormatPrefix(p)))
			if !ok || err != nil || again != p {
				t.Errorf("%q: %v came back as %v, %v", line, p, again, err)
			}
		case p.IsValid():
			t.Errorf("%q: %v that does not count", line, p)
		}
	})
}

func BenchmarkListReader(b *testing.B) {
	text := strings.Repeat("203.0.113.77\t5 # seen\n", 10_000)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if all, bad, err := readAll(strings.NewReader(text)); len(all) != 10_000 || bad != nil || err != nil {
			b.Fatal(len(all), bad, err)
		}
	}
}
