package control

import (
	"mime"
	"net"
	"net/http"
	"strconv"
	"strings"
)

// clientHost is the Host header that Client sends.
const clientHost = "meshban"

// jsonType is the type of every request body but the page's. An HTML form cannot send it, and a script of another site
// needs permission first.
const jsonType = "application/json"

// formType is the type of a form of the page.
const formType = "application/x-www-form-urlencoded"

// RuleBrowser is the rule that refuses requests of a web page from another site.
const RuleBrowser = "cross-site"

// guardBrowser refuses requests that a browser sends for another site. People forward the socket to a TCP port (ssh
// -L); then any page in their browser can send requests there, with their rights.
func guardBrowser(next http.Handler) http.Handler {
	var cross http.CrossOriginProtection
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if !localHost(r.Host) {
			refuse(w, http.StatusForbidden, &Error{
				Code: CodePolicy, Rule: RuleBrowser, Message: "requests for host " + strconv.Quote(r.Host) + " are refused",
				Hint: "use localhost, 127.0.0.1 or [::1]",
			})
			return
		}
		// Reading is restricted too: a page could otherwise hold all MaxWatchers streams.
		strict := *r
		strict.Method = http.MethodPost
		if cross.Check(&strict) != nil {
			refuse(w, http.StatusForbidden, &Error{
				Code: CodePolicy, Rule: RuleBrowser, Message: "this request comes from a web page of another site",
				Hint: "only pages of the same host and port may send requests here",
			})
			return
		}
		want := jsonType
		if strings.HasPrefix(r.URL.Path, pathPage) {
			want = formType
		}
		if r.Method == http.MethodPost && !isOf(want, r.Header.Values("Content-Type")) {
			refuse(w, http.StatusUnsupportedMediaType, &Error{
				Code: CodeUsage, Message: "the request's Content-Type is not " + want, Hint: "send the header Content-Type: " + want,
			})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// localHost reports whether a Host header is clientHost or names this machine's loopback, with any port. Other names
// that resolve to the loopback do not count: their owner chooses what they resolve to (DNS rebinding).
func localHost(host string) bool {
	if host == clientHost {
		return true
	}
	name := host
	if h, port, err := net.SplitHostPort(host); err == nil {
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return false
		}
		if name = h; strings.HasPrefix(host, "[") {
			name = "[" + h + "]"
		}
	}
	switch strings.ToLower(name) {
	case "localhost", "127.0.0.1", "[::1]":
		return true
	}
	return false
}

// isOf reports whether Content-Type has the single value want.
func isOf(want string, types []string) bool {
	if len(types) != 1 {
		return false
	}
	media, _, err := mime.ParseMediaType(types[0])
	return err == nil && media == want
}

// refuse sends err with its own status.
func refuse(w http.ResponseWriter, status int, err *Error) {
	send(w, status, errorBody(err))
}
