//go:build !linux

package control

import "fmt"

// letIn fails: without access control lists, a file has only one group.
func letIn(_ string, groups []uint32) error {
	return fmt.Errorf("only one group can use the control socket on this system, not %v: set control.read_group and control.write_group to the same group", groups)
}
