package logsrc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// fileID tells files apart while one of them is open; a number may be used again afterwards.
type fileID struct{ dev, inode uint64 }

func idOf(info fs.FileInfo) fileID {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fileID{}
	}
	return fileID{uint64(st.Dev), uint64(st.Ino)}
}

// errNotRegular is what a folder, FIFO, socket or device gets.
var errNotRegular = errors.New("not a regular file")

// errForeignLink is what a symbolic link gets that could lead the agent, which may be root, anywhere.
var errForeignLink = errors.New("leads through a symbolic link that neither root nor the agent's user made")

// openRegular opens a file that must be a regular one. It does not block on a FIFO that nobody writes to.
func openRegular(path string, flag int) (*os.File, fileID, error) {
	file, err := openPath(path, flag|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		if info, statErr := os.Stat(path); statErr == nil && !errors.Is(err, errForeignLink) && !info.Mode().IsRegular() {
			err = errNotRegular
		}
		return nil, fileID{}, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errNotRegular
	}
	if err != nil {
		file.Close()
		return nil, fileID{}, err
	}
	return file, idOf(info), nil
}

// EnsureFile creates a missing file, empty, with mode, and its parent folder (0755) if that is missing too. A
// file that exists is left as it is; anything but a regular file is an error. Symbolic links are followed where root or
// the agent's user made them.
func EnsureFile(path string, mode os.FileMode) error {
	info, err := os.Stat(path)
	if err == nil {
		if !info.Mode().IsRegular() {
			return fmt.Errorf("line file %q: %w", path, errNotRegular)
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look for the line file: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("create the folder of the line file: %w", err)
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_APPEND | syscall.O_NONBLOCK
	file, err := openPath(path, flags|os.O_EXCL, mode)
	if err == nil {
		err = errors.Join(file.Chmod(mode), file.Close()) // whatever the umask is
	} else if errors.Is(err, fs.ErrExist) {
		// Another program was faster, or it is a symbolic link to nothing.
		if file, err = openPath(path, flags, mode); err == nil {
			err = file.Close()
		}
	}
	if err != nil {
		return fmt.Errorf("create the line file %q: %w", path, err)
	}
	return nil
}
