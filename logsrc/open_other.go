//go:build !linux

package logsrc

import (
	"os"
	"syscall"
)

// openPath is os.OpenFile, but follows a symbolic link at the end of the path only if it belongs to root or the
// agent's user.
func openPath(path string, flag int, mode os.FileMode) (*os.File, error) {
	info, err := os.Lstat(path)
	if err == nil && info.Mode()&os.ModeSymlink == 0 {
		return os.OpenFile(path, flag|syscall.O_NOFOLLOW, mode)
	}
	if err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Uid != 0 && int(st.Uid) != os.Geteuid() {
			return nil, &os.PathError{Op: "open", Path: path, Err: errForeignLink}
		}
	}
	return os.OpenFile(path, flag, mode)
}
