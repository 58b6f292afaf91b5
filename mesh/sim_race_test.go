//go:build race

package mesh

// simShort is the number of seeds of a plain test run; the race detector makes each some ten times as slow.
const simShort = 20

// bubbleProcs is how many processors a bubble has; 0 is all.
const bubbleProcs = 1
