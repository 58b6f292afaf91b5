// Package control is the agent's control socket: HTTP and JSON on a unix socket in the node's state folder.
//
// It promises that only root, the user whom the agent runs as, and the groups of Access get in, each for what it may do,
// by the credentials that the kernel vouches for, that every request is bounded in size and time, that
// a long answer streams, and that a failure in the middle of a stream reaches the client as an *Error.
package control

import (
	"context"
	"net/netip"
	"time"
)

// SocketName is the name of the control socket in a node's state folder.
const SocketName = "control.sock"

// Agent is what the socket serves. Methods are called concurrently, one goroutine a request, and ctx ends when the
// client goes away or the server stops.
//
// A returned error that is (or wraps) an *Error reaches the client as it is; any other becomes CodeFailed. Errors that
// concern one address of many go into that address's Result, and the call itself then returns nil.
type Agent interface {
	Ban(ctx context.Context, req BanRequest) (BanReply, error)
	Listed(ctx context.Context, req ListedRequest) (ListedReply, error)
	Unban(ctx context.Context, req UnbanRequest) (UnbanReply, error)
	Allow(ctx context.Context, req AllowRequest) (AllowReply, error)
	Unallow(ctx context.Context, req UnallowRequest) (UnallowReply, error)
	// Allowed returns the built-in, configured and mesh-wide never-ban entries.
	Allowed(ctx context.Context) ([]AllowEntry, error)
	// List calls yield once for each entry and stops with yield's error. It must hold no lock during yield, which may
	// block for as long as the client is slow, and must not collect all entries first. What an entry points to is
	// not kept after yield returns.
	List(ctx context.Context, yield func(ListEntry) error) error
	Why(ctx context.Context, prefix netip.Prefix) (WhyReply, error)
	Members(ctx context.Context) ([]Member, error)
	Status(ctx context.Context) (Status, error)
	// Watch calls yield for each event, in order, until ctx ends (then it returns nil or ctx's error) or yield fails.
	Watch(ctx context.Context, yield func(Event) error) error
	Invite(ctx context.Context, req InviteRequest) (InviteReply, error)
	// Audit calls yield for each entry of the audit log since a time, oldest first, and stops with yield's error.
	Audit(ctx context.Context, since time.Time, yield func(AuditEntry) error) error
	// Held calls yield once for each ban that waits for a decision, in no order, like List.
	Held(ctx context.Context, yield func(HeldEntry) error) error
	// Decide releases or drops what waits. Nothing that fits is CodeNotFound.
	Decide(ctx context.Context, req DecideRequest) (DecideReply, error)
	// Revoke shuts a node out of the mesh. CodeNotFound: nobody is called that; CodeUsage: several are; CodeFailed: the
	// authority's key is not on this node.
	Revoke(ctx context.Context, req RevokeRequest) (RevokeReply, error)
	// Forget takes a member that is gone for good off the list. CodeNotFound: no such member is known; CodeFailed: it was heard a
	// moment ago.
	Forget(ctx context.Context, req ForgetRequest) (ForgetReply, error)
	// Caps tells what a node may say by its certificate, or gives it a new one. Errors as of Revoke; CodeFailed too: the
	// node has no certificate that counts.
	Caps(ctx context.Context, req CapsRequest) (CapsReply, error)
	// Rotate makes the mesh a new key and hands it out. CodeFailed: the authority's key is not on this node, or former
	// rotations are not over.
	Rotate(ctx context.Context, req RotateRequest) (RotateReply, error)
}

// BanRequest asks for bans of Addrs. The server hands the agent 1..MaxAddrs prefixes, each valid, masked and
// unmapped, and a non-empty Source.
type BanRequest struct {
	Addrs  []netip.Prefix
	For    time.Duration // 0 = the agent's default; never negative
	Ports  string        // as typed, at most MaxPorts bytes; "" = all ports. The agent parses it (error: CodeUsage)
	Reason string        // at most MaxReason bytes
	Source string        // "cli", "import", "import:" and the name of a list; "api" when the client said nothing
	// DryRun asks what would become of it and changes nothing. Before is how many new bans the caller has asked about before.
	DryRun bool
	Before int
	// ErrorsOnly makes the server send only the Results that have an error or a note, and count the others: the answer
	// about thousands of addresses then costs nothing. The agent need not look at it.
	ErrorsOnly bool
}

// BanReply has one Result for each address of the request, in its order.
type BanReply struct {
	Results []Result `json:"results"`
	Omitted int      `json:"omitted,omitempty"` // successes that were left out for BanRequest.ErrorsOnly
	Fresh   int      `json:"fresh,omitempty"`   // addresses that this node did not ban before
	Listed  int      `json:"listed,omitempty"`  // addresses that were on the list of the request's source already
}

