package logsrc

import (
	"bytes"
	"net/netip"
	"time"
)

// byteOrderMark may precede the text of an RFC 5424 message (section 6.4).
const byteOrderMark = "\xef\xbb\xbf"

// parse parses one line, with or without its newline, into l, which is undefined if the Reason is not 0.
//
// The line must end in "HOST <ip> PORT <spec>", which key=value words may follow. It uses bantime= (seconds, or
// negative for permanent), jail= and failures=, and ignores other keys. With jail= the address may be a prefix. Bad
// ports or options do not reject the line; see Line.Misread. The text before the last HOST is searched only for the
// tag.
func parse(line []byte, l *Line) Reason {
	line = bytes.TrimSuffix(line, []byte{'\n'})
	// After a truncation, a writer that does not append leaves a hole before its next line.
	line = bytes.TrimLeft(line, "\x00")
	if len(line) > MaxLine {
		return TooLong
	}
	raw := line
	line = trimBlanks(raw)
	if len(line) == 0 {
		return Empty
	}
	host := lastHost(line)
	if host < 0 {
		return NoHost
	}
	*l = Line{}
	if reason := parseTail(line[host+len("HOST"):], l); reason != 0 {
		return reason
	}
	parseHeader(line[:host], l)
	l.Emitted = l.Tag == emitTag && isEmitted(raw, l)
	return 0
}

// lastHost returns the index of the last word HOST with something after it, or -1.
func lastHost(line []byte) int {
	found := -1
	for from := 0; ; {
		i := bytes.Index(line[from:], []byte("HOST"))
		if i < 0 {
			return found
		}
		i += from
		from = i + len("HOST")
		if from == len(line) || !isBlank(line[from]) {
			continue
		}
		if i == 0 || isBlank(line[i-1]) || bytes.HasSuffix(line[:i], []byte(byteOrderMark)) {
			found = i
		}
	}
}

// parseTail parses everything after the word HOST.
func parseTail(tail []byte, l *Line) Reason {
	addr, tail := nextWord(tail)
	port, tail := nextWord(tail)
	if string(port) != "PORT" {
		return NoPort
	}
	var reason Reason
	if l.Addr, l.Net, reason = parsePrefix(addr); reason != 0 {
		return reason
	}
	spec, tail := portWords(tail)
	l.Ports, l.Misread = portSpec(spec)
	for {
		var word []byte
		if word, tail = nextWord(tail); len(word) == 0 {
			break
		}
		key, value, ok := bytes.Cut(word, []byte{'='})
		if !ok || len(key) == 0 {
			return TrailingText
		}
		if !parseOption(key, value, l) && l.Misread == 0 {
			l.Misread = BadOption
		}
	}
	if l.Net != 0 && l.Jail == "" {
		return BadAddress
	}
	return 0
}

// portWords splits the list of ports off tail. The list is empty if an option or the end comes next; else it is one
// word, or more if commas continue it ("80, 443").
func portWords(tail []byte) (spec, rest []byte) {
	tail = trimBlanks(tail)
	end := 0
	for {
		word, after := nextWord(tail[end:])
		if len(word) == 0 || bytes.IndexByte(word, '=') >= 0 {
			return tail[:end], tail[end:]
		}
		if end > 0 && word[0] != ',' && tail[end-1] != ',' {
			return tail[:end], tail[end:]
		}
		end = len(tail) - len(after)
	}
}

func parseOption(key, value []byte, l *Line) bool {
	switch string(key) {
	case "bantime":
		negative := len(value) > 0 && value[0] == '-'
		if negative {
			value = value[1:]
		}
		// fail2ban computes increasing ban times in floating point.
		whole, fraction, _ := bytes.Cut(value, []byte{'.'})
		seconds, ok := number(whole, int(MaxBanTime/time.Second))
		if _, digits := number(fraction, 0); !ok || (len(fraction) > 0 && !digits) {
			return false
		}
		l.BanTime = time.Duration(seconds) * time.Second
		if negative {
			l.BanTime = -time.Second
		}
	case "jail":
		l.Jail = cleanWord(value, MaxJail)
	case "failures":
		n, ok := number(value, MaxFailures)
		if !ok {
			return false
		}
		l.Failures = n
	}
	return true
}

