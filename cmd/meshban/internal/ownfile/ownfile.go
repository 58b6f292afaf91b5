// Package ownfile opens files that nobody but this user and root can have put where they are. It follows no symbolic link
// that another user made, and what it refuses it names with owner, mode and the command that mends it.
package ownfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// maxLinks is how many symbolic links one path may lead through, as in Linux.
const maxLinks = 40

// othersWrite are the mode bits that let others write. Where there is an access control list, the group's bit is its
// mask, so that it also stands for every user and group named there.
const othersWrite fs.FileMode = 0o022

// Error says why a file or folder is not used.
type Error struct {
	Path    string
	Problem string // what is wrong
	Remedy  string // what to do
}

func (e *Error) Error() string { return fmt.Sprintf("%q %s: %s", e.Path, e.Problem, e.Remedy) }

// Open is os.OpenFile for a regular file that belongs to this user or root and that no other can write to. It does not
// follow a symbolic link at the end of path, and does not wait for the other end of a named pipe. It returns an *Error
// for a file that it refuses.
func Open(path string, flag int, perm fs.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, flag|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, perm)
	if err != nil {
		if refused, ok := errors.AsType[*Error](Check(path)); ok { // the system's word for a link is "too many links"
			return nil, refused
		}
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		err = judgeFile(path, info)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Check reports whether Open would refuse what is at path. The error of a missing file satisfies fs.ErrNotExist.
func Check(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	return judgeFile(path, info)
}

// CheckDir reports whether the folder at path belongs to this user, no other can write to it, and no other can put
// another in its place: each folder above it belongs to this user or root, and others can write to it only where the
// sticky bit keeps them from renaming what is not theirs. The error of a missing folder satisfies fs.ErrNotExist; then
// what there is of the path is sound.
//
// Nobody can change the path while it is looked at: each step begins in a folder that was found to be sound.
func CheckDir(path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	at, rest, links := "/", names(path), 0
	for {
		info, err := os.Lstat(at)
		if err != nil {
			return err
		}
		if len(rest) == 0 {
			return judgeDir(at, info)
		}
		if err := judgeParent(at, info); err != nil {
			return err
		}
		if rest[0] == ".." {
			at, rest = filepath.Dir(at), rest[1:]
			continue
		}
		next := filepath.Join(at, rest[0])
		if info, err = os.Lstat(next); err != nil {
			return err
		}
		if info.Mode().Type() != fs.ModeSymlink {
			at, rest = next, rest[1:]
			continue
		}
		if !trusted(info) {
			return &Error{next, "is a symbolic link of " + owner(info), "name the folder itself"}
		}
		target, err := os.Readlink(next)
		if links++; err == nil && links > maxLinks {
			err = &fs.PathError{Op: "open", Path: path, Err: syscall.ELOOP}
		}
		if err != nil {
			return err
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		rest = append(names(target), rest[1:]...)
	}
}

// names are the names that a path leads through.
func names(path string) []string {
	var all []string
	for name := range strings.SplitSeq(path, "/") {
		if name != "" && name != "." {
			all = append(all, name)
		}
	}
	return all
}

func judgeFile(path string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return &Error{path, "is " + kind(info.Mode()) + " and not a regular file", "move it away: " + command(info, "mv", path) + " " + quote(path+".aside")}
	}
	var problems, remedies []string
	if !trusted(info) {
		problems = append(problems, "belongs to "+owner(info))
		remedies = append(remedies, command(info, "chown "+strconv.Itoa(os.Geteuid()), path))
	}
	return judge(path, info, problems, remedies)
}

func judgeDir(path string, info fs.FileInfo) error {
	if !info.IsDir() {
		return &Error{path, "is " + kind(info.Mode()) + " and not a folder", "choose another folder with --dir"}
	}
	var problems, remedies []string
	if uid(info) != os.Geteuid() {
		problems = append(problems, "belongs to "+owner(info))
		remedies = append(remedies, command(info, "chown -hR "+strconv.Itoa(os.Geteuid()), path))
	}
	return judge(path, info, problems, remedies)
}

// judge adds what is wrong with the mode of a file or folder.
func judge(path string, info fs.FileInfo, problems, remedies []string) error {
	if info.Mode()&othersWrite != 0 {
		problems = append(problems, "is writable by others")
		remedies = append(remedies, command(info, "chmod go-w", path))
	}
	if problems == nil {
		return nil
	}
	return &Error{
		path, fmt.Sprintf("%s (owner %d, mode %04o)", strings.Join(problems, " and "), uid(info), info.Mode().Perm()),
		"if you trust its content, run: " + strings.Join(remedies, " && "),
	}
}

// judgeParent looks at a folder on the way.
func judgeParent(path string, info fs.FileInfo) error {
	switch {
	case !info.IsDir():
		return &fs.PathError{Op: "open", Path: path, Err: syscall.ENOTDIR}
	case !trusted(info):
		return &Error{
			path, fmt.Sprintf("belongs to %s, who could replace what is in it (mode %04o)", owner(info), info.Mode().Perm()),
			"choose a folder elsewhere, or run: " + command(info, "chown "+strconv.Itoa(os.Geteuid()), path),
		}
	case info.Mode()&othersWrite != 0 && info.Mode()&fs.ModeSticky == 0:
		return &Error{
			path, fmt.Sprintf("is writable by others, who could replace what is in it (owner %d, mode %04o)", uid(info), info.Mode().Perm()),
			"choose a folder elsewhere, or run: " + command(info, "chmod go-w", path),
		}
	}
	return nil
}

// trusted reports whether a file belongs to this user or to root.
func trusted(info fs.FileInfo) bool { return uid(info) == 0 || uid(info) == os.Geteuid() }

func uid(info fs.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}

// owner names the user whom a file belongs to.
func owner(info fs.FileInfo) string {
	id := strconv.Itoa(uid(info))
	if u, err := user.LookupId(id); err == nil {
		return fmt.Sprintf("user %s (%s)", id, u.Username)
	}
	return "user " + id
}

func kind(m fs.FileMode) string {
	switch {
	case m&fs.ModeSymlink != 0:
		return "a symbolic link"
	case m.IsDir():
		return "a folder"
	case m.IsRegular():
		return "a file"
	case m&fs.ModeNamedPipe != 0:
		return "a named pipe"
	case m&fs.ModeSocket != 0:
		return "a socket"
	}
	return "a device"
}

// command is a command line on path. Only root may change what belongs to another user.
func command(info fs.FileInfo, program, path string) string {
	line := program + " " + quote(path)
	if me := os.Geteuid(); me != 0 && uid(info) != me {
		line = "sudo " + line
	}
	return line
}

// quote makes path one word of a shell.
func quote(path string) string {
	if !strings.ContainsFunc(path, func(r rune) bool {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		return !letter && !strings.ContainsRune("/._-+@:,", r)
	}) {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}
