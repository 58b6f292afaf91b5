// Package daemon is one running node: it wires the mesh, the table, the firewall and the line file together and runs
// them until it is told to stop.
//
// A ban's way:
//
//  1. It begins as a line (handleLines), a command (publishEach) or a peer's frame, which the mesh has verified (deliver).
//  2. A ban that begins here passes the table's CheckLocal and is encoded with others into one frame (publishFrame).
//  3. Mesh.Sign numbers, signs and holds the frame. If that fails, nothing has changed.
//  4. Mesh.Send queues it for every member, and remember for the disk. Neither waits.
//  5. enforce.State.Change merges it into the table and, under the same lock, queues for the kernel what that changes. A
//     peer's ops are first judged there, by what their origin may say (admitLocked).
//  6. Without the lock, fw.Syncer carries a few updates to the kernel at once; its Run does the rest.
//  7. When the kernel has answered, announce tells metrics, the line file, fail2ban and watchers.
//  8. A command is answered once its bans are in the kernel (confirm) and on disk (keep), or says what is missing.
//
// Change is also the only way for everything else that changes what is banned: an end, the never-ban list, a reload, a
// certificate, a decision of the operator, a clock that was set.
package daemon
