// Package test holds the tests of meshban as a whole: the rules of who may
// import whom, and, with the build tag netns and as root, the real program on
// small fleets of servers in network namespaces (see package rig), judged by
// packets. Benchmarks print the figures of FIGURES.md:
//
//	go test -tags netns -run xxx -bench . ./test/
package test
