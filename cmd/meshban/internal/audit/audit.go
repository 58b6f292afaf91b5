// Package audit records every change to what a node bans: who, what, when and why, one JSON object per line.
//
// It promises that recording never delays the change, that entries it could not write are counted in the record
// itself, and that the record's size is bounded. It does not promise that the last second survives a power cut: lines
// are written at once but not synced.
package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync/atomic"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/ownfile"
)

// Bounds of the record.
const (
	MaxFile   = 8 << 20 // bytes after which a file is rotated
	MaxOld    = 7       // rotated files kept: 64 MiB in all
	MaxQueue  = 1024    // entries waiting to be written
	MaxListed = 100     // prefixes in one entry; more prefixes make several entries

	maxWrite = 64 << 10 // bytes per write
	maxEnd   = 64 << 10 // bytes read at the start
	mode     = 0o640
)

type Config struct {
	Path   string       // the current file; rotated ones end in ".1" (the newest) to ".7"
	Logger *slog.Logger // nil = none
	// OnProblem is called when entries are lost, with the error of the disk if that is why, and with "" when the disk
	// works again. Only Run's goroutine calls it.
	OnProblem func(text string, err error)
	MaxFile   int64 // 0 = MaxFile
}

// Log is an audit log. Add and Flush may be called from any goroutine.
type Log struct {
	cfg     Config
	queue   chan control.AuditEntry // Add sends, or drops if it is full; Run receives
	flush   chan chan struct{}      // Flush sends; Run closes what it received once the queue is written
	ended   chan struct{}           // closed by Run
	lost    atomic.Uint64           // entries lost since the last one that was written
	lostAll atomic.Uint64           // entries lost since New
	file    *os.File                // used only by Run; nil = not open
	size    int64                   // of file
	buf     []byte
	waiting int // entries in buf
	// written holds the peers' entries at the end of the file: after a crash, peers send again what was recorded but
	// not yet stored.
	written map[string]bool
	problem string // of the disk, as last reported
}

// New validates cfg. It opens nothing.
func New(cfg Config) (*Log, error) {
	if cfg.Path == "" {
		return nil, errors.New("audit log without a path")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.OnProblem == nil {
		cfg.OnProblem = func(string, error) {}
	}
	if cfg.MaxFile == 0 {
		cfg.MaxFile = MaxFile
	}
	return &Log{
		cfg: cfg, queue: make(chan control.AuditEntry, MaxQueue), flush: make(chan chan struct{}), ended: make(chan struct{}),
	}, nil
}

// Add queues an entry and never blocks. If MaxQueue entries are waiting, it drops the entry, and the next one to be
// written says how many were dropped.
func (l *Log) Add(e control.AuditEntry) {
	select {
	case l.queue <- e:
	default:
		l.lose(1)
	}
}

func (l *Log) lose(n int) {
	l.lost.Add(uint64(n))
	l.lostAll.Add(uint64(n))
}

// Lost returns how many entries were lost since New.
func (l *Log) Lost() uint64 { return l.lostAll.Load() }

// Flush returns when everything added before it is written, or when ctx or Run has ended.
func (l *Log) Flush(ctx context.Context) error {
	done := make(chan struct{})
	select {
	case l.flush <- done:
	case <-l.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done(): // the disk hangs
		return ctx.Err()
	}
}

// Run writes entries until ctx ends, then those still waiting. It reports a failing disk to OnProblem and retries
// with the next entry. It must be called once.
func (l *Log) Run(ctx context.Context) error {
	defer close(l.ended)
	l.readEnd()
	for {
		select {
		case e := <-l.queue:
			l.encode(e)
			l.drain()
		case done := <-l.flush:
			l.drain()
			close(done)
		case <-ctx.Done():
			l.drain()
			return l.closeFile()
		}
	}
}

// drain writes everything that waits.
func (l *Log) drain() {
	for {
		select {
		case e := <-l.queue:
			l.encode(e)
			continue
		default:
		}
		l.write()
		return
	}
}

// encode appends an entry into buf.
func (l *Log) encode(e control.AuditEntry) {
	if e.Via == control.ViaMesh && len(l.written) > 0 {
		if key := sameOf(e); l.written[key] {
			delete(l.written, key)
			return
		}
	}
	e.Lost = l.lost.Swap(0)
	if e.Lost > 0 && l.problem == "" {
		text := fmt.Sprintf("%d changes came too fast to be recorded", e.Lost)
		l.cfg.Logger.Warn("audit log", "problem", text)
		l.cfg.OnProblem(text, nil)
	}
	line, err := json.Marshal(e)
	if err != nil {
		l.report(err)
		return
	}
	l.buf = append(append(l.buf, line...), '\n')
	if l.waiting++; len(l.buf) >= maxWrite {
		l.write()
	}
}

// write writes buf. Entries that it cannot write are lost and counted.
func (l *Log) write() {
	if len(l.buf) == 0 {
		return
	}
	err := l.open()
	if err == nil {
		var n int
		n, err = l.file.Write(l.buf)
		l.size += int64(n)
	}
	if err != nil {
		l.lose(l.waiting)
		l.report(err)
		_ = l.closeFile() // the next entry opens it again
	} else {
		l.report(nil)
	}
	l.buf, l.waiting = l.buf[:0], 0
}

// open opens the current file, after a rotation if it is full.
func (l *Log) open() error {
	if l.file != nil && l.size >= l.cfg.MaxFile {
		if err := l.closeFile(); err != nil {
			return err
		}
	}
	if l.file != nil {
		return nil
	}
	if info, err := os.Lstat(l.cfg.Path); err == nil && info.Size() >= l.cfg.MaxFile {
		if err := l.rotate(); err != nil {
			return err
		}
	}
	f, err := ownfile.Open(l.cfg.Path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, mode)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		err = f.Chmod(mode) // the umask does not apply
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	l.file, l.size = f, info.Size()
	return nil
}

// rotate renames each file to the next number; the last one is deleted.
func (l *Log) rotate() error {
	for n := MaxOld; n >= 1; n-- {
		if err := os.Rename(l.name(n-1), l.name(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// name returns the path of the n-th newest rotated file; 0 = the current one.
func (l *Log) name(n int) string {
	if n == 0 {
		return l.cfg.Path
	}
	return fmt.Sprintf("%s.%d", l.cfg.Path, n)
}

func (l *Log) report(err error) {
	problem, text := "", ""
	if err != nil {
		problem, text = err.Error(), "changes are not recorded"
	}
	if problem == l.problem {
		return
	}
	if l.problem = problem; problem != "" {
		l.cfg.Logger.Warn("audit log", "problem", text, "err", err)
	}
	l.cfg.OnProblem(text, err)
}

func (l *Log) closeFile() error {
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}
