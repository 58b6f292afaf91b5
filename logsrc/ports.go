package logsrc

import (
	"bytes"
	"cmp"
	"slices"
	"strconv"
)

// MaxPortItems is the most items in a list of ports, which is what iptables' multiport takes.
const MaxPortItems = 15

type portItem struct {
	first, last uint16
	proto       string // "", "/tcp", "/udp"
}

func (a portItem) compare(b portItem) int {
	return cmp.Or(cmp.Compare(a.first, b.first), cmp.Compare(a.last, b.last), cmp.Compare(a.proto, b.proto))
}

// portSpec converts ports, as people and fail2ban write them, to the canonical text of Line.Ports. It accepts a number, a
// service name, "a:b" or "a-b", each with an optional "/tcp" or "/udp", and comma-separated lists of these. "", "0", "all",
// "any", "0:65535" and "0-65535" mean all ports. The Reason is 0, BadPort or UnknownService.
func portSpec(spec []byte) (string, Reason) {
	spec = trimBlanks(spec)
	if isDigits(spec) || len(spec) == 0 { // nearly every line
		n, _ := number(spec, 65536)
		switch {
		case n > 65535:
			return "", BadPort
		case n == 0:
			return "", 0
		}
		return strconv.Itoa(n), 0
	}
	var room [MaxPortItems]portItem
	items, all := room[:0], false
	for more := true; more; {
		var word []byte
		word, spec, more = bytes.Cut(spec, []byte{','})
		item, reason := parsePortItem(trimBlanks(word))
		if reason != 0 {
			return "", reason
		}
		if item.first == 0 && item.last == 65535 && item.proto == "" {
			all = true
			continue
		}
		// Nothing listens on port 0; in a range it only means "from the beginning".
		item.first = max(item.first, 1)
		at, double := slices.BinarySearchFunc(items, item, portItem.compare)
		if double || all {
			continue
		}
		if len(items) == MaxPortItems {
			return "", BadPort
		}
		items = slices.Insert(items, at, item)
	}
	if all {
		return "", 0
	}
	var text [MaxPortItems * len("65535-65535/tcp,")]byte
	out := text[:0]
	for _, item := range items {
		if len(out) > 0 {
			out = append(out, ',')
		}
		out = item.append(out)
	}
	return string(out), 0
}

func (a portItem) append(out []byte) []byte {
	out = strconv.AppendUint(out, uint64(a.first), 10)
	if a.last > a.first {
		out = append(out, '-')
		out = strconv.AppendUint(out, uint64(a.last), 10)
	}
	return append(out, a.proto...)
}

func parsePortItem(word []byte) (portItem, Reason) {
	item := portItem{last: 65535}
	if slash := bytes.IndexByte(word, '/'); slash >= 0 {
		switch string(word[slash:]) {
		case "/tcp", "/TCP":
			item.proto = "/tcp"
		case "/udp", "/UDP":
			item.proto = "/udp"
		default:
			return item, BadPort
		}
		word = word[:slash]
	}
	switch string(word) {
	case "":
		return item, BadPort
	case "0", "all", "any":
		return item, 0
	}
	from, to, isRange := bytes.Cut(word, []byte{':'})
	if !isRange {
		// Names contain '-' ("ftp-data"), so it makes a range only between numbers.
		from, to, isRange = bytes.Cut(word, []byte{'-'})
		if isRange && (!isDigits(from) || !isDigits(to)) {
			from, isRange = word, false
		}
	}
	var reason Reason
	if item.first, reason = parsePort(from); reason != 0 {
		return item, reason
	}
	if item.last = item.first; isRange {
		if item.last, reason = parsePort(to); reason != 0 {
			return item, reason
		}
	}
	if item.last < item.first || item.last == 0 {
		return item, BadPort
	}
	return item, 0
}

func parsePort(word []byte) (uint16, Reason) {
	if isDigits(word) {
		n, _ := number(word, 65536)
		if n > 65535 {
			return 0, BadPort
		}
		return uint16(n), 0
	}
	if !isServiceName(word) {
		return 0, BadPort
	}
	if port, ok := service(word); ok {
		return port, 0
	}
	return 0, UnknownService
}

func isDigits(word []byte) bool {
	_, ok := number(word, 0)
	return ok
}
