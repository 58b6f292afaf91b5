package banlist

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
)

// text reads a list of lines that end with LF, CR LF or CR.
func (r *reader) text(src io.Reader) error {
	lines := bufio.NewScanner(src)
	lines.Buffer(make([]byte, bufferSize), MaxLine)
	lines.Split(splitLines)
	for lines.Scan() {
		r.line++
		err := r.textLine(lines.Text())
		if e, ok := errors.AsType[*Error](err); ok {
			err = r.report(e)
		}
		if err != nil {
			return err
		}
	}
	err := lines.Err()
	if errors.Is(err, bufio.ErrTooLong) {
		return &Error{Line: r.line + 1, Problem: fmt.Sprintf("the line has more than %d bytes", MaxLine), Remedy: "a list has one address or CIDR a line"}
	}
	if err == nil && r.countLine > 0 && !r.counts {
		e := wrong("write 192.0.2.0/24 if it is, or delete the column if it is not", "the second column may be a prefix length")
		e.Line = r.countLine
		return e // about the whole list: skipping the line is not enough
	}
	return err
}

func splitLines(data []byte, atEOF bool) (int, []byte, error) {
	i := bytes.IndexAny(data, "\r\n")
	switch {
	case i < 0 && atEOF && len(data) > 0:
		return len(data), data, nil
	case i < 0, data[i] == '\r' && i+1 == len(data) && !atEOF:
		return 0, nil, nil
	case data[i] == '\r' && i+1 < len(data) && data[i+1] == '\n':
		return i + 2, data[:i], nil
	}
	return i + 1, data[:i], nil
}

func (r *reader) textLine(raw string) error {
	line := strings.TrimSpace(raw)
	if strings.IndexByte(line, 0) >= 0 {
		return wrong("a list has one address or CIDR a line", "it is not text")
	}
	if isComment(line) {
		return nil
	}
	if r.csv != nil {
		return r.row(raw)
	}
	if p, err := config.ParsePrefix(line); err == nil { // nearly every line of a long list
		return r.add("", p)
	}
	if strings.IndexByte(line, '"') >= 0 && quoted.MatchString(line) {
		return r.table(raw)
	}
	fields, sep := split(line)
	if len(fields) == 0 {
		return wrong("a list has one address or CIDR a line", "%s has no address", quote(line))
	}
	if isAtom(fields[0]) {
		return r.plain(fields, sep)
	}
	for _, try := range []func(string) (bool, error){r.ownIpset, r.ownNft, r.p2p, r.hosts} {
		if ok, err := try(line); ok || err != nil {
			return err
		}
	}
	if e := foreign(line); e != nil {
		return e
	}
	return r.table(raw)
}

// quoted matches rows with quoted cells.
var quoted = regexp.MustCompile(`^"|[,;\t|] ?"`)

func isComment(line string) bool {
	return line == "" || line[0] == '#' || line[0] == ';' || strings.HasPrefix(line, "//")
}

// cutComment cuts off a comment after # or //, or after a semicolon that follows a blank, unless an address follows
// the semicolon.
func cutComment(line string) string {
	for i := 1; i < len(line); i++ {
		blank := line[i-1] == ' ' || line[i-1] == '\t'
		switch {
		case line[i] == '#', blank && strings.HasPrefix(line[i:], "//"):
			return strings.TrimSpace(line[:i])
		case line[i] == ';' && (blank || i+1 == len(line)):
			if rest := strings.Fields(line[i+1:]); len(rest) == 0 || !isAtom(rest[0]) {
				return strings.TrimSpace(line[:i])
			}
		}
	}
	return line
}

// split splits a line. If an address comes before the first tab, comma, semicolon or bar, split cuts at every
// separator of that kind; otherwise it cuts at all four kinds and at blanks. sep separates the first two fields.
func split(line string) (fields []string, sep string) {
	line = cutComment(line)
	if i := strings.IndexAny(line, "\t,;|"); i > 0 && isAtom(strings.TrimSpace(line[:i])) {
		fields = strings.Split(line, line[i:i+1])
		for j := range fields {
			fields[j] = strings.TrimSpace(fields[j])
		}
		sep = line[i : i+1]
		if i+1 < len(line) && line[i+1] == ' ' {
			sep += " "
		}
		return fields, sep
	}
	const separators = " \t\v\f,;|"
	i := strings.IndexAny(line, separators)
	if i < 0 {
		return []string{line}, ""
	}
	rest := line[i:]
	sep = rest[:len(rest)-len(strings.TrimLeft(rest, separators))]
	fields = strings.FieldsFunc(line, func(c rune) bool { return strings.ContainsRune(separators, c) })
	return joinRanges(fields), sep
}

// joinRanges joins each a - b into one field.
func joinRanges(fields []string) []string {
	out := fields[:0]
	for i := 0; i < len(fields); i++ {
		f := fields[i]
		if f == "-" && len(out) > 0 && i+1 < len(fields) && isAddr(out[len(out)-1]) && isAddr(fields[i+1]) {
			out[len(out)-1] += "-" + fields[i+1]
			i++
			continue
		}
		if len(f) > 1 && f[0] == '-' && len(out) > 0 && isAddr(out[len(out)-1]) && isAddr(f[1:]) {
			out[len(out)-1] += f
			continue
		}
		if n := len(f) - 1; n > 0 && f[n] == '-' && isAddr(f[:n]) && i+1 < len(fields) && isAddr(fields[i+1]) {
			f += fields[i+1]
			i++
		}
		out = append(out, f)
	}
	return out
}

