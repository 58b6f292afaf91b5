package ui

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

const (
	liveEvery = 250 * time.Millisecond // between two messages of a tail
	liveAlive = 20 * time.Second       // between two messages of a silent one
	liveBurst = 20                     // events in a message; the rest is counted
)

// liveEvent is what the script shows of an event.
type liveEvent struct {
	Time    string   `json:"time"`
	Name    string   `json:"event"`
	Prefix  string   `json:"prefix,omitempty"`
	Path    string   `json:"path,omitempty"` // of the page about it
	Ports   string   `json:"ports,omitempty"`
	Origin  string   `json:"origin"`
	ID      string   `json:"id"`
	Reason  string   `json:"reason,omitempty"`
	Source  string   `json:"source,omitempty"`
	Latency *float64 `json:"ms,omitempty"`
	Tone    string   `json:"tone"`
}

// batch gathers events between two messages.
type batch struct {
	mu     sync.Mutex // guards what follows
	events []liveEvent
	left   int // further events
}

func (b *batch) add(e control.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.events) == liveBurst {
		b.left++
		return
	}
	out := liveEvent{
		Time: e.Time.UTC().Format(time.RFC3339Nano), Name: e.Name, Prefix: e.Prefix.String(), Ports: e.Ports,
		Origin: e.Origin, ID: e.OriginID, Reason: e.Reason, Source: e.Source, Latency: e.LatencyMS, Tone: eventTone(e.Name),
	}
	if out.Prefix != "" {
		out.Path = Root + whyOf(e.Prefix)
	}
	b.events = append(b.events, out)
}

// take returns what was gathered.
func (b *batch) take() (events []liveEvent, left int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	events, left = b.events, b.left
	b.events, b.left = nil, 0
	return events, left
}

func eventTone(name string) string {
	switch name {
	case "ban", "refresh":
		return "bad"
	case "held", "pending", "fail", control.StateNotEnforced:
		return "warn"
	case "unban", "allow", "join":
		return "good"
	}
	return "plain"
}

// tail sends events as they happen, as server-sent events.
func (h *Handler) tail(w http.ResponseWriter, r *http.Request) {
	select {
	case h.live <- struct{}{}:
		defer func() { <-h.live }()
	default:
		http.Error(w, fmt.Sprintf("%d pages are already following, which is the limit", maxLive), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	// Fails only for a ResponseWriter without a connection. A tail outlasts the server's limit for a request.
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	ctx, stop := context.WithCancel(r.Context())
	defer stop()
	var seen batch
	watched := make(chan error, 1) // one send, by the goroutine below
	go func() {
		watched <- h.agent.Watch(ctx, func(e control.Event) error { seen.add(e); return nil })
		stop()
	}()
	defer func() { <-watched }()
	defer stop()
	tick := time.NewTicker(liveEvery)
	defer tick.Stop()
	send := func(text string) bool {
		deadline(w)
		if _, err := w.Write([]byte(text)); err != nil {
			return false
		}
		return http.NewResponseController(w).Flush() == nil
	}
	if !send(": connected\n\n") {
		return
	}
	for last := h.now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		events, left := seen.take()
		switch {
		case len(events) > 0:
			body, err := json.Marshal(map[string]any{"events": events, "left": left})
			if err != nil || !send("data: "+string(bytes.TrimSpace(body))+"\n\n") {
				return
			}
		case h.now().Sub(last) < liveAlive:
			continue
		case !send(": alive\n\n"):
			return
		}
		last = h.now()
	}
}
