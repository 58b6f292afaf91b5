package cli

import (
	"context"

	"github.com/meshban/meshban/cmd/meshban/internal/node"
)

// actions are the verbs that do more than ask a running agent. The flags are parsed and checked here; a zero field was
// not said. Errors follow exitCode.
type actions struct {
	Agent    func(ctx context.Context, opts node.AgentOptions) error // returns when ctx has ended and all is down
	Init     func(ctx context.Context, opts node.InitOptions) (node.InitResult, error)
	Join     func(ctx context.Context, opts node.JoinOptions) (node.JoinResult, error)
	Request  func(ctx context.Context, opts node.JoinOptions) (node.CAResult, error)
	Rekey    func(ctx context.Context, opts node.RekeyOptions) (node.RekeyResult, error)
	CA       func(ctx context.Context, opts node.CAOptions) (node.CAResult, error)
	Setup    func(ctx context.Context, opts node.SetupOptions) (node.SetupResult, error)
	Teardown func(ctx context.Context, opts node.TeardownOptions) (node.TeardownResult, error)

	Fail2banInstalled func() bool // setup has connected this machine's fail2ban
}
