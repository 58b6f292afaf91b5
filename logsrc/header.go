package logsrc

import (
	"bytes"
	"strconv"
	"time"
)

// parseHeader finds the program's tag in the text before the word HOST. The result is only shown to people, except that
// Line.Emitted depends on it; isEmitted then checks the whole line.
func parseHeader(header []byte, l *Line) {
	header = trimBlanks(bytes.TrimSuffix(header, []byte(byteOrderMark)))
	if len(header) == 0 || parseHeader5424(header, l) {
		return
	}
	header, tag := lastWord(header)
	tag, colon := bytes.CutSuffix(tag, []byte{':'})
	pid := 0
	if open := bytes.IndexByte(tag, '['); open >= 0 && tag[len(tag)-1] == ']' {
		n, ok := number(tag[open+1:len(tag)-1], maxPid)
		if !ok {
			return
		}
		tag, pid = tag[:open], n
	} else if !colon {
		return
	}
	if !isPrintable(tag) {
		return
	}
	l.Tag, l.Pid = string(tag[:min(len(tag), MaxTag)]), pid
	// A host name can be told from other words only between the time and the tag.
	header, host := lastWord(header)
	if _, stamp := lastWord(header); bytes.IndexByte(stamp, ':') >= 0 {
		l.Origin = hostName(host)
	}
}

// maxPid is the greatest process id; a greater number is cut to it.
const maxPid = 1<<31 - 1

// parseHeader5424 parses "<13>1 TIME HOST APP PROCID MSGID ...", with or without an octet count in front, and reports
// whether front has this form.
func parseHeader5424(header []byte, l *Line) bool {
	priority, rest := nextWord(header)
	if _, counted := number(priority, 1); counted {
		priority, rest = nextWord(rest)
	}
	if n := len(priority); n < len("<0>1") || priority[0] != '<' || string(priority[n-2:]) != ">1" {
		return false
	}
	if _, ok := number(priority[1:len(priority)-2], 1); !ok {
		return false
	}
	_, rest = nextWord(rest)
	host, rest := nextWord(rest)
	app, rest := nextWord(rest)
	process, _ := nextWord(rest)
	if isPrintable(app) && string(app) != "-" {
		l.Tag = string(app[:min(len(app), MaxTag)])
		l.Pid, _ = number(process, maxPid)
	}
	if string(host) != "-" {
		l.Origin = hostName(host)
	}
	return true
}

func hostName(word []byte) string {
	if len(word) > MaxOrigin {
		return ""
	}
	for _, c := range word {
		if !isNameByte(c) {
			return ""
		}
	}
	return string(word)
}

func isPrintable(word []byte) bool {
	for _, c := range word {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return len(word) > 0
}

func lastWord(text []byte) (rest, word []byte) {
	end := len(text)
	for end > 0 && isBlank(text[end-1]) {
		end--
	}
	start := end
	for start > 0 && !isBlank(text[start-1]) {
		start--
	}
	return text[:start], text[start:end]
}

// isEmitted reports whether line is byte for byte what an Emitter writes for l, or the beginning of that: a full disk
// may cut a batch anywhere.
func isEmitted(line []byte, l *Line) bool {
	if l.BanTime != 0 || l.Jail != "" || l.Failures != 0 || len(line) < len(stampFormat) {
		return false
	}
	stamp := string(line[:len(stampFormat)])
	if t, err := time.Parse(stampFormat, stamp); err != nil || t.Format(stampFormat) != stamp {
		return false
	}
	port := uint64(0)
	if l.Ports != "" {
		var err error
		if port, err = strconv.ParseUint(l.Ports, 10, 16); err != nil {
			return false
		}
	}
	var room [256]byte
	again := appendEmission(room[:0], line[:len(stampFormat)], l.Origin, l.Pid, l.Addr, uint16(port))
	return bytes.HasPrefix(again[:len(again)-1], line)
}
