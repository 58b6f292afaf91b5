package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/demo"
	"github.com/meshban/meshban/cmd/meshban/internal/doctor"
	"github.com/meshban/meshban/cmd/meshban/internal/node"
	"github.com/meshban/meshban/cmd/meshban/internal/ownfile"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		programName: func() { os.Exit(run(fakeActions())) },
	})
}

// fakeActions returns actions that print what they are given. The environment tells them how to fail.
func fakeActions() actions {
	show := func(v any) { fmt.Fprintf(os.Stderr, "%+v\n", v) }
	fail := func() error {
		switch os.Getenv("FAKE_FAIL") {
		case "":
			return nil
		case "config":
			return errors.Join(
				&config.Error{File: "meshban.yaml", Line: 3, Key: "bind", Problem: "no address", Remedy: "write 0.0.0.0:7946"},
				&config.Error{File: "meshban.yaml", Line: 7, Key: "jion", Problem: "no such key", Remedy: "write join"})
		case "unsafe":
			return fmt.Errorf("state folder: %w", &ownfile.Error{Path: "meshban.yaml", Problem: "is writable by others", Remedy: "run: chmod go-w meshban.yaml"})
		case "in use":
			return fmt.Errorf("start agent: %w", control.ErrInUse)
		}
		return errors.New(os.Getenv("FAKE_FAIL"))
	}
	return actions{
		Agent: func(ctx context.Context, o node.AgentOptions) error {
			reload := o.Reload
			o.Reload, o.Stderr = nil, nil
			show(o)
			if err := fail(); err != nil {
				return err
			}
			if err := os.WriteFile("up", nil, 0o600); err != nil {
				return err
			}
			for {
				select {
				case <-ctx.Done():
					fmt.Fprintln(os.Stderr, "stopped")
					return nil
				case <-reload:
					fmt.Fprintln(os.Stderr, "reloaded")
					if err := os.WriteFile("reloaded", nil, 0o600); err != nil {
						return err
					}
				}
			}
		},
		Init: func(_ context.Context, o node.JoinOptions) (node.JoinResult, error) {
			show(o)
			return node.JoinResult{
				Name: "web1", ID: "00112233445566778899aabbccddeeff", Mesh: "aabbccddeeff00112233445566778899",
				Config: filepath.Join(o.Dir, "meshban.yaml"),
			}, fail()
		},
		Join: func(_ context.Context, o node.JoinOptions) (node.JoinResult, error) {
			show(o)
			return node.JoinResult{
				Name: "web2", ID: "ffeeddccbbaa99887766554433221100", Mesh: "aabbccddeeff00112233445566778899",
				Join: []string{"192.0.2.1:7946", "192.0.2.3:7946"}, Config: filepath.Join(o.Dir, "meshban.yaml"), NameTaken: o.Name == "taken",
			}, fail()
		},
		Rekey: func(_ context.Context, dir, token string) (node.RekeyResult, error) {
			show(struct{ Dir, Token string }{dir, token})
			return node.RekeyResult{Name: "web1", ID: "00112233445566778899aabbccddeeff", Former: "ffeeddccbbaa99887766554433221100"}, fail()
		},
		Request: func(_ context.Context, o node.JoinOptions) (node.CAResult, error) {
			show(o)
			return node.CAResult{Text: []byte("the request\n"), Said: "request of web4", Next: "sign it"}, fail()
		},
		CA: func(_ context.Context, o node.CAOptions) (node.CAResult, error) {
			show(o)
			return node.CAResult{Text: []byte("the answer\n"), Said: "done: " + o.Do}, fail()
		},
		Setup: func(_ context.Context, o node.SetupOptions) (node.SetupResult, error) {
			if o.Print {
				fmt.Fprintln(o.Out, "# the file for "+o.What)
				return node.SetupResult{}, fail()
			}
			if o.Remove && o.What == "" {
				return node.SetupResult{}, fail()
			}
			return node.SetupResult{Done: []string{"wrote /etc/" + o.What}, Next: []string{"restart " + o.What}}, fail()
		},
		Demo: func(_ context.Context, out io.Writer) (demo.Report, error) {
			fmt.Fprintln(out, "three servers")
			return demo.Report{Packets: true, Nodes: []demo.Node{{Name: "web1", Banned: 3.5}}}, fail()
		},
		Doctor: func(_ context.Context, o node.DoctorOptions) ([]doctor.Finding, error) {
			if o.Bundle != nil {
				fmt.Fprintln(o.Bundle, "the bundle", o.Addresses)
			}
			found := []doctor.Finding{
				{Check: "jails", State: doctor.NotChecked, Text: "no agent"}, {Check: "repairs", State: doctor.Warn, Text: "3 times", Remedy: "look"},
			}
			if o.Peer == "web3" {
				found = append(found, doctor.Finding{Check: "ports", State: doctor.Bad, Text: "closed", Remedy: "open"})
			}
			return found, fail()
		},
		SessionAbove: func() netip.Addr {
			addr, _ := netip.ParseAddr(os.Getenv("FAKE_SESSION"))
			return addr
		},
		Fail2banInstalled: func() bool { return os.Getenv("FAKE_EMPTY") == "" },
		Packaged: func() (bool, []string) {
			hiding := os.Getenv("FAKE_HIDING")
			return hiding != "", strings.Fields(hiding)
		},
		Teardown: func(context.Context, string) ([]string, error) {
			if os.Getenv("FAKE_EMPTY") != "" {
				return nil, nil
			}
			return []string{"table inet meshban"}, fail()
		},
	}
}
