// Package control is the agent's control socket: HTTP and JSON on a unix socket in the node's state folder.
//
// It promises that only root, the agent's user and the groups of Access can use it, each within its permission, by
// credentials from the kernel; that the size and time of each request are bounded; that long answers are streamed;
// and that a failure in mid-stream reaches the client as an *Error.
package control

import (
	"context"
	"net/netip"
	"time"
)

// SocketName is the socket's file name in the state folder.
const SocketName = "control.sock"

// Agent handles the socket's requests. Methods are called concurrently, one goroutine per request; ctx ends when the
// client leaves or the server stops.
//
// A returned error that wraps an *Error reaches the client unchanged; any other becomes CodeFailed. An error about
// one of several addresses goes into that address's Result, and the method returns nil.
type Agent interface {
	Ban(ctx context.Context, req BanRequest) (BanReply, error)
	Listed(ctx context.Context, req ListedRequest) (ListedReply, error)
	Unban(ctx context.Context, req UnbanRequest) (UnbanReply, error)
	Allow(ctx context.Context, req AllowRequest) (AllowReply, error)
	Unallow(ctx context.Context, req UnallowRequest) (UnallowReply, error)
	// Allowed returns the built-in, configured and mesh-wide never-ban entries.
	Allowed(ctx context.Context) ([]AllowEntry, error)
	// List calls yield for each entry and stops with its error. It must not hold a lock during yield, which blocks as
	// long as the client is slow, and must not collect all entries first. yield does not keep what an entry points
	// to. With hits, entries in force have their counters; CodeFailed: this node does not count.
	List(ctx context.Context, hits bool, yield func(ListEntry) error) error
	Why(ctx context.Context, prefix netip.Prefix) (WhyReply, error)
	Members(ctx context.Context) ([]Member, error)
	Status(ctx context.Context) (Status, error)
	Reach(ctx context.Context) ([]Reach, error)
	// Watch calls yield for each event, in order, until yield fails or ctx ends; then it returns nil or ctx's error.
	Watch(ctx context.Context, yield func(Event) error) error
	Invite(ctx context.Context, req InviteRequest) (InviteReply, error)
	// Invitations returns the tokens of this node that can still be used. CancelInvite ends one; CodeNotFound: none has
	// that id.
	Invitations(ctx context.Context) ([]Invitation, error)
	CancelInvite(ctx context.Context, req CancelInviteRequest) (CancelInviteReply, error)
	// Audit calls yield for each entry of the audit log since the given time, oldest first, and stops with its error.
	Audit(ctx context.Context, since time.Time, yield func(AuditEntry) error) error
	// Held calls yield for each ban on hold, in any order, and stops with its error.
	Held(ctx context.Context, yield func(HeldEntry) error) error
	// Decide releases or drops bans on hold. If none matches, the error is CodeNotFound.
	Decide(ctx context.Context, req DecideRequest) (DecideReply, error)
	// Revoke excludes a node from the mesh. CodeNotFound: no node has that name; CodeUsage: several have it;
	// CodeFailed: this node lacks the authority's key.
	Revoke(ctx context.Context, req RevokeRequest) (RevokeReply, error)
	// Forget removes a member that is gone for good from the list. CodeNotFound: no such member; CodeFailed: it was
	// heard a moment ago.
	Forget(ctx context.Context, req ForgetRequest) (ForgetReply, error)
	// Pause has this node, or every node, drop nothing for a while. CodeNotFound: nothing is paused; CodePolicy: only the
	// authority can end it; otherwise errors are those of Revoke.
	Pause(ctx context.Context, req PauseRequest) (PauseReply, error)
	// AddKey makes a key of the api listener, DeleteKey deletes one. CodeNotFound: no key has that name; CodePolicy: the
	// name is taken.
	AddKey(ctx context.Context, req AddKeyRequest) (AddKeyReply, error)
	DeleteKey(ctx context.Context, req DeleteKeyRequest) (DeleteKeyReply, error)
	Keys(ctx context.Context) (KeysReply, error)
	// TestHook sends a test message. CodeNotFound: no such hook; CodeFailed: its receiver did not take it.
	TestHook(ctx context.Context, req HookRequest) (HookReply, error)
	// Drill bans an unused address for ten seconds and asks every node whether it drops packets from that address.
	// CodePolicy: the last drill was less than a minute ago, or the certificate does not allow any.
	Drill(ctx context.Context, req DrillRequest) (DrillReply, error)
	// Caps returns the caps in a node's certificate, or issues a new one. Errors are those of Revoke; also CodeFailed
	// if the node has no valid certificate.
	Caps(ctx context.Context, req CapsRequest) (CapsReply, error)
	// Rotate makes a new mesh key and distributes it. CodeFailed: this node lacks the authority's key, or earlier
	// rotations are not finished.
	Rotate(ctx context.Context, req RotateRequest) (RotateReply, error)
}

