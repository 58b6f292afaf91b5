package control

import (
	"fmt"
	"net/netip"
	"time"
	"unicode/utf8"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
)

// eventTime is RFC 3339 in UTC with milliseconds.
const eventTime = "2006-01-02T15:04:05.000Z07:00"

// FormatPrefix writes p as every command and every answer does: a prefix of full length as the bare address. The
// invalid prefix is the empty string.
func FormatPrefix(p netip.Prefix) string { return string(appendPrefix(nil, p)) }

// FormatTime writes t in RFC 3339, UTC, whole seconds, rounded up: what ends at that time has then surely ended. The
// zero time is the empty string.
func FormatTime(t time.Time) string { return string(appendTime(nil, t)) }

// FormatPast writes a time of the past as FormatTime does, but not rounded up: nothing has happened in the future.
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

// appendString appends s as a JSON string. Control characters, those of C1 included, never leave it raw: what a peer
// said may end up on a terminal. Invalid UTF-8 becomes U+FFFD.
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

// prefixText is a prefix in the text form of FormatPrefix. It reads a bare address too.
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

// timeText is a time in the form of FormatTime; null is the zero time.
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

// spanText is a length of time as people write it: 30m, 7d12h. Empty is 0.
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
