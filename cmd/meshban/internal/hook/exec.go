package hook

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

const (
	execTimeout = 30 * time.Second
	execPath    = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// run gives a message to a command on stdin. The command has PATH alone in its environment; when its time is up, it is
// killed with all of its process group. What it prints is discarded.
func run(ctx context.Context, argv []string, m *message) error {
	input, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode a message: %w", err)
	}
	limited, cancel := context.WithTimeout(ctx, execTimeout)
	defer cancel()
	cmd := exec.CommandContext(limited, argv[0], argv[1:]...)
	cmd.Dir = "/"
	path := os.Getenv("PATH")
	if path == "" {
		path = execPath
	}
	cmd.Env = []string{"PATH=" + path}
	cmd.Stdin = bytes.NewReader(append(input, '\n'))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // for its stdin, if it left that to another process
	err = cmd.Run()
	if limited.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("%s ran longer than %v and was killed", argv[0], execTimeout)
	}
	if err != nil {
		return fmt.Errorf("run %s: %w", argv[0], err)
	}
	return nil
}