// parsePrefix parses an address or a prefix, which it masks. bits is 0 for a single address.
func parsePrefix(word []byte) (addr netip.Addr, bits int, reason Reason) {
	word, length, isPrefix := bytes.Cut(word, []byte{'/'})
	addr, reason = parseAddr(word)
	if !isPrefix || reason != 0 {
		return addr, 0, reason
	}
	bits, ok := number(length, 129)
	prefix, err := addr.Prefix(bits)
	if !ok || bits == 0 || err != nil {
		return addr, 0, BadAddress
	}
	if bits == addr.BitLen() {
		bits = 0
	}
	return prefix.Addr(), bits, 0
}

// parseAddr parses an address literal; an IPv6 one may be in brackets.
func parseAddr(word []byte) (netip.Addr, Reason) {
	if addr, ok := parseAddr4(word); ok {
		return addr, 0
	}
	if len(word) > 2 && word[0] == '[' && word[len(word)-1] == ']' {
		word = word[1 : len(word)-1]
	}
	if bytes.IndexByte(word, ':') < 0 || len(word) > len("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255%")+64 {
		return netip.Addr{}, BadAddress
	}
	addr, err := netip.ParseAddr(string(word))
	switch {
	case err != nil:
		return netip.Addr{}, BadAddress
	case addr.Zone() != "":
		return netip.Addr{}, Zone
	}
	return addr.Unmap(), 0
}

// parseAddr4 is netip.ParseAddr for IPv4 without the allocation of a string.
func parseAddr4(word []byte) (netip.Addr, bool) {
	var octets [4]byte
	at, value, digits := 0, 0, 0
	for _, c := range word {
		switch {
		case '0' <= c && c <= '9':
			if digits > 0 && value == 0 {
				return netip.Addr{}, false
			}
			value = value*10 + int(c-'0')
			digits++
			if value > 255 {
				return netip.Addr{}, false
			}
		case c == '.' && digits > 0 && at < 3:
			octets[at] = byte(value)
			at, value, digits = at+1, 0, 0
		default:
			return netip.Addr{}, false
		}
	}
	if at != 3 || digits == 0 {
		return netip.Addr{}, false
	}
	octets[3] = byte(value)
	return netip.AddrFrom4(octets), true
}

// number parses decimal digits, and nothing else; a value above limit is cut to it.
func number(word []byte, limit int) (int, bool) {
	n := 0
	for _, c := range word {
		if c < '0' || c > '9' {
			return 0, false
		}
		if n <= limit {
			n = n*10 + int(c-'0')
		}
	}
	return min(n, limit), len(word) > 0
}

// cleanWord keeps letters, digits, '.', '_' and '-', replaces all else with '_', and cuts at limit bytes.
func cleanWord(word []byte, limit int) string {
	word = word[:min(len(word), limit)]
	for i, c := range word {
		if !isNameByte(c) && c != '_' {
			clean := bytes.Clone(word)
			for ; i < len(clean); i++ {
				if !isNameByte(clean[i]) {
					clean[i] = '_'
				}
			}
			return string(clean)
		}
	}
	return string(word)
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

// isNameByte reports whether c may be part of a host name.
func isNameByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '-'
}

func nextWord(text []byte) (word, rest []byte) {
	start := 0
	for start < len(text) && isBlank(text[start]) {
		start++
	}
	end := start
	for end < len(text) && !isBlank(text[end]) {
		end++
	}
	return text[start:end], text[end:]
}

// trimBlanks trims blanks, carriage returns and NUL bytes from both ends.
func trimBlanks(text []byte) []byte {
	odd := func(c byte) bool { return isBlank(c) || c == '\r' || c == 0 }
	for len(text) > 0 && odd(text[0]) {
		text = text[1:]
	}
	for len(text) > 0 && odd(text[len(text)-1]) {
		text = text[:len(text)-1]
	}
	return text
}
