package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/control/controltest"
)

// withJSON has command lines for each verb whose stdout must be JSON; agent logs on stderr, watch ends with its agent,
// and dashboard with an interrupt.
var withJSON = map[string][]string{
	"agent": nil, "watch": nil, "dashboard": nil,
	"init": {"init"}, "invite": {"invite"}, "join": {"join TOKEN", "join --request", "join --certificate FILE"},
	"revoke": {"revoke web3", "revoke web3 --dry-run"}, "forget": {"forget web3"},
	"rotate": {"rotate mesh-key", "rotate node-key TOKEN"}, "ca": {"ca sign FILE", "ca caps web3", "ca export FILE2", "ca import FILE"},
	"ban": {"ban 203.0.113.9"}, "unban": {"unban 203.0.113.7", "unban --all --dry-run"},
	"allow": {"allow 198.51.100.9", "allow --list", "allow --remove 198.51.100.9"},
	"list":  {"list", "list --state enforced --sort left --limit 1"}, "why": {"why 203.0.113.7"}, "members": {"members"},
	"status": {"status", "status --all"}, "audit": {"audit"}, "held": {"held list", "held drop --all"},
	"import": {"import FILE"}, "export": {"export"}, "key": {"key list", "key add web2", "key delete web1"},
	"setup": {"setup systemd --print", "setup systemd", "setup --remove"}, "teardown": {"teardown --dir EMPTY"},
	"hook": {"hook test ops"}, "doctor": {"doctor"}, "drill": {"drill"}, "demo": {"demo"},
	"pause":      {"pause 10m", "pause off --dry-run", "pause 10m --all", "pause off"},
	"completion": {"completion bash"}, "version": {"version"}, "help": {"help", "help ban", "help trust"},
}

// Every verb takes --json, also those that write, and then prints nothing but JSON.
func TestEveryVerbTakesJSON(t *testing.T) {
	dir := t.TempDir()
	serveFake(t, dir, fullAgent(t))
	file := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(file, []byte("203.0.113.20\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	typed := strings.NewReplacer("FILE", file, "EMPTY", t.TempDir())
	for _, v := range newCommand(fakeActions(), nil, nil, nil).verbs() {
		if v.hidden {
			continue
		}
		if _, ok := flagNamed("json", v.flags).(*cli.BoolFlag); !ok {
			t.Errorf("%s has no --json", v.name)
		}
		lines, ok := withJSON[v.name]
		if !ok {
			t.Errorf("no command line for %s", v.name)
		}
		for _, line := range lines {
			args := append([]string{"--dir", dir}, strings.Fields(typed.Replace(line))...)
			out := []byte(printed(t, exitDone, append(args, "--json")...))
			if len(out) == 0 {
				t.Errorf("%s --json prints nothing", line)
			}
			for object := range bytes.Lines(out) {
				var any map[string]any
				if err := json.Unmarshal(object, &any); err != nil {
					t.Errorf("%s --json: %v: %q", line, err, object)
				}
			}
		}
	}
}

// fullAgent returns an agent that has something of everything.
func fullAgent(t *testing.T) *controltest.Agent {
	t.Helper()
	agent := controltest.New(exported()...)
	agent.Audited = audited()
	agent.Hold(control.HeldEntry{Prefix: exported()[0].Prefix, Origin: "web2", ID: "ffeeddccbbaa99887766554433221100", By: "breaker"})
	return agent
}