// BanRequest asks to ban Addrs. The server passes on 1..MaxAddrs valid, masked and unmapped prefixes, and a non-empty
// Source.
type BanRequest struct {
	Addrs  Prefixes `json:"addrs"`
	For    Duration `json:"for,omitempty"`    // 0 = the agent's default; never negative
	Ports  string   `json:"ports,omitempty"`  // as typed, at most MaxPorts bytes; "" = all ports. The agent parses it; a bad list is CodeUsage
	Reason string   `json:"reason,omitempty"` // at most MaxReason bytes
	Source string   `json:"source,omitempty"` // "cli", "import", "import:LIST"; "api" if the client gave none
	// DryRun asks what the request would do, without doing it. Before is the number of new bans in the caller's
	// earlier dry runs of the same list.
	DryRun bool `json:"dry_run,omitempty"`
	Before int  `json:"before,omitempty"`
	// ErrorsOnly makes the server send only Results with an error or a note and count the others, which makes answers
	// about thousands of addresses cheap. The agent can ignore it.
	ErrorsOnly bool `json:"errors_only,omitempty"`
}

// BanReply has one Result per address of the request, in order.
type BanReply struct {
	Results []Result `json:"results"`
	Omitted int      `json:"omitted,omitempty"` // successes omitted because of BanRequest.ErrorsOnly
	Fresh   int      `json:"fresh,omitempty"`   // addresses that this node had not banned before
	Listed  int      `json:"listed,omitempty"`  // addresses that were already on the list that is the request's source
}

// ListedRequest asks about this node's bans that came from a list.
type ListedRequest struct {
	List string `json:"list"` // up to MaxListName letters, digits, ".", "_" and "-"
	// Until, if set, asks to lift bans that the list has not repeated since a reply with this Mark; at most MaxAddrs
	// per request.
	Until *Mark `json:"until,omitempty"`
}

// ListedReply counts this node's bans on a list, or those that were lifted.
type ListedReply struct {
	Bans   int  `json:"bans,omitempty"`
	Mark   Mark `json:"mark"` // how much this node has published so far
	Lifted int  `json:"lifted,omitempty"`
	Kept   int  `json:"kept,omitempty"` // bans no longer on the list that another list still has
	More   bool `json:"more,omitempty"` // more bans remain to be lifted
}

// Mark is a point in the sequence of what a node published.
type Mark struct {
	Epoch uint64 `json:"epoch"`
	Seq   uint64 `json:"seq"`
}

// UnbanRequest asks to lift all bans inside Prefixes (1..MaxAddrs), whoever made them.
type UnbanRequest struct {
	Prefixes Prefixes `json:"prefixes"`
	Reason   string   `json:"reason,omitempty"`
	Source   string   `json:"-"` // "" = "cli"
}

// UnbanReply has one Result per prefix of the request, in order; if nothing was banned, its error is CodeNotFound.
type UnbanReply = ResultsReply

