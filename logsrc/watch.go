package logsrc

import (
	"path/filepath"
	"strings"

	"github.com/fsnotify/fsnotify"
)

// watch asks the kernel to tell about changes of one file: inotify on Linux, kqueue on the BSDs and darwin. It is
// a means to be quick, never to be right: what it misses is found at the next tick.
type watch struct {
	notify *fsnotify.Watcher // nil = not to be had here
	path   string            // clean
	id     fileID            // of the file that is watched
	names  []string          // the path and, for a symbolic link, what it points to
}

func newWatch(path string) (*watch, error) {
	path = filepath.Clean(path)
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return &watch{path: path}, err
	}
	return &watch{notify: notify, path: path}, nil
}

func (w *watch) close() {
	if w.notify != nil {
		w.notify.Close()
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

// arm watches the file and its folder, again if need be: a folder may have come or been replaced. It says whether
// the file is another than before, since it may have changed before it was watched.
func (w *watch) arm(id fileID) (fresh bool) {
	if w.notify == nil {
		return false
	}
	w.names = append(w.names[:0], w.path)
	if real, err := filepath.EvalSymlinks(w.path); err == nil && real != w.path {
		w.names = append(w.names, real)
	}
	if id != w.id {
		// Without this, the late news that the former file was moved takes the watch off the new one. There is
		// nothing to do about an error: it says that the path was not watched.
		_ = w.notify.Remove(w.path)
		fresh, w.id = true, id
	}
	// Errors mean that there is nothing there to be watched now; the tick comes back to it.
	_ = w.notify.Add(w.path)
	for _, name := range w.names {
		_ = w.notify.Add(filepath.Dir(name))
	}
	return fresh
}

// concerns says whether an event is about the file, or one that was rotated away and has its name with something
// behind it; in a folder such as /var/log most are not.
func (w *watch) concerns(event fsnotify.Event) bool {
	for _, name := range w.names {
		if strings.HasPrefix(event.Name, name) || event.Name == filepath.Dir(name) {
			return true
		}
	}
	return false
}
