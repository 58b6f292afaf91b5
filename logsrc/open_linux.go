package logsrc

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is the most symbolic links that a path may lead through; the kernel has the same limit.
const maxLinks = 40

// openPath is open(2) for a file in a folder that others may write to: it follows a symbolic link, at the end of the
// path or within, only if the link belongs to root or the agent's user. Nobody can change the path meanwhile: each
// step starts from a folder that is held open.
func openPath(path string, flag int, mode os.FileMode) (*os.File, error) {
	start := "."
	if strings.HasPrefix(path, "/") {
		start = "/"
	}
	dir, err := unix.Open(start, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(dir) }()
	links := 0
	for rest := components(path); len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		next, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == unix.ENOENT && len(rest) == 0 && flag&os.O_CREATE != 0 {
			return openAt(dir, name, path, flag|os.O_EXCL, mode)
		}
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		var st unix.Stat_t
		if err := unix.Fstat(next, &st); err != nil {
			_ = unix.Close(next)
			return nil, &os.PathError{Op: "stat", Path: path, Err: err}
		}
		switch kind := st.Mode & unix.S_IFMT; {
		case kind == unix.S_IFLNK:
			target, err := readLink(next, &st)
			_ = unix.Close(next)
			if links++; err == nil && links > maxLinks {
				err = unix.ELOOP
			}
			if err == nil && strings.HasPrefix(target, "/") {
				_ = unix.Close(dir)
				dir, err = unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			}
			if err != nil {
				return nil, &os.PathError{Op: "open", Path: path, Err: err}
			}
			rest = append(components(target), rest...)
		case len(rest) > 0:
			_ = unix.Close(dir)
			dir = next
		default:
			_ = unix.Close(next)
			if flag&os.O_EXCL != 0 {
				return nil, &os.PathError{Op: "open", Path: path, Err: unix.EEXIST}
			}
			if kind != unix.S_IFREG { // opening some devices has side effects
				return nil, &os.PathError{Op: "open", Path: path, Err: errNotRegular}
			}
			return openAt(dir, name, path, flag&^os.O_CREATE, mode)
		}
	}
	return nil, &os.PathError{Op: "open", Path: path, Err: errNotRegular}
}

// openAt opens name in dir, and refuses a symbolic link.
func openAt(dir int, name, path string, flag int, mode os.FileMode) (*os.File, error) {
	fd, err := unix.Openat(dir, name, flag|unix.O_NOFOLLOW|unix.O_CLOEXEC, uint32(mode.Perm()))
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// readLink returns the target of the link fd if it can be trusted.
func readLink(fd int, st *unix.Stat_t) (string, error) {
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return "", fmt.Errorf("%w but to user %d", errForeignLink, st.Uid)
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	return string(buf[:max(n, 0)]), err
}

func components(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}
