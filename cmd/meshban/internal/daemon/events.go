package daemon

import (
	"sync"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// watcherBuffer is how many events a watcher may lag behind before its stream is ended.
const watcherBuffer = 8192

// hub sends events to watchers. A watcher that cannot keep up is cut off and told so; nobody waits for it.
type hub struct {
	mu       sync.Mutex // guards what follows
	watchers map[*watcher]struct{}
}

// watcher is one stream of events.
type watcher struct {
	events chan control.Event // the hub sends; it closes the channel when the watcher is too slow or leaves
}

func newHub() *hub { return &hub{watchers: map[*watcher]struct{}{}} }

// join adds a watcher; the caller must call leave.
func (h *hub) join() *watcher {
	w := &watcher{events: make(chan control.Event, watcherBuffer)}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watchers[w] = struct{}{}
	return w
}

// leave removes a watcher. Leaving twice is harmless.
func (h *hub) leave(w *watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dropLocked(w)
}

func (h *hub) dropLocked(w *watcher) {
	if _, ok := h.watchers[w]; ok {
		delete(h.watchers, w)
		close(w.events)
	}
}

// busy reports whether anybody watches, so that events are built only if somebody does.
func (h *hub) busy() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.watchers) > 0
}

// send hands e to every watcher and never blocks.
func (h *hub) send(e control.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watchers {
		select {
		case w.events <- e:
		default:
			h.dropLocked(w)
		}
	}
}
