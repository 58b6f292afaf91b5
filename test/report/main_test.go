package main

import (
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	for _, c := range []struct {
		name           string
		in             string
		passed, failed int
		want           []string
	}{
		{"ok: two tests", `{"Action":"start","Package":"p"}
{"Action":"output","Package":"p","Test":"A","Output":"noise\n"}
{"Action":"pass","Package":"p","Test":"A"}
{"Action":"pass","Package":"p","Test":"B"}
{"Action":"pass","Package":"p","Elapsed":1}`, 2, 0, []string{"ok   p: 2 tests"}},
		{"bad: one fails and says why", `{"Action":"output","Package":"p","Test":"A","Output":"why\n"}
{"Action":"fail","Package":"p","Test":"A"}
{"Action":"pass","Package":"p","Test":"B"}
{"Action":"fail","Package":"p"}`, 1, 1, []string{"FAIL p A", "why", "FAIL p: 1 of 2"}},
		{"bad: a skipped test", `{"Action":"skip","Package":"p","Test":"A"}
{"Action":"pass","Package":"p"}`, 0, 1, []string{"SKIP p A"}},
		{"bad: no build", `{"Action":"build-output","ImportPath":"p [p.test]","Output":"undefined: x\n"}
{"Action":"build-fail","ImportPath":"p [p.test]"}
{"Action":"fail","Package":"p","FailedBuild":"p [p.test]"}`, 0, 1, []string{"undefined: x"}},
		{"bad: the process died", `{"Action":"output","Package":"p","Test":"A","Output":"panic: dead\n"}
{"Action":"fail","Package":"p"}`, 0, 1, []string{"panic: dead"}},
		{"bad: nothing ran", `{"Action":"skip","Package":"p"}`, 0, 1, []string{"no test ran"}},
		{"bad: no JSON", "go: no such tool\n", 0, 1, []string{"go: no such tool"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			r := newReport(&out)
			if err := r.read(strings.NewReader(c.in)); err != nil {
				t.Fatal(err)
			}
			if r.passed != c.passed || r.failed != c.failed {
				t.Errorf("%d passed, %d failed; want %d, %d", r.passed, r.failed, c.passed, c.failed)
			}
			for _, want := range c.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("%q is missing in:\n%s", want, out.String())
				}
			}
		})
	}
}
