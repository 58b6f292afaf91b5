package feed

import (
	"encoding/json"
	"net"
	"net/netip"
	"strconv"
	"time"
)

// Format is the name of a form.
type Format string

// form is how a list is written.
type form struct {
	contentType         string
	head, between, tail string
	ports               bool // whether line can say that a ban is limited to ports
	// line appends an entry; it appends nothing if the form has no words for it.
	line func(b []byte, e Entry) []byte
}

const plainText = "text/plain; charset=utf-8"

// Formats are the formats, in the order of the help.
var Formats = []Format{
	"plain", "cidr", "json", "nginx", "haproxy", "postfix-cidr", "hosts.deny", "mikrotik", "f5", "juniper", "checkpoint",
}

var forms = map[Format]form{
	"plain": {contentType: plainText, line: func(b []byte, e Entry) []byte { return append(short(b, e.Prefix), '\n') }},
	"cidr":  {contentType: plainText, line: func(b []byte, e Entry) []byte { return append(e.Prefix.AppendTo(b), '\n') }},
	"json":  {contentType: "application/json", head: "[", between: ",\n", tail: "]\n", ports: true, line: jsonLine},
	// The values of a geo block (ngx_http_geo_module): a radix tree, where a row of "deny" costs each request a look at
	// every line.
	"nginx": {contentType: plainText, line: func(b []byte, e Entry) []byte { return append(short(b, e.Prefix), " 1;\n"...) }},
	// An ACL file (HAProxy's Configuration Manual, 7.1.3 and 7.1.6).
	"haproxy": {contentType: plainText, line: func(b []byte, e Entry) []byte { return append(short(b, e.Prefix), '\n') }},
	// cidr_table(5).
	"postfix-cidr": {contentType: plainText, line: func(b []byte, e Entry) []byte { return append(e.Prefix.AppendTo(b), " REJECT\n"...) }},
	// hosts_access(5).
	"hosts.deny": {contentType: plainText, line: hostsDenyLine},
	"mikrotik":   {contentType: plainText, head: mikrotikHead, line: mikrotikLine},
	// A feed file of AFM IP Intelligence: address, mask length, "bl" for a blacklist, category; without one, that of the
	// feed list counts (F5, "BIG-IP AFM: Getting Started", "About feed lists and feed files").
	"f5": {contentType: plainText, line: func(b []byte, e Entry) []byte {
		b = append(e.Prefix.Addr().AppendTo(b), ',')
		return append(strconv.AppendInt(b, int64(e.Prefix.Bits()), 10), ",bl,\n"...)
	}},
	// A feed of security dynamic-address: an address, a prefix or a range on each line (Junos, "Security Policies User
	// Guide", "Dynamic Address Groups"). An SRX asks by HEAD whether it has changed (community.juniper.net, "SRX Dynamic IP
	// Objects aka Feed-server").
	"juniper":    {contentType: plainText, line: func(b []byte, e Entry) []byte { return append(short(b, e.Prefix), '\n') }},
	"checkpoint": {contentType: "text/csv; charset=utf-8", head: "# UNIQ-NAME,VALUE,TYPE,CONFIDENCE,SEVERITY,PRODUCT,COMMENT\n", line: checkpointLine},
}

// short appends a single address without its length.
func short(b []byte, p netip.Prefix) []byte {
	if p.IsSingleIP() {
		return p.Addr().AppendTo(b)
	}
	return p.AppendTo(b)
}

// object is an entry in JSON, with the names of `meshban list --json`.
type object struct {
	Prefix  string    `json:"prefix"`
	Ports   string    `json:"ports"`
	Until   time.Time `json:"until"`
	Origins []string  `json:"origins"`
	Reason  string    `json:"reason"`
	Source  string    `json:"source"`
}

func jsonLine(b []byte, e Entry) []byte {
	text, err := json.Marshal(object{
		string(short(nil, e.Prefix)), e.Ports, e.Until.UTC().Truncate(time.Second), e.Origins, e.Reason, e.Source,
	})
	if err != nil { // a year beyond 9999
		return b
	}
	return append(b, text...)
}

func hostsDenyLine(b []byte, e Entry) []byte {
	b = append(b, "ALL: "...)
	addr, bits := e.Prefix.Addr(), e.Prefix.Bits()
	switch {
	case addr.Is4() && bits < 32:
		b = append(addr.AppendTo(b), '/')
		b = append(b, net.IP(net.CIDRMask(bits, 32)).String()...)
	case addr.Is4():
		b = addr.AppendTo(b)
	default:
		b = append(addr.AppendTo(append(b, '[')), "]/"...)
		b = strconv.AppendInt(b, int64(bits), 10)
	}
	return append(b, '\n')
}

// A RouterOS script for /import. It replaces the list, so that what is lifted goes. An entry lasts mikrotikTimeout, so
// that nothing stays for ever on a router that can no longer fetch the list; the time left of each ban would change the
// file with every second (RouterOS, "Firewall", "Address-lists"; "Scripting").
const (
	mikrotikTimeout = "1d"
	mikrotikHead    = "/ip firewall address-list remove [find where list=meshban]\n" +
		"/ipv6 firewall address-list remove [find where list=meshban]\n"
)

func mikrotikLine(b []byte, e Entry) []byte {
	b = append(b, ":do {/ip"...)
	if e.Prefix.Addr().Is6() {
		b = append(b, "v6"...)
	}
	b = append(b, " firewall address-list add list=meshban timeout="+mikrotikTimeout+" address="...)
	return append(e.Prefix.AppendTo(b), "} on-error={}\n"...)
}

// checkpointLine appends a line in the Check Point format of a custom intelligence feed (sk132193; "Threat Prevention
// Administration Guide", "Supported Indicator Files"). That has IPv4 only, and ranges instead of prefixes.
func checkpointLine(b []byte, e Entry) []byte {
	addr := e.Prefix.Addr()
	if !addr.Is4() {
		return b
	}
	b = append(short(append(b, "meshban-"...), e.Prefix), ',')
	kind := ",IP,"
	b = addr.AppendTo(b)
	if !e.Prefix.IsSingleIP() {
		kind = ",IP Range,"
		b = last(e.Prefix).AppendTo(append(b, '-'))
	}
	return append(append(b, kind...), "high,high,AB,\n"...)
}

// last returns the last address of a prefix.
func last(p netip.Prefix) netip.Addr {
	raw := p.Addr().AsSlice()
	for i := p.Bits(); i < len(raw)*8; i++ {
		raw[i/8] |= 1 << (7 - i%8)
	}
	addr, _ := netip.AddrFromSlice(raw)
	return addr
}
