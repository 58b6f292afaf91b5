// Package fail2ban talks to this machine's fail2ban server. It asks which jails report to the mesh and what they ban,
// and it lifts bans.
//
// It runs fail2ban-client, because the server's own protocol is Python's pickle. One run of the client answers many
// commands. Each run has a time limit and bounded output.
package fail2ban

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"
)

const (
	program = "fail2ban-client"
	// prompt is what the client prints when it waits for a command.
	prompt = "fail2ban> "
	// sessionLimit bounds one run of the client, and killLimit how long its pipes may outlive it. Each address that the
	// server lifts may take perUnban more, since it runs a program for each.
	sessionLimit, killLimit, perUnban = 15 * time.Second, time.Second, 200 * time.Millisecond
	// reloadLimit bounds a reload, which reads log files again.
	reloadLimit = 2 * time.Minute
	// maxAnswer bounds one answer, in bytes: a list of 200,000 addresses takes half of that.
	maxAnswer = 8 << 20
	// maxTalk bounds what is kept of stderr, and maxSaid what an error quotes of it.
	maxTalk, maxSaid = 16 << 10, 300
)

// ErrNotInstalled means that this machine has no fail2ban-client.
var ErrNotInstalled = errors.New("fail2ban-client is not installed")

// ErrNotRunning means that no fail2ban server answers.
var ErrNotRunning = errors.New("fail2ban is not running")

// ErrDenied means that a server runs here whose socket this process may not use. The agent is root, but without
// CAP_DAC_OVERRIDE it cannot use another user's socket.
var ErrDenied = errors.New("fail2ban's socket is not root's: run fail2ban as root")

// ErrSilent means that a fail2ban server hangs, or is too slow.
var ErrSilent = errors.New("fail2ban does not answer")

// session is one run of the client.
type session struct {
	cmd    *exec.Cmd
	cancel context.CancelFunc
	limit  *time.Timer  // cancels
	over   func() error // returns an error once the time is up
	in     io.WriteCloser
	out    *bufio.Reader
	talk   *stderrText
}

// open starts the client; args come before its own. The caller must close the session.
func open(ctx context.Context, args []string) (*session, error) {
	ctx, cancel := context.WithCancel(ctx)
	s := &session{cancel: cancel, limit: time.AfterFunc(sessionLimit, cancel), over: ctx.Err, talk: new(stderrText)}
	s.cmd = exec.CommandContext(ctx, program, append(args, "-i")...)
	s.cmd.Stderr, s.cmd.WaitDelay = s.talk, killLimit
	in, err := s.cmd.StdinPipe()
	if err != nil {
		cancel()
		return nil, fmt.Errorf("run %s: %w", program, err)
	}
	out, err := s.cmd.StdoutPipe()
	if err == nil {
		err = s.cmd.Start()
	}
	if err != nil {
		late := ctx.Err() != nil
		cancel()
		switch {
		case errors.Is(err, exec.ErrNotFound):
			return nil, ErrNotInstalled
		case late:
			return nil, ErrSilent
		}
		return nil, fmt.Errorf("run %s: %w", program, err)
	}
	s.in, s.out = in, bufio.NewReader(out)
	_, err = s.answer() // its greeting
	pong := ""
	if err == nil {
		pong, err = s.ask("ping")
	}
	if err == nil && strings.Contains(pong, "pong") {
		return s, nil
	}
	s.close()
	switch {
	case errors.Is(err, ErrSilent):
		return nil, err
	case bytes.Contains(s.talk.text, []byte("Permission denied")):
		return nil, ErrDenied
	}
	return nil, ErrNotRunning // the client exits if there is no server
}

// ask sends one command, which must not contain a newline, and returns the answer. A refusal by the server is an
// answer too.
func (s *session) ask(words ...string) (string, error) {
	if _, err := io.WriteString(s.in, strings.Join(words, " ")+"\n"); err != nil {
		return "", s.failed()
	}
	return s.answer()
}

func (s *session) answer() (string, error) {
	var text []byte
	for len(text) <= maxAnswer {
		part, err := s.out.ReadSlice('>') // a full buffer is not an error here
		text = append(text, part...)
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return "", s.failed()
		}
		if rest, ok := bytes.CutSuffix(text, []byte(prompt[:len(prompt)-1])); ok && (len(rest) == 0 || rest[len(rest)-1] == '\n') {
			if _, err := s.out.Discard(1); err != nil {
				return "", s.failed()
			}
			return strings.TrimSpace(string(rest)), nil
		}
	}
	return "", fmt.Errorf("%s: the answer has more than %d bytes", program, maxAnswer)
}

// failed ends the session and returns why the client gives no answer.
func (s *session) failed() error {
	late := s.over() != nil
	s.close() // now all of stderr is there
	if late {
		return ErrSilent
	}
	return fmt.Errorf("%s exited early: %s", program, s.talk.last())
}

// close ends the client and waits for it. After the last answer, its exit code does not matter.
func (s *session) close() {
	_ = s.in.Close()
	s.limit.Stop()
	s.cancel()
	_ = s.cmd.Wait()
}

// stderrText keeps the beginning of what is written to it.
type stderrText struct{ text []byte }

func (t *stderrText) Write(p []byte) (int, error) {
	t.text = append(t.text, p[:min(len(p), maxTalk-len(t.text))]...)
	return len(p), nil
}

// last returns the last line.
func (t *stderrText) last() string {
	text := bytes.TrimSpace(t.text)
	text = text[bytes.LastIndexByte(text, '\n')+1:]
	return string(text[:min(len(text), maxSaid)])
}
