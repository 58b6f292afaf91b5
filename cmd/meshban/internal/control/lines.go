package control

import (
	"bytes"
	"encoding/json"
	"net/http"
)

// listChunk is how many bytes of a list are buffered before a write.
const listChunk = 64 << 10

// lines writes a stream of JSON objects, one per line.
type lines struct {
	w       http.ResponseWriter
	rc      *http.ResponseController
	buf     bytes.Buffer
	enc     *json.Encoder // into buf
	chunk   int           // bytes to buffer before a flush
	started bool          // the header is sent: from now on, an error must be a line
}

func newLines(w http.ResponseWriter, chunk int) *lines {
	l := &lines{w: w, rc: http.NewResponseController(w), chunk: chunk}
	l.enc = json.NewEncoder(&l.buf)
	l.enc.SetEscapeHTML(false)
	return l
}

// add adds a line, and flushes when enough is buffered.
func (l *lines) add(v any) error {
	if e, ok := v.(interface{ AppendJSON([]byte) []byte }); ok {
		l.buf.Write(append(e.AppendJSON(l.buf.AvailableBuffer()), '\n'))
	} else if err := l.enc.Encode(v); err != nil {
		return err
	}
	if l.buf.Len() < l.chunk {
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
	_, err := l.w.Write(l.buf.Bytes())
	l.buf.Reset()
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
		_ = l.enc.Encode(errorReply{AsError(err)}) // cannot fail: only strings
	}
	_ = l.flush() // fails if the client is gone; nobody needs to know
}
