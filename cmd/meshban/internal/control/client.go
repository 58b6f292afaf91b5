package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
)

// Client sends requests to the agent behind a socket. It implements Agent, is safe for concurrent use, and opens
// nothing until the first call. Each method returns an error that wraps ErrNoAgent if no agent answers, and an *Error
// if the agent refuses or fails.
type Client struct {
	path string
	http *http.Client
}

var _ Agent = (*Client)(nil)

// NewClient returns a client for the socket at path.
func NewClient(path string) *Client {
	return &Client{path: path, http: &http.Client{Transport: &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, path) },
		DisableCompression:     true,
		MaxIdleConns:           2,
		IdleConnTimeout:        idleTimeout / 2, // before the server ends it
		MaxResponseHeaderBytes: maxHeader,
	}}}
}

// dial connects to the socket at path. It retries while the socket's queue is full, for which Linux does not wait.
func dial(ctx context.Context, path string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: dialTimeout}
	for end := time.Now().Add(dialTimeout); ; {
		conn, err := dialer.DialContext(ctx, "unix", path)
		if !errors.Is(err, syscall.EAGAIN) || time.Now().After(end) {
			return conn, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(dialAgain):
		}
	}
}

// Dial connects to the socket, for requests that Client does not make. Its errors are those of a request.
func (c *Client) Dial(ctx context.Context) (net.Conn, error) {
	conn, err := dial(ctx, c.path)
	if err != nil {
		return nil, c.unreached(ctx, err)
	}
	return conn, nil
}

// Ban bans at most MaxAddrs addresses; a caller with more calls it several times.
func (c *Client) Ban(ctx context.Context, req BanRequest) (BanReply, error) {
	return call[BanReply](ctx, c, pathBan, req)
}

// Listed counts the bans of a list, or lifts those that are no longer on it.
func (c *Client) Listed(ctx context.Context, req ListedRequest) (ListedReply, error) {
	return call[ListedReply](ctx, c, pathListed, req)
}

// Unban lifts bans.
func (c *Client) Unban(ctx context.Context, req UnbanRequest) (UnbanReply, error) {
	return call[UnbanReply](ctx, c, pathUnban, req)
}

// Allow adds to the mesh-wide never-ban list.
func (c *Client) Allow(ctx context.Context, req AllowRequest) (AllowReply, error) {
	return call[AllowReply](ctx, c, pathAllow, req)
}

// Unallow removes entries from the mesh-wide never-ban list.
func (c *Client) Unallow(ctx context.Context, req UnallowRequest) (UnallowReply, error) {
	return call[UnallowReply](ctx, c, pathUnallow, req)
}

// Allowed returns the never-ban list.
func (c *Client) Allowed(ctx context.Context) ([]AllowEntry, error) {
	return call[[]AllowEntry](ctx, c, pathAllowed, nil)
}

// Why explains what the node does about prefix.
func (c *Client) Why(ctx context.Context, prefix netip.Prefix) (WhyReply, error) {
	return call[WhyReply](ctx, c, pathWhy+"?addr="+url.QueryEscape(FormatPrefix(prefix)), nil)
}

// Members returns the nodes of the mesh.
func (c *Client) Members(ctx context.Context) ([]Member, error) {
	return call[[]Member](ctx, c, pathMembers, nil)
}

// Status returns the state of the node.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return call[Status](ctx, c, pathStatus, nil)
}

// Invite makes a join token.
func (c *Client) Invite(ctx context.Context, req InviteRequest) (InviteReply, error) {
	return call[InviteReply](ctx, c, pathInvite, req)
}

// Invitations returns the node's tokens that can still be used.
func (c *Client) Invitations(ctx context.Context) ([]Invitation, error) {
	return call[[]Invitation](ctx, c, pathInvites, nil)
}

// CancelInvite ends a token.
func (c *Client) CancelInvite(ctx context.Context, req CancelInviteRequest) (CancelInviteReply, error) {
	return call[CancelInviteReply](ctx, c, pathCancel, req)
}

// Revoke excludes a node from the mesh.
func (c *Client) Revoke(ctx context.Context, req RevokeRequest) (RevokeReply, error) {
	return call[RevokeReply](ctx, c, pathRevoke, req)
}

