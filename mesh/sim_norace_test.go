//go:build !race

package mesh

// simShort is the number of seeds of a plain test run.
const simShort = 300
