package control_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/control/controltest"
)

// gets and posts are the socket's routes; each post has a valid body.
var (
	gets  = []string{"/v1/allowed", "/v1/list", "/v1/why?addr=192.0.2.1", "/v1/members", "/v1/status", "/v1/reach", "/v1/watch", "/v1/audit", "/v1/held"}
	posts = map[string]string{
		"/v1/ban":     `{"addrs":["192.0.2.1"]}`,
		"/v1/unban":   `{"prefixes":["192.0.2.1"]}`,
		"/v1/allow":   `{"prefixes":["192.0.2.1"]}`,
		"/v1/unallow": `{"prefixes":["192.0.2.1"]}`,
		"/v1/invite":  `{"uses":1}`,
		"/v1/decide":  `{"all":true,"release":true}`,
		"/v1/revoke":  `{"node":"web1"}`,
		"/v1/caps":    `{"node":"web1"}`,
		"/v1/rotate":  `{}`,
	}
)

// untouched is an agent that must not be called: each of its methods panics.
type untouched struct{ control.Agent }

// forward forwards TCP connections to the socket, as `ssh -L PORT:SOCKET` does, and returns its address.
func forward(t *testing.T, socket string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("unix", socket)
			if err != nil {
				in.Close()
				return
			}
			go func() { io.Copy(out, in); out.Close() }()
			go func() { io.Copy(in, out); in.Close() }()
		}
	}()
	return l.Addr().String()
}

// exchange sends a raw request and returns the response's status, type and body; for a stream, only the header.
func exchange(t *testing.T, network, addr, request string) (status int, media, body string) {
	t.Helper()
	conn, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("no answer to %q: %v", request, err)
	}
	// Close the connection, not the body, which would wait for the end of a stream.
	media = resp.Header.Get("Content-Type")
	if resp.StatusCode == http.StatusOK && media == "application/x-ndjson" {
		return resp.StatusCode, media, ""
	}
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, media, string(data)
}

// request returns an HTTP/1.1 request with these header lines; with a body it is a POST.
func request(url, body string, header ...string) string {
	return requestAs("HTTP/1.1", url, body, header...)
}

func requestAs(version, url, body string, header ...string) string {
	method := http.MethodGet
	if body != "" {
		method = http.MethodPost
		header = append(header, fmt.Sprintf("Content-Length: %d", len(body)))
	}
	return fmt.Sprintf("%s %s %s\r\n%s\r\n\r\n%s", method, url, version, strings.Join(header, "\r\n"), body)
}