// Forget removes a member that is gone for good from the list.
func (c *Client) Forget(ctx context.Context, req ForgetRequest) (ForgetReply, error) {
	return call[ForgetReply](ctx, c, pathForget, req)
}

// Pause has the node, or every node, drop nothing for a while.
func (c *Client) Pause(ctx context.Context, req PauseRequest) (PauseReply, error) {
	return call[PauseReply](ctx, c, pathPause, req)
}

// AddKey makes a key of the api listener.
func (c *Client) AddKey(ctx context.Context, req AddKeyRequest) (AddKeyReply, error) {
	return call[AddKeyReply](ctx, c, pathAddKey, req)
}

// DeleteKey deletes a key of the api listener.
func (c *Client) DeleteKey(ctx context.Context, req DeleteKeyRequest) (DeleteKeyReply, error) {
	return call[DeleteKeyReply](ctx, c, pathDelKey, req)
}

// Keys returns the keys of the api listener.
func (c *Client) Keys(ctx context.Context) (KeysReply, error) {
	return call[KeysReply](ctx, c, pathKeys, nil)
}

// TestHook sends a test message by a hook.
func (c *Client) TestHook(ctx context.Context, req HookRequest) (HookReply, error) {
	return call[HookReply](ctx, c, pathHook, req)
}

// Rotate replaces the mesh key.
func (c *Client) Rotate(ctx context.Context, req RotateRequest) (RotateReply, error) {
	return call[RotateReply](ctx, c, pathRotate, req)
}

// call sends one request, as a POST if it has a body, and reads the reply.
func call[Rep any](ctx context.Context, c *Client, path string, req any) (rep Rep, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, requestTimeout, errSlow)
	defer cancel()
	var body []byte
	if req != nil {
		if body, err = json.Marshal(req); err != nil {
			return rep, fmt.Errorf("encode request: %w", err)
		}
	}
	resp, err := c.do(ctx, path, body)
	if err != nil {
		return rep, err
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	_ = resp.Body.Close()
	if err != nil {
		return rep, broken(ctx, err)
	}
	if err := json.Unmarshal(data, &rep); err != nil {
		return rep, fmt.Errorf("read the agent's answer: %w", err)
	}
	return rep, nil
}

var errSlow = &Error{
	Code:    CodeFailed,
	Message: "the agent did not answer within " + config.FormatDuration(requestTimeout),
	Hint:    "look at its log: journalctl -u meshban",
}

// do sends a request and returns a successful response.
func (c *Client) do(ctx context.Context, path string, body []byte) (*http.Response, error) {
	method := http.MethodGet
	if body != nil {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+clientHost+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", jsonType)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreached(ctx, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, MaxLine))
	_ = resp.Body.Close()
	if err != nil {
		return nil, broken(ctx, err)
	}
	var refused errorReply
	if json.Unmarshal(data, &refused) == nil && refused.Error != nil {
		return nil, refused.Error
	}
	return nil, &Error{
		Code:    CodeFailed,
		Message: fmt.Sprintf("the agent does not know this request (HTTP %d)", resp.StatusCode),
		Hint:    "is it an older version than this command? compare: meshban version, meshban status",
	}
}

// unreached explains why no answer came.
func (c *Client) unreached(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, fs.ErrPermission):
		return &Error{
			Code:    CodePolicy,
			Message: fmt.Sprintf("no permission to use the agent's socket %q", c.path),
			Hint:    "the agent belongs to another user: use sudo, or have an administrator set control.read_group or control.write_group in meshban.yaml",
			Rule:    RuleAccess,
		}
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOTDIR),
		errors.Is(err, syscall.EINVAL): // EINVAL: the path is too long for a socket, so no agent can be there
		return fmt.Errorf("%w on %q", ErrNoAgent, c.path)
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF):
		return fmt.Errorf("%w on %q: it ended during the request", ErrNoAgent, c.path)
	}
	var op *url.Error
	if errors.As(err, &op) && strings.HasPrefix(op.URL, "http://"+clientHost) {
		err = op.Err // the made-up URL would only confuse
	}
	return fmt.Errorf("ask the agent on %q: %w", c.path, err)
}

// broken explains why an answer ended early.
func broken(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) {
		return &Error{Code: CodeFailed, Message: "the agent's answer broke off", Hint: "it ended or was restarted: look at its log"}
	}
	return fmt.Errorf("read the agent's answer: %w", err)
}
