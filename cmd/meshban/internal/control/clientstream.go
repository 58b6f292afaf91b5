package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"
)

// errorLine starts the last line of a stream that failed. No entry and no event starts like this.
var errorLine = []byte(`{"error":`)

// List calls yield for each banned entry and stops with its error. The entry's Origins and OriginIDs are reused for
// the next one.
func (c *Client) List(ctx context.Context, hits bool, yield func(ListEntry) error) error {
	path := pathList
	if hits {
		path += "?" + withHits
	}
	var d entryDecoder
	return c.stream(ctx, path, nil, func(line []byte) error {
		e, err := d.decode(line)
		if err != nil {
			return fmt.Errorf("read list entry: %w", err)
		}
		return yield(e)
	})
}

// ListRaw is List without hits and decoding: yield gets each entry as a line of JSON without its newline, valid until yield
// returns.
func (c *Client) ListRaw(ctx context.Context, yield func(line []byte) error) error {
	return c.stream(ctx, pathList, nil, yield)
}

// Audit calls yield for each entry of the audit log since the given time, oldest first, and stops with its error.
func (c *Client) Audit(ctx context.Context, since time.Time, yield func(AuditEntry) error) error {
	path := pathAudit
	if !since.IsZero() {
		path += "?since=" + url.QueryEscape(since.Format(time.RFC3339Nano))
	}
	return c.stream(ctx, path, nil, each(yield))
}

// each returns a function that decodes a line for yield.
func each[T any](yield func(T) error) func([]byte) error {
	return func(line []byte) error {
		var e T
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("read the agent's answer: %w", err)
		}
		return yield(e)
	}
}

// Watch calls yield for each event from now on. It returns nil when ctx ends, and an error that wraps ErrNoAgent when
// the agent ends.
func (c *Client) Watch(ctx context.Context, yield func(Event) error) error {
	return c.WatchStarted(ctx, func() {}, yield)
}

// WatchStarted is Watch, but calls started once the agent has accepted the request.
func (c *Client) WatchStarted(ctx context.Context, started func(), yield func(Event) error) error {
	var stopped error // from yield
	err := c.stream(ctx, pathWatch, started, func(line []byte) error {
		stopped = each(yield)(line)
		return stopped
	})
	switch {
	case stopped != nil:
		return stopped
	case ctx.Err() != nil:
		return nil
	case err == nil:
		return fmt.Errorf("%w any more on %q: it has ended", ErrNoAgent, c.path)
	}
	return err
}

// stream reads an answer line by line. A failure of the agent is the last line and is returned.
func (c *Client) stream(ctx context.Context, path string, started func(), yield func(line []byte) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the response if yield fails
	resp, err := c.do(ctx, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if started != nil {
		started()
	}
	in := bufio.NewReaderSize(resp.Body, MaxLine)
	for {
		line, err := in.ReadSlice('\n')
		switch {
		case err == nil:
		case errors.Is(err, bufio.ErrBufferFull):
			return fmt.Errorf("read the agent's answer: a line has more than %d bytes", MaxLine)
		case errors.Is(err, io.EOF) && len(line) == 0:
			return nil
		case errors.Is(err, io.EOF):
			return broken(ctx, io.ErrUnexpectedEOF)
		default:
			return broken(ctx, err)
		}
		line = line[:len(line)-1]
		if bytes.HasPrefix(line, errorLine) {
			var failed errorReply
			if err := json.Unmarshal(line, &failed); err != nil || failed.Error == nil {
				return fmt.Errorf("read the agent's answer: broken error line: %w", err)
			}
			return failed.Error
		}
		if err := yield(line); err != nil {
			return err
		}
	}
}
