// Package demo shows on one machine what a mesh does: three nodes, each an agent in a network namespace of its own, an
// attacker in another, a ban by a line, the drop as packets see it, and an unban. It leaves nothing behind, and the network,
// the firewall and the meshban of the machine itself are not touched.
//
// Without the right to make namespaces the nodes are agents on loopback that drop nothing.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

const (
	nodes = 3
	// startLimit bounds each wait for agents, banLimit that for a ban to be in force, or gone, everywhere.
	startLimit, banLimit = time.Minute, 20 * time.Second
	lookEvery            = 50 * time.Millisecond
	// endLimit bounds the stop of an agent.
	endLimit = 10 * time.Second
	maxLog   = 2000 // bytes of an agent's log in an error
)

// attacker is who is banned.
var attacker = netip.MustParseAddr("203.0.113.66")

// errUnsupported means that namespaces cannot be made here.
var errUnsupported = errors.New("network namespaces need root, and Linux")

// Report is what the demo has shown.
type Report struct {
	Packets bool   `json:"packets"` // false = there were no namespaces, and nothing was dropped
	Nodes   []Node `json:"nodes"`
}

// Node is what became of the ban on a node: how long after the line, and after the unban, in milliseconds.
type Node struct {
	Name     string  `json:"name"`
	Banned   float64 `json:"banned_ms"`
	Unbanned float64 `json:"unbanned_ms"`
}

// Run runs the demo with the agent's program, and tells on out what happens.
func Run(ctx context.Context, program string, out io.Writer) (r Report, err error) {
	dir, err := os.MkdirTemp("", "meshban-demo-")
	if err != nil {
		return r, err
	}
	d := &demo{program: program, out: out}
	defer func() { err = errors.Join(err, d.end(), os.RemoveAll(dir)) }()
	if d.wires, err = openWires(); err != nil && !errors.Is(err, errUnsupported) {
		return r, fmt.Errorf("make network namespaces: %w", err)
	}
	if d.wires == nil {
		fmt.Fprintf(out, "%v: here are three agents on loopback, and NOTHING IS DROPPED\n", errUnsupported)
	} else {
		fmt.Fprintf(out, "three servers, web1, web2 and web3, and an attacker, %s, each in a network namespace of its own\n", attacker)
	}
	if err := d.makeMesh(ctx, dir); err != nil {
		return r, err
	}
	return d.play(ctx)
}

// demo is a mesh that runs.
type demo struct {
	program string
	out     io.Writer
	wires   *wires // nil = loopback
	servers []*server
}

// server is a node of the demo.
type server struct {
	name, dir, bind string
	agent           *exec.Cmd
	done            chan error // from wires or spawn: how the agent ended; one value
}

// makeMesh starts the nodes and waits until each has met the others.
func (d *demo) makeMesh(ctx context.Context, dir string) error {
	for i := range nodes {
		s := &server{name: fmt.Sprintf("web%d", i+1), bind: fmt.Sprintf("%s:7946", nodeAddr(i))}
		s.dir = filepath.Join(dir, s.name)
		var err error
		if d.wires == nil {
			if s.bind, err = freePort(); err != nil {
				return err
			}
		}
		if i == 0 {
			_, err = d.run(ctx, i, s, "init", "--name", s.name, "--bind", s.bind)
		} else {
			var token string
			if token, err = d.run(ctx, 0, d.servers[0], "invite"); err == nil {
				_, err = d.run(ctx, i, s, "join", strings.TrimSpace(token), "--name", s.name, "--bind", s.bind)
			}
		}
		if err != nil {
			return err
		}
		if err := d.startAgent(i, s); err != nil {
			return err
		}
		if err := d.waitFor(ctx, startLimit, s, 1); err != nil {
			return err
		}
	}
	for _, s := range d.servers {
		if err := d.waitFor(ctx, startLimit, s, nodes); err != nil {
			return err
		}
	}
	return nil
}

