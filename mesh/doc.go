// Package mesh replicates signed, expiring frames among the members of a memberlist cluster; it cannot read what they
// carry.
//
// The guarantee: a frame that one member publishes is verified and delivered once to every other member while it lives.
// It travels three independent ways: pushed directly by its origin (well within a millisecond), through memberlist's
// gossip queue, and by anti-entropy, which compares a 32-byte digest on every ping and streams what the other side
// lacks. An expired frame is neither sent nor accepted. Nothing here makes a caller wait for the network, and
// everything that a peer can influence has a named bound.
//
// Whatever the mesh's authority signs takes precedence: the mesh's own records (certificates, revocations, grants of
// the gossip key), and what the daemon publishes with PublishAsAuthority.
//
// The parts, each a package: frames (frame), identities (pki), and below internal the replication core, a pure state
// machine (replica); what arrives, before memberlist sees it (filter); who sends a frame to whom (spread); what a member
// says of itself (meta) and what this node makes of it (roster); when a node changes gossip keys (rotate); the messages
// of enrolment (enrol); and the sockets, and which way a message goes (transport). This package binds them to memberlist
// (delegate.go, run.go) and holds who is there (peers.go, place.go, rejoin.go).
package mesh
