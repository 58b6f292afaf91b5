package logsrc

import (
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// watch receives the kernel's events for one file: inotify on Linux, kqueue on the BSDs and darwin. It only saves time:
// the next tick finds what it misses.
type watch struct {
	notify *fsnotify.Watcher // nil = not available
	path   string            // clean
	id     fileID            // of the watched file
	names  []string          // the path and, if it is a symbolic link, its target
}

func newWatch(path string) (*watch, error) {
	path = filepath.Clean(path)
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return &watch{path: path}, err
	}
	return &watch{notify: notify, path: path}, nil
}

// closeLimit bounds the wait for the end of the kernel's events. Closing an inotify descriptor waits for the other
// processors, on a busy machine for more than a second.
const closeLimit = time.Second

// close ends the events. If the kernel takes longer than closeLimit, it finishes in the background.
func (w *watch) close() {
	if w.notify == nil {
		return
	}
	done := make(chan struct{})
	go func() {
		w.notify.Close()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(closeLimit):
	}
}

func (w *watch) events() <-chan fsnotify.Event {
	if w.notify == nil {
		return nil
	}
	return w.notify.Events
}

func (w *watch) errors() <-chan error {
	if w.notify == nil {
		return nil
	}
	return w.notify.Errors
}

// arm watches the file and its folder, also after the folder was created or replaced. It reports whether the file
// differs from the one watched before: the new one may have changed before it was watched.
func (w *watch) arm(id fileID) (fresh bool) {
	if w.notify == nil {
		return false
	}
	w.names = append(w.names[:0], w.path)
	if real, err := filepath.EvalSymlinks(w.path); err == nil && real != w.path {
		w.names = append(w.names, real)
	}
	if id != w.id {
		// Without this, a late event that the old file was moved would remove the watch from the new one. An error
		// means that the path was not watched.
		_ = w.notify.Remove(w.path)
		fresh, w.id = true, id
	}
	// An error means that there is nothing to watch yet; the next tick tries again.
	_ = w.notify.Add(w.path)
	for _, name := range w.names {
		_ = w.notify.Add(filepath.Dir(name))
	}
	return fresh
}

// concerns reports whether an event is about the file or a rotated generation, whose name is longer. In a folder such
// as /var/log most events are not.
func (w *watch) concerns(event fsnotify.Event) bool {
	for _, name := range w.names {
		if strings.HasPrefix(event.Name, name) || event.Name == filepath.Dir(name) {
			return true
		}
	}
	return false
}
