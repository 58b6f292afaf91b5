package cli

import (
	"bytes"
	"fmt"
	"runtime"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/node"
)

// What the verbs that write text or files print with --json, where no type of a package below does.

// handedOut is a text of the authority.
type handedOut struct {
	Text string `json:"text"`
	Done string `json:"done"`
	Next string `json:"next,omitempty"`
}

// setupReport is what setup has done, or the files that it prints.
type setupReport struct {
	Files string   `json:"files,omitempty"`
	Done  []string `json:"done"`
	Next  []string `json:"next"`
}

// setupJSON prints the result of a setup that may have failed on the way.
func (c *command) setupJSON(files *bytes.Buffer, res node.SetupResult, err error) error {
	fault := writeObject(c.out, setupReport{files.String(), append([]string{}, res.Done...), append([]string{}, res.Next...)})
	if err != nil {
		return err
	}
	return fault
}

type removal struct {
	Removed []string `json:"removed"`
}

type versionReport struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"` // "+dirty": with changes; "" if the build does not know
	Date    string `json:"date,omitempty"`   // of the commit, RFC 3339
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

func (c *command) version(ctx *cli.Context) error {
	v := versionReport{Version: versionText(), Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	v.Commit, v.Date = commit()
	if ctx != nil && ctx.Bool("json") {
		return writeObject(c.out, v)
	}
	built := fmt.Sprintf("%s %s/%s", v.Go, v.OS, v.Arch)
	if v.Commit != "" {
		built = fmt.Sprintf("commit %s of %s, %s", v.Commit, v.Date, built)
	}
	_, err := fmt.Fprintf(c.out, "meshban %s (%s)\n", v.Version, built)
	return err
}

// helpFlag describes a flag.
type helpFlag struct {
	Name  string `json:"name"`
	Value string `json:"value,omitempty"`
	Usage string `json:"usage"`
}

// helpEntry describes a command or a topic; a list leaves out the text.
type helpEntry struct {
	Name  string     `json:"name"`
	Args  string     `json:"args,omitempty"`
	Short string     `json:"short"`
	Flags []helpFlag `json:"flags,omitempty"`
	Text  string     `json:"text,omitempty"`
}

func commandEntry(v *verb, text string) helpEntry {
	e := helpEntry{Name: v.name, Args: v.args, Short: v.short, Text: text}
	for _, f := range v.flags {
		value, usage := flagUsage(f)
		e.Flags = append(e.Flags, helpFlag{f.Names()[0], value, usage})
	}
	return e
}

// helpJSON lists the commands and topics.
func (c *command) helpJSON(verbs []*verb) error {
	var list struct {
		Commands []helpEntry `json:"commands"`
		Topics   []helpEntry `json:"topics"`
	}
	for _, v := range verbs {
		if !v.hidden {
			list.Commands = append(list.Commands, commandEntry(v, ""))
		}
	}
	for _, t := range topics() {
		list.Topics = append(list.Topics, helpEntry{Name: t.name, Short: t.short})
	}
	return writeObject(c.out, list)
}
