// Package audit keeps a record of every change to what a node bans: who, what, when and why, one JSON object a line.
//
// It promises that writing never delays whoever makes the change, that what it could not write is counted in the record
// itself, and that the record has a greatest size. It does not promise that the last second survives a power cut: lines
// are handed to the system at once and not forced to the disk.
package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/ownfile"
)

// Bounds of the record.
const (
	MaxFile   = 8 << 20 // bytes after which a file is rotated
	MaxOld    = 7       // rotated files that are kept: 64 MiB in all
	MaxQueue  = 1024    // entries that wait to be written
	MaxListed = 100     // prefixes in one entry; more make several

	maxWrite = 64 << 10 // bytes gathered for one write
	// gather is how long an entry waits for more if there has been another less than a second ago, as in an import.
	gather = 50 * time.Millisecond
	mode   = 0o640
)

// Config says where to write.
type Config struct {
	Path   string       // of the current file; rotated ones have ".1" to ".7" behind it, ".1" the youngest
	Logger *slog.Logger // nil = none
	// OnProblem is told when entries are lost, and "" when a disk that failed works again. It is called from Run's
	// goroutine.
	OnProblem func(text string)
	MaxFile   int64 // 0 = MaxFile
}

// Log is one record. Add and Flush may be called from any goroutine.
type Log struct {
	cfg     Config
	queue   chan control.AuditEntry // Add sends and drops when it is full, Run receives
	flush   chan chan struct{}      // Flush sends, Run closes what it got when the queue was written
	ended   chan struct{}           // closed by Run
	lost    atomic.Uint64           // since the last entry that was written
	file    *os.File                // Run's alone; nil = not open
	size    int64                   // of file
	buf     []byte
	waiting int    // entries in buf
	problem string // of the disk, as last told
}

// New checks cfg; it opens nothing.
func New(cfg Config) (*Log, error) {
	if cfg.Path == "" {
		return nil, errors.New("audit log without a path")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.OnProblem == nil {
		cfg.OnProblem = func(string) {}
	}
	if cfg.MaxFile == 0 {
		cfg.MaxFile = MaxFile
	}
	return &Log{
		cfg: cfg, queue: make(chan control.AuditEntry, MaxQueue), flush: make(chan chan struct{}), ended: make(chan struct{}),
	}, nil
}

// Add queues an entry and never blocks. While MaxQueue entries wait it is dropped, and the next one that is written
// tells how many were.
func (l *Log) Add(e control.AuditEntry) {
	select {
	case l.queue <- e:
	default:
		l.lost.Add(1)
	}
}

// Flush waits until what was added before is written, or ctx or Run has ended.
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

// Run writes until ctx ends, and then what still waits. A disk that fails is told to OnProblem and tried again with the
// next entry. It is called once.
func (l *Log) Run(ctx context.Context) error {
	defer close(l.ended)
	var last time.Time // an entry was written
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case e := <-l.queue:
			l.take(e)
			if time.Since(last) < time.Second {
				pause.Reset(gather)
				l.wait(ctx, pause)
			}
			l.drain()
			last = time.Now()
		case done := <-l.flush:
			l.drain()
			close(done)
		case <-ctx.Done():
			l.drain()
			return l.closeFile()
		}
	}
}

// wait takes what comes until the pause is over, or somebody wants to see it written.
func (l *Log) wait(ctx context.Context, pause *time.Timer) {
	for {
		select {
		case e := <-l.queue:
			l.take(e)
		case done := <-l.flush:
			l.drain()
			close(done)
			return
		case <-pause.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// drain writes all that waits.
func (l *Log) drain() {
	for {
		select {
		case e := <-l.queue:
			l.take(e)
			continue
		default:
		}
		l.write()
		return
	}
}

// take encodes an entry.
func (l *Log) take(e control.AuditEntry) {
	e.Lost = l.lost.Swap(0)
	if e.Lost > 0 && l.problem == "" {
		text := fmt.Sprintf("%d changes came too fast to be written down", e.Lost)
		l.cfg.Logger.Warn("audit log", "problem", text)
		l.cfg.OnProblem(text)
	}
	l.buf = append(e.AppendJSON(l.buf), '\n')
	if l.waiting++; len(l.buf) >= maxWrite {
		l.write()
	}
}

// write hands buf to the system. What fails is lost, and counted.
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
		l.lost.Add(uint64(l.waiting))
		l.tell("changes are not written down: " + err.Error())
		_ = l.closeFile() // opened anew with the next entry
	} else {
		l.tell("")
	}
	l.buf, l.waiting = l.buf[:0], 0
}

// open makes file one with room.
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
		err = f.Chmod(mode) // whatever the umask is
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	l.file, l.size = f, info.Size()
	return nil
}

// rotate gives every file the next number; the last one goes.
func (l *Log) rotate() error {
	for n := MaxOld; n >= 1; n-- {
		if err := os.Rename(l.name(n-1), l.name(n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// name is that of the n-th youngest rotated file; 0 is the current one.
func (l *Log) name(n int) string {
	if n == 0 {
		return l.cfg.Path
	}
	return fmt.Sprintf("%s.%d", l.cfg.Path, n)
}

func (l *Log) tell(problem string) {
	if problem == l.problem {
		return
	}
	l.problem = problem
	if problem != "" {
		l.cfg.Logger.Warn("audit log", "problem", problem)
	}
	l.cfg.OnProblem(problem)
}

func (l *Log) closeFile() error {
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}
