package config

import (
	_ "embed"
	"strings"
)

//go:embed reference.yaml
var reference string

// Reference returns the reference file: every key with its default and its meaning. Parse accepts it.
func Reference() string { return reference }

const renderHead = `# The configuration of this meshban node. What is not here has its default; meshban help
# config prints every key. SIGHUP makes a running agent read this file again; a file with
# an error is refused as a whole, and the agent keeps what it has.
`

const renderHints = `
# Often wanted:
#allow: [192.0.2.10, "2001:db8::/64"]  # never banned, whatever any node says
#metrics: 127.0.0.1:9946               # for Prometheus
#api: {listen: "127.0.0.1:8080"}       # for bouncers, routers and scripts
`

// Render returns the file that yields c: only what differs from Default(c.Dir), with a comment on each key. Parse,
// given c.Path and c.Dir, returns c if c is valid.
func Render(c Config) []byte {
	var b strings.Builder
	b.WriteString(renderHead)
	d := Default(c.Dir)
	defaults := d.fields()
	open := "" // the section that was begun last
	for i, f := range c.fields() {
		text := f.String()
		if text == defaults[i].String() {
			continue
		}
		section, leaf, nested := strings.Cut(f.key, ".")
		indent := "  "
		if !nested {
			section, leaf, indent = "", f.key, ""
		}
		if section != open || !nested {
			b.WriteByte('\n')
		}
		if nested && section != open {
			b.WriteString(section + ":\n")
		}
		open = section
		if !strings.HasPrefix(text, "\n") {
			text = " " + text
		}
		b.WriteString(indent + "# " + f.about + "\n")
		b.WriteString(indent + leaf + ":" + strings.ReplaceAll(text, "\n", "\n"+indent+"  ") + "\n")
	}
	if len(c.Allow) == 0 && !c.Metrics.IsValid() && !c.API.Listen.IsValid() {
		b.WriteString(renderHints)
	}
	return []byte(b.String())
}

// Changed returns the keys whose values differ.
func Changed(a, b Config) (keys []string) {
	theirs := b.fields()
	for i, f := range a.fields() {
		if f.String() != theirs[i].String() {
			keys = append(keys, f.key)
		}
	}
	return keys
}
