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

// An emitted line looks like
//
//	Nov 22 11:02:11 web2 newbans[731]: HOST 192.0.2.7 PORT 22
//
// This is the only form that the shared-file recipe's filter matches on fail2ban 0.9, 1.0 and 1.1: local time with a
// space-padded day, no priority in front, a numeric port.
const (
	emitTag     = "newbans"
	stampFormat = "Jan _2 15:04:05"
)

// emitMode is the mode of a file that an Emitter creates.
const emitMode = 0o640

// EmitterConfig configures an Emitter.
type EmitterConfig struct {
	Path string     // created with mode 0640 if missing
	Own  *OwnRanges // shared with the Follower of the same file; nil = not followed
	Pid  int        // written in brackets after the tag; 0 = this process
	// Location is the time zone of the time stamps; nil = time.Local.
	Location *time.Location
}

// Emission is one ban to emit.
type Emission struct {
	// Origin is the name of the node that made the ban. It is cut to MaxOrigin; each byte that is not a letter,
	// digit, '.' or '-' becomes '-'.
	Origin string
	Addr   netip.Addr // one address: a line cannot name a CIDR. A zone is dropped, 4-in-6 unmapped.
	Port   uint16     // 0 = all
}

// Emitter appends lines to the file. It is safe for concurrent use.
type Emitter struct {
	cfg EmitterConfig

	mu   sync.Mutex
	file *os.File // nil = not open
	id   fileID   // of file
	text []byte   // of the batch; reused
}

// NewEmitter validates cfg. It opens nothing.
func NewEmitter(cfg EmitterConfig) (*Emitter, error) {
	if cfg.Path == "" {
		return nil, errors.New("emit lines: no path")
	}
	if cfg.Pid < 0 || cfg.Pid > maxPid {
		return nil, fmt.Errorf("emit lines: pid %d out of range", cfg.Pid)
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

// Emit appends one line per ban in a single write, and blocks as long as the file system does. It refuses the whole
// batch if one address is invalid. Errors name the path; after an error, part of the batch may have been written
// (disk full). It does not retry.
func (e *Emitter) Emit(now time.Time, batch []Emission) error {
	if len(batch) == 0 {
		return nil
	}
	for _, b := range batch {
		if !b.Addr.IsValid() {
			return fmt.Errorf("emit to %q: a ban of %q has an invalid address", e.cfg.Path, b.Origin)
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

// appendLocked writes e.text and returns the range of the file that it now occupies. The first byte of e.text is a
// newline that ends another writer's partial line; it is left out if there is none.
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
	// With O_APPEND the kernel leaves the file position just after what it wrote.
	end, seekErr := e.file.Seek(0, io.SeekCurrent)
	if seekErr != nil {
		return 0, 0, errors.Join(err, seekErr)
	}
	return end - int64(n), end, err
}

// openLocked opens the file that is at the path now, which a rotation changes.
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

// Close closes the file. A later Emit opens it again.
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

// appendEmission appends one line and its newline.
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

// cleanOrigin turns any text into a host name of 1 to MaxOrigin bytes.
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
