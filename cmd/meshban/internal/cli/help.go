package cli

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
)

// helpWidth is the column at which text is wrapped.
const helpWidth = 88

const helpHead = `meshban shares bans of IP addresses among a fleet of servers, without a central server.

Usage: meshban [--dir D] COMMAND [flags] [arguments]
`

const helpTail = `
Flags may stand before and after arguments. meshban COMMAND --help tells more, with
examples. What flags leave out comes from the environment, then the config file.
`

// mainHelp writes the help of the program.
func (c *command) mainHelp(w io.Writer, verbs []*verb) error {
	var b strings.Builder
	b.WriteString(helpHead + "\nCommands:\n")
	for _, v := range verbs {
		if !v.hidden {
			fmt.Fprintf(&b, "  %-10s  %s\n", v.name, v.short)
		}
	}
	b.WriteString("\nTopics, as in meshban help trust:\n")
	for _, t := range topics() {
		fmt.Fprintf(&b, "  %-12s  %s\n", t.name, t.short)
	}
	b.WriteString("\nFlags:\n")
	writeFlags(&b, slices.Concat(globalFlags(), []cli.Flag{
		toggle("help", "print this, or the help of a command"), toggle("version", "print the version"),
	}))
	b.WriteString("\nExit codes:\n")
	for _, e := range exitCodes {
		fmt.Fprintf(&b, "  %d  %s\n", e.code, e.meaning)
	}
	b.WriteString(helpTail)
	_, err := io.WriteString(w, b.String())
	return err
}

// verbHelp writes the help of one command.
func verbHelp(w io.Writer, v *verb) error {
	var b strings.Builder
	usage := programName + " " + v.name
	if len(v.flags) > 0 {
		usage += " [flags]"
	}
	fmt.Fprintf(&b, "Usage: %s\n\n", strings.TrimSpace(usage+" "+v.args))
	b.WriteString(strings.ToUpper(v.short[:1]) + v.short[1:] + ".\n\n")
	long, examples := v.text()
	writeText(&b, long)
	b.WriteString("\nFlags:\n")
	flags := v.flags
	if !v.local {
		flags = slices.Concat(flags, globalFlags())
	}
	writeFlags(&b, append(flags, toggle("help", "print this")))
	b.WriteString("\nExamples:\n")
	for line := range strings.SplitSeq(examples, "\n") {
		b.WriteString("  " + line + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// writeText wraps paragraphs. A line that begins with a blank is kept as it is.
func writeText(b *strings.Builder, text string) {
	for i, paragraph := range strings.Split(text, "\n\n") {
		if i > 0 {
			b.WriteByte('\n')
		}
		var flow []string
		for line := range strings.SplitSeq(paragraph, "\n") {
			if !strings.HasPrefix(line, " ") {
				flow = append(flow, line)
				continue
			}
			wrap(b, 0, strings.Join(flow, " "))
			flow = nil
			b.WriteString(line + "\n")
		}
		wrap(b, 0, strings.Join(flow, " "))
	}
}

// writeFlags writes flags in two columns.
func writeFlags(b *strings.Builder, flags []cli.Flag) {
	type entry struct{ name, usage string }
	var all []entry
	widest := 0
	for _, f := range flags {
		value, usage := flagUsage(f)
		e := entry{strings.TrimSpace("--" + f.Names()[0] + " " + value), usage}
		if env := f.(cli.DocGenerationFlag).GetEnvVars(); len(env) > 0 {
			e.usage += " [" + strings.Join(env, ", ") + "]"
		}
		all = append(all, e)
		widest = max(widest, len(e.name))
	}
	for _, e := range all {
		fmt.Fprintf(b, "  %-*s  ", widest, e.name)
		wrap(b, widest+4, e.usage)
	}
}

// flagUsage returns the name of a flag's value, "" for a toggle, and what the flag does.
func flagUsage(f cli.Flag) (value, usage string) {
	usage = f.(cli.DocGenerationFlag).GetUsage()
	if rest, ok := strings.CutPrefix(usage, "`"); ok {
		value, usage, _ = strings.Cut(rest, "` ")
	}
	return value, usage
}

// wrap writes text wrapped at helpWidth, indents lines after the first, and ends the last line. Empty text writes
// nothing.
func wrap(b *strings.Builder, indent int, text string) {
	at := indent
	words := strings.Fields(text)
	for i, word := range words {
		n := utf8.RuneCountInString(word)
		switch {
		case i > 0 && at+1+n > helpWidth:
			b.WriteString("\n" + strings.Repeat(" ", indent))
			at = indent
		case i > 0:
			b.WriteByte(' ')
			at++
		}
		b.WriteString(word)
		at += n
	}
	if len(words) > 0 {
		b.WriteByte('\n')
	}
}

// help prints the list of commands and topics, or the help of one.
func (c *command) help(ctx *cli.Context) error {
	verbs, asJSON := c.verbs(), ctx.Bool("json")
	switch listed := !ctx.Args().Present(); {
	case listed && asJSON:
		return c.helpJSON(verbs)
	case listed:
		return c.mainHelp(c.out, verbs)
	}
	name, err := oneArg(ctx, "a command or a topic", "meshban help ban")
	if err != nil {
		return err
	}
	if v := verbNamed(name, verbs); v != nil && asJSON {
		text, _ := v.text()
		return writeObject(c.out, commandEntry(v, text))
	} else if v != nil {
		return verbHelp(c.out, v)
	}
	if t, ok := topicNamed(name); ok && asJSON {
		return writeObject(c.out, helpEntry{Name: t.name, Short: t.short, Text: t.text})
	} else if ok {
		return c.page(t.text)
	}
	hint := "meshban help lists commands and topics"
	if meant := cmp.Or(config.Nearest(name, append(verbNames(verbs), topicNames...)), synonyms[name]); meant != "" {
		hint = fmt.Sprintf("did you mean %q? %s", meant, hint)
	}
	return usagef(hint, "%q is neither a command nor a topic", name)
}
