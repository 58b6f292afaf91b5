//go:build !race

package mesh

// simShort is the number of seeds of a plain test run; test/run simulates 2,000.
const simShort = 5

// bubbleProcs is how many processors a bubble has; 0 is all.
const bubbleProcs = 0
