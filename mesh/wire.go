package mesh

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// The subset of msgpack that this package uses: arrays, unsigned integers, binary and text. It is coded by hand,
// without reflection, because frames are signed: one value has exactly one encoding (the shortest), and the reader
// rejects any other. Source: the msgpack specification.

// maxMillis keeps times within what time.UnixMilli and RFC 3339 can represent (the year 9999).
const maxMillis = 253402300799999

const (
	mpFixArray = 0x90
	mpFixStr   = 0xa0
	mpArray16  = 0xdc
	mpBin8     = 0xc4
	mpBin16    = 0xc5
	mpBin32    = 0xc6
	mpUint8    = 0xcc
	mpUint16   = 0xcd
	mpUint32   = 0xce
	mpUint64   = 0xcf
	mpStr8     = 0xd9
)

var (
	errTruncated = errors.New("truncated")
	errTrailing  = errors.New("trailing bytes")
	errCanonical = errors.New("not the shortest encoding")
)

func appendArray(b []byte, n int) []byte {
	if n < 16 {
		return append(b, mpFixArray|byte(n))
	}
	return binary.BigEndian.AppendUint16(append(b, mpArray16), uint16(n))
}

func appendUint(b []byte, v uint64) []byte {
	switch {
	case v < 0x80:
		return append(b, byte(v))
	case v <= math.MaxUint8:
		return append(b, mpUint8, byte(v))
	case v <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, mpUint16), uint16(v))
	case v <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(b, mpUint32), uint32(v))
	}
	return binary.BigEndian.AppendUint64(append(b, mpUint64), v)
}

func appendBin(b, p []byte) []byte {
	switch n := len(p); {
	case n <= math.MaxUint8:
		b = append(b, mpBin8, byte(n))
	case n <= math.MaxUint16:
		b = binary.BigEndian.AppendUint16(append(b, mpBin16), uint16(n))
	default:
		b = binary.BigEndian.AppendUint32(append(b, mpBin32), uint32(n))
	}
	return append(b, p...)
}

// appendStr appends a text of at most 255 bytes; every text here has a smaller limit.
func appendStr(b []byte, s string) []byte {
	if len(s) < 32 {
		b = append(b, mpFixStr|byte(len(s)))
	} else {
		b = append(b, mpStr8, byte(len(s)))
	}
	return append(b, s...)
}

// flag returns 1 for true and 0 for false.
func flag(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// reader takes values off the front of b. The first error sticks and every later value is zero, so callers check once
// at the end.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.b = nil
}

func (r *reader) take(n int) []byte {
	if r.err != nil || n < 0 || len(r.b) < n {
		r.fail(errTruncated)
		return nil
	}
	p := r.b[:n:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) byte() byte {
	if p := r.take(1); p != nil {
		return p[0]
	}
	return 0
}

// bigEndian reads n bytes and requires a value of at least least: a lower one has a shorter form.
func (r *reader) bigEndian(n int, least uint64) uint64 {
	var v uint64
	for _, c := range r.take(n) {
		v = v<<8 | uint64(c)
	}
	if r.err == nil && v < least {
		r.fail(errCanonical)
		return 0
	}
	return v
}

func (r *reader) uint() uint64 {
	switch c := r.byte(); {
	case c < 0x80:
		return uint64(c)
	case c == mpUint8:
		return r.bigEndian(1, 0x80)
	case c == mpUint16:
		return r.bigEndian(2, math.MaxUint8+1)
	case c == mpUint32:
		return r.bigEndian(4, math.MaxUint16+1)
	case c == mpUint64:
		return r.bigEndian(8, math.MaxUint32+1)
	default:
		r.fail(fmt.Errorf("byte %#x where a number belongs", c))
		return 0
	}
}

// most reads a number of at most limit.
func (r *reader) most(limit uint64) uint64 {
	v := r.uint()
	if v > limit {
		r.fail(fmt.Errorf("number %d, want at most %d", v, limit))
		return 0
	}
	return v
}

// array reads an array's length, which is at most limit.
func (r *reader) array(limit int) int {
	var n uint64
	switch c := r.byte(); {
	case c&0xf0 == mpFixArray:
		n = uint64(c & 0x0f)
	case c == mpArray16:
		n = r.bigEndian(2, 16)
	default:
		r.fail(fmt.Errorf("byte %#x where a list belongs", c))
		return 0
	}
	if n > uint64(limit) {
		r.fail(fmt.Errorf("list of %d, want at most %d", n, limit))
		return 0
	}
	return int(n)
}

// arrayOf reads the length of an array, which must be n.
func (r *reader) arrayOf(n int) {
	if got := r.array(n); r.err == nil && got != n {
		r.fail(fmt.Errorf("list of %d, want %d", got, n))
	}
}

// flags reads a number that may only have bits of known set.
func (r *reader) flags(known uint64) uint64 {
	v := r.uint()
	if v&^known != 0 {
		r.fail(errors.New("unknown flags"))
		return 0
	}
	return v
}

// bin reads at most limit bytes, which remain part of the reader's buffer.
func (r *reader) bin(limit int) []byte {
	var n uint64
	switch c := r.byte(); c {
	case mpBin8:
		n = r.bigEndian(1, 0)
	case mpBin16:
		n = r.bigEndian(2, math.MaxUint8+1)
	case mpBin32:
		n = r.bigEndian(4, math.MaxUint16+1)
	default:
		r.fail(fmt.Errorf("byte %#x where bytes belong", c))
		return nil
	}
	if n > uint64(limit) {
		r.fail(fmt.Errorf("%d bytes, want at most %d", n, limit))
		return nil
	}
	return r.take(int(n))
}

// fixed reads exactly len(dst) bytes.
func (r *reader) fixed(dst []byte) {
	p := r.bin(len(dst))
	if r.err == nil && len(p) != len(dst) {
		r.fail(fmt.Errorf("%d bytes, want %d", len(p), len(dst)))
	}
	copy(dst, p)
}

// str reads a text of at most limit (<= 255) bytes that passes isCleanText.
func (r *reader) str(limit int) string {
	var n uint64
	switch c := r.byte(); {
	case c&0xe0 == mpFixStr:
		n = uint64(c & 0x1f)
	case c == mpStr8:
		n = r.bigEndian(1, 32)
	default:
		r.fail(fmt.Errorf("byte %#x where a text belongs", c))
		return ""
	}
	if n > uint64(limit) {
		r.fail(fmt.Errorf("text of %d bytes, want at most %d", n, limit))
		return ""
	}
	s := string(r.take(int(n)))
	if r.err == nil && !isCleanText(s) {
		r.fail(errors.New("text with control characters or broken UTF-8"))
		return ""
	}
	return s
}

// end returns the first error; leftover bytes are an error too.
func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		return errTrailing
	}
	return r.err
}
