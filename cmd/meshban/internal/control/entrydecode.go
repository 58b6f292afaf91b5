package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"time"
)

// maxInterned is the most distinct strings that an entryDecoder keeps.
const maxInterned = 4_096

// entryDecoder decodes list entries. Entries that AppendJSON wrote without an escape, which are nearly all, it
// decodes without encoding/json and with shared strings. The zero value is ready to use.
type entryDecoder struct {
	strings map[string]string
	origins []string // of the last entry; reused
	ids     []string // their ids; reused
}

func (d *entryDecoder) decode(line []byte) (ListEntry, error) {
	if e, ok := d.fast(line); ok {
		return e, nil
	}
	var e ListEntry
	err := json.Unmarshal(line, &e)
	if err == nil && !e.Prefix.IsValid() {
		err = errors.New("no prefix")
	}
	return e, err
}

// scanner consumes a line from the left. At the first mismatch ok becomes false for good.
type scanner struct {
	rest []byte
	ok   bool
}

func (s *scanner) literal(text string) {
	if s.ok = s.ok && len(s.rest) >= len(text) && string(s.rest[:len(text)]) == text; s.ok {
		s.rest = s.rest[len(text):]
	}
}

// quoted returns the text before the next quote and consumes both. The opening quote is already consumed.
func (s *scanner) quoted() []byte {
	if !s.ok {
		return nil
	}
	i := bytes.IndexByte(s.rest, '"')
	if i < 0 || bytes.IndexByte(s.rest[:i], '\\') >= 0 {
		s.ok = false
		return nil
	}
	text := s.rest[:i]
	s.rest = s.rest[i+1:]
	return text
}

// value consumes before and the quoted text after it.
func (s *scanner) value(before string) []byte {
	s.literal(before)
	return s.quoted()
}

func (d *entryDecoder) fast(line []byte) (ListEntry, bool) {
	s := scanner{rest: line, ok: true}
	var e ListEntry
	e.Prefix.Prefix = s.prefix(s.value(`{"prefix":"`))
	e.Ports = d.intern(s.value(`,"ports":"`))
	e.Until.Time = s.time(s.value(`,"until":"`))
	s.literal(`,"origins":[`)
	d.origins = d.list(&s, d.origins[:0])
	e.Origins = d.origins
	e.Reason = d.intern(s.value(`],"reason":"`))
	e.Source = d.intern(s.value(`,"source":"`))
	e.State = d.intern(s.value(`,"state":"`))
	s.literal(`,"origin_ids":[`)
	d.ids = d.list(&s, d.ids[:0])
	e.OriginIDs = d.ids
	s.literal(`]}`)
	return e, s.ok && len(s.rest) == 0
}

// prefix reads an address or a prefix in its only form.
func (s *scanner) prefix(text []byte) (p netip.Prefix) {
	if !s.ok {
		return p
	}
	var err error
	if bytes.IndexByte(text, '/') >= 0 {
		p, err = netip.ParsePrefix(string(text))
	} else {
		var addr netip.Addr
		addr, err = netip.ParseAddr(string(text))
		if addr.Zone() == "" {
			p = netip.PrefixFrom(addr, addr.BitLen())
		}
	}
	s.ok = err == nil && p.IsValid() && !p.Addr().Is4In6() && p == p.Masked()
	return p
}

func (s *scanner) time(text []byte) time.Time {
	if !s.ok {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, string(text))
	s.ok = err == nil
	return t.UTC()
}

// decodeHeld is decode for held entries.
func (d *entryDecoder) decodeHeld(line []byte) (HeldEntry, error) {
	if e, ok := d.fastHeld(line); ok {
		return e, nil
	}
	var e HeldEntry
	err := json.Unmarshal(line, &e)
	if err == nil && !e.Prefix.IsValid() {
		err = errors.New("no prefix")
	}
	return e, err
}

func (d *entryDecoder) fastHeld(line []byte) (HeldEntry, bool) {
	s := scanner{rest: line, ok: true}
	var e HeldEntry
	e.Prefix.Prefix = s.prefix(s.value(`{"prefix":"`))
	e.Ports = d.intern(s.value(`,"ports":"`))
	e.Origin = d.intern(s.value(`,"origin":"`))
	e.ID = d.intern(s.value(`,"id":"`))
	e.Issued.Time = s.time(s.value(`,"issued":"`))
	e.Until.Time = s.time(s.value(`,"until":"`))
	e.Reason = d.intern(s.value(`,"reason":"`))
	e.Source = d.intern(s.value(`,"source":"`))
	e.By = d.intern(s.value(`,"by":"`))
	e.Kind = d.intern(s.value(`,"kind":"`))
	s.literal(`}`)
	return e, s.ok && len(s.rest) == 0
}

// list consumes strings up to the closing bracket.
func (d *entryDecoder) list(s *scanner, dst []string) []string {
	for more := len(s.rest) > 0 && s.rest[0] == '"'; s.ok && more; {
		s.literal(`"`)
		dst = append(dst, d.intern(s.quoted()))
		if more = len(s.rest) > 0 && s.rest[0] == ','; more {
			s.rest = s.rest[1:]
		}
	}
	return dst
}

// intern returns b as a string, the same string each time while there is room.
func (d *entryDecoder) intern(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	if s, ok := d.strings[string(b)]; ok {
		return s
	}
	s := string(b)
	if d.strings == nil {
		d.strings = map[string]string{}
	}
	if len(d.strings) < maxInterned {
		d.strings[s] = s
	}
	return s
}