// startAgent starts a node's agent, which leaves the fail2ban of the machine alone.
func (d *demo) startAgent(i int, s *server) error {
	config, err := os.OpenFile(filepath.Join(s.dir, "meshban.yaml"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = config.WriteString("\nfail2ban: {unban: false}\n")
	if err = errors.Join(err, config.Close()); err != nil {
		return err
	}
	args := []string{"agent", "--dir", s.dir}
	if d.wires == nil {
		args = append(args, "--firewall", "none")
	}
	log, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the agent has its own
	s.agent = exec.Command(d.program, args...)
	s.agent.Env, s.agent.Stdout, s.agent.Stderr = environment(), log, log
	if s.done, err = d.spawn(i, s.agent); err != nil {
		return err
	}
	d.servers = append(d.servers, s)
	return nil
}

// spawn starts a program at a node's place. The channel gets how it ended.
func (d *demo) spawn(i int, cmd *exec.Cmd) (chan error, error) {
	started, done := make(chan error, 1), make(chan error, 1)
	tie(cmd)
	go d.wires.at(i, func() error {
		runtime.LockOSThread() // what is tied to this process is tied to its thread
		err := cmd.Start()
		if started <- err; err == nil {
			done <- cmd.Wait()
		}
		return err
	}, started)
	return done, <-started
}

// run runs a command of meshban at a node's place and returns its stdout.
func (d *demo) run(ctx context.Context, i int, s *server, args ...string) (string, error) {
	var stdout, stderr strings.Builder
	cmd := exec.CommandContext(ctx, d.program, append([]string{"--dir", s.dir}, args...)...)
	cmd.Env, cmd.Stdout, cmd.Stderr = environment(), &stdout, &stderr
	done, err := d.spawn(i, cmd)
	if err == nil {
		err = <-done
	}
	if err != nil {
		return "", fmt.Errorf("%s: meshban %s: %w: %s", s.name, args[0], err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// show runs a command as if typed at a node's prompt.
func (d *demo) show(ctx context.Context, i int, args ...string) error {
	fmt.Fprintf(d.out, "\n%s# meshban %s\n", d.servers[i].name, strings.Join(args, " "))
	text, err := d.run(ctx, i, d.servers[i], args...)
	fmt.Fprint(d.out, text)
	return err
}

// waitFor waits until an agent answers and counts so many living nodes.
func (d *demo) waitFor(ctx context.Context, limit time.Duration, s *server, alive int) error {
	return await(ctx, limit, func() error {
		select {
		case err := <-s.done:
			s.done <- err // for end
			return fatal{fmt.Errorf("the agent of %s ended: %w\n%s", s.name, err, s.log())}
		default:
		}
		text, err := d.run(ctx, 0, s, "status", "--json")
		var status struct{ Mesh struct{ Alive int } }
		if err == nil {
			err = json.Unmarshal([]byte(text), &status)
		}
		if err == nil && status.Mesh.Alive < alive {
			err = fmt.Errorf("%s has met %d of %d nodes", s.name, status.Mesh.Alive, alive)
		}
		return err
	})
}

// log returns the end of the agent's log.
func (s *server) log() string {
	text, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-maxLog):])
}

// fatal ends an await at once.
type fatal struct{ error }

// await calls try until it succeeds.
func await(ctx context.Context, limit time.Duration, try func() error) error {
	end := time.Now().Add(limit)
	for {
		err := try()
		if err == nil || errors.As(err, new(fatal)) || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(lookEvery):
		}
	}
}

// end stops the agents and takes the network away.
func (d *demo) end() error {
	var errs []error
	for _, s := range d.servers {
		_ = s.agent.Process.Signal(os.Interrupt) // it may have ended
	}
	for _, s := range d.servers {
		select {
		case <-s.done:
		case <-time.After(endLimit):
			errs = append(errs, s.agent.Process.Kill())
			<-s.done
		}
	}
	return errors.Join(append(errs, d.wires.close())...)
}

// environment returns this process's, without what is meant for the machine's own meshban.
func environment() []string {
	var kept []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "MESHBAN_") {
			kept = append(kept, v)
		}
	}
	return kept
}

// nodeAddr returns the address of a node in the namespaces.
func nodeAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, 18, 0, byte(i + 1)}) }

// freePort returns a loopback address with a port that nothing uses.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