// ListedRequest asks about the bans of this node that a list has brought.
type ListedRequest struct {
	List string `json:"list"` // its name, of MaxListName letters, digits, ".", "_" and "-"
	// Until, where set, asks to lift those that the list has not brought again since a reply had this Mark: MaxAddrs at most.
	Until *Mark `json:"until,omitempty"`
}

// ListedReply counts the bans of this node that are on a list, or tells what was lifted.
type ListedReply struct {
	Bans   int  `json:"bans,omitempty"`
	Mark   Mark `json:"mark"`             // what this node has said so far
	Lifted int  `json:"lifted,omitempty"` // bans that were lifted
	Kept   int  `json:"kept,omitempty"`   // bans that are off the list and stay for another
	More   bool `json:"more,omitempty"`   // there is more to lift
}

// Mark is a point in what a node has said.
type Mark struct {
	Epoch uint64 `json:"epoch"`
	Seq   uint64 `json:"seq"`
}

// UnbanRequest asks to lift what is banned inside Prefixes (1..MaxAddrs), whoever banned it.
type UnbanRequest struct {
	Prefixes []netip.Prefix
	Reason   string
}

// UnbanReply has one Result for each prefix of the request, in its order; nothing to lift is CodeNotFound.
type UnbanReply struct {
	Results []Result `json:"results"`
}

// AllowRequest asks that Prefixes (1..MaxAddrs) are never banned.
type AllowRequest struct {
	Prefixes []netip.Prefix
	For      time.Duration // 0 = until removed (the agent caps it)
	Reason   string
}

// AllowReply has one Result for each prefix of the request, in its order.
type AllowReply struct {
	Results []Result `json:"results"`
}

// UnallowRequest asks to remove Prefixes (1..MaxAddrs) from the mesh-wide allow list.
type UnallowRequest struct {
	Prefixes []netip.Prefix
	Reason   string
}

// UnallowReply has one Result for each prefix of the request, in its order; an entry that is not there is
// CodeNotFound, one that only the config file or the binary can take away is CodePolicy.
type UnallowReply struct {
	Results []Result `json:"results"`
}

// Result tells what became of one prefix of a request.
type Result struct {
	Prefix netip.Prefix
	Until  time.Time // end of the ban or allow; zero = has no end, or nothing was done
	State  string    // of a ban: StateEnforced and the like; "" if not looked up
	Note   string    // something worth knowing about a success, such as "already banned for longer"
	Hint   string    // what to do about the note
	Err    *Error    // nil = done, and in effect
}

// NotOnDisk begins the note of a success that a restart may lose. Of a request in bulk, one result has it.
const NotOnDisk = "not on disk yet"

// AllowEntry is one entry of the never-ban list.
type AllowEntry struct {
	Prefix netip.Prefix
	Until  time.Time // zero = until removed
	Origin string    // name of the node that said it; this node's for config and built-in entries
	// OriginID is the id of that node.
	OriginID string
	Reason   string
	Source   string // "mesh", "config", or "built-in: loopback" and the like
}

// States of a ListEntry.
const (
	StateEnforced = "enforced" // the kernel drops it
	StatePending  = "pending"  // fewer origins than the quorum have seen it
	StateHeld     = "held"     // kept back until an operator decides
	StateAllowed  = "allowed"  // the never-ban list suppresses it
	// StateNotEnforced: the kernel does not drop it, though it should: it lacks room, or an exception inside the ban.
	StateNotEnforced = "not enforced"
	StateLifted      = "lifted" // of a ban just made: an unban cancels it
)

// Names: the name of a node is the one in its certificate, never what the node calls itself. Where the name alone could
// mean another node, the short id follows it: "web2 (1a2b3c4d)". A node without a certified name is called by its short id.
// The full id stands beside every name.

// ListEntry is one banned (prefix, ports).
type ListEntry struct {
	Prefix  netip.Prefix
	Ports   string    // canonical; "" = all
	Until   time.Time // JSON: RFC 3339 in UTC, whole seconds, rounded up
	Origins []string  // certified names of the nodes that ban it; see Names
	Reason  string
	Source  string
	State   string // StateEnforced and the like
	// OriginIDs are the ids of those nodes, in the same order.
	OriginIDs   []string
	NotEnforced string // why the kernel does not drop it, with StateNotEnforced; "" = else
	// LeavesOut are the networks of the machine's own that the kernel leaves out of it.
	LeavesOut []netip.Prefix
}

