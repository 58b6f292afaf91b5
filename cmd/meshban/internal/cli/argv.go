package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
)

const programName = "meshban"

// verb is one command.
type verb struct {
	name   string
	args   string // in the usage line, such as "ADDR..."; "" = the verb takes none
	short  string // one line for the list of commands
	flags  []cli.Flag
	local  bool // needs no state folder
	hidden bool
	action cli.ActionFunc
}

// call is what a command line asks for.
type call struct {
	verb    *verb // nil = none named
	help    bool
	version bool
	dir     string   // value of --dir
	open    string   // name of the last flag, if its value is missing
	argv    []string // for urfave/cli: the program, global flags, the verb, its flags, "--", arguments
}

// arrange sorts a command line for urfave/cli, which stops at the first argument: people put flags after arguments,
// as in `ban 192.0.2.7 --for 1h`. It also reports unknown words, which urfave/cli would print itself; even then it
// returns what it understood.
func arrange(args []string, verbs []*verb) (call, error) {
	var c call
	var globals, flags, rest []string
	var wrong error // the first error
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			if c.verb == nil {
				return c, usagef("meshban --help lists the commands", "a command comes before --")
			}
			rest = append(rest, args[i+1:]...)
			break
		}
		if !strings.HasPrefix(arg, "-") || arg == "-" {
			if c.verb != nil {
				rest = append(rest, arg)
				continue
			}
			if c.verb = verbNamed(arg, verbs); c.verb == nil {
				return c, cmp.Or(wrong, unknownVerb(arg, verbs))
			}
			continue
		}
		name, value, valued := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-"), "=")
		switch {
		case name == "help" || name == "h":
			c.help = true
			continue
		case c.verb == nil && (name == "version" || name == "V" || name == "v"):
			c.version = true
			continue
		}
		into := &globals
		flag := flagNamed(name, globalFlags())
		if flag == nil && c.verb != nil {
			flag, into = flagNamed(name, c.verb.flags), &flags
		}
		if flag == nil {
			wrong = cmp.Or(wrong, unknownFlag(arg, name, c.verb, verbs))
			continue // --help may still follow
		}
		if _, isBool := flag.(*cli.BoolFlag); isBool {
			if valued {
				return c, usagef("", "--%s takes no value", name)
			}
			*into = append(*into, "--"+name)
			continue
		}
		if !valued {
			if i++; i == len(args) {
				c.open = name
				wrong = cmp.Or(wrong, usagef(helpHint(c.verb), "--%s needs a value", name))
				break
			}
			value = args[i]
		}
		if name == "dir" {
			c.dir = value
		}
		*into = append(*into, "--"+name+"="+value)
	}
	if wrong != nil && !c.help {
		return c, wrong
	}
	if c.verb == nil {
		return c, nil
	}
	c.argv = slices.Concat([]string{programName}, globals, []string{c.verb.name}, flags, []string{"--"}, rest)
	return c, nil
}

func verbNamed(name string, verbs []*verb) *verb {
	for _, v := range verbs {
		if v.name == name {
			return v
		}
	}
	return nil
}

// verbNames returns the names of the commands that the help shows.
func verbNames(verbs []*verb) (names []string) {
	for _, v := range verbs {
		if !v.hidden {
			names = append(names, v.name)
		}
	}
	return names
}

func flagNamed(name string, flags []cli.Flag) cli.Flag {
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

func helpHint(v *verb) string {
	if v == nil {
		return "meshban --help lists the commands"
	}
	return fmt.Sprintf("meshban %s --help shows its flags", v.name)
}

func unknownVerb(word string, verbs []*verb) error {
	meant := cmp.Or(config.Nearest(word, verbNames(verbs)), synonyms[word])
	if meant == "" {
		return usagef(helpHint(nil), "%q is no command", word)
	}
	return usagef(fmt.Sprintf("did you mean %q? %s", meant, helpHint(nil)), "%q is no command", word)
}

func unknownFlag(arg, name string, v *verb, verbs []*verb) error {
	if v == nil {
		hint := helpHint(nil)
		for _, other := range verbs {
			if flagNamed(name, other.flags) != nil {
				hint = fmt.Sprintf("it comes after the command: meshban COMMAND --%s", name)
				break
			}
		}
		return usagef(hint, "unknown flag %q", arg)
	}
	var names []string
	for _, f := range slices.Concat(v.flags, globalFlags()) {
		names = append(names, f.Names()...)
	}
	hint := helpHint(v)
	if meant := config.Nearest(name, names); meant != "" {
		hint = fmt.Sprintf("did you mean --%s? %s", meant, hint)
	}
	return usagef(hint, "%s has no flag %q", v.name, arg)
}
