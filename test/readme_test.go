package test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

func readme(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The README holds the reference configuration word for word: one of the two would otherwise grow old.
func TestREADMEHoldsTheReferenceConfiguration(t *testing.T) {
	reference, err := os.ReadFile("../cmd/meshban/internal/config/reference.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(readme(t), "```yaml\n"+string(reference)+"```\n") {
		t.Error("README.md differs from cmd/meshban/internal/config/reference.yaml: copy the file between its two marks")
	}
}

// Every test that the README names is there.
func TestREADMENamesTests(t *testing.T) {
	there := map[string]bool{}
	for _, name := range trackedFiles(t) {
		if !strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile("../" + name)
		if err != nil && !os.IsNotExist(err) { // deleted, not yet committed
			t.Fatal(err)
		}
		for _, found := range testFunc.FindAllStringSubmatch(string(text), -1) {
			there[found[1]] = true
		}
	}
	named := testName.FindAllStringSubmatch(readme(t), -1)
	if len(named) < 10 {
		t.Errorf("the README names %d tests", len(named))
	}
	for _, found := range named {
		if !there[found[1]] {
			t.Errorf("README.md names %s, which no package has", found[1])
		}
	}
}

var (
	testFunc = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Z]\w+)\(\w+ \*testing\.[TF]\)`)
	testName = regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w+)(?:/[^`]*)?`")
)
