package meshtest

import (
	"crypto/ed25519"
	"encoding/hex"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/meshban/meshban/mesh/pki"
)

var record = flag.Bool("record", false, "write testdata/v0.1.0.txt anew")

// Known is an origin whose key is the same in every run. It is used nowhere else.
var Known = pki.IdentityOf(ed25519.NewKeyFromSeed([]byte("a key for tests that all may see")))

// Released checks that messages, by name, are encoded as v0.1.0 encoded them: testdata/v0.1.0.txt has a line for each.
func Released(t *testing.T, messages map[string][]byte) {
	t.Helper()
	const file = "testdata/v0.1.0.txt"
	var now []string
	for _, name := range slices.Sorted(maps.Keys(messages)) {
		now = append(now, name+" "+hex.EncodeToString(messages[name]))
	}
	if *record {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(strings.Join(now, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); !slices.Contains(now, line) {
			t.Errorf(`this version does not encode as v0.1.0 did: %s
Nodes of the two versions would not understand each other. Send new things as messages or fields that v0.1.0 skips.
As long as v0.1.0 is not released, the form may change: go test ./mesh ./mesh/internal/{replica,enrol,meta,filter} -run 'TestSpeaksV010$' -record`, line)
		}
	}
	if lines := strings.Count(string(text), "\n"); lines != len(messages) {
		t.Errorf("%s has %d messages, the test %d", file, lines, len(messages))
	}
}
