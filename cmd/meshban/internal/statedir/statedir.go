// Package statedir manages the state folder of a node: which file is where, who may access it, and that only one agent
// uses it at a time.
package statedir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/ownfile"
)

// DirMode is the folder's mode: only its owner writes; others may reach the line file and the socket, whose own modes
// apply.
const DirMode fs.FileMode = 0o755

// ErrLocked means that another agent uses the folder.
var ErrLocked = errors.New("another agent runs on this folder")

// Dir is a state folder.
type Dir string

// Config, Identity, Secrets, Authority, Certificate, Store, Socket, APIKeys and Audit return the paths of the folder's files, and
// Feeds that of the folder for lists that other programs read.
// Authority exists only on nodes that hold the authority's key, Certificate only on enrolled nodes.
func (d Dir) Config() string      { return filepath.Join(string(d), config.FileName) }
func (d Dir) Identity() string    { return filepath.Join(string(d), "node.key") }
func (d Dir) Secrets() string     { return filepath.Join(string(d), "mesh.key") }
func (d Dir) Authority() string   { return filepath.Join(string(d), "ca.key") }
func (d Dir) Certificate() string { return filepath.Join(string(d), "node.cert") }
func (d Dir) Store() string       { return filepath.Join(string(d), "store.db") }
func (d Dir) Socket() string      { return filepath.Join(string(d), control.SocketName) }
func (d Dir) APIKeys() string     { return filepath.Join(string(d), "api.keys") }
func (d Dir) Audit() string       { return filepath.Join(string(d), "audit.jsonl") }
func (d Dir) Feeds() string       { return filepath.Join(string(d), "feeds") }

// exported is the file that names the authority whose key was exported from this folder.
func (d Dir) exported() string { return filepath.Join(string(d), "ca.exported") }

// lock is the file that a running agent locks.
func (d Dir) lock() string { return filepath.Join(string(d), "lock") }

// Make creates the folder if it is missing, and checks it.
func (d Dir) Make() error {
	if err := d.Check(); err != nil {
		return err
	}
	if err := os.MkdirAll(string(d), DirMode); err != nil {
		return fmt.Errorf("make state folder: %w", err)
	}
	return d.Check()
}

// Check returns an error unless only this user and root can have put the folder's files there and can change them. A
// missing folder is fine.
func (d Dir) Check() error {
	err := ownfile.CheckDir(string(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("state folder: %w", err)
	}
	for _, path := range []string{
		d.Config(), d.Identity(), d.Secrets(), d.Authority(), d.Certificate(), d.Store(), d.Audit(), d.lock(), d.exported(),
	} {
		if err := ownfile.Check(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("state folder: %w", err)
		}
	}
	return nil
}

// SetUp reports whether the folder belongs to a mesh.
func (d Dir) SetUp() (bool, error) {
	_, err := os.Stat(d.Secrets())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for a mesh in %q: %w", string(d), err)
	}
	return true, nil
}

// Left returns the names of a node's files in the folder, except the secrets.
func (d Dir) Left() (names []string, err error) {
	for _, path := range []string{d.Identity(), d.Certificate(), d.Authority(), d.exported(), d.Store(), d.Audit()} {
		_, err := os.Lstat(path)
		if err == nil {
			names = append(names, filepath.Base(path))
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("look for a node in %q: %w", string(d), err)
		}
	}
	return names, nil
}

// lockRetry is the time between two tries of LockWithin.
const lockRetry = 50 * time.Millisecond

// LockWithin is Lock, but waits up to wait for another process to release the folder.
func (d Dir) LockWithin(ctx context.Context, wait time.Duration) (release func() error, err error) {
	end := time.Now().Add(wait)
	for {
		release, err = d.Lock()
		if !errors.Is(err, ErrLocked) || !time.Now().Before(end) || ctx.Err() != nil {
			return release, err
		}
		time.Sleep(lockRetry)
	}
}

// Lock locks the folder for this process and returns a func that unlocks it. The kernel unlocks it when the process
// ends, for whatever reason. It returns ErrLocked if another process holds the lock.
func (d Dir) Lock() (release func() error, err error) {
	if err := d.Check(); err != nil {
		return nil, err
	}
	f, err := ownfile.Open(d.lock(), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock state folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrLocked
		}
		return nil, fmt.Errorf("lock %q: %w", d.lock(), err)
	}
	return f.Close, nil
}
