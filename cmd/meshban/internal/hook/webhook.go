package hook

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/ownfile"
)

// The most bytes of text that each service takes. Bytes are never fewer than the characters that services count.
const (
	limitSlack    = 4000 // docs.slack.dev/reference/methods/chat.postMessage: recommended; cut at 40,000
	limitDiscord  = 1990 // discord.com/developers/docs/resources/webhook: content up to 2,000 characters; some are for the code block
	limitNtfy     = 4096 // docs.ntfy.sh/publish: a longer message becomes an attachment
	limitTelegram = 4096 // core.telegram.org/bots/api#sendmessage: 1-4096 characters after entities parsing
	limitOther    = 4000 // gotify and bodies of one's own have no limit of their own
)

const (
	maxURLFile = 16 << 10         // bytes
	maxReply   = 64 << 10         // bytes of an answer that are read
	firstPause = time.Second      // before the second try; doubled from try to try
	maxPause   = 60 * time.Second // also of what the receiver asks for
)

// client follows no redirect, because a redirect may lead to another host, and a POST that is redirected may lose its body.
var client = &http.Client{
	Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, MaxResponseHeaderBytes: maxReply},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// newSender returns the sender of a hook; abuse reports to AbuseIPDB. The file with the URL is read at once and, if that fails, again by each message.
func newSender(c config.Hook, abuse *reporter) sender {
	if len(c.Exec) > 0 {
		return func(ctx context.Context, m *message) error { return run(ctx, c.Exec, m) }
	}
	to, err := readTarget(c.Webhook.URLFile)
	return func(ctx context.Context, m *message) error {
		if err != nil {
			if to, err = readTarget(c.Webhook.URLFile); err != nil {
				return err
			}
		}
		if c.Webhook.Preset == config.PresetAbuseIPDB {
			return abuse.report(ctx, c.Webhook, to, m)
		}
		body, header := encode(c.Webhook, to, m)
		return retry(ctx, c.Webhook.Tries, func() error { return post(ctx, c.Webhook.Timeout, to, body, header) })
	}
}

// target is where a webhook sends. Its URL and headers are secret.
type target struct {
	url    *url.URL
	header http.Header
}

// readTarget reads a file with a URL in its first line and header lines below it.
func readTarget(path string) (target, error) {
	f, err := ownfile.Open(path, os.O_RDONLY, 0)
	if err != nil {
		return target{}, fmt.Errorf("read url_file: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxURLFile))
	if err != nil {
		return target{}, fmt.Errorf("read url_file: %w", err)
	}
	first, rest, _ := strings.Cut(string(data), "\n")
	u, err := url.Parse(strings.TrimSpace(first))
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" { // err has the URL
		return target{}, fmt.Errorf("the first line of %s is not an http or https URL: write the one that the service gave you", path)
	}
	t := target{url: u, header: http.Header{}}
	for i, line := range strings.Split(rest, "\n") {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if value = strings.TrimSpace(value); !ok || !isToken(name) || value == "" || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r > '~' }) {
			return target{}, fmt.Errorf("line %d of %s is not a header: write NAME: VALUE", i+2, path)
		}
		t.header.Add(name, value)
	}
	return t, nil
}

func isToken(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") == ""
}

