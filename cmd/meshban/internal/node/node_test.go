package node

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/statedir"
)

// An agent with a join list but no mesh used to make a mesh of one, and no node on the list would let it in.
func TestJoinListNeedsAMesh(t *testing.T) {
	cases := []struct {
		name, file string
		join       []string
	}{
		{"bad: flag", "", []string{"192.0.2.10:7946"}},
		{"bad: config file", "join: [192.0.2.10, web1]\n", nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, config.FileName), []byte(c.file), 0o600); err != nil {
				t.Fatal(err)
			}
			ended, end := context.WithCancel(t.Context())
			end()
			err := Run(ended, AgentOptions{Dir: dir, Join: c.join, Firewall: []string{"none"}, Version: "1", Stderr: io.Discard})
			if err == nil {
				t.Fatal("it runs")
			}
			e := control.AsError(err)
			if !errors.As(err, new(ConfigError)) || !strings.Contains(e.Message, "192.0.2.10:7946") || !strings.Contains(e.Hint, "meshban join TOKEN") {
				t.Errorf("%T, %+v", err, e)
			}
			if has, err := statedir.Dir(dir).SetUp(); has || err != nil {
				t.Errorf("a mesh was made (%v, %v)", has, err)
			}
		})
	}
}

// An agent whose folder had lost mesh.key used to make a new mesh of one, and to remove the bans from the kernel.
func TestNodeWithoutItsKeyMakesNoMesh(t *testing.T) {
	for _, left := range []string{"node.key", "node.cert", "ca.key", "store.db", "audit.jsonl"} {
		t.Run(left, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, left), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			ended, end := context.WithCancel(t.Context())
			end()
			for _, join := range [][]string{nil, {"192.0.2.1:7946"}} { // a node that has joined was told that it had never
				if left == "node.key" && join != nil {
					continue // all that a join which fails leaves
				}
				err := Run(ended, AgentOptions{Dir: dir, Firewall: []string{"none"}, Version: "1", Stderr: io.Discard, Join: join})
				if err == nil {
					t.Fatal("it runs")
				}
				e := control.AsError(err)
				if !errors.As(err, new(ConfigError)) || !strings.Contains(e.Message, "mesh.key is missing") || !strings.Contains(e.Message, left) || e.Hint == "" {
					t.Errorf("join %q: %T, %+v", join, err, e)
				}
			}
			if has, err := statedir.Dir(dir).SetUp(); has || err != nil {
				t.Errorf("a mesh was made (%v, %v)", has, err)
			}
		})
	}
}

// An agent whose folder had lost node.key used to say only that a file was missing, and a supervisor restarted it forever.
func TestNodeWithoutNodeKey(t *testing.T) {
	dir := statedir.Dir(t.TempDir())
	if err := os.WriteFile(dir.Secrets(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := Run(t.Context(), AgentOptions{Dir: string(dir), Firewall: []string{"none"}, Version: "1", Stderr: io.Discard})
	if err == nil {
		t.Fatal("it runs")
	}
	if e := control.AsError(err); !errors.As(err, new(ConfigError)) || !strings.Contains(e.Message, "node.key is missing") || !strings.Contains(e.Hint, "from a copy") {
		t.Errorf("%T, %+v", err, e)
	}
}

// With a limit of 32 open files and 25 watchers, the CLI used to hang.
func TestFewFilesAreRefused(t *testing.T) {
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	few := was
	few.Cur = minFiles - 1
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	err := Run(t.Context(), AgentOptions{Dir: t.TempDir(), Stderr: io.Discard})
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	if err == nil {
		t.Fatal("it runs")
	}
	if e := control.AsError(err); !errors.As(err, new(ConfigError)) || !strings.Contains(e.Hint, "LimitNOFILE") || !strings.Contains(e.Hint, "ulimit -n") {
		t.Errorf("%T, %+v", err, e)
	}
}

// SIGTERM ends the agent even if a task hangs.
func TestAgentEndsWithoutWhatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		hung, begun := make(chan struct{}), time.Now()
		time.AfterFunc(time.Minute, cancel)
		err := within(ctx, func() error { <-hung; return nil })
		if took := time.Since(begun); err == nil || took != time.Minute+stopLimit || stopLimit >= 5*time.Second {
			t.Errorf("%v after %v", err, took)
		}
		close(hung)
	})
}
