//go:build !linux

package control

import "fmt"

// letIn would let several groups connect to the socket at path; here a file has one.
func letIn(_ string, groups []uint32) error {
	return fmt.Errorf("only one group can use the control socket on this system, not %v: name the same in control.read_group and control.write_group", groups)
}
