package control

import "time"

// Bounds on what a client can make the server hold or wait for.
const (
	MaxAddrs      = 5_000    // addresses in one request
	MaxBody       = 1 << 20  // bytes of one request's body
	MaxPorts      = 256      // bytes of a port list, as typed
	MaxReason     = 200      // bytes of a reason
	MaxSource     = 64       // bytes of a source
	MaxListName   = 32       // bytes of the name of a list
	MaxNode       = 64       // bytes of a node's name or id
	MinNodeID     = 8        // digits of a node's id that may stand for it
	MaxFindings   = 1_000    // findings in one WhyReply
	MaxInviteUses = 1_000    // machines that one token may enrol
	MaxConns      = 128      // connections at a time
	MaxWatchers   = 32       // event streams at a time
	maxGroupConns = 64       // connections that only a group admits: root always gets one
	maxRefusals   = 16       // connections being refused at a time
	maxHeader     = 8 << 10  // bytes of one request's header
	maxReply      = 64 << 20 // bytes of an answer that is not a stream, as the client reads it
	MaxLine       = 64 << 10 // bytes of a line of a stream, as the client reads it
)

// MaxPause is the longest pause of a node, MaxPauseAll that of every node.
const MaxPause, MaxPauseAll = 24 * time.Hour, time.Hour

// inviteID is the length of the id of a token.
const inviteID = 8

// MaxInviteFor is the longest validity of a token.
const MaxInviteFor = 30 * 24 * time.Hour

const (
	headerTimeout  = 5 * time.Second  // for a request's header
	bodyTimeout    = 10 * time.Second // for its body
	idleTimeout    = 30 * time.Second // between two requests on a connection
	writeTimeout   = 30 * time.Second // for a client to take one chunk of an answer
	dialTimeout    = 2 * time.Second  // for a socket to accept
	dialAgain      = 5 * time.Millisecond
	requestTimeout = 30 * time.Second // for an answer that is not a stream
	refuseTimeout  = 1 * time.Second  // for a refused client to send its request and take the answer
	stopTimeout    = 1 * time.Second  // for running requests to end when the server stops
)
