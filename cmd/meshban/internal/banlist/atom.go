package banlist

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"go4.org/netipx"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
)

// The shortest prefix lengths in a range: nobody may ban wider prefixes, and banning half a range is not what was
// asked.
const (
	widestRange4 = 8
	widestRange6 = 19
)

// appendAtom appends the prefixes of an address, a CIDR, an address with a netmask, or a range a-b. masked reports
// whether host bits were set.
func appendAtom(dst []netip.Prefix, s string) (out []netip.Prefix, masked bool, err error) {
	if first, last, ok := strings.Cut(s, "-"); ok {
		return appendRange(dst, s, strings.TrimSpace(first), strings.TrimSpace(last))
	}
	p, err := config.ParsePrefix(s)
	if err == nil {
		return append(dst, p), false, nil
	}
	if text, mask, ok := strings.Cut(s, "/"); ok {
		if n, ok := maskBits(mask); ok {
			p, err := config.ParsePrefix(text + "/" + strconv.Itoa(n))
			if err == nil {
				return append(dst, p), false, nil
			}
			s = text + "/" + strconv.Itoa(n)
		}
		if p, err := netip.ParsePrefix(s); err == nil && p.Masked() != p && (!p.Addr().Is4In6() || p.Bits() >= 96) {
			if m, err := config.ParsePrefix(p.Masked().String()); err == nil {
				return append(dst, m), true, nil
			}
		}
	}
	return dst, false, notAddress(s, err)
}

// notAddress converts an error of package config to an *Error, with a better remedy where it knows one.
func notAddress(s string, err error) *Error {
	e := wrong("", "%v", err)
	if bad, ok := errors.AsType[*config.Error](err); ok {
		e.Problem, e.Remedy = bad.Problem, bad.Remedy
	}
	switch _, err := netip.ParseAddrPort(s); {
	case err == nil:
		e.Remedy = "write the address without the port"
	case len(s) > 2 && s[0] == '[' && isAddr(strings.TrimSuffix(s[1:], "]")):
		e.Remedy = "write the address without the brackets"
	case zeroPadded.MatchString(s):
		e.Problem = fmt.Sprintf("%q has a leading zero, which some programs read as octal", s)
		e.Remedy = "write the numbers without leading zeros"
	case hostName.MatchString(s):
		e.Remedy = "names are never looked up: write the address itself"
	}
	return e
}

var hostName = regexp.MustCompile(`^[\w-]+(\.[\w-]+)*\.[A-Za-z][\w-]+\.?$`)

var zeroPadded = regexp.MustCompile(`^(\d+\.)*0\d+(\.\d+)*([/-].*)?$`)

// appendRange appends the prefixes from first to last.
func appendRange(dst []netip.Prefix, s, first, last string) ([]netip.Prefix, bool, error) {
	from, err := parseAddr(first)
	if err != nil {
		return dst, false, notAddress(s, err)
	}
	to, err := parseAddr(last)
	if err != nil {
		return dst, false, wrong("write a range as FIRST-LAST, both as whole addresses", "%q does not end with an address", s)
	}
	r := netipx.IPRangeFrom(from, to)
	if !r.IsValid() {
		return dst, false, wrong("write the lower address first, both of one family", "%q is not a range", s)
	}
	n := len(dst)
	dst = r.AppendPrefixes(dst)
	for _, p := range dst[n:] {
		if p.Addr().Is4() && p.Bits() < widestRange4 || p.Addr().Is6() && p.Bits() < widestRange6 {
			return dst[:n], false, wrong("ban narrower ranges", "%q covers %s: nobody may ban more than a /%d, or a /%d of IPv6", s, p, widestRange4, widestRange6)
		}
	}
	return dst, false, nil
}

// parseAddr parses one address, unmapped and without a zone.
func parseAddr(s string) (netip.Addr, error) {
	p, err := config.ParsePrefix(s)
	if err == nil && strings.Contains(s, "/") {
		err = fmt.Errorf("%q is not a single address", s)
	}
	return p.Addr(), err
}

// isAtom reports whether appendAtom accepts s.
func isAtom(s string) bool {
	if s == "" || s[0] != ':' && !isHex(s[0]) {
		return false
	}
	_, _, err := appendAtom(nil, s)
	return err == nil
}

// isAddr reports whether s is one address.
func isAddr(s string) bool {
	if s == "" || s[0] != ':' && !isHex(s[0]) {
		return false
	}
	_, err := parseAddr(s)
	return err == nil
}

func isHex(c byte) bool { return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f' }

// maskBits returns the prefix length of a netmask such as 255.255.255.0.
func maskBits(s string) (int, bool) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() {
		return 0, false
	}
	b := a.As4()
	m := binary.BigEndian.Uint32(b[:])
	n := bits.LeadingZeros32(^m)
	return n, n >= widestRange4 && m<<n == 0
}

// block returns the CIDR that equals the range from first to last.
func block(first, last string) (netip.Prefix, bool) {
	from, err1 := parseAddr(first)
	to, err2 := parseAddr(last)
	if err1 != nil || err2 != nil || from == to {
		return netip.Prefix{}, false
	}
	return netipx.IPRangeFrom(from, to).Prefix()
}