// ResultsReply has one Result per prefix of a request, in order.
type ResultsReply struct {
	Results []Result `json:"results"`
}

// AllowRequest asks never to ban Prefixes (1..MaxAddrs).
type AllowRequest struct {
	Prefixes Prefixes `json:"prefixes"`
	For      Duration `json:"for,omitempty"` // 0 = until removed; the agent limits it
	Reason   string   `json:"reason,omitempty"`
	Source   string   `json:"-"` // "" = "cli"
}

type AllowReply = ResultsReply

// UnallowRequest asks to remove Prefixes (1..MaxAddrs) from the mesh-wide allow list.
type UnallowRequest = UnbanRequest

// UnallowReply: an entry that does not exist is CodeNotFound; one that is built in or from the config file is CodePolicy.
type UnallowReply = ResultsReply

// Result is the outcome for one prefix of a request.
type Result struct {
	Prefix Prefix `json:"prefix"`
	Until  Time   `json:"until"`           // end of the ban or allow; zero = no end, or nothing was done
	State  string `json:"state,omitempty"` // of a ban, such as StateEnforced; "" = not looked up
	Note   string `json:"note,omitempty"`  // a remark on a success, such as "already banned for longer"
	Hint   string `json:"hint,omitempty"`  // what to do about Note
	Err    *Error `json:"error,omitempty"` // nil = done and in effect
}

// NotOnDisk starts the note of a success that a restart may lose. In a bulk request, only one result has it.
const NotOnDisk = "not on disk yet"

// AllowEntry is one entry of the never-ban list.
type AllowEntry struct {
	Prefix Prefix `json:"prefix"`
	Until  Time   `json:"until"`  // zero = until removed
	Origin string `json:"origin"` // name of the node that added it; this node for config and built-in entries
	Reason string `json:"reason"`
	Source string `json:"source"` // "mesh", "config", or such as "built-in: loopback"
	// OriginID is that node's id.
	OriginID string `json:"origin_id,omitempty"`
}

// States of a ListEntry.
const (
	StateEnforced = "enforced" // the kernel drops it
	StatePending  = "pending"  // fewer origins than the quorum requires
	StateHeld     = "held"     // on hold until an operator decides
	StateAllowed  = "allowed"  // overridden by the never-ban list
	// StateNotEnforced: the kernel should drop it but does not, for lack of room or of an exception inside the ban.
	StateNotEnforced = "not enforced"
	StateLifted      = "lifted" // of a new ban: an unban cancels it
)

// Names: a node's name is the one in its certificate, not the one that it claims. If another node could be meant by
// the same name, the short id follows: "web2 (1a2b3c4d)". A node without a certified name is shown by its short id.
// The full id accompanies every name.

// ListEntry is a banned pair of prefix and ports.
type ListEntry struct {
	Prefix  Prefix   `json:"prefix"`
	Ports   string   `json:"ports"` // canonical; "" = all
	Until   Time     `json:"until"`
	Origins []string `json:"origins"` // names of the nodes that ban it; see Names
	Reason  string   `json:"reason"`
	Source  string   `json:"source"`
	State   string   `json:"state"` // such as StateEnforced
	// OriginIDs are the ids of those nodes, in the same order.
	OriginIDs   []string `json:"origin_ids"`
	NotEnforced string   `json:"not_enforced,omitempty"` // the reason, with StateNotEnforced; otherwise ""
	// LeavesOut are this machine's own networks that the kernel exempts from it.
	LeavesOut []netip.Prefix `json:"leaves_out,omitempty"`
	*Dropped                 // by this ban on this node; nil unless it was asked for
}

// Verdicts of a WhyReply. The agent may use more precise ones.
const (
	VerdictDropped    = "dropped"
	VerdictNotDropped = "not dropped"
	VerdictPorts      = "dropped on some ports"
	VerdictWithheld   = "banned, but not enforced" // see StateNotEnforced
	VerdictUnknown    = "unknown"                  // of another node that did not answer
)

