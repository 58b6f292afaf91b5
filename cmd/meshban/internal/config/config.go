// Package config turns meshban.yaml into a typed, checked Config.
//
// The file is read strictly: a key that does not exist, a key written twice, a value of the wrong type or
// outside its bounds is an error that names the file, the line, the key, what is wrong and what to write
// instead; all errors of a file are reported at once. An empty file is the default configuration. The
// reference file, with every key, its default and its meaning, is embedded: Reference.
package config

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Bounds of the file and of its values.
const (
	MaxFile      = 1 << 20 // bytes in a config file
	MaxErrors    = 100     // errors reported at once; the rest is counted
	MaxJoin      = 1000    // entries in join
	MaxAllow     = 10000   // entries in allow
	MaxName      = 64      // bytes in name
	MaxPath      = 4096    // bytes in lines.file
	MaxHost      = 253     // bytes in a host name of join (RFC 1035)
	MaxGroup     = 32      // bytes in a group of control, as useradd takes them
	MinFor       = time.Second
	MaxMaxFor    = 720 * time.Hour // no ban of the mesh lives longer
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
	MaxAllowance = 100_000_000 // peers and breaker: as good as no bound
	MinCheck     = time.Second
	MaxCheck     = 10 * time.Minute
	DefaultPort  = 7946 // bind and join, where no port is written; memberlist's own
	LineFileName = "newbans.log"
	FileName     = "meshban.yaml" // of the config file in the state folder
)

// Config is a node's configuration, complete: what the file leaves out holds its default.
type Config struct {
	Path string // the file it came from; "" = defaults
	Dir  string // the state folder that the defaults were made for, absolute

	Name       string         // name: for people; 1..MaxName of [A-Za-z0-9._-]; default the host name
	Bind       netip.AddrPort // bind: where the mesh listens, UDP and TCP; port 0 = any free one
	Advertise  netip.AddrPort // advertise: where peers reach it; zero = memberlist finds it
	Join       []string       // join: always host:port, an IPv6 address in brackets; names are resolved by the mesh
	Lines      Lines          // lines:
	Bans       Bans           // bans:
	Escalation Escalation     // escalation:
	Peers      Peers          // peers:
	Breaker    Allowance      // breaker: of all peers together
	Fail2ban   Fail2ban       // fail2ban:
	Firewall   Firewall       // firewall:
	Control    Control        // control:
	Allow      []netip.Prefix // allow: never banned; masked, 4-in-6 unmapped
	Metrics    netip.AddrPort // metrics: zero = off
	Log        Log            // log:
}

// Lines is the file door: the file that other programs append their bans to.
type Lines struct {
	File  string        // file: absolute; default newbans.log in the state folder
	Emit  bool          // emit: write a classic line for each ban that arrives from the mesh
	Ports PortsMode     // ports: what a line's PORT means
	For   time.Duration // for: length of a ban whose line does not say one; default bans.for
}

// Fail2ban says how the agent deals with the fail2ban of this machine, where `meshban setup fail2ban` connected the two.
type Fail2ban struct {
	Unban bool // unban: fail2ban lets go of what the mesh lifts
}

// PortsMode says what the PORT of a line means for the ban made of it.
type PortsMode string

// The modes of lines.ports.
const (
	PortsAll       PortsMode = "all"        // the address is banned on every port
	PortsAsWritten PortsMode = "as-written" // on the ports that the line names
)

// Bans are the policies for bans.
type Bans struct {
	For        time.Duration // for: length where none is given, MinFor..MaxFor
	MaxFor     time.Duration // max_for: the longest taken from anyone, at most MaxMaxFor
	MinPrefix4 int           // widest_ipv4: prefix bits; wider is refused from a peer
	MinPrefix6 int           // widest_ipv6: prefix bits; wider is refused from a peer
	Quorum     Quorum        // quorum: what it takes to ban
	BySource   []QuorumBy    // quorum_by_source: the same for bans of some sources; the first that fits counts
}

// Quorum is how many nodes must have seen an attacker, and within what time of each other.
type Quorum struct {
	Origins int           // MinQuorum..MaxQuorum
	Within  time.Duration // MinFor..MaxMaxFor; 0 = all the bans live
}

// QuorumBy is the quorum of the bans whose source is Source, or begins with what stands before its final *.
type QuorumBy struct {
	Source string
	Quorum
}

// Escalation says how bans grow with the former offences of an address.
type Escalation struct {
	Factor int           // factor: of each former offence; 1 = off
	Memory time.Duration // memory: how long after its end one counts
}

// Allowance bounds how fast new bans come, MinAllowance..MaxAllowance each; imports may be 0.
type Allowance struct {
	Rate    int // rate: a minute, sustained
	Burst   int // burst: at once
	Imports int // imports: of lists, an hour and at once
}

// Peers are the caps of each other node.
type Peers struct {
	Allowance
	Active   int           // active: bans that it may have in force
	MaxFor   time.Duration // max_for: the longest ban taken from it
	UnbanAny bool          // unban_any: may lift what others banned
}

// Firewall says how the kernel is made to drop.
type Firewall struct {
	Backends []string      // backends: in the order in which they are tried; never "auto": that is expanded
	Outbound Outbound      // outbound: what becomes of our own connections to a banned address
	Check    time.Duration // check: how often the kernel's rules are compared with what should be there
}

// Control says who may use the control socket besides root and the user whom the agent runs as: members of a group of
// this machine, by name or number. "" lets nobody in.
type Control struct {
	ReadGroup  string // read_group: may look
	WriteGroup string // write_group: may look and change
}

// Outbound says what becomes of this host's own connections to a banned address.
type Outbound string

// The values of firewall.outbound.
const (
	OutboundDrop  Outbound = "drop"  // their answers are dropped too
	OutboundAllow Outbound = "allow" // connections that this host opens go on working
)

// Backends names the firewall backends in the order that "auto" stands for.
func Backends() []string { return []string{"ipset", "nftables", "iptables", "none"} }

// Log says what is logged to stderr, and how.
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

// Default is the configuration of a node whose state folder is dir and that has no file.
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
		Log: Log{Level: slog.LevelInfo, Format: LogText},
	}
}

// hostName is the machine's name made fit for Config.Name.
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
