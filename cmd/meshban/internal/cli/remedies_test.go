package cli

import (
	"bytes"
	"context"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/node"
)

// remedies are commands that fail, or that say what to do next. says is part of what they print. then is what a
// reader types, with the gaps filled in; it is "" if the text names whole commands, which the test types in any case.
// D stands for a folder without a mesh, K for an exported key.
var remedies = []struct {
	typed string
	code  int
	says  string
	then  string
}{
	{"ban", 2, "for example: meshban ban 192.0.2.7", ""},
	{"ban 203.0.113.1 --for 31d", 4, "write --for 30d or less", "ban 203.0.113.1 --for 30d"},
	{"ban 203.0.113.1 --for 99999d", 2, "write a length such as 90s, 30m, 12h or 7d12h", "ban 203.0.113.1 --for 7d12h"},
	{"ban 203.0.113.1 --for 0", 2, "write a length such as 90s, 30m, 12h or 7d12h", "ban 203.0.113.1 --for 90s"},
	{"ban 203.0.113.1 --for 45", 2, "write 45s for seconds or 45m for minutes", "ban 203.0.113.1 --for 45m"},
	{"ban 203.0.113.1 --fro 1h", 2, "did you mean --for?", "ban 203.0.113.1 --for 1h"},
	{"ban 203.0.113.1 --for", 2, "meshban ban --help shows its flags", ""},
	{"ban 203.0.113.1/24", 2, "write 203.0.113.0/24 for the network or 203.0.113.1 for the one address", "ban 203.0.113.0/24 203.0.113.1"},
	{"ban 203.0.113.0/255.255.255.0", 2, "write 203.0.113.0/24", "ban 203.0.113.0/24"},
	{"ban 203.0.113.0/33", 2, "write a length of 0 to 32 after the slash", "ban 203.0.113.0/32"},
	{"ban 203.0.113.1:22", 2, "ports go into --port", "ban 203.0.113.1 --port 22"},
	{"ban 203.0.113.1 --port 1-2000", 4, "leave out --port", "ban 203.0.113.1"},
	{"ban 203.0.113.1 --port 22/icmp", 2, "write ports as 22/tcp,80,8000-8010", "ban 203.0.113.1 --port 22/tcp,80,8000-8010"},
	{"ban 203.0.113.1 --port nosuch", 2, "write its number, such as 22/tcp", "ban 203.0.113.1 --port 22/tcp"},
	{"ban 0.0.0.0/0", 4, "ban networks of /8 to /32", "ban 11.0.0.0/8"},
	{"ban ::/0", 4, "ban networks of /19 to /128", "ban 2001::/19"},
	{"ban fe80::1", 4, "`meshban why fe80::1` shows what protects it", ""},
	{"ban 127.0.0.1", 4, "`meshban why 127.0.0.1` shows what protects it", ""},
	{"bann 203.0.113.1", 2, `did you mean "ban"? meshban --help`, "ban 203.0.113.1"},
	{"unban 11.0.0.1", 5, "`meshban unban 11.0.0.0/8`, or except this one with `meshban allow 11.0.0.1`", ""},
	{"unban --dry-run 203.0.113.1", 2, "meshban why ADDR", ""},
	{"unban --all --by web1", 2, "leave out --all", "unban --by web1"},
	{"unban --source nosuch", 5, "`meshban list` shows", ""},
	{"allow 0.0.0.0/0", 4, "allow networks of /8 to /32", "allow 12.0.0.0/8"},
	{"allow 203.0.113.9 --for 400d", 4, "write --for 366d or less", "allow 203.0.113.9 --for 366d"},
	{"ban 203.0.113.9", 4, "`meshban allow --remove 203.0.113.9` takes it off", "ban 203.0.113.9"},
	{"allow --list 203.0.113.9", 2, "meshban allow --list", ""},
	{"allow --remove 203.0.113.9 --for 1h", 2, "meshban allow --remove ADDR", ""},
	{"why", 2, "for example: meshban why 203.0.113.7", ""},
	{"pause", 2, "for example: `meshban pause 10m`, or `meshban pause off`", ""},
	{"pause 25h", 2, "write 10m, or another length of up to 1d, or off", "pause 24h"},
	{"pause --all 2h", 2, "write 10m, or another length of up to 1h, or off", "pause --all 1h"},
	{"list --state hold", 2, `did you mean "held"?`, "list --state held"},
	{"list --state x", 2, "write one of enforced, not enforced, pending, held, allowed", "list --state pending"},
	{"list --sort reason", 2, "write one of address, by, hits, left, source, state", "list --sort left"},
	{"list --by=", 2, "meshban list shows nodes and sources", "list --by web1"},
	{"export --json --format nft", 2, "leave out one of them", "export --format nft"},
	{"list --bye x", 2, "meshban list --help shows its flags", ""},
	{"audit --since yesterday", 2, "write it as 2026-11-22T11:02:11Z, 2h or 3d", "audit --since 2026-11-22T11:02:11Z"},
	{"audit --since 2026-11-22", 2, "write it as 2026-11-22T11:02:11Z, 2h or 3d", "audit --since 3d"},
	{"held", 2, "meshban held list", ""},
	{"held release 203.0.113.1", 5, "`meshban held list` shows what is", ""},
	{"export --format jsn", 2, `did you mean "json"?`, "export --format json"},
	{"export --format x", 2, "write plain, json, csv, ipset or nft", "export --format nft"},
	{"import", 2, "for example: meshban import list.txt", ""},
	{"invite --uses 0", 2, "--uses: must be 1 to 1000", "invite --uses 1000"},
	{"invite --max-for 31d", 2, "write whole seconds of 1s to 30d", "invite --max-for 30d"},
	{"invite --for 31d", 2, "a token is good for at most 30d", "invite --for 30d"},
	{"revoke nosuch", 5, "`meshban members` lists them", ""},
	{"revoke", 2, "meshban revoke web3", ""},
	{"revoke web1 --since soon", 2, "write it as 2026-11-22T11:02:11Z, 2h or 3d", ""},
	{"forget nosuch", 5, "`meshban members` lists them", ""},
	{"hook test nosuch", 5, "meshban.yaml names them under `hooks:`", ""},
	{"hook tset ops", 2, "meshban hook test NAME", "hook test ops"},
	{"hook test", 2, "meshban hook test NAME", "hook test ops"},
	{"ca caps nosuch", 5, "`meshban members` lists them", ""},
	{"ca caps web1 --rate 0", 2, "--rate: must be 1 to 100000000", "ca caps web1 --rate 100000000"},
	{"ca", 2, "meshban ca sign REQUEST, meshban ca caps NODE, meshban ca export FILE, or meshban ca import FILE", ""},
	{"ca export K", 1, "name a file that does not exist yet", "ca export K2"},
	{"ca export D/no/key", 1, "D/no/key: no such file", ""},
	{"ca export --move K3", 1, "stop it first (systemctl stop meshban), or choose another folder with --dir", ""},
	{"rotate", 2, "meshban rotate mesh-key, or meshban rotate node-key TOKEN", ""},
	{"rotate mesh-key now", 2, `mesh-key takes no argument, got "now"`, ""},
	{"join nosuch --dir D", 2, "copy the whole line that `meshban invite` prints", ""},
	{"drill now", 2, `drill takes no argument, got "now"`, "drill"},
	{"drill", 4, "`meshban status` shows its result", "status"},
	{"doctor --peer nosuch", 5, "`meshban members` lists them", ""},
	{"doctor --addresses", 2, "meshban doctor --bundle FILE --addresses", ""},
	{"doctor --bundle K", 1, "name a file that does not exist yet", "members"},
	{"completion tcsh", 2, "write bash, zsh or fish", "completion fish"},
	{"setup fail2bam", 2, `did you mean "fail2ban"?`, "setup fail2ban --print"},
	{"setup grafana", 2, "`meshban setup grafana --print` prints it", ""},
	{"setup fail2ban --print --remove", 2, "give one of them", "setup fail2ban --print"},
	{"agent --firewall pf --dir D", 2, "write auto, or a list out of ipset, nftables, iptables, none", ""},
	{"agent --metrics 127.0.0.1 --dir D", 2, "write ADDRESS:PORT such as 127.0.0.1:9100", ""},
	{"agent --join 192.0.2.9 --dir D", 78, "run `meshban invite` on a member, then here: meshban join TOKEN", ""},
	{"status --dir D", 3, "start one with `meshban agent --dir D`; if it uses another folder, name that with --dir", ""},
	{"ca export K4 --dir D", 1, "name the node's folder with --dir, or enter a mesh with `meshban join TOKEN`", ""},
	{"rotate node-key --dir D", 5, "name the node's folder with --dir, or enter a mesh with `meshban join TOKEN`", ""},
	{"init --dir A", 1, "stop it first (systemctl stop meshban)", ""},
}

