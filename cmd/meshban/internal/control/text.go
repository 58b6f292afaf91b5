package control

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
)

// eventTime is RFC 3339 in UTC with milliseconds.
const eventTime = "2006-01-02T15:04:05.000Z07:00"

// FormatPrefix formats p as all commands and answers do: a prefix of full length as a bare address. The invalid
// prefix becomes "".
func FormatPrefix(p netip.Prefix) string { return string(appendPrefix(nil, p)) }

// FormatTime formats t in RFC 3339, UTC, rounded up to whole seconds: what ends at that time has then surely ended.
// The zero time becomes "".
func FormatTime(t time.Time) string { return string(appendTime(nil, t)) }

// FormatPast is FormatTime rounded down, for times in the past: nothing has happened in the future.
func FormatPast(t time.Time) string { return FormatTime(t.Truncate(time.Second)) }

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

// appendTimeValue appends a JSON string, or null for the zero time.
func appendTimeValue(dst []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(dst, "null"...)
	}
	dst = append(dst, '"')
	dst = appendTime(dst, t)
	return append(dst, '"')
}

// appendString appends s as a JSON string. It escapes all control characters, also those of C1, because a peer's text
// may end up on a terminal. Invalid UTF-8 becomes U+FFFD.
func appendString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= 0x20 && c < 0x7f && c != '"' && c != '\\' {
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r != utf8.RuneError && r > 0x9f {
			i += size
			continue
		}
		dst = append(dst, s[start:i]...)
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case r == utf8.RuneError:
			dst = utf8.AppendRune(dst, utf8.RuneError)
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[r>>4], hex[r&0xf])
		}
		i += size
		start = i
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}

// prefixText is a prefix that is encoded as by FormatPrefix. It also decodes a bare address.
type prefixText netip.Prefix

func (p prefixText) MarshalText() ([]byte, error) { return appendPrefix(nil, netip.Prefix(p)), nil }

func (p *prefixText) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*p = prefixText{}
		return nil
	}
	got, err := config.ParsePrefix(string(b))
	if err != nil {
		return err
	}
	*p = prefixText(got)
	return nil
}

// timeText is a time that is encoded as by FormatTime; null is the zero time.
type timeText time.Time

func (t timeText) MarshalJSON() ([]byte, error) { return appendTimeValue(nil, time.Time(t)), nil }

func (t *timeText) UnmarshalJSON(b []byte) error {
	s := string(b)
	if s == "null" || s == `""` {
		*t = timeText{}
		return nil
	}
	got, err := time.Parse(`"`+time.RFC3339+`"`, s)
	if err != nil {
		return fmt.Errorf("read time: %w", err)
	}
	*t = timeText(got.UTC())
	return nil
}

// spanText is a duration as people write it: 30m, 7d12h. Empty is 0.
type spanText time.Duration

func (d spanText) MarshalText() ([]byte, error) {
	if d == 0 {
		return nil, nil
	}
	return []byte(time.Duration(d).String()), nil
}

func (d *spanText) UnmarshalText(b []byte) error {
	*d = 0
	if len(b) == 0 {
		return nil
	}
	got, err := config.ParseDuration(string(b))
	if err != nil {
		return err
	}
	*d = spanText(got)
	return nil
}

// via decodes data as a W, from which convert makes what v points to.
func via[W, V any](data []byte, v *V, convert func(W) V) error {
	var w W
	err := json.Unmarshal(data, &w)
	if err == nil {
		*v = convert(w)
	}
	return err
}

// appendField appends a member of an object, which is not the first.
func appendField(dst []byte, name, value string) []byte {
	return appendString(append(append(append(dst, `,"`...), name...), `":`...), value)
}

// Text says which jails tell the mesh, and what to do about those that do not.
func (f *Fail2banStatus) Text() []string {
	switch {
	case f.Error != "":
		return []string{"its jails are not known: " + f.Error}
	case len(f.Silent) == 0 && len(f.Tells) == 0:
		return []string{"it has no jails that could tell the mesh"}
	case len(f.Silent) == 0:
		return []string{strings.Join(f.Tells, ", ") + verbOf(f.Tells, " tells", " tell")}
	}
	text := strings.Join(f.Silent, ", ") + verbOf(f.Silent, " does not", " do not") + ` tell the mesh: add meshban[port="%(port)s"] to the action there, then fail2ban-client reload --restart`
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
