package cli

import (
	"cmp"
	"context"
	_ "embed" // the completion scripts
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

const (
	maxCandidates = 100                    // how many addresses are offered
	candidateTime = 300 * time.Millisecond // how long the agent may take to list them
	filesInstead  = ":files"               // tells the shell's script to offer files
)

//go:embed completion/meshban.bash
var bashCompletion string

//go:embed completion/meshban.zsh
var zshCompletion string

//go:embed completion/meshban.fish
var fishCompletion string

// completion prints the script for a shell.
func (c *command) completion(ctx *cli.Context) error {
	shell, err := oneArg(ctx, "a shell: bash, zsh or fish", "meshban completion bash")
	if err != nil {
		return err
	}
	script, ok := map[string]string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}[shell]
	if !ok {
		return usagef("write bash, zsh or fish", "there is no completion for %q", shell)
	}
	if ctx.Bool("json") {
		return writeObject(c.out, map[string]string{"shell": shell, "script": script})
	}
	_, err = c.out.WriteString(script)
	return err
}

// words serves the completion scripts: its arguments are the words of the line so far, the last still being typed. It
// prints candidates, one per line, with a description after a tab.
func (c *command) words(ctx *cli.Context) error {
	words := ctx.Args().Slice()
	if len(words) == 0 {
		return nil
	}
	last := words[len(words)-1]
	for _, candidate := range c.candidates(ctx, words[:len(words)-1], last) {
		if strings.HasPrefix(candidate, last) || candidate == filesInstead {
			fmt.Fprintln(c.out, candidate)
		}
	}
	return nil
}

// candidates returns the words that can replace last, the word being typed, after the words before.
func (c *command) candidates(ctx *cli.Context, before []string, last string) []string {
	verbs := c.verbs()
	typed, _ := arrange(before, verbs) // the line may be wrong, or not complete
	if typed.open != "" {              // last is the value of this flag
		return valuesOf(typed.verb, typed.open, "")
	}
	if name, _, ok := strings.Cut(last, "="); ok && strings.HasPrefix(name, "--") {
		return valuesOf(typed.verb, name[2:], name+"=")
	}
	if strings.HasPrefix(last, "-") {
		return flagCandidates(typed.verb)
	}
	if typed.verb == nil {
		return verbCandidates(verbs)
	}
	dir, err := stateDir(cmp.Or(typed.dir, ctx.String("dir")))
	if err != nil {
		return nil
	}
	switch typed.verb.name {
	case "pause":
		return []string{"10m", "1h", "off"}
	case "unban", "why", "list":
		return banned(ctx.Context, control.NewClient(socketOf(dir)), last)
	case "allow":
		if slices.Contains(before, "--remove") {
			return allowedByMesh(ctx.Context, control.NewClient(socketOf(dir)))
		}
	case "import":
		return []string{filesInstead}
	case "help":
		all := verbCandidates(verbs)
		for _, t := range topics() {
			all = append(all, t.name+"\t"+t.short)
		}
		return all
	}
	return typed.verb.choices()
}

// choices returns the words that may be the first argument: args has "list | release ADDR...".
func (v *verb) choices() (words []string) {
	for form := range strings.SplitSeq(v.args, "|") {
		word, _, _ := strings.Cut(strings.TrimSpace(form), " ")
		if word == strings.ToLower(word) && !strings.HasPrefix(word, "-") && word != "" {
			words = append(words, word)
		}
	}
	return words
}

// valuesOf returns values of a flag of v, which may be nil, each prefixed with prefix.
func valuesOf(v *verb, flag, prefix string) []string {
	var known, out []string
	switch flag {
	case "dir", "config", "line-file", "key", "bundle":
		return []string{filesInstead}
	case "format":
		known = formats
		if v != nil && v.name == "watch" {
			known = []string{formatExaBGP}
		}
	case "as":
		known = []string{asFlow, asBlackhole}
	case "state":
		known = listStates
	case "sort":
		known = slices.Sorted(maps.Keys(sortKeys))
	case "firewall":
		known = append([]string{"auto"}, config.Backends()...)
	case "for", "max-for", routesFrom:
		known = []string{"30m", "1h", "12h", "1d", "7d"}
	}
	for _, v := range known {
		out = append(out, prefix+v)
	}
	return out
}

func flagCandidates(v *verb) []string {
	flags := slices.Concat(globalFlags(), []cli.Flag{toggle("help", "print help")})
	if v != nil {
		flags = append(flags, v.flags...)
	}
	var out []string
	for _, f := range flags {
		_, usage := flagUsage(f)
		out = append(out, "--"+f.Names()[0]+"\t"+usage)
	}
	slices.Sort(out)
	return out
}

func verbCandidates(verbs []*verb) []string {
	var out []string
	for _, v := range verbs {
		if !v.hidden {
			out = append(out, v.name+"\t"+v.short)
		}
	}
	return out
}

var errEnough = errors.New("enough candidates")

// banned returns banned addresses that begin with start.
func banned(ctx context.Context, client *control.Client, start string) []string {
	ctx, cancel := context.WithTimeout(ctx, candidateTime)
	defer cancel()
	var out []string
	// Nobody can be told about an error here: the shell just completes nothing more.
	_ = client.List(ctx, false, func(e control.ListEntry) error {
		addr := e.Prefix.String()
		if !strings.HasPrefix(addr, start) || slices.Contains(out, addr) {
			return nil
		}
		if out = append(out, addr); len(out) == maxCandidates {
			return errEnough
		}
		return nil
	})
	return out
}

// allowedByMesh returns what allow --remove can take.
func allowedByMesh(ctx context.Context, client *control.Client) []string {
	ctx, cancel := context.WithTimeout(ctx, candidateTime)
	defer cancel()
	entries, err := client.Allowed(ctx)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		if e.Source == "mesh" {
			out = append(out, e.Prefix.String())
		}
	}
	return out
}
