package cli

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/hostinfo"
)

// sessionVariable is set by sshd: the client's address and port, then the server's. It is no proof: whoever runs this may
// have set it, and it may be from a session that has ended.
const sessionVariable = "SSH_CONNECTION"

// me returns where the ssh session comes from in which this runs: as the kernel says of the sshd process above, which only
// root may ask, or as the variable says, if the agent knows a session from there.
func (c *command) me(ctx context.Context) ([]netip.Prefix, error) {
	addr := c.acts.SessionAbove()
	if !addr.IsValid() {
		var err error
		if addr, err = c.claimed(ctx); err != nil {
			return nil, err
		}
	}
	if addr.IsLoopback() {
		return nil, noSession("this ssh session comes from %v, this machine itself", addr)
	}
	return []netip.Prefix{netip.PrefixFrom(addr, addr.BitLen())}, nil
}

// claimed returns the address in sessionVariable.
func (c *command) claimed(ctx context.Context) (netip.Addr, error) {
	said, _, _ := strings.Cut(os.Getenv(sessionVariable), " ")
	addr, err := netip.ParseAddr(said)
	if err != nil {
		return addr, noSession("no ssh session is found above this command")
	}
	addr = addr.Unmap().WithZone("")
	entries, err := c.client().Allowed(ctx)
	if err != nil {
		return addr, err
	}
	for _, e := range entries {
		if e.Prefix.IsSingleIP() && e.Prefix.Addr() == addr && strings.Contains(e.Source, hostinfo.SessionOf) {
			return addr, nil
		}
	}
	return addr, noSession("%s says %v, but the agent knows no ssh session from there", sessionVariable, addr)
}

func noSession(format string, args ...any) error {
	return &control.Error{
		Code: control.CodeNotFound, Message: fmt.Sprintf(format, args...),
		Hint: "`who` shows from where you are logged in; name that address: meshban allow ADDR",
	}
}
