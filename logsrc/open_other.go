//go:build !linux

package logsrc

import (
	"fmt"
	"os"
	"syscall"
)

// openPath is os.OpenFile that follows a symbolic link at the end of the path only if root or the agent's own user made
// it.
func openPath(path string, flag int, mode os.FileMode) (*os.File, error) {
	info, err := os.Lstat(path)
	if err == nil && info.Mode()&os.ModeSymlink == 0 {
		return os.OpenFile(path, flag|syscall.O_NOFOLLOW, mode)
	}
	if err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Uid != 0 && int(st.Uid) != os.Geteuid() {
			return nil, &os.PathError{Op: "open", Path: path, Err: fmt.Errorf("%w: not that of this user or root", errForeignLink)}
		}
	}
	return os.OpenFile(path, flag, mode)
}