var (
	// commandText matches a command in a text: in backquotes, or up to the first word that cannot belong to one.
	commandText = regexp.MustCompile("`(meshban [^`]+)`|(meshban [a-z]+(?: (?:sign|caps|export|import|list\\.txt|list|mesh-key|node-key|test|[A-Z]+|--[a-z-]+|[a-z]*\\d[\\w.:/-]*)\\b)*)")
	placeholder = regexp.MustCompile(`\b[A-Z]{2,}\b|\bweb3\b`)
)

// The commands that a message suggests work exactly as written.
func TestRemedies(t *testing.T) {
	base := t.TempDir()
	path := func(name string) string { return filepath.Join(base, name) }
	if err := os.Mkdir(path("D"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path("list.txt"), []byte("203.0.113.200\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(base)
	config := path("debug.yaml")
	if err := os.WriteFile(config, []byte("log: {level: debug}\nhooks: [{name: ops, on: [ban], exec: [/bin/true]}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var log bytes.Buffer // read once the agent has ended
	ended := make(chan error, 1)
	go func() {
		ended <- node.Run(ctx, node.AgentOptions{
			Dir: path("A"), Name: "web1", Bind: netip.MustParseAddrPort("127.0.0.1:0"), Firewall: []string{"none"}, Config: config, Version: "1", Stderr: &log,
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%v\n%s", err, &log)
		}
	})
	names := regexp.MustCompile(`\b(?:[AD]|K\d?)(\b|/)`)
	run := func(line string) (code int, says string) {
		var out, errs bytes.Buffer
		args := strings.Fields(names.ReplaceAllStringFunc(line, func(s string) string { return path(s) }))
		if !slices.Contains(args, "--dir") {
			args = append([]string{"--dir", path("A")}, args...)
		}
		code = newCommand(wire(), strings.NewReader(""), &out, &errs).run(t.Context(), args)
		return code, strings.ReplaceAll(errs.String(), base+"/", "")
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	end := time.After(20 * time.Second)
	for code, says := run("status"); code != exitDone; code, says = run("status") {
		select {
		case <-tick.C:
		case <-end:
			t.Fatal(says)
		}
	}
	if code, says := run("ca export K"); code != exitDone {
		t.Fatal(says)
	}
	for _, r := range remedies {
		code, says := run(r.typed)
		if code != r.code || !strings.Contains(says, r.says) {
			t.Errorf("%s: exit code %d, want %d and %q:\n%s", r.typed, code, r.code, r.says, says)
		}
		_, hint, _ := strings.Cut(says, "hint: ")
		for _, m := range commandText.FindAllStringSubmatch(hint, -1) {
			typeCommand(t, r.typed, strings.TrimPrefix(m[1]+m[2], "meshban "), run)
		}
		if r.then != "" {
			typeCommand(t, r.typed, r.then, run)
		}
	}
}

// Every command in backquotes in the program's texts can be typed without a usage error.
func TestCommandsInTexts(t *testing.T) {
	literal, quoted := regexp.MustCompile(`"(?:[^"\\\n]|\\.)*"`), regexp.MustCompile("`(meshban [^`]+)`")
	found := 0
	for _, top := range []string{"../..", "../../../../mesh", "../../../../fw", "../../../../ban", "../../../../logsrc"} {
		err := filepath.WalkDir(top, func(path string, _ fs.DirEntry, err error) error {
			isText := filepath.Base(filepath.Dir(path)) == "commands"
			if err != nil || !isText && (!strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go")) {
				return err
			}
			source, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			texts := [][]byte{source}
			if !isText {
				texts = literal.FindAll(source, -1)
			}
			for _, text := range texts {
				for _, m := range quoted.FindAllSubmatch(text, -1) {
					found++
					checkCommand(t, path, string(m[1]))
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found < 40 {
		t.Errorf("only %d commands were found", found)
	}
}

// Every command of ours that doctor says to type is used correctly.
func TestCommandsOfDoctor(t *testing.T) {
	literal, command := regexp.MustCompile(`"(?:[^"\\\n]|\\.)*"`), regexp.MustCompile(`(?:^"|; |&& )(meshban [a-z][^;&#"]*)`)
	found := 0
	for _, name := range []string{"doctor.go", "host.go", "mesh.go"} {
		source, err := os.ReadFile(filepath.Join("..", "doctor", name))
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range literal.FindAll(source, -1) {
			for _, m := range command.FindAllSubmatch(text, -1) {
				found++
				checkCommand(t, name, string(m[1]))
			}
		}
	}
	if found < 8 {
		t.Errorf("only %d commands were found", found)
	}
}

// filledIn matches a stand-in for a value in a text.
var filledIn = regexp.MustCompile(`%(\[\d\])?[sq]|\b[A-Z]{2,}\b`)

// checkCommand checks that the command in a text exists and is used correctly.
func checkCommand(t *testing.T, where, text string) {
	t.Helper()
	line := strings.ReplaceAll(strings.TrimPrefix(text, "meshban "), "%s %s", "%s") // a node, and flags
	line = filledIn.ReplaceAllString(line, "203.0.113.7")                           // a name too
	args := strings.Fields(line)
	call, err := arrange(args, new(command).verbs())
	if err != nil {
		t.Errorf("%s: %s: %v", where, text, err)
		return
	}
	if call.verb == nil || slices.Contains([]string{"agent", "init", "join", "setup", "teardown"}, call.verb.name) || slices.Contains(args, "--bundle") {
		return
	}
	var out, errs bytes.Buffer
	cmd := newCommand(fakeActions(), strings.NewReader(""), &out, &errs)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if call.verb.name == "watch" { // for ExaBGP it waits for an agent
		cancel()
	}
	if code := cmd.run(ctx, append([]string{"--dir", t.TempDir()}, args...)); code == exitUsage {
		t.Errorf("%s: %s: exit code %d\n%s", where, text, code, &errs)
	}
}

// typeCommand types what a text suggests. A line with a placeholder, or one that changes the machine, need only be valid.
func typeCommand(t *testing.T, after, line string, run func(string) (int, string)) {
	t.Helper()
	if _, err := arrange(strings.Fields(line), new(command).verbs()); err != nil {
		t.Errorf("%s: as told, %s: %v", after, line, err)
		return
	}
	verb, _, _ := strings.Cut(line, " ")
	if placeholder.MatchString(line) || verb == "agent" || verb == "rotate" {
		return
	}
	if code, says := run(line); code != exitDone {
		t.Errorf("%s: following the hint, %s: exit code %d:\n%s", after, line, code, says)
	}
}
