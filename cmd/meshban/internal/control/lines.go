package control

import (
	"encoding/json"
	"net/http"
)

// listChunk is how many bytes of a list are buffered before a write.
const listChunk = 64 << 10

// lines writes a stream of JSON objects, one per line. To add one, append it to buf and call end.
type lines struct {
	w       http.ResponseWriter
	rc      *http.ResponseController
	buf     []byte
	chunk   int  // bytes to buffer before a flush
	started bool // the header is sent: from now on, an error must be a line
}

func newLines(w http.ResponseWriter, chunk int) *lines {
	return &lines{w: w, rc: http.NewResponseController(w), chunk: chunk, buf: make([]byte, 0, chunk+MaxLine/16)}
}

// end ends a line, and flushes when enough is buffered.
func (l *lines) end() error {
	l.buf = append(l.buf, '\n')
	if len(l.buf) < l.chunk {
		return nil
	}
	return l.flush()
}

func (l *lines) flush() error {
	deadline(l.w)
	if !l.started {
		l.w.Header().Set("Content-Type", "application/x-ndjson")
		l.w.WriteHeader(http.StatusOK)
		l.started = true
	}
	_, err := l.w.Write(l.buf)
	l.buf = l.buf[:0]
	if err != nil {
		return err
	}
	return l.rc.Flush()
}

// close sends the rest and err: as the whole answer if nothing was sent yet, otherwise as the last line.
func (l *lines) close(err error) {
	if err != nil && !l.started {
		fail(l.w, err)
		return
	}
	if err != nil {
		line, fault := json.Marshal(errorReply{AsError(err)})
		if fault != nil {
			panic(http.ErrAbortHandler) // cannot happen: only strings; the client would see a broken stream
		}
		l.buf = append(append(l.buf, line...), '\n')
	}
	_ = l.flush() // fails if the client is gone; nobody needs to know
}
