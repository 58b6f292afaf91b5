// Package wire is the encoding of everything that package mesh signs, sends or stores: a subset of msgpack (arrays,
// unsigned integers, binary and text). It is coded by hand, without reflection, because frames are signed: a value has
// exactly one encoding, the shortest, and the reader rejects any other. Source: the msgpack specification.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
)

// MaxMillis keeps times within what time.UnixMilli and RFC 3339 can represent (the year 9999).
const MaxMillis = 253402300799999

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

// Why a reader rejects what it reads.
var (
	ErrTruncated = errors.New("truncated")
	ErrTrailing  = errors.New("trailing bytes")
	ErrCanonical = errors.New("not the shortest encoding")
)

// AppendArray appends the head of an array of n elements, at most 65,535; the elements follow.
func AppendArray(b []byte, n int) []byte {
	if n < 16 {
		return append(b, mpFixArray|byte(n))
	}
	return binary.BigEndian.AppendUint16(append(b, mpArray16), uint16(n))
}

// AppendUint appends a number.
func AppendUint(b []byte, v uint64) []byte {
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

// AppendBin appends bytes.
func AppendBin(b, p []byte) []byte {
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

// AppendStr appends a text of at most 255 bytes; every text here has a smaller limit.
func AppendStr(b []byte, s string) []byte {
	if len(s) < 32 {
		b = append(b, mpFixStr|byte(len(s)))
	} else {
		b = append(b, mpStr8, byte(len(s)))
	}
	return append(b, s...)
}

// Flag returns 1 for true and 0 for false.
func Flag(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// Reader takes values off the front of Rest. The first error sticks and every later value is zero, so callers check once
// at the end.
type Reader struct {
	Rest []byte
	Err  error
}

// Fail ends reading with err, unless an earlier error has.
func (r *Reader) Fail(err error) {
	if r.Err == nil {
		r.Err = err
	}
	r.Rest = nil
}

func (r *Reader) take(n int) []byte {
	if r.Err != nil || n < 0 || len(r.Rest) < n {
		r.Fail(ErrTruncated)
		return nil
	}
	p := r.Rest[:n:n]
	r.Rest = r.Rest[n:]
	return p
}

func (r *Reader) byte() byte {
	if p := r.take(1); p != nil {
		return p[0]
	}
	return 0
}

// bigEndian reads n bytes and requires a value of at least least: a lower one has a shorter form.
func (r *Reader) bigEndian(n int, least uint64) uint64 {
	var v uint64
	for _, c := range r.take(n) {
		v = v<<8 | uint64(c)
	}
	if r.Err == nil && v < least {
		r.Fail(ErrCanonical)
		return 0
	}
	return v
}

// Uint reads a number.
func (r *Reader) Uint() uint64 {
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
		r.Fail(fmt.Errorf("byte %#x where a number belongs", c))
		return 0
	}
}

// Most reads a number of at most limit.
func (r *Reader) Most(limit uint64) uint64 {
	v := r.Uint()
	if v > limit {
		r.Fail(fmt.Errorf("number %d, want at most %d", v, limit))
		return 0
	}
	return v
}

// Array reads an array's length, which is at most limit.
func (r *Reader) Array(limit int) int {
	var n uint64
	switch c := r.byte(); {
	case c&0xf0 == mpFixArray:
		n = uint64(c & 0x0f)
	case c == mpArray16:
		n = r.bigEndian(2, 16)
	default:
		r.Fail(fmt.Errorf("byte %#x where a list belongs", c))
		return 0
	}
	if n > uint64(limit) {
		r.Fail(fmt.Errorf("list of %d, want at most %d", n, limit))
		return 0
	}
	return int(n)
}

// ArrayOf reads the length of an array, which must be n.
func (r *Reader) ArrayOf(n int) {
	if got := r.Array(n); r.Err == nil && got != n {
		r.Fail(fmt.Errorf("list of %d, want %d", got, n))
	}
}

// Flags reads a number that may only have bits of known set.
func (r *Reader) Flags(known uint64) uint64 {
	v := r.Uint()
	if v&^known != 0 {
		r.Fail(errors.New("unknown flags"))
		return 0
	}
	return v
}

// Bin reads at most limit bytes, which remain part of the reader's buffer.
func (r *Reader) Bin(limit int) []byte {
	var n uint64
	switch c := r.byte(); c {
	case mpBin8:
		n = r.bigEndian(1, 0)
	case mpBin16:
		n = r.bigEndian(2, math.MaxUint8+1)
	case mpBin32:
		n = r.bigEndian(4, math.MaxUint16+1)
	default:
		r.Fail(fmt.Errorf("byte %#x where bytes belong", c))
		return nil
	}
	if n > uint64(limit) {
		r.Fail(fmt.Errorf("%d bytes, want at most %d", n, limit))
		return nil
	}
	return r.take(int(n))
}

// Fixed reads exactly len(dst) bytes.
func (r *Reader) Fixed(dst []byte) {
	p := r.Bin(len(dst))
	if r.Err == nil && len(p) != len(dst) {
		r.Fail(fmt.Errorf("%d bytes, want %d", len(p), len(dst)))
	}
	copy(dst, p)
}

// Str reads a text of at most limit (<= 255) bytes that passes IsText.
func (r *Reader) Str(limit int) string {
	var n uint64
	switch c := r.byte(); {
	case c&0xe0 == mpFixStr:
		n = uint64(c & 0x1f)
	case c == mpStr8:
		n = r.bigEndian(1, 32)
	default:
		r.Fail(fmt.Errorf("byte %#x where a text belongs", c))
		return ""
	}
	if n > uint64(limit) {
		r.Fail(fmt.Errorf("text of %d bytes, want at most %d", n, limit))
		return ""
	}
	s := string(r.take(int(n)))
	if r.Err == nil && !IsText(s) {
		r.Fail(errors.New("text with control characters or broken UTF-8"))
		return ""
	}
	return s
}

// End returns the first error; leftover bytes are an error too.
func (r *Reader) End() error {
	if r.Err == nil && len(r.Rest) > 0 {
		return ErrTrailing
	}
	return r.Err
}

// MaxAddrText bounds an address with its port as text, in bytes.
const MaxAddrText = 64

// AddrPort reads an address and port where a node can be reached. Only the canonical text form is accepted.
func (r *Reader) AddrPort() netip.AddrPort {
	s := r.Str(MaxAddrText)
	if r.Err != nil {
		return netip.AddrPort{}
	}
	a, err := netip.ParseAddrPort(s)
	if err != nil || a.String() != s {
		r.Fail(errors.New("malformed address"))
		return netip.AddrPort{}
	}
	if ip := a.Addr(); a.Port() == 0 || ip.Zone() != "" || ip.Is4In6() || ip.IsUnspecified() || ip.IsMulticast() {
		r.Fail(errors.New("address that nobody can be reached at"))
		return netip.AddrPort{}
	}
	return a
}
