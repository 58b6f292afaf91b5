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

// Read calls yield for each entry since the given time, oldest first, and stops with its error. It includes
// everything added before the call. It skips lines that are not entries, which a full disk may leave.
func (l *Log) Read(ctx context.Context, since time.Time, yield func(control.AuditEntry) error) error {
	if err := l.Flush(ctx); err != nil {
		return err
	}
	// Open all files first, so that a rotation meanwhile neither hides nor repeats one.
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
	lines := bufio.NewScanner(io.LimitReader(f, info.Size())) // not what is appended meanwhile
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

// readEnd fills written. Without a readable file there is nothing to fill it with; the first write reports why.
func (l *Log) readEnd() {
	f, err := ownfile.Open(l.cfg.Path, os.O_RDONLY, 0)
	if err != nil {
		return
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err == nil && info.Size() > maxEnd {
		_, _ = f.Seek(-maxEnd, io.SeekEnd) // into the middle of a line, which is then skipped
	}
	l.written = map[string]bool{}
	_ = readFile(context.Background(), f, time.Time{}, func(e control.AuditEntry) error {
		if e.Via == control.ViaMesh {
			l.written[sameOf(e)] = true
		}
		return nil
	})
}

// sameOf returns what is the same in two entries about one op of a peer, and in no others: a peer may say again what it took
// back, with the same end and reason.
func sameOf(e control.AuditEntry) string {
	return fmt.Sprint(e.NodeID, e.Frame, e.What, e.Prefixes, e.Ports, e.Until.UnixMilli(), e.Reason, e.Source)
}
