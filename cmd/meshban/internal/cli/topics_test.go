package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
)

// Every topic is listed, has a short text, fits a terminal, and is printed verbatim.
func TestTopics(t *testing.T) {
	files, err := filepath.Glob("help/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(topicNames) {
		t.Errorf("%d files in help, %d names of topics", len(files), len(topicNames))
	}
	list := printed(t, 0, "help")
	for _, topic := range topics() {
		if verbNamed(topic.name, new(command).verbs()) != nil {
			t.Errorf("%s is a command too", topic.name)
		}
		if !strings.Contains(list, topic.name) || !strings.Contains(list, topic.short+"\n") || strings.Contains(topic.short, "\n") {
			t.Errorf("the help does not list %s: %q", topic.name, topic.short)
		}
		text := printed(t, 0, "help", topic.name)
		if text != topic.text || !strings.HasSuffix(text, "\n") {
			t.Errorf("help %s prints something else", topic.name)
		}
		for line := range strings.SplitSeq(text, "\n") {
			if len(line) > helpWidth+12 || strings.TrimRight(line, " \t") != line || strings.Contains(line, "\t") {
				t.Errorf("%s: too long, or with blanks at the end, or tabs: %q", topic.name, line)
			}
		}
	}
}

// help config prints the whole reference configuration, which the agent can read.
func TestTopicHoldsTheReferenceConfiguration(t *testing.T) {
	if text := printed(t, 0, "help", "config"); !strings.HasSuffix(text, "\n"+config.Reference()) {
		t.Errorf("help config ends in %q", text[max(0, len(text)-200):])
	}
}

func TestPager(t *testing.T) {
	for _, c := range []struct{ name, pager, terminal, stdout string }{
		{"ok: it shows the text", "sed -n '1s/.*/paged/p'", "paged\n", ""},
		{"bad: it does not start", "exit 127", "", "one\ntwo\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("PAGER", c.pager)
			term, err := os.Create(filepath.Join(t.TempDir(), "terminal"))
			if err != nil {
				t.Fatal(err)
			}
			defer term.Close()
			var out, errs bytes.Buffer
			cmd := newCommand(fakeActions(), strings.NewReader(""), &out, &errs)
			cmd.term = term
			if err := cmd.page("one\ntwo\n"); err != nil {
				t.Fatal(err)
			}
			if err := cmd.out.Flush(); err != nil {
				t.Fatal(err)
			}
			shown, err := os.ReadFile(term.Name())
			if err != nil {
				t.Fatal(err)
			}
			if string(shown) != c.terminal || out.String() != c.stdout {
				t.Errorf("the terminal shows %q, stdout %q", shown, &out)
			}
		})
	}
}

var (
	quotedCommand = regexp.MustCompile("`(?:sudo )?(meshban\\s[^`]+)`")
	typedLine     = regexp.MustCompile(`(?m)^ {2,}.*$`)
	typedCommand  = regexp.MustCompile(`\bmeshban (?:--[a-z-]+ |[a-z]+\b)[^|&;>#]*`)
	comment       = regexp.MustCompile(`[^ ] {2,}.*`) // after a command
	shellWord     = regexp.MustCompile(`"[^"]*"`)
	anyName       = strings.NewReplacer("TOPIC", "trust", "COMMAND", "ban")
)

// Every command in the README, its companion texts and the topics can be typed.
func TestCommandsInDocuments(t *testing.T) {
	documents := map[string]string{}
	for _, name := range []string{"README.md", "test/SECURITY.md", "test/FIGURES.md"} {
		text, err := os.ReadFile("../../../../" + name)
		if err != nil {
			t.Fatal(err)
		}
		documents[name] = string(text)
	}
	for _, topic := range topics() {
		documents["help "+topic.name] = topic.text
	}
	for name, text := range documents {
		var commands []string
		for _, m := range quotedCommand.FindAllStringSubmatch(text, -1) {
			commands = append(commands, m[1])
		}
		for _, line := range typedLine.FindAllString(text, -1) {
			if !strings.Contains(line, "`") {
				commands = append(commands, typedCommand.FindAllString(comment.ReplaceAllStringFunc(line, firstByte), -1)...)
			}
		}
		for _, command := range commands {
			words := strings.Fields(shellWord.ReplaceAllString(anyName.Replace(command), "text"))
			if len(words) == 2 { // only names the command, to be typed with more
				words = append(words, "--help")
			}
			checkCommand(t, name, strings.Join(words, " "))
		}
		if name == "README.md" && len(commands) < 15 || name == "help trust" && len(commands) < 10 {
			t.Errorf("only %d commands were found in %s", len(commands), name)
		}
	}
}

func firstByte(s string) string { return s[:1] }
