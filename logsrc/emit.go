package logsrc

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"time"
)

// The emitted form is
//
//	Nov 22 11:02:11 web2 newbans[731]: HOST 192.0.2.7 PORT 22
//
// which, and no other, satisfies the filter of the shared-file recipe on fail2ban 0.9, 1.0 and 1.1: local time
// with the day padded by a blank, no priority in front, a port of digits only.
const (
	emitTag     = "newbans"
	stampFormat = "Jan _2 15:04:05"
)

// emitMode is the mode of a file that an Emitter has to create.
const emitMode = 0o640

// EmitterConfig is what an Emitter needs.
type EmitterConfig struct {
	Path string     // the file; created 0640 when it is missing
	Own  *OwnRanges // shared with the Follower of the same file; nil = not followed
	Pid  int        // in brackets behind the tag; 0 = this process
	// Location is where the time stamps are local; nil = time.Local.
	Location *time.Location
}

// Emission is one ban to be written as a classic line.
type Emission struct {
	// Origin is the name of the node where the ban began. What is not a letter, digit, '.' or '-' becomes '-',
	// and it is cut to MaxOrigin.
	Origin string
	Addr   netip.Addr // a single address: a CIDR has no classic form. A zone is dropped, 4-in-6 unmapped.
	Port   uint16     // 0 = all
}

// Emitter appends classic lines to the file. It is safe for concurrent use.
type Emitter struct {
	cfg EmitterConfig

	mu   sync.Mutex
	file *os.File // nil = not open
	id   fileID   // of file
	text []byte   // of the batch, kept for its room
}

// NewEmitter checks cfg; it opens nothing.
func NewEmitter(cfg EmitterConfig) (*Emitter, error) {
	if cfg.Path == "" {
		return nil, errors.New("emit lines: no path")
	}
	if cfg.Pid < 0 || cfg.Pid > maxPid {
		return nil, fmt.Errorf("emit lines: pid %d", cfg.Pid)
	}
	if cfg.Pid == 0 {
		cfg.Pid = os.Getpid()
	}
	if cfg.Location == nil {
		cfg.Location = time.Local
	}
	if cfg.Own == nil {
		cfg.Own = new(OwnRanges)
	}
	return &Emitter{cfg: cfg}, nil
}

// Emit appends one line for each of batch, all with one write. It blocks as long as the file system does. A batch
// with an invalid address is refused whole. Errors name the path; after one, the batch may have been written in
// part (disk full), and is not tried again.
func (e *Emitter) Emit(now time.Time, batch []Emission) error {
	if len(batch) == 0 {
		return nil
	}
	for _, b := range batch {
		if !b.Addr.IsValid() {
			return fmt.Errorf("emit to %q: invalid address for a ban of %q", e.cfg.Path, b.Origin)
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.openLocked(); err != nil {
		return fmt.Errorf("emit to %q: %w", e.cfg.Path, err)
	}
	e.text = append(e.text[:0], '\n')
	stamp := now.In(e.cfg.Location).AppendFormat(nil, stampFormat)
	for _, b := range batch {
		e.text = appendEmission(e.text, stamp, cleanOrigin(b.Origin), e.cfg.Pid, b.Addr.Unmap().WithZone(""), b.Port)
	}
	if err := e.cfg.Own.record(e.id, e.appendLocked); err != nil {
		return fmt.Errorf("emit to %q: %w", e.cfg.Path, err)
	}
	return nil
}

// appendLocked writes text and tells which bytes of the file it became. Its first byte ends the partial line of
// another writer, and is left out where there is none.
func (e *Emitter) appendLocked() (start, end int64, err error) {
	text := e.text[1:]
	if info, err := e.file.Stat(); err == nil && info.Size() > 0 {
		var last [1]byte
		if _, err := e.file.ReadAt(last[:], info.Size()-1); err == nil && last[0] != '\n' {
			text = e.text
		}
	}
	n, err := e.file.Write(text)
	if n == 0 {
		return 0, 0, err
	}
	// With O_APPEND the kernel leaves the descriptor's position behind what it has just written.
	end, seekErr := e.file.Seek(0, io.SeekCurrent)
	if seekErr != nil {
		return 0, 0, errors.Join(err, seekErr)
	}
	return end - int64(n), end, err
}

// openLocked makes file the one that stands at the path now, which a rotation changes.
func (e *Emitter) openLocked() error {
	if info, err := os.Stat(e.cfg.Path); e.file != nil && err == nil && idOf(info) == e.id {
		return nil
	}
	if err := e.closeLocked(); err != nil {
		return err
	}
	if err := EnsureFile(e.cfg.Path, emitMode); err != nil {
		return err
	}
	file, id, err := openRegular(e.cfg.Path, os.O_RDWR|os.O_APPEND)
	if err != nil {
		return err
	}
	e.file, e.id = file, id
	return nil
}

// Close closes the file, if it is open. A later Emit opens it again.
func (e *Emitter) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.closeLocked()
}

func (e *Emitter) closeLocked() error {
	if e.file == nil {
		return nil
	}
	file := e.file
	e.file = nil
	if err := file.Close(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	return nil
}

// appendEmission appends one line with its end.
func appendEmission(text, stamp []byte, origin string, pid int, addr netip.Addr, port uint16) []byte {
	text = append(text, stamp...)
	text = append(text, ' ')
	text = append(text, origin...)
	text = append(text, " "+emitTag+"["...)
	text = strconv.AppendInt(text, int64(pid), 10)
	text = append(text, "]: HOST "...)
	text = addr.AppendTo(text)
	text = append(text, " PORT "...)
	text = strconv.AppendUint(text, uint64(port), 10)
	return append(text, '\n')
}

// cleanOrigin makes any text a host name of 1 to MaxOrigin bytes.
func cleanOrigin(name string) string {
	if name == "" {
		return "unknown"
	}
	clean := []byte(name[:min(len(name), MaxOrigin)])
	for i, c := range clean {
		if !isNameByte(c) {
			clean[i] = '-'
		}
	}
	return string(clean)
}
