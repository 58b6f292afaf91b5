package ui_test

import (
	"context"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/ui"
)

// behind returns a proxy in front of the page, and its address.
func behind(t *testing.T) (*ui.Proxy, string) {
	t.Helper()
	page := newPage(t, newAgent())
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		page.ServeHTTP(w, r.WithContext(control.WithChange(r.Context())))
	}))
	t.Cleanup(agent.Close)
	p := ui.NewProxy("1234", func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", agent.Listener.Addr().String())
	})
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	return p, server.URL
}

func browser(t *testing.T) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Jar: jar}
}

func status(t *testing.T, c *http.Client, url string) int {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// The address that is printed opens the page for the first browser, and for no other.
func TestProxyAdmitsOneBrowser(t *testing.T) {
	p, at := behind(t)
	first, second := browser(t), browser(t)
	for _, path := range []string{"/ui/", "/ui/bans", "/ui/?token=wrong", "/v1/status", "/"} {
		if got := status(t, second, at+path); got != http.StatusForbidden {
			t.Errorf("%s without the cookie: HTTP %d", path, got)
		}
	}
	if got := status(t, first, at+p.Path()); got != http.StatusOK {
		t.Errorf("the first browser: HTTP %d", got)
	}
	if got := status(t, second, at+p.Path()); got != http.StatusForbidden {
		t.Errorf("the second browser, with the same address: HTTP %d", got)
	}
	for path, want := range map[string]int{"/ui/members": 200, p.Path(): 200, "/v1/status": 404, "/": 404} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, at+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range first.Jar.Cookies(&url.URL{Scheme: "http", Host: strings.TrimPrefix(at, "http://"), Path: ui.Root}) {
			r.AddCookie(c) // also where the browser would not send it
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s with the cookie: HTTP %d, want %d", path, resp.StatusCode, want)
		}
	}
}

func TestProxyCookie(t *testing.T) {
	p, at := behind(t)
	resp, err := http.Get(at + p.Path())
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	got := resp.Header.Get("Set-Cookie")
	for _, want := range []string{"meshban-1234=", "HttpOnly", "SameSite=Strict", "Path=/ui/"} {
		if !strings.Contains(got, want) {
			t.Errorf("the cookie %q lacks %q", got, want)
		}
	}
	if to := resp.Header.Get("Refresh"); to != "0; url=/ui/" {
		t.Errorf("leads to %q: the token must not stay in the address", to)
	}
}

// A page with forms needs the proxy: a browser cannot claim to have come through it.
func TestProxyMarksItsBrowser(t *testing.T) {
	p, at := behind(t)
	c := browser(t)
	if got := status(t, c, at+p.Path()); got != http.StatusOK {
		t.Fatalf("HTTP %d", got)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, at+"/ui/drill", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Meshban-Page", "made up")
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body := new(strings.Builder)
	if err := resp.Write(body); err != nil {
		t.Fatal(err)
	}
	if !tokenField.MatchString(body.String()) {
		t.Errorf("no form: %s", body)
	}
}
