package listener

import "time"

// Bounds on what clients can make the server hold or wait for. They are like those of the control socket, except that
// bouncers keep a connection each.
const (
	maxConns      = 1_024
	maxKeyless    = 512 // connections without a key
	maxStranger   = 64  // of them from an address, or a /64
	maxKeyConns   = 512 // connections of a key
	maxHeld       = 768 // held answers; more are answered at once
	maxLarge      = 16  // answers with all bans at a time; more wait
	maxHeader     = 8 << 10
	maxCursors    = 4_096
	maxAgent      = 64      // bytes of a client's name that tell its cursors apart
	maxChanges    = 1 << 16 // entries of the log of changes, about 8 MB when full
	maxRepeats    = 1 << 16 // longer bans that are to be said again
	maxQuery      = 4 << 10 // bytes of a query
	maxWords      = 64      // of a comma list in a query
	maxStrangers  = 1_024   // addresses whose wrong keys are counted
	maxSlowed     = 64      // wrong keys that wait for their answer
	freeMistakes  = 5       // wrong keys of an address that are answered at once
	chunk         = 256     // bans looked up under one hold of the daemon's lock
	flushAt       = 64 << 10
	changesKept   = 24 * time.Hour
	headerTimeout = 5 * time.Second
	bodyTimeout   = 10 * time.Second
	idleTimeout   = 2 * time.Minute // bouncers ask every 10 s to 60 s
	writeTimeout  = 30 * time.Second
	slowedFor     = time.Second
	saveEvery     = time.Minute
	// gather is how long a change waits for more before held answers go out: so a burst is one answer, and the answers
	// of hundreds of clients do not compete with the ban's way to other nodes.
	gather = 5 * time.Millisecond
	// repeatAfter is when a longer ban is said again, after the end that was said before: rounding adds up to 1 s to
	// that, the way to the client and its own clock a little. repeatAgain is for clients that are slower.
	repeatAfter, repeatAgain = 1100 * time.Millisecond, 5 * time.Second
)
