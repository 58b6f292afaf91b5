// Package chaos runs a small mesh of real agents under faults of every kind and judges it by an oracle.
//
// The nodes' mesh interfaces are TAP devices whose frames pass through this process, which loses, delays, doubles, reorders
// and damages them. Each node has a worker that bans, lifts, kills, freezes, fills the disk and so on by a plan that a seed
// gives. The oracle keeps what was acknowledged. After each round the faults end, and everything must agree: digests,
// lists, kernels and packets, on all nodes and with the oracle.
//
//	bash test/run chaos 40m                                       any length, a new seed
//	go test -tags netns ./test/chaos -chaos.seed=7 -chaos.for=3m  a seed again
//
// A seed repeats the plan; the kernel's scheduling is not repeated.
package chaos
