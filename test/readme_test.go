package test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// document returns a text file of the repository; name is relative to its top.
func document(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// README.md is only the introduction: the rest is in the topics of `meshban help`.
func TestREADMEIsShort(t *testing.T) {
	if n := len(document(t, "README.md")); n > 10_000 {
		t.Errorf("README.md has %d bytes, want 10,000 at most", n)
	}
}

// Every test that the documents name exists.
func TestDocumentsNameTests(t *testing.T) {
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
	for name, least := range map[string]int{"README.md": 0, "test/SECURITY.md": 60, "test/FIGURES.md": 1} {
		named := testName.FindAllStringSubmatch(document(t, name), -1)
		if len(named) < least {
			t.Errorf("%s names %d tests, want at least %d", name, len(named), least)
		}
		for _, found := range named {
			if !there[found[1]] {
				t.Errorf("%s names %s, which no package has", name, found[1])
			}
		}
	}
}

// Every item and every table row of SECURITY.md names the test that verifies it.
func TestSecurityNamesItsTests(t *testing.T) {
	text := document(t, "test/SECURITY.md")
	items := claim.FindAllString(text, -1)
	if len(items) < 60 {
		t.Errorf("%d items were found", len(items))
	}
	for _, item := range items {
		if !testName.MatchString(item) && !strings.HasPrefix(item, "| attack |") && !strings.HasPrefix(item, "|---") {
			t.Errorf("no test holds %q", item)
		}
	}
}

// Every section of FIGURES.md with a table says when it was measured.
func TestFiguresAreDated(t *testing.T) {
	sections := strings.Split(document(t, "test/FIGURES.md"), "\n## ")
	for _, section := range sections[1:] {
		if strings.Contains(section, "\n|") && !date.MatchString(section) {
			t.Errorf("no date in %q", section)
		}
	}
}

var (
	testFunc = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Z]\w+)\(\w+ \*testing\.[TF]\)`)
	testName = regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w+)(?:/[^`]*)?`")
	claim    = regexp.MustCompile(`(?m)^(?:- .*(?:\n  .*)*|\|.*)$`)
	date     = regexp.MustCompile(`\b20\d\d-\d\d-\d\d\b`)
)
