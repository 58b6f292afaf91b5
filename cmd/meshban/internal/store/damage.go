package store

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"github.com/meshban/meshban/cmd/meshban/internal/ownfile"
)

const (
	// maxAside is how many damaged files are kept, the newest ones.
	maxAside = 2
	// copyBatch is how many records of a damaged file are committed together.
	copyBatch = 4096
	// openTries bounds the attempts to open if each fresh file is damaged too.
	openTries = 3
)

// Damage describes a file that was set aside.
type Damage struct {
	Cause error  // what is wrong with it
	Aside string // its new name
	Kept  int    // how many of its frames the fresh file has
}

// guard calls f. It returns ErrDamaged if bbolt panics on a damaged page, or if the file ends before its mapping does.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", ErrDamaged, r)
		}
	}()
	err = f()
	if errors.Is(err, berrors.ErrInvalid) || errors.Is(err, berrors.ErrChecksum) || errors.Is(err, berrors.ErrVersionMismatch) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return err
}

// open opens or creates the file and replaces a damaged one with a fresh one. If cause is ErrDamaged, the file is
// already known to be damaged.
func open(path string, cause error, opts Options) (db *bolt.DB, err error) {
	for range openTries {
		if err = cause; err == nil {
			err = check(path)
		}
		if err == nil {
			db, err = openSound(path, opts)
		}
		if !errors.Is(err, ErrDamaged) {
			return db, err
		}
		damage, asideErr := replace(path, err, opts)
		if asideErr != nil {
			return nil, errors.Join(err, asideErr)
		}
		if opts.OnDamage != nil {
			opts.OnDamage(damage)
		}
		cause = nil
	}
	return nil, err
}

// openSound opens or creates a file that has passed check.
func openSound(path string, opts Options) (db *bolt.DB, err error) {
	err = guard(func() error {
		db, err = bolt.Open(path, 0o600, &bolt.Options{
			Timeout: lockTimeout, FreelistType: bolt.FreelistMapType, OpenFile: ownfile.Open, NoSync: opts.NoSync,
		})
		if errors.Is(err, berrors.ErrTimeout) {
			return ErrInUse
		}
		if err != nil {
			return err
		}
		err = db.Update(func(tx *bolt.Tx) error {
			for _, name := range buckets {
				if _, err := tx.CreateBucketIfNotExists(name); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return errors.Join(err, db.Close())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return db, nil
}

// check returns ErrDamaged unless the file is sound or missing.
func check(path string) error {
	f, err := ownfile.Open(path, os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	// A process that is writing the file makes it look damaged.
	for end := time.Now().Add(lockTimeout); ; time.Sleep(lockTimeout / 40) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("lock: %w", err)
		}
		if time.Now().After(end) {
			return ErrInUse
		}
	}
	if err := scanFile(f, nil).err; err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return nil
}

// replace sets a damaged file aside and puts a fresh one in its place. The fresh one has what is sound in the old one,
// or nothing if that cannot be written.
func replace(path string, cause error, opts Options) (Damage, error) {
	fresh := path + ".new"
	kept, err := salvage(path, fresh, opts)
	if err != nil {
		kept = 0
		_ = os.Remove(fresh)
	}
	aside, err := setAside(path, time.Now())
	if err != nil {
		return Damage{}, err
	}
	if err := os.Rename(fresh, path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Damage{}, fmt.Errorf("put a fresh store in place: %w", err)
	}
	return Damage{cause, aside, kept}, nil
}

// setAside renames a damaged file, removes the oldest ones that were set aside before, and returns the new name.
func setAside(path string, now time.Time) (string, error) {
	aside := fmt.Sprintf("%s.damaged-%s", path, now.UTC().Format("20060102T150405.000"))
	if err := os.Rename(path, aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("set store aside: %w", err)
	}
	all, err := filepath.Glob(path + ".damaged-*")
	if err != nil {
		return "", fmt.Errorf("set store aside: %w", err)
	}
	slices.Sort(all)
	for _, old := range all[:max(0, len(all)-maxAside)] {
		if err := os.Remove(old); err != nil {
			return "", fmt.Errorf("set store aside: %w", err)
		}
	}
	return aside, nil
}

// salvage copies what is sound in a damaged file to a fresh one and returns how many frames it copied. If any hold is
// lost it copies no frames, because ops that wait for the operator would then count.
func salvage(path, fresh string, opts Options) (frames int, err error) {
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	f, err := ownfile.Open(path, os.O_RDONLY, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	found := scanFile(f, nil)
	if len(found.buckets) == 0 {
		return 0, nil
	}
	db, err := openSound(fresh, opts)
	if err != nil {
		return 0, err
	}
	defer func() { err = cmp.Or(db.Close(), err) }()
	type record struct{ bucket, key, value []byte }
	var batch []record
	var failed error
	commit := func() {
		if failed == nil {
			failed = db.Update(func(tx *bolt.Tx) error {
				for _, r := range batch {
					if err := put(tx, r.bucket, r.key, r.value); err != nil {
						return err
					}
				}
				return nil
			})
		}
		batch = batch[:0]
	}
	scanFile(f, func(bucket string, key, value []byte) {
		if bucket == string(bucketFrames) {
			if found.bad[string(bucketHolds)] {
				return
			}
			frames++
		}
		if batch = append(batch, record{[]byte(bucket), bytes.Clone(key), bytes.Clone(value)}); len(batch) >= copyBatch {
			commit()
		}
	})
	commit()
	return frames, failed
}
