package config

import (
	_ "embed"
	"net/netip"
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
`

// Render returns the file that yields c: only what differs from Default(c.Dir), with a comment on each key. Parse,
// given c.Path and c.Dir, returns c if c is valid.
func Render(c Config) []byte {
	var b strings.Builder
	b.WriteString(renderHead)
	d := Default(c.Dir)
	open := "" // the section that was begun last
	for _, f := range fields {
		text := f.text(c)
		if text == f.text(d) {
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
		b.WriteString(indent + "# " + f.about + "\n")
		b.WriteString(indent + leaf + ":")
		if !strings.HasPrefix(text, "\n") {
			b.WriteByte(' ')
		}
		b.WriteString(text + "\n")
	}
	if len(c.Allow) == 0 && !c.Metrics.IsValid() {
		b.WriteString(renderHints)
	}
	return []byte(b.String())
}

// yamlString quotes printable text.
func yamlString(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

func yamlAddrPort(ap netip.AddrPort) string {
	if !ap.IsValid() {
		return `""`
	}
	return yamlString(ap.String())
}

func yamlList(list []string) string {
	if len(list) == 0 {
		return "[]"
	}
	var b strings.Builder
	for _, s := range list {
		b.WriteString("\n  - " + yamlString(s))
	}
	return b.String()
}

// prefixTexts formats a single address without its prefix length.
func prefixTexts(list []netip.Prefix) []string {
	var all []string
	for _, p := range list {
		if p.IsSingleIP() {
			all = append(all, p.Addr().String())
		} else {
			all = append(all, p.String())
		}
	}
	return all
}
