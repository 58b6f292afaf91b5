// Report turns the output of go test -json into a line for each package and
// the whole output of each failed test. A skipped test counts as failed: this
// repository's tests must run everywhere.
//
//	go test -json ./... | report -counts FILE
//
// It appends the line "<passed> <failed>" to FILE and ends with code 1 if
// anything failed or no test ran.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

// maxLine bounds one line of go test's output, in bytes.
const maxLine = 16 << 20

// event is what go test -json prints; see go doc cmd/test2json.
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build output
	Test        string
	Elapsed     float64
	Output      string
	FailedBuild string
}

// pack is what is known about one package.
type pack struct {
	passed, failed int
	output         map[string]*strings.Builder // by test; "" is the package
}

// report keeps the counts of a whole run.
type report struct {
	out            io.Writer
	packs          map[string]*pack
	builds         map[string]*strings.Builder // output of builds by import path
	passed, failed int
}

func main() {
	counts := flag.String("counts", "", "add the counts to this `file`")
	flag.Parse()
	r := newReport(os.Stdout)
	err := r.read(os.Stdin)
	if err == nil && *counts != "" {
		err = appendLine(*counts, fmt.Sprintf("%d %d\n", r.passed, r.failed))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
	if r.failed > 0 {
		os.Exit(1)
	}
}

func appendLine(path, line string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(line); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func newReport(out io.Writer) *report {
	return &report{out: out, packs: map[string]*pack{}, builds: map[string]*strings.Builder{}}
}

func (r *report) read(in io.Reader) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			fmt.Fprintln(r.out, lines.Text()) // a line of the go command itself
			continue
		}
		r.take(e)
	}
	if err := lines.Err(); err != nil {
		return err
	}
	if r.passed+r.failed == 0 {
		fmt.Fprintln(r.out, "no test ran")
		r.failed = 1
	}
	return nil
}

func (r *report) take(e event) {
	if e.Action == "build-output" || e.Action == "build-fail" {
		b := r.builds[e.ImportPath]
		if b == nil {
			b = &strings.Builder{}
			r.builds[e.ImportPath] = b
		}
		b.WriteString(e.Output)
		return
	}
	p := r.packs[e.Package]
	if p == nil {
		p = &pack{output: map[string]*strings.Builder{}}
		r.packs[e.Package] = p
	}
	switch {
	case e.Action == "output":
		b := p.output[e.Test]
		if b == nil {
			b = &strings.Builder{}
			p.output[e.Test] = b
		}
		b.WriteString(e.Output)
	case e.Test == "":
		r.end(e, p)
	case e.Action == "pass":
		p.passed++
		delete(p.output, e.Test)
	case e.Action == "fail" || e.Action == "skip":
		p.failed++
		fmt.Fprintf(r.out, "%s %s %s (%.1f s)\n", strings.ToUpper(e.Action), e.Package, e.Test, e.Elapsed)
		if b := p.output[e.Test]; b != nil {
			fmt.Fprint(r.out, b)
		}
		delete(p.output, e.Test)
	}
}

// end closes a package. If it fails without a failed test, it did not build or
// its process died; the remaining output tells why.
func (r *report) end(e event, p *pack) {
	switch e.Action {
	case "pass":
		fmt.Fprintf(r.out, "ok   %s: %d tests, %.1f s\n", e.Package, p.passed, e.Elapsed)
	case "fail":
		if p.failed == 0 {
			p.failed = 1
			if b := r.builds[e.FailedBuild]; b != nil {
				fmt.Fprint(r.out, b)
			}
			for _, b := range p.output {
				fmt.Fprint(r.out, b)
			}
		}
		fmt.Fprintf(r.out, "FAIL %s: %d of %d tests, %.1f s\n", e.Package, p.failed, p.passed+p.failed, e.Elapsed)
	default: // start; skip: no test files
		return
	}
	r.passed += p.passed
	r.failed += p.failed
}