// WhyReply is what this node does about an address, and the records that make it do so.
type WhyReply struct {
	Address  Prefix       `json:"address"`
	Verdict  string       `json:"verdict"`  // such as VerdictDropped
	Summary  string       `json:"summary"`  // one plain sentence for people
	Findings []Finding    `json:"findings"` // at most MaxFindings
	Nodes    []NodeAnswer `json:"nodes"`
}

// NodeAnswer is what another node reports about an address.
type NodeAnswer struct {
	Name     string `json:"name"` // see Names
	ID       string `json:"id"`
	Verdict  string `json:"verdict"`            // such as VerdictDropped, or VerdictUnknown
	Why      string `json:"why,omitempty"`      // the reason if not simply dropped, or such as "no answer" if unknown
	Fail2ban string `json:"fail2ban,omitempty"` // what its fail2ban still bans, and the command that ends it
}

// KindEnded is the Kind of a Finding about a ban that ended or was lifted within the last day.
const KindEnded = "ended ban"

// Finding is a record about an address.
type Finding struct {
	Kind   string `json:"kind"` // "ban", "unban", "revoke", "allow", "unallow", "never", KindEnded
	Prefix Prefix `json:"prefix"`
	Ports  string `json:"ports"`
	Origin string `json:"origin"` // see Names; "" = this machine's own rules
	Issued Time   `json:"issued"` // zero = always in force
	Until  Time   `json:"until"`  // zero = no end
	Reason string `json:"reason"`
	Source string `json:"source"`
	Status string `json:"status"` // in words: "enforced", "cancelled by an unban of web2", "suppressed by ..."
	// OriginID is the id of the node named by Origin.
	OriginID string `json:"origin_id,omitempty"`
	*Dropped        // by this ban on this node; nil unless that is counted
}

// States of a Member.
const (
	MemberAlive   = "alive"
	MemberSuspect = "suspect"
	MemberDead    = "dead"
	MemberLeft    = "left"
)

// Member is a node of the mesh, as this node sees it.
type Member struct {
	Name    string   `json:"name"` // as certified, without an id; or the short id
	ID      string   `json:"id"`
	Addr    string   `json:"addr"`
	State   string   `json:"state"`
	InSync  bool     `json:"in_sync"`
	RTTms   *float64 `json:"rtt_ms"` // nil = not measured (this node, or a dead one)
	Version string   `json:"version"`
	Self    bool     `json:"self"` // whether it is this node
	// UDP is UDPFine, or what is lost between this node and it, such as "UDP to it does not arrive"; "" for this
	// node.
	UDP string `json:"udp,omitempty"`
	// TCP is UDPFine or "TCP to it does not arrive", as its last answer shows; "" for this node, and if it is unknown.
	TCP string `json:"tcp,omitempty"`
	// ConfirmedS is the seconds since a comparison last found it in sync; nil = never since this node started.
	ConfirmedS *float64 `json:"confirmed_s"`
	// KeyGeneration is the generation of the newest mesh key that the node has: how many rotations preceded it; nil =
	// unknown.
	KeyGeneration *uint32 `json:"key_generation,omitempty"`
	// Certificate is such as CertValid. CertUntil is the certificate's end,
	// Revoked when the node was revoked, and RevokedFor why.
	Certificate string     `json:"certificate,omitempty"`
	CertUntil   *time.Time `json:"certificate_until,omitempty"`
	Revoked     *time.Time `json:"revoked,omitempty"`
	RevokedFor  string     `json:"revoked_for,omitempty"`
	// Caps are those in a valid certificate.
	Caps *Caps `json:"caps,omitempty"`
	// What the node reports of itself; nil = it has not answered.
	HoldsCA  *bool    `json:"holds_ca"` // its state folder has the authority's key
	Backend  *string  `json:"backend"`
	Enforced *int     `json:"enforced"`
	Problems []string `json:"problems"`
}

