// Package replica is the replication core of a mesh: it holds the live frames, and makes all members hold the same.
//
// A Core is a pure state machine: Step takes the time and an event (frames or a message came, a peer came or went), and
// returns the actions that follow (frames to deliver and store, messages to send). It knows no network, disk, lock,
// goroutine or clock, so that a seed replays a fleet's history exactly. Everything that a peer can influence has a named
// bound.
//
// The parts: the frames held (ledger.go), by the numbers seen (window.go) and a digest of all (digest.go); whom to believe
// (trust.go, grants.go, early.go); and anti-entropy, from comparing digests (compare.go) over sessions (sync.go, message.go)
// to the frames that the other side lacks (transfer.go, detail.go).
package replica
