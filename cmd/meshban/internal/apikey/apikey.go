// Package apikey keeps the keys of the api listener: names, rights, and the SHA-256 of each key, in a file of the state
// folder. A key itself is known only to whoever added it.
package apikey

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/ownfile"
)

// Bounds.
const (
	MaxKeys     = 256
	MaxName     = 32 // bytes of a name
	MaxSources  = 16
	MaxSource   = 64        // bytes of a source
	DefaultRate = 1_200     // as of peers in the config
	MaxRate     = 1_000_000 // addresses a minute
	maxAgent    = 128       // bytes of what a program says of itself
	maxFile     = 4 << 20
	secretBytes = 25 // 40 characters
)

// Rights of a key.
const (
	Read  = "read"
	Ban   = "ban"
	Unban = "unban"
	Allow = "allow"
	// Look shows the page, with all that it shows; Operate also lets its forms change things.
	Look    = "look"
	Operate = "operate"
)

// Rights returns all rights.
func Rights() []string { return []string{Read, Ban, Unban, Allow, Look, Operate} }

// Errors that callers tell apart.
var (
	ErrExists  = errors.New("there is a key of this name")
	ErrUnknown = errors.New("no key has this name")
	ErrFull    = fmt.Errorf("there are %d keys, which is the limit", MaxKeys)
)

// Key is a key without its secret.
type Key struct {
	Name    string    `json:"name"`
	May     []string  `json:"may"`               // such as Read
	Rate    int       `json:"rate"`              // addresses that it may ban, unban or allow per minute, and at once
	Sources []string  `json:"sources,omitempty"` // it reads only bans from these; a * at the end matches any rest
	Family  int       `json:"family,omitempty"`  // 4 or 6: it reads only these addresses
	Added   time.Time `json:"added"`
	Use     Use       `json:"use"`
}

// Use says who used a key last.
type Use struct {
	At      time.Time  `json:"at,omitzero"`
	Addr    netip.Addr `json:"addr,omitzero"`
	Agent   string     `json:"agent,omitempty"`
	Version string     `json:"version,omitempty"`
}

// Can reports whether the key has a right.
func (k Key) Can(right string) bool { return slices.Contains(k.May, right) }

// Reads reports whether the key may read a ban of this prefix from this source.
func (k Key) Reads(prefix netip.Prefix, source string) bool {
	return k.ReadsFamily(prefix) && (len(k.Sources) == 0 || slices.ContainsFunc(k.Sources, func(p string) bool { return fits(p, source) }))
}

// ReadsFamily reports whether the key may read bans of addresses like this one.
func (k Key) ReadsFamily(prefix netip.Prefix) bool {
	return k.Family == 0 || prefix.Addr().Is4() == (k.Family == 4)
}

func fits(pattern, source string) bool {
	if start, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(source, start)
	}
	return pattern == source
}

// Check returns what is wrong with a key that is to be added.
func (k Key) Check() error {
	switch {
	case !validName(k.Name):
		return fmt.Errorf("%q is not a name: write 1 to %d letters, digits, dots, dashes or underscores", k.Name, MaxName)
	case len(k.May) == 0 || slices.ContainsFunc(k.May, func(r string) bool { return !slices.Contains(Rights(), r) }):
		return fmt.Errorf("%q are not rights: write one or more of %s", strings.Join(k.May, ","), strings.Join(Rights(), ","))
	case k.Rate < 0 || k.Rate > MaxRate:
		return fmt.Errorf("rate %d is out of bounds: write 1 to %d", k.Rate, MaxRate)
	case k.Family != 0 && k.Family != 4 && k.Family != 6:
		return fmt.Errorf("family %d is not known: write 4 or 6", k.Family)
	case k.Can(Look) && (k.Family != 0 || len(k.Sources) > 0):
		return fmt.Errorf("the page shows everything: leave out sources and family, or %s", Look)
	case len(k.Sources) > MaxSources:
		return fmt.Errorf("%d sources: write at most %d", len(k.Sources), MaxSources)
	}
	for _, s := range k.Sources {
		if star := strings.IndexByte(s, '*'); s == "" || len(s) > MaxSource || star >= 0 && star < len(s)-1 {
			return fmt.Errorf("%q is not a source: write one such as line:sshd, or line:*", s)
		}
	}
	return nil
}