// UDPFine means no sign that anything is lost.
const UDPFine = "ok"

// States of a Member's certificate.
const (
	CertValid   = "valid"
	CertNone    = "none" // none arrived, or it has expired: the node is ignored
	CertRevoked = "revoked"
)

// Status is the state of one node.
type Status struct {
	Name     string         `json:"name"`
	ID       string         `json:"id"`
	Version  string         `json:"version"`
	UptimeS  float64        `json:"uptime_s"`
	Addr     string         `json:"addr"` // where the mesh can reach this node
	Mesh     MeshStatus     `json:"mesh"`
	Bans     BanStatus      `json:"bans"`
	Firewall FirewallStatus `json:"firewall"`
	Lines    LineStatus     `json:"lines"`
	// Fail2ban is null unless `meshban setup fail2ban` has connected fail2ban.
	Fail2ban *Fail2banStatus `json:"fail2ban,omitempty"`
	API      *APIStatus      `json:"api,omitempty"` // null unless the listener is on
	// Paused is null unless this node drops nothing for a while.
	Paused *PauseStatus `json:"paused,omitempty"`
	// Drill is the last drill in which this node took part.
	Drill    *DrillStatus `json:"drill,omitempty"`
	Problems []string     `json:"problems"` // what an operator should look into, in words; empty = all is well
	// Reminders are one-time tasks that remain to be done, in words.
	Reminders []string `json:"reminders,omitempty"`
}

// MeshStatus counts members, including this node. Digest is equal on two nodes exactly when they hold the same live
// records.
type MeshStatus struct {
	Alive  int    `json:"alive"`
	Total  int    `json:"total"`
	InSync int    `json:"in_sync"` // alive members known to be in sync, including this node
	Digest string `json:"digest"`  // lower-case hex
	// KeyGeneration is the generation of the mesh key that this node encrypts with: how many rotations preceded it.
	KeyGeneration uint32 `json:"key_generation"`
	// Unconfirmed are alive members not known to be in sync, at most MaxUnconfirmed.
	Unconfirmed []Unconfirmed `json:"unconfirmed,omitempty"`
}

// MaxUnconfirmed is the most members that MeshStatus names.
const MaxUnconfirmed = 5

// Unconfirmed is a member not known to be in sync. ConfirmedS is as in Member.
type Unconfirmed struct {
	Name       string   `json:"name"`
	ID         string   `json:"id"`
	ConfirmedS *float64 `json:"confirmed_s"`
}

// BanStatus counts entries by state; Active counts the enforced ones.
type BanStatus struct {
	Active  int `json:"active"`
	Pending int `json:"pending"`
	Held    int `json:"held"`
	Allowed int `json:"allowed"`
}

// FirewallStatus is the state of the kernel's rules.
type FirewallStatus struct {
	Backend   string `json:"backend"`
	Enforced  int    `json:"enforced"`
	Repairs   uint64 `json:"repairs"`
	LastError string `json:"last_error"`
	// NotEnforced counts bans that the kernel should hold but does not, for lack of room or of an exception inside
	// them.
	NotEnforced int       `json:"not_enforced,omitempty"`
	LeavesOut   string    `json:"leaves_out,omitempty"` // how many bans exempt which of this machine's networks; "" = none
	Tried       []Attempt `json:"tried,omitempty"`      // backends that failed before Backend worked
	// Dropped is null if the kernel does not say.
	Dropped *DroppedStatus `json:"dropped,omitempty"`
}

// DroppedStatus counts what the kernel dropped because of a ban, since meshban's rules were made.
type DroppedStatus struct {
	IPv4 Dropped `json:"ipv4"`
	IPv6 Dropped `json:"ipv6"`
}

// Dropped counts packets and their bytes.
type Dropped struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Attempt is a firewall backend that does not work here, and why.
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
	MisreadBy map[string]uint64 `json:"misread_by,omitempty"` // what was wrong in accepted lines -> count
}

