package logsrc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// fileID identifies a file while it is open; afterwards its numbers may be reused.
type fileID struct{ dev, inode uint64 }

func idOf(info fs.FileInfo) fileID {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fileID{}
	}
	return fileID{uint64(st.Dev), uint64(st.Ino)}
}

var errNotRegular = errors.New("not a regular file")

// errForeignLink refuses another user's symbolic link, which could lead an agent that runs as root anywhere.
var errForeignLink = errors.New("the path contains a symbolic link that belongs to neither root nor the agent's user")

// openRegular opens a regular file and refuses any other. It does not block on a FIFO without a writer.
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

// EnsureFile creates a missing file, empty and with mode, and its parent folder (0755). It leaves an existing file
// unchanged, and returns an error for anything but a regular file. It follows symbolic links that belong to root or
// the agent's user.
func EnsureFile(path string, mode os.FileMode) error {
	info, err := os.Stat(path)
	if err == nil {
		if !info.Mode().IsRegular() {
			return fmt.Errorf("line file %q: %w", path, errNotRegular)
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("stat the line file: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("create the folder of the line file: %w", err)
	}
	flags := os.O_WRONLY | os.O_CREATE | os.O_APPEND | syscall.O_NONBLOCK
	file, err := openPath(path, flags|os.O_EXCL, mode)
	if err == nil {
		err = errors.Join(file.Chmod(mode), file.Close()) // the umask does not apply
	} else if errors.Is(err, fs.ErrExist) {
		// Another program was faster, or path is a dangling symbolic link.
		if file, err = openPath(path, flags, mode); err == nil {
			err = file.Close()
		}
	}
	if err != nil {
		return fmt.Errorf("create the line file %q: %w", path, err)
	}
	return nil
}
