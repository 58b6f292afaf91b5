package cli

import (
	"cmp"
	"embed"
	"os"
	"os/exec"
	"strings"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
)

//go:embed all:help
var helpFiles embed.FS

// text returns what the verb does, promises and prints, and examples, one a line.
func (v *verb) text() (long, examples string) {
	file, err := helpFiles.ReadFile("help/commands/" + v.name + ".txt")
	if err != nil {
		return "", "" // TestExamples finds it
	}
	long, examples, _ = strings.Cut(strings.TrimSuffix(string(file), "\n"), "\n\nExamples:\n")
	return long, examples
}

// topic is a text of `meshban help` about no single command.
type topic struct {
	name  string
	short string // one line for the list of topics
	text  string
}

// topicNames are the topics in the order of the help.
var topicNames = []string{"trust", "caps", "security", "fail2ban", "lines", "migrate", "crowdsec", "api", "proxies", "routers", "bgp", "hooks", "metrics", "config", "figures", "troubleshoot"}

// topicNamed reads a topic: the first line of its file is the short text.
func topicNamed(name string) (topic, bool) {
	file, err := helpFiles.ReadFile("help/" + name + ".txt")
	if err != nil {
		return topic{}, false
	}
	short, text, _ := strings.Cut(string(file), "\n\n")
	if name == "config" {
		text += "\n" + config.Reference()
	}
	return topic{name, short, name + ": " + short + "\n\n" + text}, true
}

func topics() []topic {
	var all []topic
	for _, name := range topicNames {
		if t, ok := topicNamed(name); ok {
			all = append(all, t)
		}
	}
	return all
}

// page writes a long text to stdout, through a pager if stdout is a terminal.
func (c *command) page(text string) error {
	pager := os.Getenv("PAGER")
	if path, err := exec.LookPath("less"); err == nil {
		pager = cmp.Or(pager, path+" -FRX")
	}
	if c.term != nil && pager != "" {
		cmd := exec.Command("sh", "-c", pager)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(text), c.term, c.err
		cmd.Env = append(os.Environ(), "LESSSECURE=1") // a user who may run this by sudo gets no shell from less
		if cmd.Run() == nil {
			return nil
		}
	}
	_, err := c.out.WriteString(text)
	return err
}