// Fail2banStatus lists the jails of this machine's fail2ban that report their bans to the mesh, and those that do
// not.
type Fail2banStatus struct {
	Tells  []string `json:"tells"`
	Silent []string `json:"silent"`
	Unban  bool     `json:"unban"`           // it also lifts what the mesh lifts
	Error  string   `json:"error,omitempty"` // why the jails are unknown
}

// Event is something that happened. Name is ban, refresh, unban, expire, pending, held, allow, unallow, join, leave,
// fail, update or "not enforced"; clients pass unknown ones on.
type Event struct {
	Time      time.Time `json:"time"` // UTC, milliseconds
	Name      string    `json:"event"`
	Prefix    Prefix    `json:"prefix,omitzero"` // zero in events about members
	Ports     string    `json:"ports"`
	Until     Time      `json:"until"`               // zero = none
	Origin    string    `json:"origin"`              // the node that decided, joined or left; see Names
	OriginID  string    `json:"origin_id,omitempty"` // of that node
	Reason    string    `json:"reason"`
	Source    string    `json:"source"`
	LatencyMS *float64  `json:"latency_ms"` // from the origin's decision to this kernel's rule; nil = not applicable
	// NotEnforced is why the kernel did not take the ban. The event is then StateNotEnforced, in place of "ban" or
	// "refresh".
	NotEnforced string `json:"not_enforced,omitempty"`
}

type InviteRequest struct {
	Uses int      `json:"uses,omitempty"` // 0 = 1; at most MaxInviteUses
	For  Duration `json:"for,omitempty"`  // 0 = the agent's default
	Caps Caps     `json:"caps,omitzero"`  // in the certificates of the enrolled nodes
}

// RevokeRequest asks to revoke a node.
type RevokeRequest struct {
	Node   string    `json:"node"`           // name, id, or at least MinNodeID leading digits of the id
	Since  time.Time `json:"since,omitzero"` // keep what it published before, under this node's name; zero = keep nothing
	Reason string    `json:"reason,omitempty"`
	DryRun bool      `json:"dry_run,omitempty"` // report what would be withdrawn, without doing it
}

// RevokeReply says which node is revoked, or would be, and what that withdraws.
type RevokeReply struct {
	Name    string    `json:"name"`
	ID      string    `json:"id"`
	Revoked time.Time `json:"revoked,omitzero"` // when; may be before the request; zero = not yet
	Kept    int       `json:"kept"`             // bans that this node publishes, or would, in its place
	DryRun  bool      `json:"dry_run,omitempty"`
	Live    SaidCount `json:"live"` // what it published that is in force
	Last    []LastBan `json:"last"` // its latest arrivals, newest first, at most MaxLastBans
}

// ForgetRequest names a member that is gone for good.
type ForgetRequest struct {
	Node string `json:"node"` // name, id, or at least MinNodeID leading digits of the id
}

// ForgetReply names the forgotten member.
type ForgetReply struct {
	Name string `json:"name"`
	ID   string `json:"id"`
}

// SaidCount counts what a node published, by kind; Unbans includes unallows.
type SaidCount struct {
	Bans   int `json:"bans"`
	Allows int `json:"allows"`
	Unbans int `json:"unbans"`
}

// MaxLastBans is the most bans in RevokeReply.Last.
const MaxLastBans = 5

// LastBan is one ban of a node.
type LastBan struct {
	Prefix  Prefix    `json:"prefix"`
	Ports   string    `json:"ports"`
	Reason  string    `json:"reason"`
	Source  string    `json:"source"`
	Issued  time.Time `json:"issued"`  // according to the node
	Arrived time.Time `json:"arrived"` // at this node
}

// WhatMeshKey names the mesh key in a RotateRequest.
const WhatMeshKey = "mesh-key"

// RotateRequest asks for a new key.
type RotateRequest struct {
	What string `json:"what"` // WhatMeshKey
}

