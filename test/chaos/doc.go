// Package chaos runs a small mesh of real agents under faults of every kind and checks it against an oracle.
//
// The nodes' mesh interfaces are TAP devices whose frames pass through this process, which loses, delays, doubles, reorders
// and damages them. Each node has a worker that bans, lifts, kills, freezes, fills the disk and so on, following a plan
// drawn from a seed. The oracle records what was acknowledged. After each round the faults end, and everything must agree:
// digests, lists, kernels and packets, on all nodes and with the oracle.
//
//	bash test/run chaos 40m                                       for any time, with a new seed
//	go test -tags netns ./test/chaos -chaos.seed=7 -chaos.for=3m  with a known seed
//
// A seed repeats the plan, but not the kernel's scheduling.
package chaos
