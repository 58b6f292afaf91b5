// Package config parses meshban.yaml into a typed, validated Config.
//
// The file is read strictly: an unknown key, a repeated key, and a value of the wrong type or out of bounds are
// errors that name the file, the line, the key, the problem and what to write instead. All errors of a file are
// reported at once. An empty file is the default configuration. Reference is the embedded reference file, with every
// key, its default and its meaning.
package config

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/feed"
)

// Bounds of the file and of its values.
const (
	MaxFile      = 1 << 20 // bytes in a config file
	MaxErrors    = 100     // errors reported at once; the rest are counted
	MaxJoin      = 1000    // entries in join
	MaxAllow     = 10000   // entries in allow
	MaxNames     = 16      // of these that are names
	MaxName      = 64      // bytes in name
	MaxPath      = 4096    // bytes in lines.file
	MaxHost      = 253     // bytes in a host name of join (RFC 1035)
	MaxGroup     = 32      // bytes in a group of control; useradd has the same limit
	MinFor       = time.Second
	MaxMaxFor    = 720 * time.Hour // no ban lasts longer
	MinWidest4   = 8
	MaxWidest4   = 32
	MinWidest6   = 19
	MaxWidest6   = 128
	MinQuorum    = 1
	MaxQuorum    = 16
	MaxSources   = 64 // entries in bans.quorum_by_source
	MaxSource    = 64 // bytes in a source there
	MinFactor    = 1
	MaxFactor    = 10
	MinAllowance = 1
	MaxAllowance = 100_000_000 // of peers and breaker: practically no bound
	MinHold      = time.Second
	MaxHold      = 10 * time.Minute
	MaxFiles     = 16
	MinEvery     = time.Second
	MaxEvery     = 24 * time.Hour
	DefaultEvery = 5 * time.Second
	MinCheck     = time.Second
	MaxCheck     = 10 * time.Minute
	DefaultPort  = 7946 // of bind and join without a port; memberlist's own default
	LineFileName = "newbans.log"
	FileName     = "meshban.yaml" // of the config file, in the state folder
)

// Config is a node's complete configuration: keys that are not in the file have their defaults.
type Config struct {
	Path string // the file it was read from; "" = defaults
	Dir  string // the absolute state folder, on which defaults depend

	Name       string         // name: for people; 1..MaxName of [A-Za-z0-9._-]; default the host name
	Bind       netip.AddrPort // bind: where the mesh listens, UDP and TCP; port 0 = any free one
	Advertise  netip.AddrPort // advertise: where peers reach it; zero = memberlist finds out
	Join       []string       // join: host:port, an IPv6 address in brackets; the mesh resolves names
	Lines      Lines          // lines:
	Bans       Bans           // bans:
	Escalation Escalation     // escalation:
	Peers      Peers          // peers:
	Breaker    Allowance      // breaker: for all peers together
	Fail2ban   Fail2ban       // fail2ban:
	Firewall   Firewall       // firewall:
	Control    Control        // control:
	Allow      []Allowed      // allow: never banned
	Metrics    netip.AddrPort // metrics: zero = off
	API        API            // api:
	Files      []File         // files: lists for other programs
	Hooks      []Hook         // hooks: who is told of what
	Log        Log            // log:
}

// API configures the listener for bouncers, routers and scripts.
type API struct {
	Listen      netip.AddrPort // listen: zero = off
	Certificate string         // certificate: a PEM file, absolute; "" = without TLS, on a loopback address only
	Key         string         // key: of the certificate
	Hold        time.Duration  // hold: how long an answer waits for something to tell, MinHold..MaxHold
}

// File is a list of what is banned that the agent writes for another program.
type File struct {
	Name   string        // name: below feeds/ in the state folder
	Format feed.Format   // format:
	Every  time.Duration // every: how soon a change is written
}

// Lines configures the line file, to which other programs append bans.
type Lines struct {
	File  string        // file: absolute; default newbans.log in the state folder
	Emit  bool          // emit: write a line for each ban that arrives from the mesh
	Ports PortsMode     // ports: what a line's PORT means
	For   time.Duration // for: duration of a ban whose line gives none; default bans.for
}

// Fail2ban configures how the agent treats this machine's fail2ban, if `meshban setup fail2ban` has connected them.
type Fail2ban struct {
	Unban bool // unban: fail2ban also lifts what the mesh lifts
}

// PortsMode says to which ports the ban of a line applies.
type PortsMode string

// The modes of lines.ports.
const (
	PortsAll       PortsMode = "all"        // every port
	PortsAsWritten PortsMode = "as-written" // the ports that the line names
)