// Verdicts of a WhyReply. The agent may say more precise ones.
const (
	VerdictDropped    = "dropped"
	VerdictNotDropped = "not dropped"
	VerdictPorts      = "dropped on some ports"
	VerdictWithheld   = "banned, but not enforced" // see StateNotEnforced
	VerdictUnknown    = "unknown"                  // of another node: it has not told
)

// WhyReply tells what this node does about an address, and which records make it do so.
type WhyReply struct {
	Address  netip.Prefix
	Verdict  string    // VerdictDropped and the like
	Summary  string    // one plain sentence for people
	Findings []Finding // at most MaxFindings are sent
	Nodes    []NodeAnswer
}

// NodeAnswer is what another node says that it does about an address.
type NodeAnswer struct {
	Name     string `json:"name"` // see Names
	ID       string `json:"id"`
	Verdict  string `json:"verdict"`            // VerdictDropped and the like, or VerdictUnknown
	Why      string `json:"why,omitempty"`      // of anything but a plain drop; "no answer" and the like where it is unknown
	Fail2ban string `json:"fail2ban,omitempty"` // what its fail2ban still bans, and what to type there
}

// KindEnded is the Kind of a Finding that tells of a ban which is over: it ended, or was lifted, within a day.
const KindEnded = "ended ban"

// Finding is one record that bears on an address.
type Finding struct {
	Kind   string // "ban", "unban", "revoke", "allow", "unallow", "never", KindEnded
	Prefix netip.Prefix
	Ports  string
	Origin string    // see Names; "" = this machine's own rules
	Issued time.Time // zero = always there
	Until  time.Time // zero = no end
	Reason string
	Source string
	Status string // plain words: "enforced", "cancelled by an unban of web2", "suppressed by ..."
	// OriginID is the id of the node that Origin names.
	OriginID string
}

// States of a Member.
const (
	MemberAlive   = "alive"
	MemberSuspect = "suspect"
	MemberDead    = "dead"
	MemberLeft    = "left"
)

// Member is one node of the mesh as this node sees it.
type Member struct {
	Name    string   `json:"name"` // as certified, without an id; the short id if none is certified
	ID      string   `json:"id"`
	Addr    string   `json:"addr"`
	State   string   `json:"state"`
	InSync  bool     `json:"in_sync"`
	RTTms   *float64 `json:"rtt_ms"` // nil = not measured (this node itself, a dead one)
	Version string   `json:"version"`
	Self    bool     `json:"self"` // this node
	// UDP is UDPFine, or what is lost between this node and it, as "UDP to it does not arrive"; empty for this node.
	UDP string `json:"udp,omitempty"`
	// ConfirmedS is how many seconds ago a comparison last found it in sync; nil: none has, since this node started.
	ConfirmedS *float64 `json:"confirmed_s"`
	// KeyGeneration is how often the mesh's key had been rotated when the newest one that the node has was made; nil: it
	// does not say.
	KeyGeneration *uint32 `json:"key_generation,omitempty"`
	// Certificate is CertValid and the like; empty in a mesh without an authority. CertUntil is the certificate's end,
	// Revoked when the node was revoked and RevokedFor why.
	Certificate string     `json:"certificate,omitempty"`
	CertUntil   *time.Time `json:"certificate_until,omitempty"`
	Revoked     *time.Time `json:"revoked,omitempty"`
	RevokedFor  string     `json:"revoked_for,omitempty"`
	// Caps are those of a certificate that counts.
	Caps *Caps `json:"caps,omitempty"`
	// What the node itself tells; nil: it has not answered.
	HoldsCA  *bool    `json:"holds_ca"` // the authority's key is in its state folder
	Backend  *string  `json:"backend"`
	Enforced *int     `json:"enforced"`
	Problems []string `json:"problems"`
}

// UDPFine says that there is no sign of lost UDP.
const UDPFine = "ok"

// What a Member's certificate is worth.
const (
	CertValid   = "valid"
	CertNone    = "none" // none has come, or it has ended: what the node says does not count
	CertRevoked = "revoked"
)

// Status is the state of one node.
type Status struct {
	Name     string         `json:"name"`
	ID       string         `json:"id"`
	Version  string         `json:"version"`
	UptimeS  float64        `json:"uptime_s"`
	Addr     string         `json:"addr"` // where the mesh reaches this node
	Mesh     MeshStatus     `json:"mesh"`
	Bans     BanStatus      `json:"bans"`
	Firewall FirewallStatus `json:"firewall"`
	Lines    LineStatus     `json:"lines"`
	// Fail2ban is null where `meshban setup fail2ban` has not connected the two.
	Fail2ban *Fail2banStatus `json:"fail2ban,omitempty"`
	Problems []string        `json:"problems"` // what an operator should look at, in plain words; empty = all is well
	// Reminders are what is still to be done once, in plain words.
	Reminders []string `json:"reminders,omitempty"`
}