// encode returns the body and the headers of a message in the form of a preset.
func encode(w config.Webhook, to target, m *message) ([]byte, http.Header) {
	header := http.Header{"Content-Type": {"application/json"}}
	object := func(v any) ([]byte, http.Header) {
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		_ = enc.Encode(v) // maps of texts always encode
		return b.Bytes(), header
	}
	switch w.Preset {
	case config.PresetSlack:
		text := strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(m.text(limitSlack)) // no mention and no link without < >
		return object(map[string]any{"text": text, "mrkdwn": false, "unfurl_links": false, "unfurl_media": false})
	case config.PresetDiscord:
		text := strings.ReplaceAll(m.text(limitDiscord), "`", "'") // nothing ends the code block, in which nothing formats
		return object(map[string]any{"content": "```\n" + text + "```", "allowed_mentions": map[string]any{"parse": []string{}}})
	case config.PresetTelegram:
		text := m.text(limitTelegram)
		return object(map[string]any{
			"chat_id": to.url.Query().Get("chat_id"), "text": text, // as preformatted, in which nothing mentions or links
			"entities":             []any{map[string]any{"type": "pre", "offset": 0, "length": len(utf16.Encode([]rune(text)))}},
			"link_preview_options": map[string]any{"is_disabled": true},
		})
	case config.PresetGotify:
		title, rest, _ := strings.Cut(m.text(limitOther), "\n")
		return object(map[string]any{"title": title, "message": cmp.Or(rest, title), "priority": 5})
	case config.PresetNtfy:
		header.Set("Content-Type", "text/plain; charset=utf-8")
		header.Set("Title", "meshban on "+m.Node)
		return []byte(m.text(limitNtfy)), header
	}
	if w.Body != "" {
		return fill(w.Body, m, header)
	}
	return object(m)
}

// fill puts a message into a body of the operator's own: as JSON text if the body is JSON.
func fill(body string, m *message, header http.Header) ([]byte, http.Header) {
	in := func(s string) string { return s }
	if strings.HasPrefix(strings.TrimSpace(body), "{") || strings.HasPrefix(strings.TrimSpace(body), "[") {
		in = func(s string) string {
			b, _ := json.Marshal(s) // texts always encode
			return string(b[1 : len(b)-1])
		}
	} else {
		header.Set("Content-Type", "text/plain; charset=utf-8")
	}
	return []byte(strings.NewReplacer("{{text}}", in(m.text(limitOther)), "{{title}}", in(m.title()), "{{node}}", in(m.Node)).Replace(body)), header
}

// refusal is an answer other than 2xx.
type refusal struct {
	status int
	pause  time.Duration // that the receiver asks for
}

func (r *refusal) Error() string {
	text := fmt.Sprintf("the receiver answers %d %s", r.status, http.StatusText(r.status))
	switch {
	case r.status == http.StatusTooManyRequests:
		text += ": it takes no more for now"
	case r.status/100 == 3:
		text += ": redirects are not followed, write the address to which it leads into url_file"
	case r.status/100 == 4:
		text += ": see whether the URL in url_file and the preset are right"
	}
	return text
}

// post sends one request.
func post(ctx context.Context, timeout time.Duration, to target, body []byte, header http.Header) error {
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(limited, http.MethodPost, to.url.String(), bytes.NewReader(body))
	if err != nil {
		return errors.New("the URL in url_file is not one to send to") // err has the URL
	}
	req.Header.Set("User-Agent", "meshban")
	for _, h := range []http.Header{header, to.header} {
		for name, values := range h {
			req.Header[name] = values
		}
	}
	resp, err := client.Do(req)
	if err != nil {
		if limited.Err() != nil && ctx.Err() == nil {
			return fmt.Errorf("no answer within %v", timeout)
		}
		if bad, ok := errors.AsType[*url.Error](err); ok {
			err = bad.Err // without the URL
		}
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxReply))
	if resp.StatusCode/100 == 2 {
		return nil
	}
	seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
	return &refusal{resp.StatusCode, min(time.Duration(max(seconds, 0))*time.Second, maxPause)}
}

// retry calls try until it succeeds, at most tries times. An answer that will not change is not asked for again.
func retry(ctx context.Context, tries int, try func() error) error {
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		err := try()
		if tries--; err == nil || tries <= 0 {
			return err
		}
		wait := pause
		if r, ok := errors.AsType[*refusal](err); ok {
			if r.status/100 != 5 && r.status != http.StatusTooManyRequests {
				return err
			}
			wait = max(wait, r.pause)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return err
		}
	}
}