// Bans are the policies for bans.
type Bans struct {
	For        time.Duration // for: duration if none is given, MinFor..MaxFor
	MaxFor     time.Duration // max_for: the longest ban from anyone, at most MaxMaxFor
	MinPrefix4 int           // widest_ipv4: shortest prefix length accepted from a peer
	MinPrefix6 int           // widest_ipv6: shortest prefix length accepted from a peer
	Quorum     Quorum        // quorum: who must agree on a ban
	BySource   []QuorumBy    // quorum_by_source: the same for some sources; the first match counts
}

// Quorum is how many nodes must have seen an attacker, and within what time of one another.
type Quorum struct {
	Origins int           // MinQuorum..MaxQuorum
	Within  time.Duration // MinFor..MaxMaxFor; 0 = while their bans are in force
}

// QuorumBy is the quorum for bans from Source. A * at the end of Source matches any rest.
type QuorumBy struct {
	Source string
	Quorum
}

// Escalation configures how bans grow with earlier offences of an address.
type Escalation struct {
	Factor int           // factor: per earlier offence; 1 = off
	Memory time.Duration // memory: how long after its end an offence counts
}

// Allowed is an entry of allow: a prefix, masked and with 4-in-6 unmapped, or a name whose addresses are looked up.
type Allowed struct {
	Prefix netip.Prefix
	Name   string // "" = Prefix
}

// Allowance bounds the rate of new bans; each is MinAllowance..MaxAllowance, and Imports may be 0.
type Allowance struct {
	Rate    int // rate: per minute, sustained
	Burst   int // burst: at once
	Imports int // imports: from lists, per hour and at once
}

// Peers are the caps of each other node.
type Peers struct {
	Allowance
	Active   int           // active: bans that a peer may have in force
	MaxFor   time.Duration // max_for: the longest ban accepted from a peer
	UnbanAny bool          // unban_any: a peer may lift other nodes' bans
}

// Firewall configures the kernel's packet filter.
type Firewall struct {
	Backends []string      // backends: in the order of trial; "auto" is already expanded
	Outbound Outbound      // outbound: connections of this host to a banned address
	Counters bool          // counters: count packets for each ban
	Check    time.Duration // check: how often the kernel's rules are verified
}

// Control names the groups that may use the control socket besides root and the agent's user, by name or number. "" =
// nobody.
type Control struct {
	ReadGroup  string // read_group: may look
	WriteGroup string // write_group: may look and change
}

// Outbound says what happens to this host's own connections to a banned address.
type Outbound string

// The values of firewall.outbound.
const (
	OutboundDrop  Outbound = "drop"  // their replies are dropped too
	OutboundAllow Outbound = "allow" // connections that this host opens keep working
)

// Backends returns the firewall backends in the order that "auto" stands for.
func Backends() []string { return []string{"ipset", "nftables", "iptables", "none"} }

// Log configures what is logged to stderr, and how.
type Log struct {
	Level  slog.Level // level: debug, info, warn or error
	Format LogFormat  // format:
}

// LogFormat is the form of a log line.
type LogFormat string

// The values of log.format.
const (
	LogText LogFormat = "text"
	LogJSON LogFormat = "json"
)

// Default returns the configuration of a node without a config file whose state folder is dir.
func Default(dir string) Config {
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	const length = 30 * time.Minute
	return Config{
		Dir:  dir,
		Name: hostName(),
		Bind: netip.AddrPortFrom(netip.IPv6Unspecified(), DefaultPort),
		Lines: Lines{
			File:  filepath.Join(dir, LineFileName),
			Emit:  true,
			Ports: PortsAll,
			For:   length,
		},
		Fail2ban: Fail2ban{Unban: true},
		Bans: Bans{
			For:        length,
			MaxFor:     MaxMaxFor,
			MinPrefix4: 24,
			MinPrefix6: 48,
			Quorum:     Quorum{Origins: 1},
		},
		Escalation: Escalation{Factor: 1, Memory: 7 * 24 * time.Hour},
		Peers: Peers{
			Allowance: Allowance{Rate: 1_200, Burst: 5_000, Imports: 1_250_000},
			Active:    1_250_000,
			MaxFor:    MaxMaxFor,
			UnbanAny:  true,
		},
		Breaker: Allowance{Rate: 6_000, Burst: 20_000, Imports: 2_500_000},
		Firewall: Firewall{
			Backends: Backends(),
			Outbound: OutboundDrop,
			Check:    30 * time.Second,
		},
		API: API{Hold: 55 * time.Second},
		Log: Log{Level: slog.LevelInfo, Format: LogText},
	}
}

// hostName returns the machine's name, adapted to what Config.Name allows.
func hostName() string {
	host, err := os.Hostname()
	if err != nil {
		host = ""
	}
	host = strings.Map(func(r rune) rune {
		if nameRune(r) {
			return r
		}
		return '-'
	}, host)
	if len(host) > MaxName {
		host = host[:MaxName]
	}
	if host == "" {
		return "node"
	}
	return host
}

func nameRune(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-'
}