// MeshStatus counts members, this node included. Digest is equal on two nodes exactly when they hold the same live
// records.
type MeshStatus struct {
	Alive  int    `json:"alive"`
	Total  int    `json:"total"`
	InSync int    `json:"in_sync"` // alive members that are known to be in sync, this node included
	Digest string `json:"digest"`  // lower-case hex
	// KeyGeneration is how often the mesh's key had been rotated when the one that this node encrypts with was made.
	KeyGeneration uint32 `json:"key_generation"`
	// Unconfirmed are alive members that are not known to be in sync, MaxUnconfirmed at most.
	Unconfirmed []Unconfirmed `json:"unconfirmed,omitempty"`
}

// MaxUnconfirmed bounds the members that MeshStatus names.
const MaxUnconfirmed = 5

// Unconfirmed is a member that is not known to be in sync. ConfirmedS is Member's.
type Unconfirmed struct {
	Name       string   `json:"name"`
	ID         string   `json:"id"`
	ConfirmedS *float64 `json:"confirmed_s"`
}

// BanStatus counts entries by state; Active are the enforced ones.
type BanStatus struct {
	Active  int `json:"active"`
	Pending int `json:"pending"`
	Held    int `json:"held"`
	Allowed int `json:"allowed"`
}

// FirewallStatus tells what the kernel holds.
type FirewallStatus struct {
	Backend   string `json:"backend"`
	Enforced  int    `json:"enforced"`
	Repairs   uint64 `json:"repairs"`
	LastError string `json:"last_error"`
	// NotEnforced are bans that the kernel should hold and does not: there is no room, or it lacks an exception inside them.
	NotEnforced int       `json:"not_enforced,omitempty"`
	LeavesOut   string    `json:"leaves_out,omitempty"` // how many bans leave out which networks of the machine's own; "" = none
	Tried       []Attempt `json:"tried,omitempty"`      // backends that were refused before Backend was taken
}

// Attempt is a firewall backend that did not work here, and why.
type Attempt struct {
	Backend string `json:"backend"`
	Error   string `json:"error"`
}

// LineStatus counts lines since the agent started.
type LineStatus struct {
	File      string            `json:"file"`
	Accepted  uint64            `json:"accepted"`
	Ignored   uint64            `json:"ignored"`
	Echoes    uint64            `json:"echoes"`
	Emitted   uint64            `json:"emitted"`
	IgnoredBy map[string]uint64 `json:"ignored_by,omitempty"` // reason -> count
	MisreadBy map[string]uint64 `json:"misread_by,omitempty"` // what accepted lines said badly beside the address -> count
}

// Fail2banStatus tells which jails of this machine's running fail2ban tell the mesh of their bans.
type Fail2banStatus struct {
	Tells  []string `json:"tells"`
	Silent []string `json:"silent"`
	Unban  bool     `json:"unban"`           // it lets go of what the mesh lifts
	Error  string   `json:"error,omitempty"` // why the jails are not known
}

// Event is something that happened. Name is one of ban, refresh, unban, expire, pending, held, allow, unallow, join,
// leave, fail; a client passes unknown ones on.
type Event struct {
	Time      time.Time
	Name      string       // JSON: "event"
	Prefix    netip.Prefix // zero for events of members
	Ports     string
	Until     time.Time // zero = none
	Origin    string    // of the node that decided, or that joined or left; see Names
	OriginID  string    // of that node
	Reason    string
	Source    string
	LatencyMS *float64 // from the origin's decision to this kernel's; nil = does not apply
	// NotEnforced says why the kernel did not take it, of an event StateNotEnforced, which stands for "ban" or "refresh" then.
	NotEnforced string
}

// InviteRequest asks for a join token.
type InviteRequest struct {
	Uses int           // 0 = 1; at most MaxInviteUses
	For  time.Duration // 0 = the agent's default
	Caps Caps          // of the certificates that come with it
}

// RevokeRequest asks to revoke a node.
type RevokeRequest struct {
	Node   string    `json:"node"`           // its name, its id, or at least MinNodeID leading digits of that
	Since  time.Time `json:"since,omitzero"` // what it said before stays, under this node's name; zero: nothing stays
	Reason string    `json:"reason,omitempty"`
	DryRun bool      `json:"dry_run,omitempty"` // tell what would be taken back, and change nothing
}

