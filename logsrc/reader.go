package logsrc

import (
	"bytes"
	"errors"
	"io"
	"os"
	"time"
)

// chunkSize is how much one read takes: large, so that a flood in front of a ban is a few hundred reads.
const chunkSize = 256 << 10

// reader is one open file and how far it was read. It keeps no text: a partial last line stays in the file until
// it is whole, or until it is longer than MaxLine and skipped.
type reader struct {
	name   string
	file   *os.File
	id     fileID
	offset int64
	skip   bool   // offset lies inside a line that is too long
	before []byte // what stands in front of offset, at most fingerprintWindow bytes
	until  time.Time

	recall *recall            // how old lines are told from new ones; nil = all are new
	again  map[int64]struct{} // where the lines begin that were read before, as of the last look
}

// openReader opens path to be read from its beginning.
func openReader(path string) (*reader, error) {
	file, id, err := openRegular(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	return &reader{name: path, file: file, id: id, before: make([]byte, 0, fingerprintWindow)}, nil
}

func (r *reader) close() { r.file.Close() } // a file that was only read has nothing to tell at its end

func (r *reader) position() Position {
	return Position{
		Dev: r.id.dev, Inode: r.id.inode, Offset: r.offset, Fingerprint: fingerprint(r.before), Skip: r.skip,
	}
}

// rewind makes the file one of which nothing was read.
func (r *reader) rewind() { r.offset, r.skip, r.before = 0, false, r.before[:0] }

// seekEnd makes everything that the file holds history.
func (r *reader) seekEnd() error {
	info, err := r.file.Stat()
	if err != nil {
		return err
	}
	r.rewind()
	_, err = r.load(info.Size())
	return err
}

// seek goes to pos if the text in front of it is the text that was there when pos was taken.
func (r *reader) seek(pos Position) (bool, error) {
	r.rewind()
	if same, err := r.load(pos.Offset); err != nil || !same || fingerprint(r.before) != pos.Fingerprint {
		r.rewind()
		return false, err
	}
	r.skip = pos.Skip
	return true, nil
}

// load goes to offset and reads what stands in front of it; false when the file is shorter.
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

// errChanged says that the file is shorter than what was read of it, or holds another text there.
var errChanged = errors.New("truncated")

// chunk is what one read gave: text of the file in front of the reader's offset (window bytes), and from it on.
type chunk struct {
	text   []byte
	window int
	base   int64 // offset in the file where lines begins
}

func (c chunk) lines() []byte { return c.text[c.window:] }

// read reads on from the offset into buf. Nothing in lines means that this is the end; full says that there may
// be more than what buf holds.
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

// moveTo puts the offset at byte number at of what c.lines gave.
func (r *reader) moveTo(c chunk, at int) {
	end := c.window + at
	r.before = append(r.before[:0], c.text[max(0, end-fingerprintWindow):end]...)
	r.offset = c.base + int64(at)
}
