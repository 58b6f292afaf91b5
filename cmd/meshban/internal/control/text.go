package control

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
)

// FormatPrefix formats p as all commands and answers do: a prefix of full length as a bare address. The invalid
// prefix becomes "".
func FormatPrefix(p netip.Prefix) string { return string(appendPrefix(nil, p)) }

// FormatTime formats t in RFC 3339, UTC, rounded up to whole seconds: at the time that it shows, what ends at t has
// ended. The zero time becomes "".
func FormatTime(t time.Time) string { return string(appendTime(nil, t)) }

// FormatPast is FormatTime rounded down, for times in the past: nothing has happened in the future.
func FormatPast(t time.Time) string { return PastOf(t).String() }

func appendPrefix(dst []byte, p netip.Prefix) []byte {
	if !p.IsValid() {
		return dst
	}
	if p.IsSingleIP() {
		return p.Addr().AppendTo(dst)
	}
	return p.AppendTo(dst)
}

func appendTime(dst []byte, t time.Time) []byte {
	if t.IsZero() {
		return dst
	}
	if up := t.Truncate(time.Second); up.Before(t) {
		t = up.Add(time.Second)
	}
	return t.UTC().AppendFormat(dst, time.RFC3339)
}

// Prefix is a prefix whose text is FormatPrefix's.
type Prefix struct{ netip.Prefix }

// PrefixOf returns p as a Prefix.
func PrefixOf(p netip.Prefix) Prefix { return Prefix{p} }

func (p Prefix) String() string { return FormatPrefix(p.Prefix) }

// MarshalText returns String.
func (p Prefix) MarshalText() ([]byte, error) { return appendPrefix(nil, p.Prefix), nil }

// UnmarshalText reads an address or a prefix; empty text is the invalid prefix.
func (p *Prefix) UnmarshalText(b []byte) (err error) {
	if *p = (Prefix{}); len(b) > 0 {
		p.Prefix, err = config.ParsePrefix(string(b))
	}
	return err
}

// Prefixes is a list whose JSON form is an array of Prefix texts.
type Prefixes []netip.Prefix

// MarshalJSON returns the list.
func (l Prefixes) MarshalJSON() ([]byte, error) {
	dst := []byte{'['}
	for i, p := range l {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendPrefix(append(dst, '"'), p), '"')
	}
	return append(dst, ']'), nil
}

// UnmarshalJSON reads a list of addresses and prefixes; a null item is the invalid prefix. An import sends a million
// of them, for which encoding/json would take ten times as long. Cutting at commas is safe: no valid item contains a
// comma or an escape.
func (l *Prefixes) UnmarshalJSON(b []byte) error {
	*l = nil
	list, ok := strings.CutPrefix(strings.TrimSuffix(string(b), "]"), "[")
	if !ok && list != "null" {
		return fmt.Errorf("%s where a list of addresses belongs", b)
	}
	if list = strings.TrimSpace(list); !ok || list == "" {
		return nil
	}
	*l = make(Prefixes, 0, min(strings.Count(list, ",")+1, MaxAddrs))
	for text := range strings.SplitSeq(list, ",") {
		var p Prefix
		if text = strings.TrimSpace(text); text != "null" {
			text = strings.TrimSuffix(strings.TrimPrefix(text, `"`), `"`)
			if err := p.UnmarshalText([]byte(text)); err != nil {
				return err
			}
		}
		*l = append(*l, p.Prefix)
	}
	return nil
}

// Time is a time whose JSON form is FormatTime's text, or null for the zero time.
type Time struct{ time.Time }

// TimeOf returns t as a Time.
func TimeOf(t time.Time) Time { return Time{t} }

// PastOf is TimeOf rounded down, for times in the past.
func PastOf(t time.Time) Time { return Time{t.Truncate(time.Second)} }

func (t Time) String() string { return FormatTime(t.Time) }

// MarshalJSON returns a text or null.
func (t Time) MarshalJSON() ([]byte, error) { return appendTimeValue(nil, t.Time), nil }

// appendTimeValue appends a JSON string, or null for the zero time.
func appendTimeValue(dst []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(dst, "null"...)
	}
	return append(appendTime(append(dst, '"'), t), '"')
}

// UnmarshalJSON reads what MarshalJSON returns.
func (t *Time) UnmarshalJSON(b []byte) (err error) {
	if *t = (Time{}); string(b) != "null" && string(b) != `""` {
		if err = t.Time.UnmarshalJSON(b); err == nil {
			t.Time = t.UTC()
		}
	}
	return err
}

// Duration is a duration whose JSON form is what people write: 30m, 7d12h. Empty is 0.
type Duration time.Duration

func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText returns String.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what config.ParseDuration reads.
func (d *Duration) UnmarshalText(b []byte) error {
	if *d = 0; len(b) == 0 {
		return nil
	}
	got, err := config.ParseDuration(string(b))
	*d = Duration(got)
	return err
}

// appendString appends s as a JSON string. It escapes all control characters, also those of C1, because a peer's text
// may end up on a terminal. Invalid UTF-8 becomes U+FFFD.
func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r < 0x20 || 0x7f <= r && r <= 0x9f:
			dst = fmt.Appendf(dst, `\u%04x`, r)
		default:
			dst = utf8.AppendRune(dst, r)
		}
	}
	return append(dst, '"')
}

// appendField appends a member of an object; it must not be the first.
func appendField(dst []byte, name, value string) []byte {
	return appendString(append(append(append(dst, `,"`...), name...), `":`...), value)
}

// Text returns which jails report to the mesh, and what to do about those that do not.
func (f *Fail2banStatus) Text() []string {
	switch {
	case f.Error != "":
		return []string{"its jails are not known: " + f.Error}
	case len(f.Silent) == 0 && len(f.Tells) == 0:
		return []string{"it has no jails that could tell the mesh"}
	case len(f.Silent) == 0:
		return []string{strings.Join(f.Tells, ", ") + verbOf(f.Tells, " tells", " tell")}
	}
	text := strings.Join(f.Silent, ", ") + verbOf(f.Silent, " does not", " do not") + ` tell the mesh: add meshban[port="%(port)s"] to the action there, or to action_ if jail.local sets it, then fail2ban-client reload --restart`
	if len(f.Tells) == 0 {
		return []string{text}
	}
	return []string{strings.Join(f.Tells, ", ") + verbOf(f.Tells, " tells", " tell") + ", " + text}
}

func verbOf(names []string, one, more string) string {
	if len(names) == 1 {
		return one
	}
	return more
}

// Printable makes foreign text safe for a terminal: invisible characters and those that control the terminal become
// U+FFFD.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == ' ' || unicode.IsGraphic(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

// Count writes n with a comma between thousands.
func Count[N int | uint64](n N) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
