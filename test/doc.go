// Package test tests meshban as a whole: it checks which package may import
// which, and, with the build tag netns and as root, runs the real program on
// small fleets of servers in network namespaces (see package rig) and judges
// it by packets. Benchmarks print the figures of FIGURES.md:
//
//	go test -tags netns -run xxx -bench . ./test/
package test
