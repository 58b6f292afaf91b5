package control

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// The binary form of an access control list: linux/posix_acl.h and linux/posix_acl_xattr.h.
const (
	aclVersion  = 2
	aclUserObj  = 0x01 // the owner
	aclGroupObj = 0x04 // the file's group
	aclGroup    = 0x08 // a named group
	aclMask     = 0x10 // the most that groups may get
	aclOther    = 0x20
	aclNoID     = 0xffffffff
	aclReadable = 0x6 // read and write; connecting needs write
)

// letIn lets groups, which are sorted, connect to the socket at path. Unlike changing the file's group, this needs no
// privilege of the owner.
func letIn(path string, groups []uint32) error {
	list := binary.LittleEndian.AppendUint32(nil, aclVersion)
	entry := func(tag, perm uint16, id uint32) {
		list = binary.LittleEndian.AppendUint16(list, tag)
		list = binary.LittleEndian.AppendUint16(list, perm)
		list = binary.LittleEndian.AppendUint32(list, id)
	}
	entry(aclUserObj, aclReadable, aclNoID)
	entry(aclGroupObj, 0, aclNoID)
	for _, g := range groups {
		entry(aclGroup, aclReadable, g)
	}
	entry(aclMask, aclReadable, aclNoID)
	entry(aclOther, 0, aclNoID)
	if err := unix.Setxattr(path, "system.posix_acl_access", list, 0); err != nil {
		return fmt.Errorf("let groups %v use %q (on a file system without access control lists, use one group for both): %w", groups, path, err)
	}
	return nil
}
