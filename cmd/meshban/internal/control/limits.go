package control

import "time"

// Bounds on what a client can make the server hold or wait for.
const (
	MaxAddrs      = 5_000    // addresses in one request
	MaxBody       = 1 << 20  // bytes of one request's body
	MaxPorts      = 256      // bytes of a port list as typed
	MaxReason     = 200      // bytes of a reason
	MaxSource     = 64       // bytes of a source
	MaxListName   = 32       // bytes of the name of a list
	MaxNode       = 64       // bytes of a node's name or id
	MinNodeID     = 8        // digits of an id that may stand for it
	MaxFindings   = 1_000    // findings in one WhyReply
	MaxInviteUses = 1_000    // machines that one token may enrol
	MaxConns      = 128      // connections at a time
	MaxWatchers   = 32       // of them, event streams
	maxGuests     = 64       // of them, by those who are let in by a group alone: root always finds a place
	maxRefusals   = 16       // connections being refused at a time
	maxHeader     = 8 << 10  // bytes of one request's header
	maxReply      = 64 << 20 // bytes of one answer that is no stream, as the client reads it
	MaxLine       = 64 << 10 // bytes of one line of a stream, as the client reads it
)

// MaxInviteFor is the longest time for which a token is good.
const MaxInviteFor = 30 * 24 * time.Hour

const (
	headerTimeout  = 5 * time.Second  // for a request's header to arrive
	bodyTimeout    = 10 * time.Second // for its body to arrive
	idleTimeout    = 30 * time.Second // between two requests on a connection
	writeTimeout   = 30 * time.Second // for a client to take one chunk of an answer
	dialTimeout    = 2 * time.Second  // for a socket to accept
	dialAgain      = 5 * time.Millisecond
	requestTimeout = 30 * time.Second // for the agent to answer a request that is no stream
	refuseTimeout  = 1 * time.Second  // for a refused client to send its request and take the answer
	stopTimeout    = 1 * time.Second  // for running requests to end when the server stops
)
