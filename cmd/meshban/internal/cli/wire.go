package cli

import (
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
		Doctor:   node.Doctor,

		SessionAbove:      hostinfo.SessionAbove,
		Fail2banInstalled: setup.Fail2banInstalled,
	}
}
