package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/home"
)

// An agent with somebody to join and no mesh made a mesh of one, and nobody there would let it in.
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
			err := runAgent(ended, AgentOptions{Dir: dir, Join: c.join, Firewall: []string{"none"}, Version: "1", Stderr: io.Discard})
			if err == nil {
				t.Fatal("it runs")
			}
			e := control.AsError(err)
			if exitCode(err) != exitConfig || !strings.Contains(e.Message, "192.0.2.10:7946") || !strings.Contains(e.Hint, "meshban join TOKEN") {
				t.Errorf("exit code %d, %+v", exitCode(err), e)
			}
			if has, err := home.Dir(dir).SetUp(); has || err != nil {
				t.Errorf("a mesh was made (%v, %v)", has, err)
			}
		})
	}
}
