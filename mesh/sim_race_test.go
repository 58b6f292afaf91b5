//go:build race

package mesh

// simShort is the number of seeds of a plain test run; the race detector makes each some ten times as slow.
const simShort = 20
