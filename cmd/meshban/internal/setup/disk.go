package setup

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/meshban/meshban/cmd/meshban/internal/ownfile"
)

// status classifies the file at the path of one of our files.
type status uint8

const (
	absent  status = iota
	ours           // as installed
	edited         // ours, but changed since
	foreign        // not ours
)

// maxFile bounds what is read of a file, which may be anybody's, in bytes.
const maxFile = 1 << 20

// found is the file at a path.
type found struct {
	status
	data []byte
	mode fs.FileMode
}

// inspect returns what is at path.
func inspect(path string) (found, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return found{status: absent}, nil
	case err != nil:
		return found{}, fmt.Errorf("inspect %q: %w", path, err)
	case !info.Mode().IsRegular():
		return found{status: foreign}, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return found{}, fmt.Errorf("open %q: %w", path, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return found{}, fmt.Errorf("read %q: %w", path, err)
	}
	at := found{status: foreign, data: data, mode: info.Mode().Perm()}
	rest, marked := bytes.CutPrefix(data, []byte(Marker+"\n"))
	if _, body, ok := bytes.Cut(rest, []byte("\n")); marked && ok && bytes.Equal(seal(body), data) {
		at.status = ours
	} else if marked {
		at.status = edited
	}
	return at, nil
}

// change is a sequence of file operations that can be rolled back.
type change struct{ undo []func() error }

// rollback undoes all operations, the last one first.
func (c *change) rollback() error {
	var errs []error
	for _, u := range slices.Backward(c.undo) {
		errs = append(errs, u())
	}
	c.undo = nil
	return errors.Join(errs...)
}

// folder creates dir and its missing parents.
func (c *change) folder(dir string, mode fs.FileMode) error {
	if info, err := os.Stat(dir); err == nil {
		if !info.IsDir() {
			return fmt.Errorf("%q is not a folder", dir)
		}
		return nil
	}
	if parent := filepath.Dir(dir); parent != dir {
		if err := c.folder(parent, 0o755); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, mode); err != nil {
		return fmt.Errorf("make the folder %q: %w", dir, err)
	}
	c.undo = append(c.undo, func() error { return os.Remove(dir) })
	return nil
}

// write writes data to path. before is what was there.
func (c *change) write(path string, data []byte, mode fs.FileMode, before found) error {
	if err := ownfile.Replace(path, data, mode); err != nil {
		return err
	}
	c.undo = append(c.undo, func() error {
		if before.status == absent {
			return os.Remove(path)
		}
		return ownfile.Replace(path, before.data, before.mode)
	})
	return nil
}

// touch creates an empty file if there is none.
func (c *change) touch(path string, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("make the file %q: %w", path, err)
	}
	c.undo = append(c.undo, func() error {
		// Another program may already use it.
		if info, err := os.Stat(path); err != nil || info.Size() > 0 {
			return err
		}
		return os.Remove(path)
	})
	return f.Close()
}

// remove deletes the regular file at path. before is what is there.
func (c *change) remove(path string, before found) error {
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove %q: %w", path, err)
	}
	c.undo = append(c.undo, func() error { return ownfile.Replace(path, before.data, before.mode) })
	return nil
}

// unlink deletes the symbolic link at path.
func (c *change) unlink(path string) error {
	target, err := os.Readlink(path)
	if err != nil {
		return fmt.Errorf("read the link %q: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove %q: %w", path, err)
	}
	c.undo = append(c.undo, func() error { return os.Symlink(target, path) })
	return nil
}
