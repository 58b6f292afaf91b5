// Package logsrc is the file door: it follows a log file that other programs append to, takes the lines that
// say "HOST <ip> PORT <spec>", and appends such lines itself.
//
// It promises:
//
//   - A line is taken whole or not at all, once or not at all: across rotation by rename and by copy and
//     truncate, across truncation, across a partial last line, and across restarts (see [Position]).
//   - What it does not take is counted with the reason (see [Reason]); nothing that a line holds can make it
//     block, panic, or hold more than one read buffer of memory.
//   - Its own emitted lines are never read back as news (see [OwnRanges] and [Line.Emitted]).
//   - It never asks the DNS: addresses are literals, service names come from a table and from /etc/services.
//
// The door has two halves that share nothing but an [OwnRanges]: a [Follower] reads, an [Emitter] writes.
// Neither knows what a ban is: an address, ports as text, and a duration are all that leaves.
package logsrc
