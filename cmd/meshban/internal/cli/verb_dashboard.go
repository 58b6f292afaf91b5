package cli

import (
	"context"
	"errors"
	"fmt"
	"html"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/ui"
)

// dashboard serves the page to one browser until it is interrupted.
func (c *command) dashboard(ctx *cli.Context) error {
	v := values{ctx: ctx}
	port := v.number("port", 1, 65535)
	if v.err != nil {
		return v.err
	}
	client := c.client()
	if _, err := client.Status(ctx.Context); err != nil {
		return err
	}
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("port %d is taken: choose another, or leave out --port", port)
	}
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	_, bound, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return errors.Join(err, l.Close())
	}
	proxy := ui.NewProxy(bound, client.Dial)
	address := "http://" + l.Addr().String() + proxy.Path()
	if err := c.tellAddress(ctx, address, bound); err != nil {
		return errors.Join(err, l.Close())
	}
	if !ctx.Bool("no-browser") {
		defer openBrowser(ctx.Context, address)()
	}
	return control.Serve(ctx.Context, &http.Server{Handler: proxy, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}, l)
}

// tellAddress prints the address, and how to use it from another machine.
func (c *command) tellAddress(ctx *cli.Context, address, port string) error {
	if ctx.Bool("json") {
		if err := writeObject(c.out, map[string]string{"url": address}); err != nil {
			return err
		}
	} else {
		fmt.Fprintln(c.out, address)
	}
	if err := c.out.Flush(); err != nil {
		return fmt.Errorf("write to stdout: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "HOST"
	}
	fmt.Fprintln(c.err, "meshban: the address opens the page once, in one browser; Ctrl-C ends it")
	tellHint(c.err, fmt.Sprintf("from another machine: ssh -L %s:127.0.0.1:%[1]s %s, then open the address there", port, host))
	return nil
}

// openBrowser opens the address where there is a desktop. The returned function cleans up. The address goes through a
// file: every user of the machine can read the arguments of a process.
func openBrowser(ctx context.Context, address string) (done func()) {
	done = func() {}
	program := "xdg-open"
	switch {
	case runtime.GOOS == "darwin":
		program = "open"
	case os.Getenv("DISPLAY") == "" && os.Getenv("WAYLAND_DISPLAY") == "":
		return done
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return done
	}
	as, env, ok := desktopUser()
	if !ok {
		return done
	}
	f, err := os.CreateTemp("", "meshban-*.html")
	if err != nil {
		return done
	}
	done = func() { _ = os.Remove(f.Name()) }
	_, err = fmt.Fprintf(f, "<!doctype html><meta http-equiv=\"refresh\" content=\"0; url=%s\">\n", html.EscapeString(address))
	if as != nil {
		err = errors.Join(err, f.Chown(int(as.Uid), int(as.Gid)))
	}
	if errors.Join(err, f.Close()) != nil {
		return done
	}
	cmd := exec.CommandContext(ctx, path, f.Name())
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	if cmd.Start() != nil { // the address is printed, too
		return done
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	remove := done
	return func() { <-ended; remove() }
}

// desktopUser returns as whom a browser is started, nil for the process's own user, and what differs in its environment.
// A browser never runs as root.
func desktopUser() (as *syscall.Credential, env []string, ok bool) {
	if os.Geteuid() != 0 {
		return nil, nil, true
	}
	u, err := user.LookupId(os.Getenv("SUDO_UID"))
	if err != nil || u.Uid == "0" {
		return nil, nil, false
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)},
		[]string{"HOME=" + u.HomeDir, "USER=" + u.Username, "LOGNAME=" + u.Username, "XDG_RUNTIME_DIR=/run/user/" + u.Uid}, err == nil && err2 == nil
}