// plain reads a line that starts with an address: only that, several, a range, or further columns.
func (r *reader) plain(fields []string, sep string) error {
	if len(fields) == 1 {
		return r.addText("", fields[0])
	}
	atoms := 0
	for _, f := range fields {
		if isAtom(f) {
			atoms++
		}
	}
	switch n := len(fields); {
	case n == 2 && atoms == 2:
		return r.pair(fields[0], fields[1], sep)
	case n > 2 && isAddr(fields[0]) && isAddr(fields[1]) && atoms < n:
		return r.dshield(fields)
	case atoms == 1:
		return r.columns(fields)
	case atoms < n:
		return wrong(cutColumn, "%s has several addresses among other words", quote(strings.Join(fields, " ")))
	}
	for _, f := range fields[1:] {
		if strings.HasPrefix(f, "255.") {
			return wrong("write 192.0.2.0/24", "%q looks like a netmask", f)
		}
	}
	for _, f := range fields {
		if err := r.addText("", f); err != nil {
			return err
		}
	}
	return nil
}

const cutColumn = "select the column with the addresses to ban, for example: cut -f1 FILE | meshban import -"

// pair reads two addresses on a line: a range, an address with its netmask, or two addresses.
func (r *reader) pair(a, b, sep string) error {
	single := isAddr(a) && isAddr(b)
	if n, ok := maskBits(b); ok && single {
		return r.addText("", a+"/"+strconv.Itoa(n))
	}
	p, isBlock := block(a, b)
	switch {
	case single && strings.Trim(sep, "\t") == "", single && isBlock && (sep == "," || sep == ";" || sep == "|"):
		return r.addText("", a+"-"+b)
	case single && isBlock && p.Addr().BitLen()-p.Bits() > 1:
		return wrong("write "+a+"-"+b+", or each on its own line", "%q and %q may be a range or two addresses", a, b)
	case strings.Contains(sep, " ") && !strings.Contains(sep, "\t"):
		if err := r.addText("", a); err != nil {
			return err
		}
		return r.addText("", b)
	}
	return wrong("write a range as FIRST-LAST, and one address per line", "%q and %q may be a range, two addresses or two columns", a, b)
}

// dshield reads start, end, prefix length, and further columns.
func (r *reader) dshield(fields []string) error {
	p, ok := block(fields[0], fields[1])
	n, err := strconv.Atoi(fields[2])
	if !ok || err != nil || p.Bits() != n {
		return wrong(cutColumn, "%s has two addresses, but start, end and length do not match", quote(strings.Join(fields[:3], " ")))
	}
	if e := letsThrough(fields[3:]); e != nil {
		return e
	}
	return r.addText("", p.String())
}

// lookalike matches what may be another address, or part of the first.
var lookalike = regexp.MustCompile(`(^|[:=@(\[<"'!~^-])\d+\.\d+\.\d+\.(\d+|\*|x)([/:-][\d.*x]+)?[)\]>"',;.]*$`)

// emuleAllows is the access level in eMule's ipfilter.dat from which a range is let through.
const emuleAllows = 128

// columns reads an address followed by other columns, none of which is an address.
func (r *reader) columns(fields []string) error {
	rest := fields[1:]
	if e := letsThrough(rest); e != nil {
		return e
	}
	for _, f := range rest {
		first, _, _ := strings.Cut(f, " ")
		if first = strings.Trim(first, `[]()<>{}"'!,;`); isAtom(first) || lookalike.MatchString(f) {
			return wrong(cutColumn, "%q after the address %s may be another one", f, fields[0])
		}
	}
	if fields[0] == "0.0.0.0" || fields[0] == "::" {
		return wrong("meshban bans addresses, not names", "%s is a line of a hosts file", quote(strings.Join(fields, " ")))
	}
	if strings.HasPrefix(rest[0], "-") || strings.HasPrefix(rest[0], "/") {
		return wrong("write 192.0.2.0/24 or FIRST-LAST without blanks, and a comment after #", "%q follows the address %s", rest[0], fields[0])
	}
	level, err := strconv.Atoi(rest[0])
	switch {
	case err != nil:
	case strings.Contains(fields[0], "-") && level >= emuleAllows:
		return refused(wrong("delete such lines", "eMule lets %s through: its level is %d", fields[0], level))
	case isAddr(fields[0]):
		r.noteCount(fields[0], rest[0])
	}
	return r.addText("", fields[0])
}

// noteCount records whether the number after an address may be a prefix length.
func (r *reader) noteCount(addr, number string) {
	if number == "32" || number == "128" {
		return
	}
	prefixes, masked, err := appendAtom(r.atoms[:0], addr+"/"+number)
	switch {
	case err != nil || masked || len(prefixes) != 1:
		r.counts = true
	case r.countLine == 0:
		r.countLine = r.line
	}
}

