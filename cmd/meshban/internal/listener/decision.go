package listener

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"hash/fnv"
	"net/netip"
	"strconv"
	"time"
)

// appendDecision appends a ban as a decision of CrowdSec.
func appendDecision(dst []byte, b Ban, now time.Time) []byte {
	origin, scenario := namesOf(b.Source)
	return appendFields(dst, b.Prefix, origin, scenario, durationUntil(b.Until, now))
}

// appendEnded appends a value that is no longer banned. Its strings are all there: some clients take them all.
func appendEnded(dst []byte, p netip.Prefix, list string) []byte {
	source := "ended"
	if list != "" {
		source = listSource + list
	}
	origin, scenario := namesOf(source)
	return appendFields(dst, p, origin, scenario, "1s")
}

// durationUntil returns whole seconds, rounded up, at least 1: "0s" means for ever to some clients, and others read
// neither fractions nor "-".
func durationUntil(until, now time.Time) string {
	left := max(until.Sub(now), time.Second)
	return strconv.FormatInt(int64((left+time.Second-1)/time.Second), 10) + "s"
}

func appendFields(dst []byte, p netip.Prefix, origin, scenario, duration string) []byte {
	sum := sumOf(p)
	dst = append(dst, `{"duration":"`...)
	dst = append(dst, duration...)
	dst = append(dst, `","id":`...)
	dst = strconv.AppendUint(dst, binary.BigEndian.Uint64(sum[:])>>1, 10)
	dst = append(dst, `,"origin":"`...)
	dst = append(dst, origin...)
	dst = append(dst, `","scenario":`...)
	dst = appendText(dst, scenario)
	dst = append(dst, `,"scope":"`...)
	dst = append(dst, scopeOf(p)...)
	dst = append(dst, `","type":"ban","uuid":"`...)
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80 // version 8 of RFC 9562: made as one likes
	for i, n := range []int{0, 4, 6, 8, 10} {
		if i > 0 {
			dst = append(dst, '-')
		}
		dst = hex.AppendEncode(dst, sum[n:[]int{4, 6, 8, 10, 16}[i]])
	}
	dst = append(dst, `","value":"`...)
	dst = appendValue(dst, p)
	return append(dst, `"}`...)
}

// sumOf returns a number for a prefix, the same on every node and after a restart.
func sumOf(p netip.Prefix) (sum [16]byte) {
	h := fnv.New128a()
	var raw [40]byte
	b := append(p.Addr().AppendTo(raw[:0]), '/', byte(p.Bits()))
	_, _ = h.Write(b) // never fails
	h.Sum(sum[:0])
	return sum
}

// appendValue appends a prefix in canonical form, an address without its length.
func appendValue(dst []byte, p netip.Prefix) []byte {
	if p.IsSingleIP() {
		return p.Addr().AppendTo(dst)
	}
	return p.AppendTo(dst)
}

// appendText appends a JSON string.
func appendText(dst []byte, s string) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		return append(dst, `""`...) // cannot happen: it is a string
	}
	return append(dst, b...)
}
