package audit

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/ownfile"
)

// Read calls yield for each entry since a time, oldest first, and stops with its error. What was added before the call
// is among them. Lines that are no entries, as a full disk leaves them, are passed over.
func (l *Log) Read(ctx context.Context, since time.Time, yield func(control.AuditEntry) error) error {
	if err := l.Flush(ctx); err != nil {
		return err
	}
	// All are opened first, so that a rotation meanwhile neither hides nor repeats one.
	var files []*os.File
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	for n := MaxOld; n >= 0; n-- {
		f, err := ownfile.Open(l.name(n), os.O_RDONLY, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read the audit log: %w", err)
		}
		files = append(files, f)
	}
	for _, f := range files {
		if err := readFile(ctx, f, since, yield); err != nil {
			return err
		}
	}
	return nil
}

func readFile(ctx context.Context, f *os.File, since time.Time, yield func(control.AuditEntry) error) error {
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("read the audit log: %w", err)
	}
	lines := bufio.NewScanner(io.LimitReader(f, info.Size())) // what is appended meanwhile is for the next reader
	lines.Buffer(nil, control.MaxLine)
	for lines.Scan() && ctx.Err() == nil {
		var e control.AuditEntry
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.Time.Before(since) {
			continue
		}
		if err := yield(e); err != nil {
			return err
		}
	}
	return errors.Join(ctx.Err(), lines.Err())
}
