package node

import (
	"context"
	"fmt"
	"io"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/doctor"
	"github.com/meshban/meshban/cmd/meshban/internal/statedir"
)

// DoctorOptions say what Doctor looks at.
type DoctorOptions struct {
	Dir       string    // absolute
	Peer      string    // name or id of the one peer to look at; "" = this machine and all peers
	Bundle    io.Writer // if not nil, where the archive goes
	Addresses bool      // the archive has addresses
	Version   string
}

// Doctor checks this machine and, if an agent runs, its mesh.
func Doctor(ctx context.Context, opts DoctorOptions) ([]doctor.Finding, error) {
	cfg, err := AgentOptions{Dir: opts.Dir}.config()
	if err != nil {
		return nil, err
	}
	o := doctor.Options{Dir: opts.Dir, Config: cfg, Client: control.NewClient(statedir.Dir(opts.Dir).Socket()), Peer: opts.Peer}
	found, err := doctor.Run(ctx, o)
	if err != nil || opts.Bundle == nil {
		return found, err
	}
	if err := doctor.WriteBundle(ctx, opts.Bundle, o, found, opts.Addresses, opts.Version); err != nil {
		return found, fmt.Errorf("write the bundle: %w", err)
	}
	return found, nil
}