func validName(s string) bool {
	return s != "" && len(s) <= MaxName && s[0] != '-' && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-", r)
	})
}

type hash [sha256.Size]byte

func (h hash) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

func (h *hash) UnmarshalText(b []byte) error {
	if n, err := hex.Decode(h[:], b); err != nil || n != len(h) || len(b) != 2*len(h) {
		return errors.New("not a SHA-256")
	}
	return nil
}

// stored is a line of the file.
type stored struct {
	Key
	Hash hash `json:"sha256"`
}

// Ring is the keys of a node. It is safe for concurrent use.
type Ring struct {
	path string

	mu      sync.Mutex // guards what follows
	keys    map[hash]*stored
	unsaved bool // a use is not in the file
}

// Open reads the keys of a file, which may be missing.
func Open(path string) (*Ring, error) {
	r := &Ring{path: path, keys: make(map[hash]*stored)}
	f, err := ownfile.Open(path, os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the api keys: %w", err)
	}
	defer f.Close()
	var all []stored
	if err := json.NewDecoder(io.LimitReader(f, maxFile)).Decode(&all); err != nil {
		return nil, fmt.Errorf("read the api keys: %q: %w; move the file away and make new keys: `meshban key add NAME`", path, err)
	}
	for _, k := range all[:min(len(all), MaxKeys)] {
		r.keys[k.Hash] = &k
	}
	return r, nil
}

// Add adds a key and returns its secret.
func (r *Ring) Add(k Key, now time.Time) (secret string, err error) {
	if err := k.Check(); err != nil {
		return "", err
	}
	if k.Rate == 0 {
		k.Rate = DefaultRate
	}
	k.Added, k.Use = now.UTC().Truncate(time.Second), Use{}
	raw := make([]byte, secretBytes)
	_, _ = rand.Read(raw) // never fails
	secret = strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(raw))
	h := hash(sha256.Sum256([]byte(secret)))
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.findLocked(k.Name) != nil:
		return "", ErrExists
	case len(r.keys) >= MaxKeys:
		return "", ErrFull
	}
	r.keys[h] = &stored{k, h}
	if err := r.saveLocked(); err != nil {
		delete(r.keys, h)
		return "", err
	}
	return secret, nil
}

// Delete deletes a key.
func (r *Ring) Delete(name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.findLocked(name)
	if k == nil {
		return ErrUnknown
	}
	delete(r.keys, k.Hash)
	if err := r.saveLocked(); err != nil {
		r.keys[k.Hash] = k
		return err
	}
	return nil
}

func (r *Ring) findLocked(name string) *stored {
	for _, k := range r.keys {
		if k.Name == name {
			return k
		}
	}
	return nil
}

// List returns the keys by name.
func (r *Ring) List() []Key {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]Key, 0, len(r.keys))
	for _, k := range r.keys {
		all = append(all, k.Key)
	}
	slices.SortFunc(all, func(a, b Key) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Find returns the key with this secret and notes its use. agent is what the program says of itself: NAME/VERSION.
func (r *Ring) Find(secret string, now time.Time, addr netip.Addr, agent string) (Key, bool) {
	h := hash(sha256.Sum256([]byte(secret))) // a guess learns nothing from the time that the look-up of a hash takes
	r.mu.Lock()
	defer r.mu.Unlock()
	k, ok := r.keys[h]
	if !ok {
		return Key{}, false
	}
	name, version, _ := strings.Cut(printable(agent), "/")
	k.Use, r.unsaved = Use{now.UTC().Truncate(time.Second), addr, name, version}, true
	return k.Key, true
}

// printable makes text of a program fit for a terminal.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return '?'
		}
		return c
	}, s[:min(len(s), maxAgent)])
}

// Save writes who used the keys, if that has changed.
func (r *Ring) Save() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.unsaved {
		return nil
	}
	return r.saveLocked()
}

func (r *Ring) saveLocked() error {
	all := make([]*stored, 0, len(r.keys))
	for _, k := range r.keys {
		all = append(all, k)
	}
	slices.SortFunc(all, func(a, b *stored) int { return strings.Compare(a.Name, b.Name) })
	b, err := json.MarshalIndent(all, "", "\t")
	if err == nil {
		err = ownfile.Replace(r.path, append(b, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("write the api keys: %w", err)
	}
	r.unsaved = false
	return nil
}
