package cli

import (
	"context"
	"io"
	"net/netip"

	"github.com/meshban/meshban/cmd/meshban/internal/demo"
	"github.com/meshban/meshban/cmd/meshban/internal/doctor"
	"github.com/meshban/meshban/cmd/meshban/internal/node"
)

// actions are the verbs that do more than ask a running agent. Flags are parsed and checked before the call; a zero
// field was not given. exitCode maps the errors.
type actions struct {
	Agent    func(ctx context.Context, opts node.AgentOptions) error // returns once ctx has ended and everything is down
	Init     func(ctx context.Context, opts node.JoinOptions) (node.JoinResult, error)
	Join     func(ctx context.Context, opts node.JoinOptions) (node.JoinResult, error)
	Request  func(ctx context.Context, opts node.JoinOptions) (node.CAResult, error)
	Rekey    func(ctx context.Context, dir, token string) (node.RekeyResult, error)
	CA       func(ctx context.Context, opts node.CAOptions) (node.CAResult, error)
	Setup    func(ctx context.Context, opts node.SetupOptions) (node.SetupResult, error)
	Teardown func(ctx context.Context, dir string) ([]string, error)
	Demo     func(ctx context.Context, out io.Writer) (demo.Report, error)
	Doctor   func(ctx context.Context, opts node.DoctorOptions) ([]doctor.Finding, error)

	SessionAbove      func() netip.Addr // where the ssh session comes from in which this process runs; zero = unknown
	Fail2banInstalled func() bool       // setup has connected this machine's fail2ban

	// Packaged reports whether a package has brought the agent's unit, and which of setup's units hide it.
	Packaged func() (packaged bool, hiding []string)
}
