package feed

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// maxRenders is how many lists are made at a time. Others wait, or leave.
	maxRenders = 2
	// maxOpen is how many lists are made or read at a time; further requests are refused.
	maxOpen = 32
	// maxSeen bounds the lists of which the handler remembers since when they are as they are.
	maxSeen = 256
	// hashBytes of the content's SHA-256 are its ETag.
	hashBytes = 16
)

// LeftOutHeader says how many bans the format has no form for.
const LeftOutHeader = "X-Left-Out"

// Handler serves a source at a path that ends in {format}. The list is made anew for each request and its ETag is a
// hash of it, so 304 means that the client has exactly what is in force. A list lies in a temporary file while a client
// reads it, so that a slow one holds up nobody.
func Handler(source Source) http.Handler {
	return &handler{source: source, renders: make(chan struct{}, maxRenders), open: make(chan struct{}, maxOpen), seen: map[request]version{}}
}

type handler struct {
	source  Source
	renders chan struct{} // holds one token for each list that is being made
	open    chan struct{} // holds one token for each request

	mu   sync.Mutex          // guards what follows
	seen map[request]version // what was last served
}

type request struct {
	format Format
	query  Query
	packed bool
}

// version is a list's content and when it was first seen.
type version struct {
	etag  string
	since time.Time
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f, err := Known(r.PathValue("format"))
	if err != nil {
		refuse(w, http.StatusNotFound, err)
		return
	}
	q, err := ParseQuery(r.URL.RawQuery)
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	select {
	case h.open <- struct{}{}:
		defer func() { <-h.open }()
	default:
		w.Header().Set("Retry-After", "1")
		refuse(w, http.StatusServiceUnavailable, errors.New("too many lists are being read; try again in a second"))
		return
	}
	req := request{f, q, takesGzip(r.Header.Get("Accept-Encoding"))}
	list, etag, n, err := h.render(r.Context(), req)
	if err != nil {
		if r.Context().Err() == nil {
			refuse(w, http.StatusServiceUnavailable, fmt.Errorf("the list could not be made: %w", err))
		}
		return
	}
	defer list.Close()
	head := w.Header()
	head.Set("Content-Type", forms[f].contentType)
	head.Set("ETag", etag)
	head.Set("Vary", "Accept-Encoding")
	head.Set("Cache-Control", "no-cache")
	head.Set(LeftOutHeader, strconv.Itoa(n.LeftOut))
	if req.packed {
		head.Set("Content-Encoding", "gzip")
	}
	http.ServeContent(w, r, "", h.since(req, etag), list)
}

// render makes a list in a file that has no name any more.
func (h *handler) render(ctx context.Context, req request) (list *os.File, etag string, n Count, err error) {
	select {
	case h.renders <- struct{}{}:
		defer func() { <-h.renders }()
	case <-ctx.Done():
		return nil, "", n, ctx.Err()
	}
	if list, err = os.CreateTemp("", "meshban-feed-*"); err != nil {
		return nil, "", n, err
	}
	defer func() {
		if err != nil {
			_ = list.Close()
		}
	}()
	if err = os.Remove(list.Name()); err != nil {
		return nil, "", n, err
	}
	sum := sha256.New()
	out, suffix := io.Writer(list), ""
	var pack *gzip.Writer
	if req.packed {
		pack, suffix = gzip.NewWriter(list), "-gzip"
		out = pack
	}
	if n, err = Write(ctx, io.MultiWriter(sum, out), req.format, req.query, h.source); err != nil {
		return nil, "", n, err
	}
	if pack != nil {
		if err = pack.Close(); err != nil {
			return nil, "", n, err
		}
	}
	return list, `"` + hex.EncodeToString(sum.Sum(nil)[:hashBytes]) + suffix + `"`, n, nil
}

// since returns since when a list is as it is, in whole seconds: when the handler first saw it so.
func (h *handler) since(req request, etag string) time.Time {
	now := time.Now().Truncate(time.Second)
	h.mu.Lock()
	defer h.mu.Unlock()
	last, ok := h.seen[req]
	switch {
	case ok && last.etag == etag:
		return last.since
	case ok && !now.After(last.since): // two changes within a second need two dates
		now = last.since.Add(time.Second)
	case !ok && len(h.seen) == maxSeen:
		for any := range h.seen { // its next date is only later than need be
			delete(h.seen, any)
			break
		}
	}
	h.seen[req] = version{etag, now}
	return now
}

// takesGzip reports whether an Accept-Encoding header lets an answer be packed by gzip.
func takesGzip(header string) bool {
	for part := range strings.SplitSeq(header, ",") {
		name, params, _ := strings.Cut(part, ";")
		if !strings.EqualFold(strings.TrimSpace(name), "gzip") {
			continue
		}
		weight, ok := strings.CutPrefix(strings.ReplaceAll(params, " ", ""), "q=")
		q, err := strconv.ParseFloat(weight, 64)
		return !ok || err == nil && q > 0
	}
	return false
}

// refuse answers with a message, in the form of all errors of the listener.
func refuse(w http.ResponseWriter, code int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(map[string]string{"message": err.Error()}) // the client is gone: nobody to tell
}
