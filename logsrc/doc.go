// Package logsrc follows a log file that other programs append to, accepts its lines of the form "HOST <ip> PORT <spec>",
// and appends such lines itself.
//
// It promises:
//
//   - Each line is accepted whole and at most once: across rotation by rename or by copy and truncate, truncation,
//     a partial last line, and restarts (see [Position]).
//   - Ignored lines are counted by reason (see [Reason]). No line can make it block, panic, or hold more than one read
//     buffer of memory.
//   - Lines that it emitted itself are never read back as news (see [OwnRanges] and [Line.Emitted]).
//   - It never queries DNS: addresses are literals, and service names come from a table and from /etc/services.
//
// A [Follower] reads and an [Emitter] writes; they share only an [OwnRanges]. Neither knows what a ban is: what leaves
// the package is an address, ports as text, and a duration.
package logsrc
