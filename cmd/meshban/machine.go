package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/home"
	"github.com/meshban/meshban/cmd/meshban/internal/setup"
	"github.com/meshban/meshban/fw"
)

// setUpMachine installs, prints or removes the files that this machine needs beside the binary.
func setUpMachine(ctx context.Context, opts SetupOptions) (SetupResult, error) {
	binary, err := os.Executable()
	if err != nil {
		return SetupResult{}, fmt.Errorf("find this program: %w", err)
	}
	o := setup.Options{Binary: binary, Dir: opts.Dir}
	if opts.Remove {
		return setupResult(setup.Remove(ctx, o))
	}
	// The line file is where the agent of this folder has it.
	cfg, err := AgentOptions{Dir: opts.Dir}.config()
	if err != nil {
		return SetupResult{}, err
	}
	o.LineFile, o.Shown = cfg.Lines.File, cfg.Bans.For
	files := setup.Fail2ban
	if opts.What == "systemd" {
		files = setup.Systemd
	}
	list, err := files(o)
	if err != nil {
		return SetupResult{}, err
	}
	if opts.Print {
		_, err := io.WriteString(opts.Out, setup.Print(list))
		return SetupResult{}, err
	}
	return setupResult(setup.Install(ctx, list, o))
}

// setupResult puts a report into lines.
func setupResult(r setup.Report, err error) (SetupResult, error) {
	if err != nil {
		return SetupResult{}, err
	}
	var out SetupResult
	for _, part := range []struct {
		word  string
		paths []string
	}{{"wrote", r.Written}, {"unchanged", r.Unchanged}, {"removed", r.Removed}, {"kept", r.Kept}, {"note:", r.Notes}} {
		for _, path := range part.paths {
			out.Done = append(out.Done, part.word+" "+path)
		}
	}
	for _, jail := range r.Silent {
		out.Next = append(out.Next, fmt.Sprintf("jail %s has actions of its own and does not tell meshban: add `meshban` to its action", jail))
	}
	for _, command := range r.Next {
		out.Next = append(out.Next, "run: "+command)
	}
	return out, nil
}

// tearDown takes everything of ours out of the kernel. A running agent would put it back within one check.
func tearDown(ctx context.Context, opts TeardownOptions) (TeardownResult, error) {
	dir := home.Dir(opts.Dir)
	if _, err := os.Stat(opts.Dir); err == nil {
		release, err := dir.Lock()
		if err != nil {
			return TeardownResult{}, lockHint(dir, err)
		}
		defer func() { _ = release() }()
	}
	if os.Geteuid() != 0 {
		return TeardownResult{}, &control.Error{Code: control.CodePolicy, Rule: "no permission", Message: "only root may change the firewall", Hint: "run it as root"}
	}
	removed, err := fw.Teardown(ctx, fw.Options{})
	return TeardownResult{Removed: removed}, err
}