// If the socket is forwarded to a TCP port, requests that a web page makes a browser send must not reach the agent.
func TestBrowserIsRefusedOnEveryRoute(t *testing.T) {
	path, _ := serve(t, untouched{})
	port := forward(t, path)
	const jsonBody = "Content-Type: application/json"
	for _, c := range []struct {
		name     string
		version  string
		header   []string
		status   int
		postOnly bool
	}{
		{"bad: foreign host", "", []string{"Host: evil.example", jsonBody}, 403, false},
		{"bad: rebound host", "", []string{"Host: evil.example:8080", jsonBody}, 403, false},
		{"bad: uppercase foreign host", "", []string{"Host: EVIL.EXAMPLE", jsonBody}, 403, false},
		{"bad: trailing dot", "", []string{"Host: localhost.:8080", jsonBody}, 403, false},
		{"bad: localhost as a prefix", "", []string{"Host: localhost.evil.example", jsonBody}, 403, false},
		{"bad: localhost as a suffix", "", []string{"Host: evil.localhost", jsonBody}, 403, false},
		{"bad: client's host as a prefix", "", []string{"Host: meshban.evil.example", jsonBody}, 403, false},
		{"bad: client's host with a port", "", []string{"Host: meshban:8080", jsonBody}, 403, false},
		{"bad: invalid port", "", []string{"Host: localhost:evil", jsonBody}, 403, false},
		{"bad: other loopback", "", []string{"Host: 127.0.0.2:8080", jsonBody}, 403, false},
		{"bad: unspecified", "", []string{"Host: 0.0.0.0:8080", jsonBody}, 403, false},
		{"bad: loopback as a number", "", []string{"Host: 2130706433", jsonBody}, 403, false},
		{"bad: loopback, 4-in-6", "", []string{"Host: [::ffff:127.0.0.1]", jsonBody}, 403, false},
		{"bad: empty host", "", []string{"Host:", jsonBody}, 403, false},
		{"bad: no host", "HTTP/1.0", []string{jsonBody}, 403, false},
		{"bad: foreign host, HTTP/1.0", "HTTP/1.0", []string{"Host: evil.example", jsonBody}, 403, false},
		{"bad: foreign origin", "", []string{"Host: localhost:8080", "Origin: http://evil.example", jsonBody}, 403, false},
		{"bad: foreign origin, HTTP/1.0", "HTTP/1.0", []string{"Host: localhost:8080", "Origin: http://evil.example", jsonBody}, 403, false},
		{"bad: null origin", "", []string{"Host: localhost:8080", "Origin: null", jsonBody}, 403, false},
		{"bad: origin of another port", "", []string{"Host: localhost:8080", "Origin: http://localhost:3000", jsonBody}, 403, false},
		{"bad: foreign origin, client's host", "", []string{"Host: meshban", "Origin: http://evil.example", jsonBody}, 403, false},
		{"bad: cross-site", "", []string{"Host: 127.0.0.1:8080", "Sec-Fetch-Site: cross-site", jsonBody}, 403, false},
		{"bad: same-site", "", []string{"Host: 127.0.0.1:8080", "Sec-Fetch-Site: same-site", jsonBody}, 403, false},
		{"bad: foreign host, text/plain", "", []string{"Host: evil.example", "Content-Type: text/plain"}, 403, false},
		{"bad: text/plain", "", []string{"Host: localhost", "Content-Type: text/plain"}, 415, true},
		{"bad: text with json as a parameter", "", []string{"Host: localhost", "Content-Type: text/plain; application/json"}, 415, true},
		{"bad: json and text", "", []string{"Host: localhost", "Content-Type: application/json, text/plain"}, 415, true},
		{"bad: two types", "", []string{"Host: localhost", jsonBody, "Content-Type: text/plain"}, 415, true},
		{"bad: form", "", []string{"Host: localhost", "Content-Type: application/x-www-form-urlencoded"}, 415, true},
		{"bad: multipart", "", []string{"Host: localhost", "Content-Type: multipart/form-data; boundary=x"}, 415, true},
		{"bad: json of another kind", "", []string{"Host: localhost", "Content-Type: application/json-seq"}, 415, true},
		{"bad: empty type", "", []string{"Host: localhost", "Content-Type:"}, 415, true},
		{"bad: no type", "", []string{"Host: localhost"}, 415, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			version := "HTTP/1.1"
			if c.version != "" {
				version = c.version
			}
			all := map[string]string{"/v1/nothing": "{}"}
			for url, body := range posts {
				all[url] = body
			}
			if !c.postOnly {
				for _, url := range gets {
					all[url] = ""
				}
			}
			for url, body := range all {
				for network, addr := range map[string]string{"unix": path, "tcp": port} {
					status, media, text := exchange(t, network, addr, requestAs(version, url, body, c.header...))
					var refused struct{ Error *control.Error }
					if err := json.Unmarshal([]byte(text), &refused); err != nil || refused.Error == nil || refused.Error.Hint == "" {
						t.Errorf("%s by %s: %q is not an error with a hint: %v", url, network, text, err)
					}
					if status != c.status || media != "application/json" {
						t.Errorf("%s by %s: HTTP %d (%s), want %d", url, network, status, media, c.status)
					}
				}
			}
		})
	}
}

// A user who forwards the socket on purpose can use it, also with a browser.
func TestForwardedSocketAnswersLocally(t *testing.T) {
	path, _ := serve(t, controltest.New())
	port := forward(t, path)
	for _, c := range []struct {
		name   string
		header []string
	}{
		{"ok: client's host", []string{"Host: meshban"}},
		{"ok: localhost", []string{"Host: localhost"}},
		{"ok: localhost with a port", []string{"Host: localhost:8080"}},
		{"ok: uppercase", []string{"Host: LOCALHOST:8080"}},
		{"ok: IPv4", []string{"Host: 127.0.0.1"}},
		{"ok: IPv4 with a port", []string{"Host: 127.0.0.1:65535"}},
		{"ok: IPv6", []string{"Host: [::1]"}},
		{"ok: IPv6 with a port", []string{"Host: [::1]:8080"}},
		{"ok: page of the same origin", []string{"Host: localhost:8080", "Origin: http://localhost:8080", "Sec-Fetch-Site: same-origin"}},
		{"ok: page of the same origin, old browser", []string{"Host: localhost:8080", "Origin: http://localhost:8080"}},
		{"ok: typed address", []string{"Host: localhost:8080", "Sec-Fetch-Site: none"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for network, addr := range map[string]string{"unix": path, "tcp": port} {
				for _, url := range gets {
					if status, _, body := exchange(t, network, addr, request(url, "", c.header...)); status != 200 {
						t.Errorf("%s by %s: HTTP %d %s", url, network, status, body)
					}
				}
				for _, media := range []string{"application/json", "application/json; charset=utf-8", "APPLICATION/JSON"} {
					sent := request("/v1/ban", posts["/v1/ban"], append(c.header, "Content-Type: "+media)...)
					if status, _, body := exchange(t, network, addr, sent); status != 200 || !strings.Contains(body, `"192.0.2.1"`) {
						t.Errorf("ban as %s by %s: HTTP %d %s", media, network, status, body)
					}
				}
			}
		})
	}
}
