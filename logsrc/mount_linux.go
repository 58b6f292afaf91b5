package logsrc

import (
	"os"

	"golang.org/x/sys/unix"
)

// networkMounts are file systems that other machines may write to, by their number in statfs(2).
var networkMounts = map[uint32]string{
	unix.NFS_SUPER_MAGIC:  "nfs",
	unix.SMB_SUPER_MAGIC:  "smb",
	unix.CIFS_SUPER_MAGIC: "cifs",
	unix.SMB2_SUPER_MAGIC: "smb2",
	unix.FUSE_SUPER_MAGIC: "fuse", // sshfs, and many more
	unix.V9FS_MAGIC:       "9p",
	unix.CEPH_SUPER_MAGIC: "ceph",
	unix.AFS_SUPER_MAGIC:  "afs",
	unix.CODA_SUPER_MAGIC: "coda",
}

// networkMount returns the kind of network file system that file is on, or "".
func networkMount(file *os.File) string {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(file.Fd()), &st); err != nil {
		return ""
	}
	return networkMounts[uint32(st.Type)]
}
