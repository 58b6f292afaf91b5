// Package parallel runs the tests of packages that wait for timers far more than they compute, many at a time.
package parallel

import (
	"flag"
	"runtime/debug"
	"strconv"
	"testing"
)

// Main runs the tests, n at once unless the flag -parallel says otherwise, and returns the exit code.
func Main(m *testing.M, n int) int {
	debug.SetGCPercent(400) // takes a quarter less processor time
	Default("test.parallel", strconv.Itoa(n))
	return m.Run()
}

// Default sets a flag unless the command line does.
func Default(name, value string) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == name })
	if !given {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
}