// RevokeReply tells who is revoked, or would be, and what that takes back.
type RevokeReply struct {
	Name    string    `json:"name"`
	ID      string    `json:"id"`
	Revoked time.Time `json:"revoked,omitzero"` // when; earlier than the request where it was done before; zero: not yet
	Kept    int       `json:"kept"`             // bans that this node says, or would say, in its place
	DryRun  bool      `json:"dry_run,omitempty"`
	Live    SaidCount `json:"live"` // what it has said that is live
	Last    []LastBan `json:"last"` // its bans that arrived last, the last in front, at most MaxLastBans
}

// ForgetRequest names a member that is gone for good.
type ForgetRequest struct {
	Node string `json:"node"` // its name, its id, or at least MinNodeID leading digits of that
}

// ForgetReply tells who is forgotten.
type ForgetReply struct {
	Name string `json:"name"`
	ID   string `json:"id"`
}

// SaidCount counts what a node has said by kind; Unbans are its unbans and unallows.
type SaidCount struct {
	Bans   int `json:"bans"`
	Allows int `json:"allows"`
	Unbans int `json:"unbans"`
}

// MaxLastBans bounds RevokeReply.Last.
const MaxLastBans = 5

// LastBan is one ban of a node.
type LastBan struct {
	Prefix  netip.Prefix `json:"-"` // JSON: "prefix"
	Ports   string       `json:"ports"`
	Reason  string       `json:"reason"`
	Source  string       `json:"source"`
	Issued  time.Time    `json:"issued"`  // as the node wrote it
	Arrived time.Time    `json:"arrived"` // when it came here
}

// WhatMeshKey is the mesh's key, as a RotateRequest names it.
const WhatMeshKey = "mesh-key"

// RotateRequest asks for a new key.
type RotateRequest struct {
	What string `json:"what"` // WhatMeshKey
}

// RotateReply tells how far the new key is at the time of the answer; the rest follows by itself.
type RotateReply struct {
	Generation int      `json:"generation"`        // how often the mesh's key was rotated, this time included
	Nodes      int      `json:"nodes"`             // that it was handed out to, alive or not
	Waiting    []string `json:"waiting,omitempty"` // names of those that are alive and do not have it yet
}

// InviteReply is a join token and its bounds.
type InviteReply struct {
	Token   string
	Uses    int
	Expires time.Time
}

// Ways by which a change reaches a node.
const (
	ViaSocket = "socket" // somebody on this machine asked for it
	ViaLines  = "lines"  // a line of the line file
	ViaMesh   = "mesh"   // another node said it
	ViaSignal = "signal" // the agent was told to read its config again
)

// AuditEntry is one change: who, what, when, why.
type AuditEntry struct {
	Time     time.Time      `json:"time"`            // on this node's clock
	What     string         `json:"what"`            // ban, unban, revoke, allow, unallow, invite, reload, release, drop, revoke node, forget, caps, rotate mesh key, mesh key
	Prefixes []netip.Prefix `json:"-"`               // JSON: "prefixes"
	Ports    string         `json:"ports,omitempty"` // "" = all
	Until    time.Time      `json:"until,omitzero"`
	Via      string         `json:"via"`            // ViaSocket and the like
	User     string         `json:"user,omitempty"` // who asked, by the socket; "" otherwise
	UID      *uint32        `json:"uid,omitempty"`
	PID      int            `json:"pid,omitempty"`
	Node     string         `json:"node"`    // where it was decided, for people
	NodeID   string         `json:"node_id"` // and for certain
	Reason   string         `json:"reason,omitempty"`
	Source   string         `json:"source,omitempty"`
	Lost     uint64         `json:"lost,omitempty"` // entries before this one that could not be written
}

// HeldEntry is one op of a peer that this node does not enforce until somebody decides.
type HeldEntry struct {
	Prefix netip.Prefix
	Ports  string // canonical; "" = all
	Origin string // human name of the node that bans it
	ID     string // of that node
	Issued time.Time
	Until  time.Time
	Reason string
	Source string
	By     string // what held it: "breaker", "rate of its origin", "active bans of its origin"
	Kind   string // "ban", or of what lifts bans "unban", "allow" or "unallow"
}

// Actions of a DecideRequest.
const (
	ActionRelease = "release" // the bans count from now on
	ActionDrop    = "drop"    // they never count on this node, also after a restart
)

// DecideRequest asks to release or drop what is held: all of it, or what lies inside Prefixes (at most MaxAddrs), or what
// Origin (a name or id) said, or what is both.
type DecideRequest struct {
	Action   string
	Prefixes []netip.Prefix
	Origin   string
}

// DecideReply counts what was decided.
type DecideReply struct {
	Decided int `json:"decided"`
}
