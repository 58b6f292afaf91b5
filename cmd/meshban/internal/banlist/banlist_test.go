package banlist

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

// zip compresses text.
func zip(t testing.TB, text string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := io.WriteString(w, text)
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// show formats the entries of a list.
func show(list *List) string {
	texts := make([]string, len(list.Entries))
	for i, e := range list.Entries {
		if texts[i] = e.Prefix.String(); e.Prefix.IsSingleIP() {
			texts[i] = e.Prefix.Addr().String()
		}
		if e.Ports != "" {
			texts[i] += " on " + e.Ports
		}
	}
	return strings.Join(texts, ", ")
}

func TestRead(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, text, want string }{
		{"nothing", "", ""},
		{"blanks and comments", "\n \n# a\n; b\n// c\n", ""},
		{"plain", "192.0.2.1\n192.0.2.2", "192.0.2.1, 192.0.2.2"},
		{"repeats and order", "192.0.2.2\n192.0.2.1\n192.0.2.2\n", "192.0.2.1, 192.0.2.2"},
		{"CIDR", "192.0.2.0/24\n2001:db8::/32\n", "192.0.2.0/24, 2001:db8::/32"},
		{"Spamhaus DROP", "; Spamhaus\n1.10.16.0/20 ; SBL256894\n1.19.0.0/16 ; SBL434604\n", "1.10.16.0/20, 1.19.0.0/16"},
		{"comments after addresses", "192.0.2.1# d\n192.0.2.2 # e\n192.0.2.3 // f 1.2.3.4\n192.0.2.4;\n", "192.0.2.1, 192.0.2.2, 192.0.2.3, 192.0.2.4"},
		{"further columns", "192.0.2.1\t5\n192.0.2.2,US\n192.0.2.3|x y\n192.0.2.4;y\n 2001:db8::/32 z\n192.0.2.9 2026-11-22 11:02:11\n", "192.0.2.1, 192.0.2.2, 192.0.2.3, 192.0.2.4, 192.0.2.9, 2001:db8::/32"},
		{"CRLF", "192.0.2.1\r\n\r\n192.0.2.2\r\n", "192.0.2.1, 192.0.2.2"},
		{"CR only", "192.0.2.1\r# c\r192.0.2.2\r", "192.0.2.1, 192.0.2.2"},
		{"byte order mark", "\ufeff192.0.2.1\n", "192.0.2.1"},
		{"4-in-6", "::ffff:192.0.2.1\n::ffff:192.0.2.128/121\n", "192.0.2.1, 192.0.2.128/25"},
		{"host bits", "192.0.2.77/24\n::ffff:192.0.3.1/120\n2001:db8::1/64\n", "192.0.2.0/24, 192.0.3.0/24, 2001:db8::/64"},
		{"netmask", "192.0.2.0/255.255.255.0\n192.0.3.9/255.255.255.128\n192.0.4.0 255.255.255.0\n", "192.0.2.0/24, 192.0.3.0/25, 192.0.4.0/24"},
		{"ranges", "192.0.2.0-192.0.2.2\n192.0.3.0 - 192.0.3.255\n192.0.4.0\t192.0.4.127\n192.0.5.0- 192.0.5.1\n192.0.6.0 -192.0.6.1\n2001:db8::-2001:db8::ff\n",
			"192.0.2.0/31, 192.0.2.2, 192.0.3.0/24, 192.0.4.0/25, 192.0.5.0/31, 192.0.6.0/31, 2001:db8::/120"},
		{"several on a line", "192.0.2.1 192.0.2.2 192.0.2.9 192.0.2.4 192.0.2.5 192.0.2.6\n", "192.0.2.1, 192.0.2.2, 192.0.2.4, 192.0.2.5, 192.0.2.6, 192.0.2.9"},
		{"two on a line", "192.0.2.1 198.51.100.1\n192.0.2.2, 192.0.2.9\n192.0.2.4 192.0.2.5\n192.0.3.0/24 192.0.4.0/24\n", "192.0.2.1, 192.0.2.2, 192.0.2.4, 192.0.2.5, 192.0.2.9, 192.0.3.0/24, 192.0.4.0/24, 198.51.100.1"},
		{"several, other separators", "192.0.2.1,192.0.2.2,192.0.2.3\n192.0.2.4;192.0.2.5;192.0.2.6\n192.0.2.7 ; 192.0.2.8 ; 192.0.2.9\n",
			"192.0.2.1, 192.0.2.2, 192.0.2.3, 192.0.2.4, 192.0.2.5, 192.0.2.6, 192.0.2.7, 192.0.2.8, 192.0.2.9"},
		{"DShield", "# DShield.org\nStart\tEnd\tNetmask\tAttacks\tName\tCountry\temail\n192.0.2.0\t192.0.2.255\t24\t4711\tOK TELECOM\tUS\ta@example.com\n192.0.3.0\t192.0.3.255\t24\t9\t\t\t\n", "192.0.2.0/24, 192.0.3.0/24"},
		{"DShield without a header", "192.0.2.0\t192.0.2.255\t24\t4711\tOK TELECOM\tUS\ta@example.com\n", "192.0.2.0/24"},
		{"DShield with blanks", "192.0.2.0   192.0.2.255   24   4711\n", "192.0.2.0/24"},
		{"p2p", "Some Org, Inc #2:192.0.2.0-192.0.2.255\nA: B:192.0.3.0-192.0.3.1\nN\xfcrnberg:192.0.4.1-192.0.4.1\n", "192.0.2.0/24, 192.0.3.0/31, 192.0.4.1"},
		{"eMule, blocked", "192.0.2.0 - 192.0.2.255 , 100 , Some Org\n", "192.0.2.0/24"},
		{"hosts.deny", "ALL: 192.0.2.1\nsshd: 192.0.2.2, 192.0.2.9 192.0.2.4\nsshd, vsftpd : 192.0.3.0/255.255.255.0 : deny\nin.telnetd: 198.51.100.\nALL: [2001:db8::]/32 # x\nsshd:192.0.5.1\n",
			"192.0.2.1, 192.0.2.2, 192.0.2.4, 192.0.2.9, 192.0.3.0/24, 192.0.5.1, 198.51.100.0/24, 2001:db8::/32"},
		{"CSV with a header", "ip,country,first_seen\n192.0.2.1,US,2026\n192.0.2.2,DE,2026\n", "192.0.2.1, 192.0.2.2"},
		{"CSV, quoted", "\"Country\",\"IP Address\",\"Comment\"\n\"US\",\"192.0.2.1\",\"a, b\"\n\"DE\",\"192.0.2.2\",\"seen by 1.2.3.4\"\n", "192.0.2.1, 192.0.2.2"},
		{"CSV, quoted, no header", "\"192.0.2.1\",\"US\"\n\"192.0.2.2\",\"DE\"\n", "192.0.2.1, 192.0.2.2"},
		{"CSV, half quoted", "192.0.2.1,\"a, 5.6.7.8\"\n192.0.2.2,b\n", "192.0.2.1, 192.0.2.2"},
		{"CSV, the only column that parses", "# Firstseen,DstIP,DstPort\n2022-05-31 05:02:06,192.0.2.1,443\n2022-05-31 05:02:07,192.0.2.2,443\n", "192.0.2.1, 192.0.2.2"},
		{"CSV, by header", "seen_by;attacker_ip\n10.0.0.1;192.0.2.1\n10.0.0.2;192.0.2.2\n", "192.0.2.1, 192.0.2.2"},
		{"CSV of ranges", "ip_from,ip_to,country\n192.0.2.0,192.0.2.255,US\n192.0.3.0,192.0.3.2,DE\n", "192.0.2.0/24, 192.0.3.0/31, 192.0.3.2"},
		{"CSV of blocks", "192.0.2.0,192.0.2.255\n", "192.0.2.0/24"},
		{"CSV with a prefix length", "network,prefixlen\n192.0.2.0,24\n192.0.3.0,25\n", "192.0.2.0/24, 192.0.3.0/25"},
		{"CSV with a netmask", "network\tnetmask\n192.0.2.0\t255.255.255.0\n", "192.0.2.0/24"},
		{"TAB table, first column empty", "note\tip\n\t192.0.2.1\nx\t192.0.2.2\n", "192.0.2.1, 192.0.2.2"},
		{"a header before plain lines", "cidr\n192.0.2.0/24\n", "192.0.2.0/24"},
		{"counts after network addresses", "192.0.2.0\t24\n192.0.2.7\t9\n", "192.0.2.0, 192.0.2.7"},
		{"Spamhaus JSON", `{"cidr":"1.10.16.0/20","sblid":"SBL256894","rir":"apnic"}` + "\n" + `{"cidr":"1.19.0.0/16","sblid":"SBL434604","rir":"apnic"}` + "\n" + `{"type":"metadata","timestamp":1700000000,"size":2,"records":2,"copyright":"c","terms":"https://x"}` + "\n", "1.10.16.0/20, 1.19.0.0/16"},
		{"AbuseIPDB JSON", `{"meta":{"generatedAt":"2026"},"data":[{"ipAddress":"192.0.2.1","abuseConfidenceScore":100},{"ipAddress":"2001:db8::1","isWhitelisted":false}]}`, "192.0.2.1, 2001:db8::1"},
		{"CrowdSec alerts", `[{"id":1,"source":{"ip":"198.51.100.1","value":"198.51.100.1","scope":"Ip"},"decisions":[{"duration":"3h","type":"ban","scope":"Ip","value":"192.0.2.1"},{"value":"192.0.2.64/26","scope":"Range","type":"ban"}],"message":"x"},{"id":2,"decisions":null}]`, "192.0.2.1, 192.0.2.64/26"},
		{"CrowdSec decisions", `[{"duration":"3h","id":7,"origin":"cscli","scenario":"manual 'ban'","scope":"Ip","type":"ban","value":"192.0.2.1"}]`, "192.0.2.1"},
		{"CrowdSec stream", `{"new":[{"scope":"Ip","type":"ban","value":"192.0.2.1"}],"deleted":[{"scope":"Ip","type":"ban","value":"192.0.2.2"}]}`, "192.0.2.1"},
		{"CrowdSec, none", "null", ""},
		{"CrowdSec, other decisions", `[{"scope":"Ip","type":"captcha","value":"192.0.2.1"},{"scope":"Ip","type":"ban","simulated":true,"value":"192.0.2.2"},{"scope":"Ip","type":"ban","value":"192.0.2.3"}]`, "192.0.2.3"},
		{"JSON array of texts", "\n [\"192.0.2.1\",\n \"192.0.2.0/24\", \"192.0.3.0-192.0.3.3\"]\n", "192.0.2.0/24, 192.0.2.1, 192.0.3.0/30"},
		{"JSON with a netmask", `[{"network":"192.0.2.0","netmask":"255.255.255.0"},{"ip":"192.0.3.0","cidr":24}]`, "192.0.2.0/24, 192.0.3.0/24"},
		{"JSON, whitelisted ones", `{"data":[{"ipAddress":"192.0.2.1","isWhitelisted":true},{"ipAddress":"192.0.2.2"}]}`, "192.0.2.2"},
		{"gzip", zip(t, "192.0.2.1\n") + zip(t, "192.0.2.2\n"), "192.0.2.1, 192.0.2.2"},
		{"gzip, JSON", zip(t, `[{"ip":"192.0.2.1"}]`), "192.0.2.1"},
	} {
		if c.text == "null" {
			c.text = "[null]"
		}
		list, err := Read(strings.NewReader(c.text), nil)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if got := show(list); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// A list that is not understood is refused whole, and the error names the line and what to do.
func TestReadRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, text string
		line       int
		want       string // contained in the problem
		whole      bool   // even if bad entries are skipped
	}{
		{"nginx", "192.0.2.9\ndeny 192.0.2.1;\n", 2, "nginx", true},
		{"nginx, allow", "allow 192.0.2.1;\n", 1, "nginx", true},
		{"nginx, geo", "geo $bad {\n default 0;\n 192.0.2.1 1;\n}\n", 1, "nginx", true},
		{"a web page", "\n<!DOCTYPE html><html><body>403 192.0.2.1</body></html>\n", 0, "web page", true},
		{"YAML", "---\nlist:\n  - 192.0.2.1\n", 1, "YAML", true},
		{"Apache", "Require not ip 192.0.2.1\n", 1, "Apache", true},
		{"Apache, block", "<RequireAll>\n", 1, "Apache", true},
		{"Apache 2.2", "Order Allow,Deny\nDeny from 192.0.2.1\n", 1, "Apache", true},
		{"MikroTik", "/ip firewall address-list\nadd address=192.0.2.1 list=x\n", 1, "MikroTik", true},
		{"MikroTik, a line", "add list=x address=192.0.2.1\n", 1, "MikroTik", true},
		{"ipset", "create good hash:ip family inet\nadd good 192.0.2.1\n", 1, "ipset", true},
		{"ipset, add", "add good 192.0.2.1 timeout 5\n", 1, "ipset", true},
		{"ipset list", "Name: good\nType: hash:ip\nMembers:\n192.0.2.1\n", 1, "not start with an address", false},
		{"nft", "#!/usr/sbin/nft -f\ntable inet f {\n set x {\n  elements = { 192.0.2.1,\n   192.0.2.2 }\n", 2, "nftables", true},
		{"nft, a line", "add element inet f x { 192.0.2.1 }\n", 1, "nftables", true},
		{"nft, JSON", `{"nftables":[{"set":{"elem":["192.0.2.1"]}}]}`, 1, "no address", false},
		{"iptables-save", "*filter\n-A INPUT -s 192.0.2.1/32 -j ACCEPT\n", 1, "iptables", true},
		{"iptables, a line", "-A INPUT -s 192.0.2.1/32 -j ACCEPT\n", 1, "iptables", true},
		{"iptables-save, another table", "*raw\n-A PREROUTING -s 192.0.2.1/32 -j DROP\n", 1, "iptables", true},
		{"names, a wildcard", "192.0.2.1\n*.example.com\n", 2, "not an address", false},
		{"names, wildcards of a proxy", "*://*.example.com/*\n", 1, "not an address", false},
		{"a bullet", "* 192.0.2.1\n", 1, "not start with an address", false},
		{"Cisco", "access-list 1 deny 192.0.2.1\n", 1, "not start with an address", false},
		{"fail2ban status", "Status for the jail: sshd\n|- Filter\n   `- Banned IP list:\t192.0.2.1 192.0.2.2\n", 1, "not start with an address", false},
		{"hosts", "0.0.0.0 ads.example.com\n", 1, "hosts file", false},
		{"YAML, an item", "- 192.0.2.1\n", 1, "YAML", true},
		{"prose", "blocked are\n192.0.2.1\n", 1, "not start with an address", false},
		{"names", "192.0.2.1\nevil.example.com\n", 2, "not an address", false},
		{"allow", "192.0.2.9\nallow 192.0.2.1\n", 2, "not a line of a list", true},
		{"accept after it", "192.0.2.1 ACCEPT\n", 1, "does not ban", true},
		{"allow, a column", "192.0.2.1,allow\n", 1, "does not ban", true},
		{"allow, a key", "192.0.2.1 action=allow\n", 1, "does not ban", true},
		{"allow, CSV", "action,ip\nban,192.0.2.2\nallow,192.0.2.1\n", 3, "does not ban", true},
		{"allow, CSV without header", "deny,192.0.2.2\nallow,192.0.2.1\n", 2, "does not ban", true},
		{"allow, p2p", "whitelist:192.0.2.1-192.0.2.2\n", 1, "does not ban", true},
		{"allow, header", "allowed_ip,x\n192.0.2.1,y\n", 1, "not an address", false},
		{"allow, hosts", "sshd: 192.0.2.1 : allow\n", 1, "does not ban", true},
		{"allow, hosts, another option", "ALL: [2001:db8::]/32, 192.0.2.1 : severity auth.info : ALLOW\n", 1, "does not ban", true},
		{"hosts, options", "ALL: 192.0.2.1 : spawn /bin/true\n", 1, "hosts.deny", false},
		{"allow, eMule", "192.0.2.0 - 192.0.2.255 , 200 , Some Org\n", 1, "eMule lets", true},
		{"allow, Postfix", "192.0.2.1 OK\n", 1, "does not ban", true},
		{"allow, pf table", "192.0.2.0/24\n!192.0.2.1\n", 2, "exception", true},
		{"allow, JSON", `[{"ip":"192.0.2.1","action":"allow"}]`, 1, "does not ban", true},
		{"allow, JSON around", `{"action":"allow","data":[{"ip":"192.0.2.1"}]}`, 1, "does not ban", true},
		{"allowlist of CrowdSec", `[{"name":"mine","items":[{"value":"192.0.2.1"}]}]`, 1, "no address", false},
		{"except", "ALL: 192.0.2.0/24 EXCEPT 192.0.2.1\n", 1, "hosts.deny", false},
		{"except all", "sshd: ALL EXCEPT 192.0.2.1\n", 1, "hosts.deny", false},
		{"except a service", "ALL EXCEPT sshd: 192.0.2.1\n", 1, "not a line of a list", true},
		{"CrowdSec, country", `[{"scope":"Country","type":"ban","value":"XX"}]`, 1, "country", false},
		{"two addresses among words", "192.0.2.1 saw 192.0.2.2\n", 1, "several", false},
		{"two, perhaps a range", "192.0.2.1,192.0.2.9\n", 1, "may be a range", false},
		{"two, perhaps a block", "192.0.2.0 192.0.2.255\n", 1, "may be a range", false},
		{"a second one, with a port", "192.0.2.1 192.0.2.2:80\n", 1, "another one", false},
		{"a second one, after a TAB", "192.0.2.1\t192.0.2.2 192.0.2.3\n", 1, "another one", false},
		{"a length after a blank", "192.0.2.0 /24\n", 1, "follows the address", false},
		{"a short range", "192.0.2.1-20\n", 1, "not end with an address", false},
		{"a short range with blanks", "192.0.2.1 - 20\n", 1, "follows the address", false},
		{"a range backwards", "192.0.2.9-192.0.2.1\n", 1, "not a range", false},
		{"a range backwards, TAB", "192.0.2.9\t192.0.2.1\n", 1, "not a range", false},
		{"a range of two families", "192.0.2.9-2001:db8::1\n", 1, "not a range", false},
		{"a range of all addresses", "0.0.0.0-255.255.255.255\n", 1, "covers 0.0.0.0/0", false},
		{"a length or a count", "192.0.2.0\t24\n192.0.3.0\t24\n", 1, "prefix length", true},
		{"a length or a count, CSV", "US,192.0.2.0,24\n", 1, "prefix length", true},
		{"a wildcard mask", "192.0.2.0/0.0.0.255\n", 1, "192.0.2.0/0.0.0.255", false},
		{"a mask with holes", "192.0.2.0/255.0.255.0\n", 1, "holes", false},
		{"a star", "192.0.2.*\n", 1, "not an address", false},
		{"a port", "192.0.2.1:22\n", 1, "not an address", false},
		{"a zone", "fe80::1%eth0\n", 1, "zone", false},
		{"leading zeros", "010.1.2.3\n", 1, "octal", false},
		{"leading zeros, a range", "001.002.003.000-001.002.003.255\n", 1, "octal", false},
		{"leading zeros in a second one", "192.0.2.1 010.1.2.3\n", 1, "another one", false},
		{"4-in-6, too short", "::ffff:0:0/90\n", 1, "mixes", false},
		{"two address columns", "src_ip,dst_ip\n192.0.2.1,192.0.2.2\n", 2, "several columns", false},
		{"two address columns later", "US,192.0.2.1,x\nUS,192.0.2.1,192.0.2.2\n", 2, "several columns", false},
		{"RIR", "ripencc|FR|ipv4|192.0.2.0|1024|20100712|allocated\n", 1, "does not ban", true},
		{"only separators", "192.0.2.1\n,\n", 2, "no address", false},
		{"an open quote", "\"192.0.2.1\n", 1, "", false},
		{"broken JSON", "[\n\"192.0.2.1\",\n", 2, "invalid", true},
		{"JSON, a number", "[5]", 1, "not an address", false},
		{"JSON, ports of others", `[{"ip":"192.0.2.1","ports":"22"}]`, 1, "limited to ports", false},
		{"fail2ban banned", "[{'sshd': ['192.0.2.1']}]\n", 0, "fail2ban-client banned", true},
		{"UTF-16", "\xff\xfe1\x009\x00", 0, "UTF-16", true},
		{"a program", "\x7fELF\x02\x01\x01\x00", 0, "not a text", true},
		{"zip", "PK\x03\x04", 0, "compressed", true},
		{"gzip in gzip", zip(t, zip(t, "192.0.2.1\n")), 0, "compressed", true},
		{"damaged gzip", zip(t, "192.0.2.1\n")[:20], 0, "damaged", true},
	} {
		list, err := Read(strings.NewReader(c.text), nil)
		e, ok := errors.AsType[*Error](err)
		if !ok || list != nil || e.Line != c.line || !strings.Contains(e.Problem, c.want) || e.Remedy == "" && c.line > 0 && !strings.Contains(e.Problem, "JSON") && c.name != "JSON, a number" {
			t.Errorf("%s: %+v, %#v", c.name, list, err)
			continue
		}
		bad := 0
		_, err = Read(strings.NewReader(c.text), func(*Error) bool { bad++; return true })
		if (err != nil) != c.whole || err == nil && bad == 0 {
			t.Errorf("%s, skipping: %v, %d bad", c.name, err, bad)
		}
	}
}

