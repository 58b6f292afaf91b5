//go:build linux && netns

package fw

import (
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// claimEnv is set in the test's other processes.
const claimEnv = "FW_TEST_CLAIM"

// A process claims the kernel of its network namespace. Another process of root is told which one has it, and may claim
// it once that one has ended. A socket of another user claims nothing.
func TestClaim(t *testing.T) {
	switch {
	case os.Getenv(claimEnv) != "":
		_, squatter, err := Claim()
		if err != nil {
			t.Fatal(err)
		}
		_, _ = os.Stdout.WriteString("claimed " + squatter + "\n")
		_, _ = io.Copy(io.Discard, os.Stdin)
		return
	case !inside(t):
		return
	}
	squatter, end := claimer(t, 65534)
	if squatter != "claimed \n" {
		t.Fatalf("a user: %s", squatter)
	}
	if out, end := claimer(t, 0); !strings.Contains(out, "claimed process") || !strings.Contains(out, "of user 65534") || !end() {
		t.Errorf("root, while a user listens: %s", out)
	}
	if !end() {
		t.Error("the user's process failed")
	}
	release, _, err := Claim()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Claim(); err != nil {
		t.Errorf("again by the same process: %v", err)
	}
	if out, end := claimer(t, 0); !strings.Contains(out, ErrClaimed.Error()+": process "+strconv.Itoa(os.Getpid())) || end() {
		t.Errorf("another process: %s", out)
	}
	if err := release(); err != nil {
		t.Error(err)
	}
	if out, end := claimer(t, 0); out != "claimed \n" || !end() {
		t.Errorf("after the end: %s", out)
	}
	if _, _, err := Open(ctx, []string{NameIPSet}, Options{Refused: ErrClaimed}); err == nil || !strings.Contains(err.Error(), ErrClaimed.Error()) {
		t.Errorf("a backend in another's kernel: %v", err)
	}
}

// claimer starts a process of user uid that claims the kernel until end is called; out is its first output, and end
// reports whether it exited cleanly.
func claimer(t *testing.T, uid uint32) (out string, end func() bool) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestClaim$")
	cmd.Env = append(os.Environ(), claimEnv+"=1")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}, Pdeathsig: syscall.SIGKILL}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, err := stdout.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n]), func() bool {
		_ = stdin.Close()
		_, _ = io.Copy(io.Discard, stdout)
		return cmd.Wait() == nil
	}
}
