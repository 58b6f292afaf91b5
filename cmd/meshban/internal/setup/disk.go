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
)

// status is what stands at a path where a file of ours goes.
type status uint8

const (
	absent  status = iota
	ours           // as it was installed
	edited         // ours, with changes
	foreign        // not ours
)

// maxFile bounds what is read of a file that may be anybody's, in bytes.
const maxFile = 1 << 20

// found is what stands at a path.
type found struct {
	status
	data []byte
	mode fs.FileMode
}

// inspect tells what stands at path.
func inspect(path string) (found, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return found{status: absent}, nil
	case err != nil:
		return found{}, fmt.Errorf("look at %q: %w", path, err)
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

// change is a row of steps on the disk, each of which can be taken back.
type change struct{ undo []func() error }

// rollback takes back all steps, the last one first.
func (c *change) rollback() error {
	var errs []error
	for _, u := range slices.Backward(c.undo) {
		errs = append(errs, u())
	}
	c.undo = nil
	return errors.Join(errs...)
}

// folder makes dir and what is missing above it.
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

// write puts data at path, where before stood.
func (c *change) write(path string, data []byte, mode fs.FileMode, before found) error {
	if err := replaceFile(path, data, mode); err != nil {
		return err
	}
	c.undo = append(c.undo, func() error {
		if before.status == absent {
			return os.Remove(path)
		}
		return replaceFile(path, before.data, before.mode)
	})
	return nil
}

// touch makes an empty file unless there is one.
func (c *change) touch(path string, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("make the file %q: %w", path, err)
	}
	c.undo = append(c.undo, func() error {
		// another program may have begun to use it
		if info, err := os.Stat(path); err != nil || info.Size() > 0 {
			return err
		}
		return os.Remove(path)
	})
	return f.Close()
}

// remove takes away the regular file at path, which is before.
func (c *change) remove(path string, before found) error {
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove %q: %w", path, err)
	}
	c.undo = append(c.undo, func() error { return replaceFile(path, before.data, before.mode) })
	return nil
}

// unlink takes away the symbolic link at path.
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

// replaceFile writes path as a whole or not at all. The name that it has meanwhile begins with a dot and
// ends like no configuration file, so that nobody reads it.
func replaceFile(path string, data []byte, mode fs.FileMode) (err error) {
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
	if _, err = f.Write(data); err != nil {
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
	if d, openErr := os.Open(dir); openErr == nil { // so that the name outlives a crash; not every disk can
		_ = d.Sync()
		_ = d.Close()
	}
	return nil
}
