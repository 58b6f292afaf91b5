// Package daemon is one running node: it wires table, mesh, firewall and line file together and runs them until it is
// told to stop.
//
// One ban has one straight path. It enters as a line (lines.go), a command (requests.go) or a frame of a peer
// (apply.go: deliver); publish signs what begins here; apply merges it into the table, hands what changed to the
// kernel, and announce tells the rest of the world: watchers, metrics, the line file. Nothing on that path waits for
// the disk, the line file or the network.
package daemon
