package test

import (
	"os"
	"strings"
	"testing"
)

// The README holds the reference configuration word for word: one of the two would otherwise grow old.
func TestREADMEHoldsTheReferenceConfiguration(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	reference, err := os.ReadFile("../cmd/meshban/internal/config/reference.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(readme), "```yaml\n"+string(reference)+"```\n") {
		t.Error("README.md differs from cmd/meshban/internal/config/reference.yaml: copy the file between its two marks")
	}
}
