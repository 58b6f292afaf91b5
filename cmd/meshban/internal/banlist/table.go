package banlist

import (
	"encoding/csv"
	"slices"
	"strconv"
	"strings"
)

// columns describes the columns of a table. An index is -1 if there is no such column.
type columns struct {
	comma             byte
	names             []string // normalised; nil = no header
	addr, end         int      // end >= 0: addr starts a range
	mask              int      // netmask or prefix length
	ports, state      int
	about             []int // columns of free text
	decided, nameless bool
}

// addrNames are the normalised names of columns and JSON fields that hold an address, a CIDR or a range.
var addrNames = wordSet(`address addr attacker attackerip badip bannedip blockedip cidr clientip destinationip destip dstip dstipaddress host
	hostip indicator ioc ip ipaddr ipaddress ipaddresses ipprefix iprange ips ipv4 ipv4address ipv4prefix ipv6 ipv6address ipv6prefix
	maliciousip net netblock network offender prefix range remoteaddr remoteip sourceaddress sourceip srcip srcipaddress subnet`)

// startNames and endNames are the names of the first and last address of a range.
var (
	startNames = wordSet("begin beginip first firstip from fromip ipfrom ipstart low rangestart start startaddress startip")
	endNames   = wordSet("end endaddress endip high ipend ipto last lastip rangeend stop to toip")
	maskNames  = wordSet("bits cidr len length mask masklen masklength netmask prefixlen prefixlength subnetmask")
	aboutNames = wordSet("comment comments description message name notes reason scenario source")
)

// normal returns the letters and digits of a name, in lower case.
func normal(name string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c >= 'A' && c <= 'Z':
			return c - 'A' + 'a'
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
			return c
		}
		return -1
	}, name)
}

// table reads the first row of a table, or its header.
func (r *reader) table(line string) error {
	comma, fields := byte(','), []string(nil)
	for _, c := range []byte{',', ';', '\t', '|'} {
		if got, err := cells(line, c); err == nil && len(got) > len(fields) {
			comma, fields = c, got
		}
	}
	atoms := slices.ContainsFunc(fields, isAtom)
	if len(fields) < 2 && !atoms {
		if len(r.list.Entries) == 0 && addrNames[normal(line)] {
			return nil // a header before plain lines
		}
		return unknown(line)
	}
	cols := &columns{comma: comma, addr: -1, end: -1, mask: -1, ports: -1, state: -1, nameless: atoms}
	if atoms {
		r.csv = cols
		return r.row(line)
	}
	if len(r.list.Entries) > 0 {
		return unknown(line)
	}
	known := false
	start := -1
	for i, f := range fields {
		name := normal(f)
		cols.names = append(cols.names, name)
		known = known || addrNames[name] || startNames[name]
		switch {
		case startNames[name]:
			start = i
		case endNames[name] && start >= 0:
			cols.addr, cols.end, cols.decided = start, i, true
		case maskNames[name]:
			cols.mask = i
		case name == "ports":
			cols.ports = i
		case name == "state":
			cols.state = i
		case aboutNames[name]:
			cols.about = append(cols.about, i)
		}
	}
	if !known {
		return unknown(line)
	}
	r.csv = cols
	return nil
}

func cells(line string, comma byte) ([]string, error) {
	if !strings.ContainsRune(line, '"') {
		fields := strings.Split(line, string(comma))
		for i := range fields {
			fields[i] = strings.TrimSpace(fields[i])
		}
		return fields, nil
	}
	in := csv.NewReader(strings.NewReader(line))
	in.Comma, in.TrimLeadingSpace = rune(comma), true
	fields, err := in.Read()
	for i := range fields {
		fields[i] = strings.TrimSpace(fields[i])
	}
	return fields, err
}

func (r *reader) row(line string) error {
	c := r.csv
	fields, err := cells(line, c.comma)
	if err != nil {
		return wrong("write each row on a line, with every quote closed", "%s is not a row of a table: %v", quote(line), err)
	}
	if err := c.decide(fields); err != nil {
		if c.nameless && !c.decided {
			r.csv = nil
		}
		return err
	}
	for i, f := range fields {
		if i != c.addr && i != c.end && !slices.Contains(c.about, i) && isAllow(f) {
			return letsThrough([]string{f})
		}
	}
	if least := max(c.addr, c.end, c.mask, c.ports, c.state); least >= len(fields) {
		return wrong("write as many columns as the header has", "%s has only %d columns", quote(line), len(fields))
	}
	if c.state >= 0 && !inForce(fields[c.state]) {
		r.skip("entries of state " + fields[c.state])
		return nil
	}
	ports := ""
	if c.ports >= 0 && c.state >= 0 { // meshban's own export
		ports = fields[c.ports]
	}
	if c.end >= 0 {
		return r.addText(ports, fields[c.addr]+"-"+fields[c.end])
	}
	text := fields[c.addr]
	if c.mask >= 0 && c.mask != c.addr && isAddr(text) {
		text += "/" + fields[c.mask]
	} else if c.nameless && c.addr+1 < len(fields) && isAddr(text) {
		if _, err := strconv.Atoi(fields[c.addr+1]); err == nil {
			r.noteCount(text, fields[c.addr+1])
		}
	}
	return r.addText(ports, text)
}

// inForce reports whether a ban with this state in meshban's list is in force.
func inForce(state string) bool { return state == "enforced" || state == "not enforced" || state == "" }

// decide finds the address column: the only column that holds an address or, if several do, the only one of them that
// is named like one. In a table of two columns without names, two addresses are a range.
func (c *columns) decide(fields []string) error {
	if c.decided && c.nameless {
		for i, f := range fields {
			if i != c.addr && isAtom(f) {
				return c.several(fields)
			}
		}
	}
	if c.decided {
		return nil
	}
	var with, named []int
	for i, f := range fields {
		if !isAtom(f) {
			continue
		}
		with = append(with, i)
		if c.names != nil && addrNames[c.names[i]] {
			named = append(named, i)
		}
	}
	switch {
	case len(with) == 1:
		c.addr = with[0]
	case len(named) == 1:
		c.addr = named[0]
	case len(with) == 2 && c.nameless && len(fields) == 2:
		if _, ok := block(fields[0], fields[1]); !ok {
			return c.several(fields)
		}
		c.addr, c.end = 0, 1
	case len(with) == 0:
		return wrong("a list has one address or CIDR a line", "%s has no address", quote(strings.Join(fields, string(c.comma))))
	default:
		return c.several(fields)
	}
	if c.names != nil && isAllowName(c.names[c.addr]) {
		return wrong("for addresses that must never be banned, use meshban allow", "the column %q does not hold addresses to ban", c.names[c.addr])
	}
	c.decided = true
	return nil
}

// isAllowName reports whether a column's name says that its addresses are let through.
func isAllowName(name string) bool {
	return slices.ContainsFunc([]string{"allow", "white", "except", "trusted", "ignore", "safe"}, func(part string) bool { return strings.Contains(name, part) })
}

func (c *columns) several(fields []string) error {
	return wrong("keep one column with addresses, for example: cut -d, -f1 FILE | meshban import -",
		"%s has addresses in several columns", quote(strings.Join(fields, string(c.comma))))
}
