package cli

import (
	"strings"
	"testing"

	"github.com/cpuguy83/go-md2man/v2/md2man"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
)

// The manual has every word of --help and of the reference config.
func TestManual(t *testing.T) {
	plain := strings.NewReplacer(`\-`, "-", `\&`, "", `\\`, `\`, `\fB`, "", `\fI`, "", `\fR`, "", `\fP`, "", "\\(aq", "'", `\e`, `\`, "`", "")
	words := func(text string) string { return strings.Join(strings.Fields(plain.Replace(text)), " ") }
	pages := ManPages("v1.2.3", "2026-11-28")
	one, five := words(string(md2man.Render([]byte(pages["meshban.1"])))), words(string(md2man.Render([]byte(pages["meshban.yaml.5"]))))
	has := func(page, what, text string) {
		t.Helper()
		if want := words(text); !strings.Contains(page, want) {
			t.Errorf("%s: the manual lacks %q", what, want)
		}
	}
	for _, v := range new(command).verbs() {
		if v.hidden {
			continue
		}
		has(one, v.name, v.short[1:])
		long, examples := v.text()
		for line := range strings.Lines(long + "\n" + examples) {
			has(one, v.name, line)
		}
		for _, f := range v.flags {
			value, usage := flagUsage(f)
			has(one, v.name, "--"+f.Names()[0]+" "+value)
			has(one, v.name, usage)
		}
	}
	for _, e := range exitCodes {
		has(one, "exit codes", e.meaning)
	}
	for line := range strings.Lines(config.Reference()) {
		has(five, "config", line)
	}
	for name, page := range pages {
		if strings.Contains(page, "v1.2.3") && strings.Contains(page, "2026-11-28") {
			continue
		}
		t.Errorf("%s: no version or date", name)
	}
}
