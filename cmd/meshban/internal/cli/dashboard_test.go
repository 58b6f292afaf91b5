package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/control/controltest"
)

// The page answers at the printed address, through the socket, as the user who typed the command; an interrupt ends it.
func TestDashboard(t *testing.T) {
	dir := t.TempDir()
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Host, " may change: ", control.MayChange(r.Context()), ", marked: ", r.Header.Get("Meshban-Page") != "")
	})
	s, err := control.NewServer(control.ServerConfig{Agent: controltest.New(), Path: filepath.Join(dir, control.SocketName), Page: page})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	agent, ended := make(chan error, 1), make(chan int, 1)
	go func() { agent <- s.Run(ctx) }()
	select {
	case <-s.Ready():
	case err := <-agent:
		t.Fatal(err)
	}
	printed, out := io.Pipe()
	var errs bytes.Buffer
	cmd := newCommand(fakeActions(), nil, out, &errs)
	interrupted, interrupt := context.WithCancel(ctx)
	go func() { ended <- cmd.run(interrupted, []string{"--dir", dir, "dashboard", "--no-browser", "--json"}) }()
	var said struct{ URL string }
	if err := json.NewDecoder(printed).Decode(&said); err != nil {
		t.Fatal(err)
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{Jar: jar, Timeout: 30 * time.Second}
	at, _, _ := strings.Cut(said.URL, "?")
	for _, c := range []struct {
		url    string
		status int
		says   string
	}{{at, 403, "once"}, {said.URL, 200, "Open the page"}, {at, 200, "may change: true, marked: true"}} {
		resp, err := browser.Get(c.url)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != c.status || !strings.Contains(string(body), c.says) {
			t.Errorf("%s: HTTP %d %s (%v), want %d %q", c.url, resp.StatusCode, body, err, c.status, c.says)
		}
	}
	interrupt()
	if code := <-ended; code != exitDone {
		t.Errorf("exit code %d\n%s", code, &errs)
	}
	if !strings.Contains(errs.String(), "ssh -L") {
		t.Errorf("no word on how to use it from elsewhere:\n%s", &errs)
	}
	stop()
	if err := <-agent; err != nil {
		t.Error(err)
	}
}
