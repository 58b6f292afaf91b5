//go:build race

package mesh

// simShort is the number of seeds of a plain test run. The race detector makes each about ten times slower.
const simShort = 20

// bubbleProcs is how many processors a bubble has; 0 is all.
const bubbleProcs = 1
