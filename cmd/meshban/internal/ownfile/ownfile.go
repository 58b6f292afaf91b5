// Package ownfile opens files that only this user and root can have put in place. It follows no symbolic link of
// another user. When it refuses a file, the error names the owner, the mode and a command that fixes it.
package ownfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// maxLinks is the most symbolic links that a path may lead through; Linux has the same limit.
const maxLinks = 40

// othersWrite are the mode bits that let others write. If there is an access control list, the group bits are its
// mask and so cover all named users and groups.
const othersWrite fs.FileMode = 0o022

// Error says why a file or folder is refused.
type Error struct {
	Path    string
	Problem string // what is wrong
	Remedy  string // what to do
}

func (e *Error) Error() string { return fmt.Sprintf("%q %s: %s", e.Path, e.Problem, e.Remedy) }

// Remedy returns what to do about the error of a file that could not be read or written. It returns "" if err says that
// itself, or is about something else.
func Remedy(path string, err error) string {
	dir := filepath.Dir(path)
	switch {
	case errors.As(err, new(*Error)):
		return ""
	case errors.Is(err, syscall.EROFS):
		return fmt.Sprintf("the file system is mounted read-only: `findmnt -T %s` names it; Linux does that after an error, see `dmesg`", dir)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Sprintf("make room on the file system: `df -h %s`", dir)
	case errors.Is(err, syscall.EIO):
		return fmt.Sprintf("the disk fails: `findmnt -T %s` names it, `dmesg` says more", dir)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("`ls -ld %s %s` shows who may use it", dir, path)
	}
	return ""
}

// Open is os.OpenFile for a regular file that belongs to this user or root and that no other user can write to. It
// does not follow a symbolic link at the end of path or wait for the other end of a named pipe. A refusal is an
// *Error.
func Open(path string, flag int, perm fs.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, flag|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, perm)
	if err != nil {
		if refused, ok := errors.AsType[*Error](Check(path)); ok { // for a link the system says "too many links"
			return nil, refused
		}
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		err = checkFile(path, info)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Check returns the error with which Open would refuse the file at path. For a missing file the error is
// fs.ErrNotExist.
func Check(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	return checkFile(path, info)
}

// CheckDir returns an error unless the folder at path belongs to this user and nobody else can write to it or replace
// it: each folder above it must belong to this user or root, and may be writable by others only with the sticky bit,
// which keeps them from renaming what is not theirs. For a missing folder the error is fs.ErrNotExist, and the
// existing part of the path is safe.
//
// Nobody can change the path during the check: each step starts from a folder that was already found safe.
func CheckDir(path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	at, rest, links := "/", components(path), 0
	for {
		info, err := os.Lstat(at)
		if err != nil {
			return err
		}
		if len(rest) == 0 {
			return checkFolder(at, info)
		}
		if err := checkParent(at, info); err != nil {
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
		rest = append(components(target), rest[1:]...)
	}
}

func components(path string) []string {
	var all []string
	for name := range strings.SplitSeq(path, "/") {
		if name != "" && name != "." {
			all = append(all, name)
		}
	}
	return all
}

func checkFile(path string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return &Error{path, "is " + kind(info.Mode()) + " and not a regular file", "move it away: " + command(info, "mv", path) + " " + quote(path+".aside")}
	}
	var problems, remedies []string
	if !trusted(info) {
		problems = append(problems, "belongs to "+owner(info))
		remedies = append(remedies, command(info, "chown "+strconv.Itoa(os.Geteuid()), path))
	}
	return checkMode(path, info, problems, remedies)
}

func checkFolder(path string, info fs.FileInfo) error {
	if !info.IsDir() {
		return &Error{path, "is " + kind(info.Mode()) + " and not a folder", "choose another folder with --dir"}
	}
	var problems, remedies []string
	if uid(info) != os.Geteuid() {
		problems = append(problems, "belongs to "+owner(info))
		remedies = append(remedies, command(info, "chown -hR "+strconv.Itoa(os.Geteuid()), path))
	}
	return checkMode(path, info, problems, remedies)
}

// checkMode adds what is wrong with the mode of a file or folder.
func checkMode(path string, info fs.FileInfo, problems, remedies []string) error {
	if info.Mode()&othersWrite != 0 {
		problems = append(problems, "is writable by others")
		remedies = append(remedies, command(info, "chmod go-w", path))
	}
	if problems == nil {
		return nil
	}
	return &Error{
		path, fmt.Sprintf("%s (owner %d, mode %04o)", strings.Join(problems, " and "), uid(info), info.Mode().Perm()),
		"if you trust its contents, run: " + strings.Join(remedies, " && "),
	}
}

// checkParent checks a folder above the one in question.
func checkParent(path string, info fs.FileInfo) error {
	switch {
	case !info.IsDir():
		return &fs.PathError{Op: "open", Path: path, Err: syscall.ENOTDIR}
	case !trusted(info):
		return &Error{
			path, fmt.Sprintf("belongs to %s, who could replace its contents (mode %04o)", owner(info), info.Mode().Perm()),
			"choose a folder elsewhere, or run: " + command(info, "chown "+strconv.Itoa(os.Geteuid()), path),
		}
	case info.Mode()&othersWrite != 0 && info.Mode()&fs.ModeSticky == 0:
		return &Error{
			path, fmt.Sprintf("is writable by others, who could replace its contents (owner %d, mode %04o)", uid(info), info.Mode().Perm()),
			"choose a folder elsewhere, or run: " + command(info, "chmod go-w", path),
		}
	}
	return nil
}

// trusted reports whether a file belongs to this user or root.
func trusted(info fs.FileInfo) bool { return uid(info) == 0 || uid(info) == os.Geteuid() }

func uid(info fs.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}

// owner describes the file's owner.
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

// command returns a command line for path, with sudo if it belongs to another user.
func command(info fs.FileInfo, program, path string) string {
	line := program + " " + quote(path)
	if me := os.Geteuid(); me != 0 && uid(info) != me {
		line = "sudo " + line
	}
	return line
}

// quote quotes path for a shell.
func quote(path string) string {
	if !strings.ContainsFunc(path, func(r rune) bool {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		return !letter && !strings.ContainsRune("/._-+@:,", r)
	}) {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

// Replace writes path atomically and syncs it. The temporary name starts with a dot and ends in .tmp, so that no program reads
// it as a configuration file.
func Replace(path string, data []byte, mode fs.FileMode) error {
	return ReplaceBy(path, mode, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// ReplaceBy is Replace with a function that writes the content. If it returns an error, the file stays as it is.
func ReplaceBy(path string, mode fs.FileMode, write func(io.Writer) error) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".meshban-*.tmp")
	if err != nil {
		return fmt.Errorf("write %q: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %q: %w", path, err)
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if err = write(f); err != nil {
		return err
	}
	if err = f.Chmod(mode); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	if d, openErr := os.Open(dir); openErr == nil { // makes the rename survive a crash, on file systems that can
		_ = d.Sync()
		_ = d.Close()
	}
	return nil
}
