package pki

import (
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// maxKeyFile bounds the size of a key file, in bytes.
const maxKeyFile = 4096

func readPEM(path, kind string) ([]byte, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if fi.Size() > maxKeyFile {
		return nil, fmt.Errorf("%q has %d bytes, want at most %d", path, fi.Size(), maxKeyFile)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	found, err := findPEM(b, kind)
	if err != nil {
		return nil, fmt.Errorf("%q %w", path, err)
	}
	return found, nil
}

// findPEM returns the first block of a kind.
func findPEM(b []byte, kind string) ([]byte, error) {
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == kind {
			return block.Bytes, nil
		}
	}
	return nil, fmt.Errorf("holds no %q block", kind)
}

// writePEM writes one block with writeKeyFile: to a temporary file beside path, synced and then moved into place.
// Without replace it links the file instead, so that an existing one wins.
func writePEM(path, kind string, b []byte, replace bool) (err error) {
	return writeKeyFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}), replace)
}

func writeKeyFile(path string, text []byte, replace bool) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".mesh-*") // mode 0600
	if e := (*os.PathError)(nil); errors.As(err, &e) {
		return fmt.Errorf("%s: %w", path, e.Err) // do not name the temporary file
	}
	if err != nil {
		return err
	}
	defer func() {
		if rmErr := os.Remove(f.Name()); err == nil && rmErr != nil && !errors.Is(rmErr, os.ErrNotExist) {
			err = rmErr
		}
	}()
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if replace {
		err = os.Rename(f.Name(), path)
	} else {
		err = os.Link(f.Name(), path)
	}
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s: %w", path, os.ErrExist) // the link's error would name the temporary file
	}
	if err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
