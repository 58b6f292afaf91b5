package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/ownfile"
)

const (
	// problemsKept is how long a problem is shown unless it is cleared; briefly is the same for one that is set again
	// every minute while it lasts. A problem older than problemsAged is shown with its age.
	problemsKept, briefly, problemsAged = time.Hour, 5 * time.Minute, 2 * time.Minute
	// maxCulprits bounds the problems of one kind that are shown, newest first, so that one does not hide another.
	maxCulprits = 4
)

// problems holds what an operator should look at, by kind.
type problems struct {
	mu     sync.Mutex           // guards what follows
	byKind map[string][]problem // the newest first, at most maxCulprits
}

type problem struct {
	text string
	at   time.Time
	kept time.Duration
}

func newProblems() *problems { return &problems{byKind: map[string][]problem{}} }

// set sets the problem of a kind: what is wrong, and the remedy, which is empty if what contains it.
func (p *problems) set(kind, what, remedy string) { p.setFor(kind, what, remedy, problemsKept) }

// setFor sets a problem that ends unless it is set again within kept.
func (p *problems) setFor(kind, what, remedy string, kept time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.byKind[kind] = []problem{{withRemedy(what, remedy), time.Now(), kept}}
}

// add sets a problem beside others of its kind.
func (p *problems) add(kind, what, remedy string) {
	text := withRemedy(what, remedy)
	p.mu.Lock()
	defer p.mu.Unlock()
	list := slices.DeleteFunc(p.byKind[kind], func(pr problem) bool { return pr.text == text })
	list = slices.Insert(list, 0, problem{text, time.Now(), problemsKept})
	p.byKind[kind] = list[:min(len(list), maxCulprits)]
}

func (p *problems) clear(kind string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.byKind, kind)
}

// list returns the problems in a stable order.
func (p *problems) list(now time.Time) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]string, 0, len(p.byKind))
	for _, kind := range slices.Sorted(maps.Keys(p.byKind)) {
		kept := slices.DeleteFunc(p.byKind[kind], func(pr problem) bool { return now.Sub(pr.at) > pr.kept })
		if p.byKind[kind] = kept; len(kept) == 0 {
			delete(p.byKind, kind)
		}
		for _, pr := range kept {
			text := strings.TrimSpace(kind + ": " + pr.text)
			if age := now.Sub(pr.at); age >= problemsAged {
				text += fmt.Sprintf(" (%.0f minutes ago)", age.Minutes())
			}
			out = append(out, text)
		}
	}
	return out
}

func withRemedy(what, remedy string) string {
	if remedy == "" {
		return what
	}
	return what + "; " + remedy
}

// cause returns why a file could not be used, without its path.
func cause(err error) string {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		err = path.Err
	}
	return err.Error()
}

// fileRemedy returns what to do about an error of a file of the state folder.
func fileRemedy(path string, err error) string {
	if errors.As(err, new(*ownfile.Error)) {
		return "" // it says itself what to do
	}
	return cmp.Or(ownfile.Remedy(path, err), fmt.Sprintf("look at its disk: `findmnt -T %s` names it, `dmesg` may say more", filepath.Dir(path)))
}

// lineFileProblem returns why the line file is not followed or written, and what to do.
func (d *Daemon) lineFileProblem(does string, err error) (what, remedy string) {
	file := d.config().Lines.File
	const other = "name another one with `lines: {file: PATH}` in meshban.yaml and restart the agent"
	what = fmt.Sprintf("%s %s: %s", file, does, strings.TrimPrefix(cause(err), fmt.Sprintf("follow %q: ", file)))
	switch remedy := ownfile.Remedy(file, err); {
	case errors.Is(err, fs.ErrNotExist):
		return what, fmt.Sprintf("`mkdir -p %s && touch %s` creates it, as does a program that appends to it; or %s", filepath.Dir(file), file, other)
	case remedy != "":
		return what, remedy + "; or " + other
	}
	return what, "move away what is there (`ls -ld " + file + "`), or " + other
}

// firewallRemedy is what to do while the kernel does not have all that it should.
const firewallRemedy = "`meshban list` shows what is not enforced; what failed is tried again. If that lasts, look at the log, " +
	"or write another backend, such as `firewall: {backends: [nftables]}`, into meshban.yaml and restart the agent"
