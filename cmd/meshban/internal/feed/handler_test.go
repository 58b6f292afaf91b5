package feed

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// serve serves source as the listener does, at the path /feed/{format}.
func serve(source Source) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /feed/{format}", Handler(source))
	return mux
}

func get(h http.Handler, method, path string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestHandlerServesTheList(t *testing.T) {
	h := serve(example())
	for _, f := range Formats {
		want, _ := write(t, f, Query{}, example())
		w := get(h, "GET", "/feed/"+string(f))
		if w.Code != 200 || w.Body.String() != want || w.Header().Get("Content-Type") != forms[f].contentType || w.Header().Get("ETag") == "" {
			t.Errorf("%s: %d %v\n%s", f, w.Code, w.Header(), w.Body)
		}
		if head := get(h, "HEAD", "/feed/"+string(f)); head.Code != 200 || head.Body.Len() != 0 || head.Header().Get("ETag") != w.Header().Get("ETag") {
			t.Errorf("HEAD %s: %d %v %q", f, head.Code, head.Header(), head.Body)
		}
	}
	if w := get(h, "GET", "/feed/plain?family=4&limit=1"); w.Body.String() != "192.0.2.1\n" || w.Header().Get(LeftOutHeader) != "0" {
		t.Errorf("%v %q", w.Header(), w.Body)
	}
	if w := get(h, "GET", "/feed/plain"); w.Header().Get(LeftOutHeader) != "1" {
		t.Errorf("%v", w.Header())
	}
}

func TestHandlerServesAnEmptyList(t *testing.T) {
	h := serve(list{})
	for _, f := range Formats {
		if w := get(h, "GET", "/feed/"+string(f)); w.Code != 200 || w.Body.String() != forms[f].head+forms[f].tail {
			t.Errorf("%s: %d %q", f, w.Code, w.Body)
		}
	}
}

// changing is a source that a test changes.
type changing struct{ list }

func TestHandlerSaysNotModified(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &changing{example()}
		h := serve(source)
		first := get(h, "GET", "/feed/plain")
		etag, since := first.Header().Get("ETag"), first.Header().Get("Last-Modified")
		status := func(headers ...string) int {
			w := get(h, "GET", "/feed/plain", headers...)
			if w.Code == 304 && w.Body.Len() != 0 {
				t.Errorf("304 with %q", w.Body)
			}
			return w.Code
		}
		if a, b, c := status("If-None-Match", etag), status("If-Modified-Since", since), status("If-None-Match", `"x"`); a != 304 || b != 304 || c != 200 {
			t.Errorf("unchanged: %d %d %d", a, b, c)
		}
		source.list = source.list[1:] // in the same second
		if a, b := status("If-None-Match", etag), status("If-Modified-Since", since); a != 200 || b != 200 {
			t.Errorf("changed: %d %d", a, b)
		}
		middle := get(h, "GET", "/feed/plain").Header().Get("Last-Modified")
		source.list = example() // as it was before
		if a, b := status("If-None-Match", etag), status("If-Modified-Since", middle); a != 304 || b != 200 {
			t.Errorf("changed back: %d %d", a, b)
		}
		time.Sleep(time.Hour) // virtual: an unchanged list keeps its date
		last := get(h, "GET", "/feed/plain").Header().Get("Last-Modified")
		if at, err := http.ParseTime(last); err != nil || time.Since(at) < 59*time.Minute {
			t.Errorf("%s, %v", last, err)
		}
	})
}

func TestHandlerPacks(t *testing.T) {
	h := serve(example())
	plain := get(h, "GET", "/feed/plain")
	for header, packed := range map[string]bool{
		"gzip": true, "br, GZIP;q=0.5": true, "deflate, gzip ; q=1": true, "": false, "gzip;q=0": false, "gzip;q=0.000": false, "br": false, "gzip;q=x": false,
	} {
		w := get(h, "GET", "/feed/plain", "Accept-Encoding", header)
		if got := w.Header().Get("Content-Encoding") == "gzip"; got != packed {
			t.Errorf("%q: %v", header, w.Header())
		}
		if !packed {
			continue
		}
		in, err := gzip.NewReader(w.Body)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(in)
		if err != nil || string(text) != plain.Body.String() || w.Header().Get("ETag") == plain.Header().Get("ETag") {
			t.Errorf("%q: %v %v %q", header, err, w.Header(), text)
		}
		if again := get(h, "GET", "/feed/plain", "Accept-Encoding", header, "If-None-Match", w.Header().Get("ETag")); again.Code != 304 {
			t.Errorf("%q: %d", header, again.Code)
		}
	}
}

func TestHandlerRefuses(t *testing.T) {
	h := serve(example())
	for path, want := range map[string]struct {
		code   int
		remedy string
	}{
		"/feed/xml":              {404, "write plain, cidr, json"},
		"/feed/plain?family=5":   {400, "write family=4 or family=6"},
		"/feed/plain?x=1":        {400, "write family, source, limit or page"},
		"/feed/plain?limit=a":    {400, "write 1 to"},
		"/feed/plain?family=%zz": {400, "write ?family=4"},
	} {
		w := get(h, "GET", path)
		var said struct{ Message string }
		if err := json.Unmarshal(w.Body.Bytes(), &said); err != nil || w.Code != want.code || !strings.Contains(said.Message, want.remedy) {
			t.Errorf("%s: %d %v %q", path, w.Code, err, w.Body)
		}
	}
	if w := get(serve(failing{errors.New("broken")}), "GET", "/feed/plain"); w.Code != 503 || !strings.Contains(w.Body.String(), "broken") {
		t.Errorf("%d %q", w.Code, w.Body)
	}
}

// waiting is a source whose entries come when the test lets them.
type waiting struct{ begun, free chan struct{} }

func (w waiting) Entries(ctx context.Context, _ func(Entry) error) error {
	w.begun <- struct{}{}
	select {
	case <-w.free:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// However many ask, few lists are made at a time, and those that leave make room.
func TestHandlerIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := waiting{make(chan struct{}, 2*maxOpen), make(chan struct{})}
		h := serve(source)
		ctx, leave := context.WithCancel(t.Context())
		codes := make(chan int, 2*maxOpen)
		for range maxOpen + 3 {
			go func() {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", "/feed/plain", nil))
				codes <- w.Code
			}()
		}
		synctest.Wait()
		if len(source.begun) != maxRenders || len(codes) != 3 {
			t.Fatalf("%d lists are being made, %d answers", len(source.begun), len(codes))
		}
		for range 3 {
			if code := <-codes; code != 503 {
				t.Errorf("%d", code)
			}
		}
		leave()
		synctest.Wait()
		if len(codes) != maxOpen {
			t.Errorf("%d have left", len(codes))
		}
		close(source.free)
		if w := get(h, "GET", "/feed/plain"); w.Code != 200 {
			t.Errorf("%d %q", w.Code, w.Body)
		}
	})
}

// What is remembered of lists is bounded, and no file is left behind.
func TestHandlerKeepsLittle(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	h := Handler(list{}).(*handler)
	mux := http.NewServeMux()
	mux.Handle("GET /feed/{format}", h)
	for i := range 2 * maxSeen {
		get(mux, "GET", "/feed/plain?source="+strings.Repeat("y", i+1))
	}
	if len(h.seen) != maxSeen {
		t.Errorf("%d lists are remembered", len(h.seen))
	}
	left, err := os.ReadDir(os.TempDir())
	if err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
}