func TestReadReportsChanges(t *testing.T) {
	t.Parallel()
	list, err := Read(strings.NewReader("192.0.2.1\n192.0.2.1\n192.0.3.1/24\n192.0.3.2/24\n"), nil)
	if err != nil || list.Masked != 2 || list.Example != "192.0.3.1/24 in line 3" || list.Repeats != 2 {
		t.Errorf("%+v, %v", list, err)
	}
	list, err = Read(strings.NewReader(`[{"scope":"Ip","type":"captcha","value":"192.0.2.1"},{"scope":"Ip","type":"captcha","value":"192.0.2.2"}]`), nil)
	if err != nil || fmt.Sprint(list.Skipped) != "[{decisions of type captcha 2}]" {
		t.Errorf("%+v, %v", list, err)
	}
}

// Memory is bounded, whatever a compressed list unpacks to.
func TestReadIsBounded(t *testing.T) {
	t.Parallel()
	endless := func(s string) io.Reader { return &repeat{text: s} }
	for _, c := range []struct {
		name string
		in   io.Reader
		want string
	}{
		{"a line", io.MultiReader(strings.NewReader("192.0.2.1\n"), endless("x")), "line has more"},
		{"a text in JSON", io.MultiReader(strings.NewReader(`["`), endless("x")), "value has more"},
		{"depth", io.LimitReader(endless("["), 1<<20), "nested"},
		{"entries", endless("192.0.2.1 192.0.2.2 192.0.2.3 192.0.2.4 192.0.2.5 192.0.2.6 192.0.2.7\n"), "prefixes"},
	} {
		r := &reader{list: new(List), room: 1000}
		if _, err := r.read(c.in); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

type repeat struct {
	text string
	at   int
}

func (r *repeat) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = r.text[r.at]
		r.at = (r.at + 1) % len(r.text)
	}
	return len(p), nil
}

// An error of the input is not an error of the list.
func TestReadFails(t *testing.T) {
	t.Parallel()
	broken := errors.New("disk on fire")
	for _, text := range []string{"192.0.2.1\n", `["192.0.2.1",`} {
		_, err := Read(io.MultiReader(strings.NewReader(text), failing{broken}), nil)
		if !errors.Is(err, broken) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
