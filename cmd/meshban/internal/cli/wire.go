package cli

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/meshban/meshban/cmd/meshban/internal/demo"
	"github.com/meshban/meshban/cmd/meshban/internal/hostinfo"
	"github.com/meshban/meshban/cmd/meshban/internal/node"
	"github.com/meshban/meshban/cmd/meshban/internal/setup"
)

// wire returns the functions that the verbs call.
func wire() actions {
	return actions{
		Agent:    node.Run,
		Init:     node.Init,
		Join:     node.Join,
		Request:  node.Request,
		Rekey:    node.Rekey,
		CA:       node.UseAuthority,
		Setup:    node.SetUp,
		Teardown: node.Teardown,
		Demo:     runDemo,
		Doctor:   node.Doctor,

		SessionAbove:      hostinfo.SessionAbove,
		Fail2banInstalled: setup.Fail2banInstalled,
		Packaged:          setup.Packaged,
	}
}

// runDemo runs the demo with this program.
func runDemo(ctx context.Context, out io.Writer) (demo.Report, error) {
	program, err := os.Executable()
	if err != nil {
		return demo.Report{}, fmt.Errorf("find this program: %w", err)
	}
	return demo.Run(ctx, program, out)
}
