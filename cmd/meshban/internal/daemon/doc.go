// Package daemon is one running node: it wires the table, the mesh, the firewall and the line file together and runs
// them until it is told to stop.
//
// Every ban takes one straight path. It enters as a line (lines.go), a command (requests.go) or a peer's frame
// (apply.go: deliver). publish signs what begins here; merge puts it into the table and queues the changes for the
// kernel; announce then tells watchers, metrics and the line file. Nothing on that path waits for the disk, the line
// file or the network.
package daemon
