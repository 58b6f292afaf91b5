package cli

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// systemDir is the state folder of an agent that root runs.
const systemDir = "/var/lib/meshban"

// stateDir returns the absolute state folder. An empty name means the default.
func stateDir(name string) (string, error) {
	if name == "" {
		return defaultDir()
	}
	dir, err := filepath.Abs(name)
	if err != nil {
		return "", fmt.Errorf("find state folder %q: %w", name, err)
	}
	return dir, nil
}

// defaultDir returns systemDir for root, else a folder below the user's own state folder (XDG Base Directory
// Specification).
func defaultDir() (string, error) {
	if os.Geteuid() == 0 {
		return systemDir, nil
	}
	if state := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(state) {
		return filepath.Join(state, programName), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", usagef("name the state folder: --dir D", "no state folder: %v", err)
	}
	return filepath.Join(home, ".local", "state", programName), nil
}

func socketOf(dir string) string { return filepath.Join(dir, control.SocketName) }

// noAgentHint returns where an agent runs, or how to start one.
func (c *command) noAgentHint() string {
	if c.dir != systemDir {
		if _, err := os.Lstat(socketOf(systemDir)); err == nil {
			return fmt.Sprintf("an agent runs on %s: use sudo, or --dir %[1]s", systemDir)
		}
	}
	if c.dir == systemDir {
		return "start one with `systemctl start meshban` or `meshban agent`; if it uses another folder, name that with --dir"
	}
	return fmt.Sprintf("start one with `meshban agent --dir %s`; if it uses another folder, name that with --dir", c.dir)
}
