package cli

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
)

// ManPages returns the manual by file name, in the Markdown that go-md2man reads. It has the texts of --help and of the
// reference config. release and date stand in the footer.
func ManPages(release, date string) map[string]string {
	head := func(name string, section int, short string) string {
		return fmt.Sprintf("%s %d %q %q %q\n====\n\n# NAME\n\n%s - %s\n\n", name, section, date, "meshban "+release, "meshban", name, short)
	}
	return map[string]string{
		"meshban.1":      head("meshban", 1, "shares bans of IP addresses among servers, without a central server") + commandsManual(),
		"meshban.yaml.5": head("meshban.yaml", 5, "config of a meshban node") + configManual(),
	}
}

func commandsManual() string {
	var b strings.Builder
	verbs := new(command).verbs()
	b.WriteString("# SYNOPSIS\n\n**meshban** [**--dir** *D*] *COMMAND* [*flags*] [*arguments*]\n\n# DESCRIPTION\n\n")
	b.WriteString(markdown(helpHead[:strings.Index(helpHead, "\n")]) + "\n\n" + markdown(strings.TrimSpace(helpTail)) + "\n\n# COMMANDS\n\n")
	for _, v := range verbs {
		if v.hidden {
			continue
		}
		fmt.Fprintf(&b, "## meshban %s\n\n%s.\n\n", markdown(strings.TrimSpace(v.name+" "+v.args)), markdown(strings.ToUpper(v.short[:1])+v.short[1:]))
		long, examples := v.text()
		b.WriteString(textManual(long))
		flagsManual(&b, v.flags)
		b.WriteString("Examples:\n\n" + code(examples))
	}
	b.WriteString("# FLAGS OF ALL COMMANDS\n\n")
	flagsManual(&b, slices.Concat(globalFlags(), []cli.Flag{toggle("help", "print the help of a command"), toggle("version", "print the version")}))
	b.WriteString("# EXIT STATUS\n\n")
	for _, e := range exitCodes {
		fmt.Fprintf(&b, "**%d**\n: %s\n\n", e.code, markdown(e.meaning))
	}
	b.WriteString("# TOPICS\n\n")
	for _, t := range topics() {
		fmt.Fprintf(&b, "**meshban help %s**\n: %s\n\n", t.name, markdown(t.short))
	}
	b.WriteString("# SEE ALSO\n\nmeshban.yaml(5), fail2ban-client(1), ipset(8), nft(8)\n")
	return b.String()
}

func configManual() string {
	t, _ := topicNamed("config")
	text := strings.TrimSuffix(t.text, config.Reference())
	_, text, _ = strings.Cut(text, "\n\n") // without the headline
	return "# DESCRIPTION\n\n" + textManual(strings.TrimSpace(text)) + "# REFERENCE\n\n" + code(strings.TrimSpace(config.Reference())) + "# SEE ALSO\n\nmeshban(1)\n"
}

// textManual converts a help text: paragraphs flow, and lines that begin with a blank are kept as they are.
func textManual(text string) string {
	var b strings.Builder
	for paragraph := range strings.SplitSeq(text, "\n\n") {
		var kept []string
		for line := range strings.SplitSeq(paragraph, "\n") {
			if strings.HasPrefix(line, " ") {
				kept = append(kept, line)
				continue
			}
			if kept != nil {
				b.WriteString("\n" + code(strings.Join(kept, "\n")))
				kept = nil
			}
			b.WriteString(markdown(line) + "\n")
		}
		if b.WriteByte('\n'); kept != nil {
			b.WriteString(code(strings.Join(kept, "\n")))
		}
	}
	return b.String()
}

func flagsManual(b *strings.Builder, flags []cli.Flag) {
	for _, f := range flags {
		value, usage := flagUsage(f)
		name := "**--" + f.Names()[0] + "**"
		if value != "" {
			name += " *" + markdown(value) + "*"
		}
		if env := f.(cli.DocGenerationFlag).GetEnvVars(); len(env) > 0 {
			usage += " [" + strings.Join(env, ", ") + "]"
		}
		fmt.Fprintf(b, "%s\n: %s\n\n", name, markdown(usage))
	}
}

func code(text string) string { return "```\n" + text + "\n```\n\n" }

var (
	codeSpan = regexp.MustCompile("`[^`]*`")
	special  = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `_`, `\_`, `<`, `\<`, `>`, `\>`, `[`, `\[`, `]`, `\]`, `|`, `\|`, `#`, `\#`)
)

// markdown escapes a text, except for what is between backquotes.
func markdown(text string) string {
	var b strings.Builder
	at := 0
	for _, span := range codeSpan.FindAllStringIndex(text, -1) {
		b.WriteString(special.Replace(text[at:span[0]]) + text[span[0]:span[1]])
		at = span[1]
	}
	return b.String() + special.Replace(text[at:])
}
