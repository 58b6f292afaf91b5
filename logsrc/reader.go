package logsrc

import (
	"bytes"
	"errors"
	"io"
	"os"
	"time"
)

// chunkSize is the bytes of one read: large, so that a flood before a ban takes a few hundred reads.
const chunkSize = 256 << 10

// reader is an open file and how far it was read. It keeps no text: a partial last line stays in the file until it is
// complete, or longer than MaxLine and skipped.
type reader struct {
	name   string
	file   *os.File
	id     fileID
	mount  string // the network file system that it is on; "" = none
	offset int64
	skip   bool   // offset is inside a line that is too long
	before []byte // at most fingerprintWindow bytes before offset
	until  time.Time

	recall *recall            // tells old lines from new ones; nil = all are new
	old    map[int64]struct{} // offsets of old lines, as of the last recognise
}

// openReader opens path at its beginning.
func openReader(path string) (*reader, error) {
	file, id, err := openRegular(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	return &reader{name: path, file: file, id: id, mount: networkMount(file), before: make([]byte, 0, fingerprintWindow)}, nil
}

func (r *reader) close() { r.file.Close() } // a file that was only read has no error to report

func (r *reader) position() Position {
	return Position{
		Dev: r.id.dev, Inode: r.id.inode, Offset: r.offset, Fingerprint: fingerprint(r.before), Skip: r.skip,
	}
}

// rewind goes back to the beginning of the file.
func (r *reader) rewind() { r.offset, r.skip, r.before = 0, false, r.before[:0] }

// seekEnd skips everything that the file holds.
func (r *reader) seekEnd() error {
	info, err := r.file.Stat()
	if err != nil {
		return err
	}
	r.rewind()
	_, err = r.load(info.Size())
	return err
}

// seek goes to pos and reports whether the text before it is what it was when pos was taken. If not, it rewinds.
func (r *reader) seek(pos Position) (bool, error) {
	r.rewind()
	if same, err := r.load(pos.Offset); err != nil || !same || fingerprint(r.before) != pos.Fingerprint {
		r.rewind()
		return false, err
	}
	r.skip = pos.Skip
	return true, nil
}

// load goes to offset and reads the window before it. It reports false if the file is shorter.
func (r *reader) load(offset int64) (bool, error) {
	window := min(offset, fingerprintWindow)
	if window < 0 {
		return false, nil
	}
	n, err := r.file.ReadAt(r.before[:window], offset-window)
	if int64(n) < window {
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return false, err
	}
	r.before, r.offset = r.before[:window], offset
	return true, nil
}

// errChanged means that the file is now shorter than what was read, or holds another text there.
var errChanged = errors.New("truncated")

// chunk is the result of one read: window bytes from before the reader's offset, then those from the offset on.
type chunk struct {
	text   []byte
	window int
	base   int64 // the file offset of lines
}

func (c chunk) lines() []byte { return c.text[c.window:] }

// read reads from the offset into buf. Empty lines mean the end of the file; full means that there may be more.
func (r *reader) read(buf []byte) (c chunk, full bool, err error) {
	window := len(r.before)
	n, err := r.file.ReadAt(buf, r.offset-int64(window))
	if err != nil && !errors.Is(err, io.EOF) {
		return chunk{}, false, err
	}
	if n < window || !bytes.Equal(buf[:window], r.before) {
		return chunk{}, false, errChanged
	}
	return chunk{text: buf[:n], window: window, base: r.offset}, n == len(buf), nil
}

// moveTo moves the offset to byte at of c.lines.
func (r *reader) moveTo(c chunk, at int) {
	end := c.window + at
	r.before = append(r.before[:0], c.text[max(0, end-fingerprintWindow):end]...)
	r.offset = c.base + int64(at)
}
