// Package mesh replicates signed, expiring frames among the members of a memberlist cluster; it cannot read what they
// carry.
//
// What it promises: a frame that one member publishes is delivered once to every other member, verified, while it
// lives. It travels three ways, each independent of the others: pushed directly by its origin (well within a
// millisecond), through memberlist's gossip queue, and by anti-entropy, which compares a 32-byte digest on every ping
// and streams what the other side lacks. A frame that has expired is neither sent nor accepted. Nothing here waits for
// the network on behalf of a caller, and everything that a peer can influence has a named bound.
//
// What the mesh's authority signs goes ahead of all else: the mesh's own records (certificates, revocations, grants of the
// gossip key), and what the daemon says by PublishAsAuthority.
//
// The parts: frames and identities (frame.go, identity.go), the replication core, a pure state machine (core*.go), the
// glue to memberlist (transport.go, delegate.go, run.go), rejoining (rejoin.go), enrolment (invite.go, enrol.go), and the
// rotation of the gossip key (rotate.go).
package mesh
