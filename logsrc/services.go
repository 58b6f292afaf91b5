package logsrc

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
)

// Bounds of what is read from /etc/services.
const (
	maxServiceName  = 32
	maxServices     = 20_000
	maxServicesFile = 4 << 20
)

// knownServices has the names that people and fail2ban's jail.conf use, numbered as by IANA and Debian's
// /etc/services. A container often has no /etc/services.
var knownServices = map[string]uint16{
	"ftp-data": 20, "ftp": 21, "ssh": 22, "telnet": 23, "smtp": 25, "mail": 25, "time": 37, "whois": 43,
	"tacacs": 49, "domain": 53, "dns": 53, "bootps": 67, "bootpc": 68, "tftp": 69, "gopher": 70, "finger": 79,
	"http": 80, "www": 80, "kerberos": 88, "pop2": 109, "pop3": 110, "sunrpc": 111, "auth": 113, "nntp": 119,
	"ntp": 123, "netbios-ns": 137, "netbios-dgm": 138, "netbios-ssn": 139, "imap2": 143, "imap": 143, "snmp": 161,
	"snmp-trap": 162, "xdmcp": 177, "bgp": 179, "irc": 194, "imap3": 220, "ldap": 389, "https": 443,
	"microsoft-ds": 445, "kpasswd": 464, "submissions": 465, "ssmtp": 465, "smtps": 465, "urd": 465,
	"isakmp": 500, "login": 513, "shell": 514, "syslog": 514, "printer": 515, "rtsp": 554, "nntps": 563,
	"submission": 587, "ipp": 631, "ldaps": 636, "domain-s": 853, "rsync": 873, "ftps-data": 989, "ftps": 990,
	"telnets": 992, "imaps": 993, "ircs": 994, "pop3s": 995, "socks": 1080, "openvpn": 1194, "ms-sql-s": 1433,
	"ms-sql-m": 1434, "radius": 1812, "radius-acct": 1813, "mqtt": 1883, "nfs": 2049, "cvspserver": 2401,
	"mysql": 3306, "ms-wbt-server": 3389, "rdp": 3389, "nut": 3493, "svn": 3690, "sieve": 4190, "managesieve": 4190,
	"sip": 5060, "sip-tls": 5061, "sips": 5061, "xmpp-client": 5222, "xmpp-server": 5269, "postgresql": 5432,
	"amqps": 5671, "amqp": 5672, "vnc": 5900, "x11": 6000, "redis": 6379, "ircd": 6667, "ircs-u": 6697,
	"http-alt": 8080, "webcache": 8080, "https-alt": 8443, "git": 9418, "webmin": 10000, "zabbix-agent": 10050,
	"zabbix-trapper": 10051, "memcached": 11211, "minecraft": 25565, "mongodb": 27017,
}

// localServices is /etc/services, read when the first name comes that is not in knownServices.
var localServices = sync.OnceValue(func() map[string]uint16 {
	f, err := os.Open("/etc/services")
	if err != nil {
		return nil
	}
	defer f.Close()
	return readServices(io.LimitReader(f, maxServicesFile))
})

// service resolves a name without DNS or network.
func service(name []byte) (uint16, bool) {
	if port, ok := knownServices[string(name)]; ok {
		return port, true
	}
	port, ok := localServices()[string(name)]
	return port, ok
}

func isServiceName(name []byte) bool {
	for _, c := range name {
		if !isNameByte(c) && c != '_' && c != '+' {
			return false
		}
	}
	return 0 < len(name) && len(name) <= maxServiceName && name[0] != '-'
}

// readServices parses "name port/protocol aliases... # comment". If a name has two ports, the first counts.
func readServices(r io.Reader) map[string]uint16 {
	services := make(map[string]uint16)
	for lines := bufio.NewScanner(r); lines.Scan() && len(services) < maxServices; {
		text, _, _ := strings.Cut(lines.Text(), "#")
		words := strings.Fields(text)
		if len(words) < 2 {
			continue
		}
		number, protocol, _ := strings.Cut(words[1], "/")
		port, err := strconv.ParseUint(number, 10, 16)
		if err != nil || port == 0 || (protocol != "tcp" && protocol != "udp") {
			continue
		}
		for i, name := range words {
			if _, known := services[name]; i != 1 && !known && len(name) <= maxServiceName {
				services[name] = uint16(port)
			}
		}
	}
	return services
}