// RotateReply says how far the new key has spread when the request is answered; the rest follows by itself.
type RotateReply struct {
	Generation int      `json:"generation"`        // how many rotations there were, including this one
	Nodes      int      `json:"nodes"`             // nodes that get the key, alive or not
	Waiting    []string `json:"waiting,omitempty"` // names of alive nodes that do not have it yet
}

// Invitation is a token that can still be used.
type Invitation struct {
	ID      string `json:"id"` // no secret
	Uses    int    `json:"uses"`
	Used    int    `json:"used"`
	Expires Time   `json:"expires"`
	Caps    Caps   `json:"caps"`
}

// CancelInviteRequest names a token.
type CancelInviteRequest struct {
	ID string `json:"id"`
}

// CancelInviteReply names the token that no longer admits anyone.
type CancelInviteReply struct {
	ID string `json:"id"`
}

// InviteReply is a join token and its limits.
type InviteReply struct {
	Token   string `json:"token"`
	Uses    int    `json:"uses"`
	Expires Time   `json:"expires"`
}

// Ways in which a change reaches a node.
const (
	ViaSocket = "socket" // a command on this machine
	ViaAPI    = "api"    // a program with a key of the api listener
	ViaLines  = "lines"  // a line of the line file
	ViaMesh   = "mesh"   // another node
	ViaSignal = "signal" // a reload of the config
	ViaClock  = "clock"  // by itself: its time was over
)

type AuditEntry struct {
	Time     time.Time `json:"time"`            // by this node's clock
	What     string    `json:"what"`            // ban, unban, revoke, allow, unallow, invite, reload, release, drop, revoke node, forget, caps, rotate mesh key, mesh key, pause, pause all
	Ports    string    `json:"ports,omitempty"` // "" = all
	Until    time.Time `json:"until,omitzero"`
	Via      string    `json:"via"`            // ViaSocket and the like
	User     string    `json:"user,omitempty"` // who asked, with ViaSocket; the key's name, with ViaAPI
	UID      *uint32   `json:"uid,omitempty"`
	PID      int       `json:"pid,omitempty"`
	Node     string    `json:"node"`            // name of the node that decided
	NodeID   string    `json:"node_id"`         // its id
	Frame    string    `json:"frame,omitempty"` // EPOCH.NUMBER of that node's frame, with ViaMesh
	Reason   string    `json:"reason,omitempty"`
	Source   string    `json:"source,omitempty"`
	Lost     uint64    `json:"lost,omitempty"` // earlier entries that could not be written
	Prefixes Prefixes  `json:"prefixes,omitempty"`
}

// HeldEntry is an op of a peer that is on hold: this node does not enforce it until somebody decides.
type HeldEntry struct {
	Prefix Prefix `json:"prefix"`
	Ports  string `json:"ports"`  // canonical; "" = all
	Origin string `json:"origin"` // name of the node that published it
	ID     string `json:"id"`     // of that node
	Issued Time   `json:"issued"`
	Until  Time   `json:"until"`
	Reason string `json:"reason"`
	Source string `json:"source"`
	By     string `json:"by"`             // the limit that it exceeded, as ban.Hold names it, such as "breaker"
	Kind   string `json:"kind,omitempty"` // "ban", "unban", "allow" or "unallow"
}

// Actions of a DecideRequest.
const (
	ActionRelease = "release" // enforce the bans from now on
	ActionDrop    = "drop"    // never enforce them on this node, even after a restart
)

// DecideRequest asks to release or drop what is on hold: everything, or what is inside Prefixes (at most MaxAddrs),
// or what Origin (a name or id) published, or what matches both.
type DecideRequest struct {
	Action   string   `json:"action"`
	Prefixes Prefixes `json:"prefixes,omitempty"`
	Origin   string   `json:"origin,omitempty"`
}

type DecideReply struct {
	Decided int `json:"decided"`
}
