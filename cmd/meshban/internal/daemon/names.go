package daemon

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/mesh"
)

const (
	// maxNames bounds the origins whose human names are remembered.
	maxNames = 8192
	// valueNames names them in the store.
	valueNames = "names"
)

// names remembers what people call the origins of bans, also after these have gone.
type names struct {
	mu   sync.RWMutex // guards what follows
	byID map[ban.Origin]string
}

// newNames starts from what save returned in an earlier run; text that is not readable counts as nothing.
func newNames(saved []byte) *names {
	n := &names{byID: map[ban.Origin]string{}}
	var byText map[string]string
	if json.Unmarshal(saved, &byText) == nil {
		for text, name := range byText {
			if id, err := ban.ParseOrigin(text); err == nil {
				n.byID[id] = name
			}
		}
	}
	return n
}

// of is the name of an origin, or its short id where no name is known.
func (n *names) of(id ban.Origin) string {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if name, ok := n.byID[id]; ok {
		return name
	}
	return id.Short()
}

// learn notes a name and tells whether that is news.
func (n *names) learn(id ban.Origin, name string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if name == "" || n.byID[id] == name || len(n.byID) >= maxNames {
		return false
	}
	n.byID[id] = name
	return true
}

// save gives what newNames takes.
func (n *names) save() []byte {
	n.mu.RLock()
	defer n.mu.RUnlock()
	byText := make(map[string]string, len(n.byID))
	for id, name := range n.byID {
		byText[id.String()] = name
	}
	text, err := json.Marshal(byText)
	if err != nil { // a map of strings always encodes
		return nil
	}
	return text
}

// member takes news of a member: its name, its address for the never-ban list, and an event for those who watch.
func (d *Daemon) member(e mesh.MemberEvent) {
	level := slog.LevelDebug // of a stranger, who may come often
	if d.mesh.Counts(e.Member.ID) {
		level = slog.LevelInfo
		if d.names.learn(ban.Origin(e.Member.ID), e.Member.Name) {
			d.store.Set(valueNames, d.names.save())
		}
		kick(d.neverKick)
	}
	d.log.Log(context.Background(), level, "member changed", "event", e.Kind.String(), "name", e.Member.Name, "id", e.Member.ID.Short(), "addr", e.Member.Addr)
	d.hub.send(control.Event{Time: time.Now(), Name: e.Kind.String(), Origin: e.Member.Name})
}

// problemsKept is how long a problem that nobody clears is shown.
const problemsKept = time.Hour

// problems is what an operator should look at, by kind, newest text first wins.
type problems struct {
	mu     sync.Mutex // guards what follows
	byKind map[string]problem
}

type problem struct {
	text string
	at   time.Time
}

func newProblems() *problems { return &problems{byKind: map[string]problem{}} }

func (p *problems) set(kind, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.byKind[kind] = problem{text, time.Now()}
}

func (p *problems) clear(kind string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.byKind, kind)
}

// list gives the problems in a stable order.
func (p *problems) list(now time.Time) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.byKind, func(_ string, pr problem) bool { return now.Sub(pr.at) > problemsKept })
	out := make([]string, 0, len(p.byKind))
	for _, kind := range slices.Sorted(maps.Keys(p.byKind)) {
		out = append(out, strings.TrimSpace(kind+": "+p.byKind[kind].text))
	}
	return out
}
