// Package fail2ban talks to the fail2ban server of this machine: which of its jails tell the mesh, what it bans, and to let
// go of an address.
//
// It does so by fail2ban-client, because the server's own protocol is Python's pickle. One run of the client answers many
// commands. Every run has a time limit and bounded output.
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
	// prompt is what the client writes when it waits for a command.
	prompt = "fail2ban> "
	// sessionLimit bounds one run of the client, and killLimit how long its pipes may outlive it.
	sessionLimit, killLimit = 15 * time.Second, time.Second
	// reloadLimit bounds a reload, which reads log files again.
	reloadLimit = 2 * time.Minute
	// maxAnswer bounds one answer, in bytes: the list of 200,000 banned addresses has half of that.
	maxAnswer = 8 << 20
	// maxTalk bounds what is kept of stderr, and maxSaid what an error repeats of it.
	maxTalk, maxSaid = 16 << 10, 300
)

// ErrNotInstalled says that this machine has no fail2ban-client.
var ErrNotInstalled = errors.New("fail2ban-client is not installed")

// ErrNotRunning says that no fail2ban server answers.
var ErrNotRunning = errors.New("fail2ban does not run")

// session is one run of the client.
type session struct {
	cmd    *exec.Cmd
	cancel context.CancelFunc
	in     io.WriteCloser
	out    *bufio.Reader
	talk   *tail
}

// open starts the client; args go in front of its own. The caller must close the session.
func open(ctx context.Context, args []string) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, sessionLimit)
	s := &session{cancel: cancel, talk: new(tail)}
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
		cancel()
		if errors.Is(err, exec.ErrNotFound) {
			return nil, ErrNotInstalled
		}
		return nil, fmt.Errorf("run %s: %w", program, err)
	}
	s.in, s.out = in, bufio.NewReader(out)
	if _, err = s.answer(); err == nil { // its greeting
		var pong string
		if pong, err = s.ask("ping"); err == nil && !strings.Contains(pong, "pong") {
			err = ErrNotRunning
		}
	}
	if err != nil {
		if ctx.Err() == nil {
			err = ErrNotRunning // it ends by itself where there is no server
		}
		s.close()
		return nil, err
	}
	return s, nil
}

// ask sends one command, which must not hold a line end, and returns the answer. What the server refuses is an answer too.
func (s *session) ask(words ...string) (string, error) {
	if _, err := io.WriteString(s.in, strings.Join(words, " ")+"\n"); err != nil {
		return "", fmt.Errorf("ask %s: %w", program, err)
	}
	return s.answer()
}

// answer reads up to the next prompt.
func (s *session) answer() (string, error) {
	var text []byte
	for len(text) <= maxAnswer {
		part, err := s.out.ReadSlice('>') // a full buffer is no error here
		text = append(text, part...)
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return "", fmt.Errorf("%s ended early: %s", program, s.talk.last())
		}
		if rest, ok := bytes.CutSuffix(text, []byte(prompt[:len(prompt)-1])); ok && (len(rest) == 0 || rest[len(rest)-1] == '\n') {
			if _, err := s.out.Discard(1); err != nil {
				return "", fmt.Errorf("%s ended early: %s", program, s.talk.last())
			}
			return strings.TrimSpace(string(rest)), nil
		}
	}
	return "", fmt.Errorf("%s: an answer of more than %d bytes", program, maxAnswer)
}

// close ends the client and waits for it. How it ends after the last answer is of no consequence.
func (s *session) close() {
	_ = s.in.Close()
	s.cancel()
	_ = s.cmd.Wait()
}

// tail keeps the beginning of what is written to it.
type tail struct{ text []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.text = append(t.text, p[:min(len(p), maxTalk-len(t.text))]...)
	return len(p), nil
}

// last is the last line.
func (t *tail) last() string {
	text := bytes.TrimSpace(t.text)
	text = text[bytes.LastIndexByte(text, '\n')+1:]
	return string(text[:min(len(text), maxSaid)])
}
