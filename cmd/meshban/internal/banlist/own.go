package banlist

import (
	"slices"
	"strings"
)

// ownName is the table that meshban export writes, and the prefix of its sets.
const ownName = "meshban-export"

// ownIpset reads a line of meshban export --format ipset.
func (r *reader) ownIpset(line string) (bool, error) {
	words := strings.Fields(line)
	if len(words) < 3 || words[0] != "create" && words[0] != "add" || !strings.HasPrefix(words[1], ownName+"-") {
		return false, nil
	}
	if words[0] == "create" {
		return true, nil
	}
	if len(words) != 5 || words[3] != "timeout" {
		return true, unknown(line)
	}
	addr, port, limited := strings.Cut(words[2], ",")
	ports := ""
	if limited {
		proto, span, ok := strings.Cut(port, ":")
		if !ok {
			return true, unknown(line)
		}
		ports = span + "/" + proto
	}
	return true, r.addText(ports, addr)
}

// ownNft reads a line of meshban export --format nft.
func (r *reader) ownNft(line string) (bool, error) {
	for _, start := range []string{"add table inet " + ownName, "add set inet " + ownName + " "} {
		if line == start || strings.HasSuffix(start, " ") && strings.HasPrefix(line, start) {
			return true, nil
		}
	}
	rest, ok := strings.CutPrefix(line, "add element inet "+ownName+" ")
	if !ok {
		return false, nil
	}
	_, body, opened := strings.Cut(rest, "{")
	body, closed := strings.CutSuffix(body, "}")
	if !opened || !closed {
		return true, unknown(line)
	}
	for element := range strings.SplitSeq(body, ",") {
		words := strings.Fields(element)
		ports := ""
		switch {
		case len(words) == 3 && words[1] == "timeout":
		case len(words) == 7 && words[1] == "." && words[3] == "." && words[5] == "timeout":
			ports = words[4] + "/" + words[2]
		default:
			return true, unknown(element)
		}
		if err := r.addText(ports, words[0]); err != nil {
			return true, err
		}
	}
	return true, nil
}

// tableLines begin the tables of a file that iptables-save has written.
var tableLines = []string{"*filter", "*nat", "*mangle", "*raw", "*security"}

// foreign returns an error with a remedy for a line of another program's file, or nil if it does not recognise line.
func foreign(line string) *Error {
	words := strings.Fields(strings.ToLower(line))
	first := words[0]
	second := ""
	if len(words) > 1 {
		second = words[1]
	}
	of := func(what, remedy string) *Error {
		return refused(wrong(remedy, "%s is a line of %s, not of a list", quote(line), what))
	}
	switch {
	case strings.Contains(line, ";") && (first == "deny" || first == "allow"), strings.HasSuffix(line, "{") && (first == "geo" || first == "server" || first == "location" || first == "http" || first == "map"):
		return of("an nginx configuration", "awk '$1 == \"deny\" {print $2}' FILE | tr -d ';' | meshban import -")
	case first == "require", first == "order" && len(words) == 2 && !strings.ContainsRune(line, '\t'), first[0] == '<', (first == "deny" || first == "allow") && second == "from":
		return of("an Apache configuration", "awk 'tolower($0) ~ /not ip|deny from/ {for (i = 3; i <= NF; i++) if ($i ~ /[0-9]/) print $i}' FILE | meshban import -")
	case first[0] == '/' && len(words) > 1, strings.Contains(line, "address=") && strings.Contains(line, "list="):
		return of("a MikroTik script", "grep -o 'address=[0-9a-fA-F.:/-]*' FILE | cut -d= -f2 | meshban import -")
	case first == "create", first == "add" && len(words) > 2 && isAtom(strings.SplitN(words[2], ",", 2)[0]):
		return of("an ipset file", "a set may hold allowed addresses; if NAME is to be banned: awk '$1 == \"add\" && $2 == \"NAME\" {print $3}' FILE | meshban import -")
	case first == "table", first == "flush", first == "add" || first == "delete", strings.HasPrefix(first, "elements"), first == "define":
		return of("an nftables file", "write its addresses to a file, one per line")
	case first == "-a", first == "-i", first == "iptables", first == "ip6tables", slices.Contains(tableLines, first), first[0] == ':' && len(words) == 3:
		return of("iptables rules", "awk '/-j (DROP|REJECT)/ {for (i = 1; i < NF; i++) if ($i == \"-s\") print $(i+1)}' FILE | meshban import -")
	case line == "---", first == "-":
		return of("a YAML file", "sed -n 's/^ *- //p' FILE | meshban import -")
	case letsThrough(words) != nil, first == "deny", first == "allow":
		return refused(wrong("delete such lines, and write one address to ban per line", "%s is not a line of a list", quote(line)))
	case first[0] == '!':
		return refused(wrong("delete such lines; for addresses that must never be banned, use meshban allow", "%s is an exception", quote(line)))
	}
	return nil
}

// unknown returns the error for a line that is not understood.
func unknown(line string) error {
	words := strings.Fields(line)
	if len(words) == 1 {
		if _, _, err := appendAtom(nil, words[0]); err != nil {
			return err
		}
	}
	return wrong("a list has one address or CIDR a line", "%s does not start with an address", quote(line))
}