// allowWords mark a line that lets an address through, or does less than ban it.
var allowWords = wordSet(`accept accepted allocated allow allowed allowlist allowlisted assigned bypass captcha challenge dunno except exception
	exclude excluded exempt exempted goodlist ignore ignored ignoreip never nomatch not noban ok pass passlist permit permitted relay return
	safe safelist skip throttle trust trusted unban unbanned unblock unblocked whitelist whitelisted`)

func wordSet(words string) map[string]bool {
	set := map[string]bool{}
	for _, w := range strings.Fields(words) {
		set[w] = true
	}
	return set
}

// isAllow reports whether s is one of allowWords, or a setting with such a value, as in action=allow.
func isAllow(s string) bool {
	if len(s) > 64 {
		return false
	}
	if i := strings.LastIndexAny(s, "=:"); i >= 0 && i+1 < len(s) {
		s = s[i+1:]
	}
	return allowWords[strings.ToLower(strings.Trim(s, " \t.,;:!()[]<>\"'*"))]
}

// letsThrough returns an error if a field is an allow word.
func letsThrough(fields []string) *Error {
	for _, f := range fields {
		if isAllow(f) {
			return refused(wrong("delete such lines; for addresses that must never be banned, use meshban allow", "%q says that the line does not ban", f))
		}
	}
	return nil
}

var p2pLine = regexp.MustCompile(`^(.*):\s*(\d+\.\d+\.\d+\.\d+)\s*-\s*(\d+\.\d+\.\d+\.\d+)$`)

// p2p reads NAME:FIRST-LAST.
func (r *reader) p2p(line string) (bool, error) {
	m := p2pLine.FindStringSubmatch(line)
	if m == nil {
		return false, nil
	}
	if name := strings.Fields(m[1]); len(name) > 0 {
		if e := letsThrough(name[:1]); e != nil {
			return true, e
		}
	}
	return true, r.addText("", m[2]+"-"+m[3])
}

// hostsLine matches a line of hosts.deny: services, clients, and optionally deny.
var hostsLine = regexp.MustCompile(`^([A-Za-z][\w.@*-]*(?:[ \t]*[, \t][ \t]*[A-Za-z][\w.@*-]*)*)[ \t]*:[ \t]*(.*?)(?:[ \t]*:[ \t]*(?i:deny))?$`)

// services are the service names of hosts.deny that neither end in d nor start with "in.".
var services = wordSet("all dovecot dropbear exim exim4 ftp imap imaps ipop3 mysql pop3 pop3s portmap postfix sendmail smtp ssh telnet")

// hosts reads a line of hosts.deny.
func (r *reader) hosts(line string) (bool, error) {
	line = cutComment(line)
	m := hostsLine.FindStringSubmatch(line)
	if m == nil {
		return false, nil
	}
	names := strings.FieldsFunc(m[1], func(c rune) bool { return strings.ContainsRune(", \t", c) })
	for _, name := range names {
		name = strings.ToLower(name)
		if allowWords[name] || !services[name] && !strings.HasPrefix(name, "in.") && !strings.HasSuffix(name, "d") {
			return false, nil
		}
	}
	if options := strings.Split(brackets.ReplaceAllString(m[2], ""), ":"); len(options) > 1 {
		if e := letsThrough(options[1:]); e != nil {
			return true, e
		}
	}
	clients := strings.FieldsFunc(m[2], func(c rune) bool { return strings.ContainsRune(", \t", c) })
	if len(clients) == 0 {
		return true, wrong("write the addresses after the colon", "%s has no address", quote(line))
	}
	texts := make([]string, len(clients))
	for i, c := range clients {
		var e *Error
		if texts[i], e = hostsClient(c); e != nil {
			return true, e
		}
	}
	if !denies.MatchString(line) {
		r.list.Hosts++
	}
	for _, s := range texts {
		if err := r.addText("", s); err != nil {
			return true, err
		}
	}
	return true, nil
}

// denies matches a line of hosts.deny or hosts.allow with the option deny.
var denies = regexp.MustCompile(`(?i):[ \t]*deny$`)

var brackets = regexp.MustCompile(`\[[^\]]*\]`)

var dotted = regexp.MustCompile(`^(\d+)(\.\d+){0,2}\.$`)

// hostsClient converts a hosts.deny client: [2001:db8::]/32 loses its brackets, and 192.0.2. becomes a /24.
func hostsClient(c string) (string, *Error) {
	if dotted.MatchString(c) {
		n := strings.Count(c, ".")
		c += strings.Repeat("0.", 3-n) + "0/" + strconv.Itoa(8*n)
	}
	if strings.HasPrefix(c, "[") {
		c = strings.Replace(c[1:], "]", "", 1)
	}
	if !isAtom(c) {
		return "", wrong("keep only addresses: names, ALL, EXCEPT and options cannot be imported", "%q in a hosts.deny line is not an address", c)
	}
	return c, nil
}

// quote returns the start of a line, quoted.
func quote(s string) string {
	const most = 60
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strconv.Quote(s)
}
