package cli

import "github.com/meshban/meshban/cmd/meshban/internal/setup"

// wire returns what the verbs call.
func wire() actions {
	return actions{
		Agent:    runAgent,
		Init:     initMesh,
		Join:     joinMesh,
		Request:  requestCertificate,
		Rekey:    rekey,
		CA:       useAuthority,
		Setup:    setUpMachine,
		Teardown: tearDown,

		Fail2banInstalled: setup.Fail2banInstalled,
	}
}
