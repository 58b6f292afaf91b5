// Package store keeps on disk what must survive a restart: the live frames, which of their ops are held, the epoch and
// a few small values.
//
// A write never delays the hot path: Put, Drop and Set only queue, and one task commits what has gathered in a single
// transaction. A crash loses at most what was not committed yet; peers give lost frames back. Only the epoch is written
// and synced before RaiseEpoch returns, because two runs must never share one.
//
// A file that is found to be damaged, at the start or in use, is set aside. A fresh one takes over, with what is sound
// in the old one.
package store

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Gather is how long a commit waits for more to write, so that one disk sync serves a whole burst. It is GatherMore
// while commits follow each other within a second, as in an import. A caller of Sync does not wait for either.
const Gather, GatherMore = 50 * time.Millisecond, 250 * time.Millisecond

// Retry is how long after a failed commit the next one follows. A command waits a little longer than that for the disk,
// so that one that comes after the disk has room again is stored when it is answered.
const Retry = 500 * time.Millisecond

// MaxQueued bounds the writes that wait for the disk. Beyond it writes are lost and counted in Stats.Dropped; peers
// give lost frames back after a restart.
const MaxQueued = 1 << 20

// lockTimeout bounds the wait for another process that holds the file.
const lockTimeout = 2 * time.Second

// ErrInUse means that another process has the store open, ErrDamaged that the file is not a store or is broken.
var (
	ErrInUse   = errors.New("store is in use by another process")
	ErrDamaged = errors.New("store is damaged")
)

// The numbers tell the buckets from those of versions whose values had no checksum.
var (
	bucketFrames = []byte("frames.2")
	bucketValues = []byte("values.2")
	bucketHolds  = []byte("holds.2")
	buckets      = [][]byte{bucketFrames, bucketHolds, bucketValues}
	keyEpoch     = []byte("epoch")
)

// FrameKey orders frames on disk by origin, then epoch, then sequence number.
type FrameKey [32]byte

// KeyOf returns the key of the frame (origin, epoch, seq).
func KeyOf(origin [16]byte, epoch, seq uint64) FrameKey {
	var k FrameKey
	copy(k[:16], origin[:])
	binary.BigEndian.PutUint64(k[16:], epoch)
	binary.BigEndian.PutUint64(k[24:], seq)
	return k
}

// write is one queued change: a frame to put (raw set) or to drop, a value to set (name set), or holds of a frame's ops
// to set (marks set, raw as in the bucket).
type write struct {
	key     FrameKey
	raw     []byte
	at      time.Time // when a frame arrived
	name    string
	marks   bool
	missing bool // put the frame only if it is not stored yet
}

// arrivedLen is the length of the arrival time before a frame on disk: Unix milliseconds, big-endian.
const arrivedLen = 8

func appendFrame(b []byte, arrived time.Time, raw []byte) []byte {
	return append(binary.BigEndian.AppendUint64(b, uint64(max(0, arrived.UnixMilli()))), raw...)
}

func cutFrame(b []byte) (arrived time.Time, raw []byte) {
	if len(b) < arrivedLen {
		return time.Time{}, nil
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(b))).UTC(), b[arrivedLen:]
}

// holdLen is the length of a hold on disk: an op's index in its frame, big-endian, and its hold. The holds of a frame
// are one value, ordered by index; one value for each hold took a sixth of the time of a flood of held bans.
const holdLen = 3

func appendHold(b []byte, op uint16, hold uint8) []byte {
	return append(binary.BigEndian.AppendUint16(b, op), hold)
}

// holdsIn yields the holds of a frame.
func holdsIn(b []byte) iter.Seq2[uint16, uint8] {
	return func(yield func(uint16, uint8) bool) {
		for ; len(b) >= holdLen; b = b[holdLen:] {
			if !yield(binary.BigEndian.Uint16(b), b[2]) {
				return
			}
		}
	}
}

// mergeHolds adds more to a frame's old holds. For the same op the later hold wins.
func mergeHolds(old, more []byte) []byte {
	all := maps.Collect(holdsIn(old))
	maps.Insert(all, holdsIn(more))
	var b []byte
	for _, op := range slices.Sorted(maps.Keys(all)) {
		b = appendHold(b, op, all[op])
	}
	return b
}

// Stats counts what the store has done since it was opened.
type Stats struct {
	Commits, Dropped uint64
	Waiting          int   // writes that are not on disk yet
	LastError        error // of the last commit; nil = it succeeded
}

// Store is one bbolt file. Its methods may be called from any goroutine.
type Store struct {
	path  string
	opts  Options
	wake  chan struct{} // holds a token if there is something to commit. Senders never block; Run receives
	hurry chan struct{} // holds a token if somebody waits for the commit. Sync sends and never blocks; Run receives

	using sync.Mutex // held while the file is used, because bbolt leaves its own locks held when a damaged page makes it panic
	db    *bolt.DB   // guarded by using; nil = the last file was damaged, and there is no fresh one yet

	mu      sync.Mutex // guards the fields below
	queue   []write
	stats   Stats         // Waiting counts only what the running commit has taken
	failed  error         // of the last commit
	queued  uint64        // writes queued since Open
	settled uint64        // how many of those are on disk
	tried   chan struct{} // closed at the end of the next commit, whether it succeeds or fails
}

// Options are the options of Open.
type Options struct {
	// OnDamage, if set, is called for each file that is set aside, during Open and later. It must not read the store.
	OnDamage func(Damage)
	NoSync   bool // commits are not synced, for tests
}

// Open opens or creates the file at path with mode 0600. It returns ErrInUse if another process holds the file.
func Open(path string, opts Options) (*Store, error) {
	s := &Store{
		path: path, opts: opts,
		wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1), tried: make(chan struct{}),
	}
	var err error
	if s.db, err = open(path, nil, opts); err != nil {
		return nil, fmt.Errorf("open store %q: %w", path, err)
	}
	return s, nil
}

// use calls f with the file. If the file is damaged, a fresh one takes its place, and f is called once more if again is
// set.
func (s *Store) use(again bool, f func(*bolt.DB) error) error {
	s.using.Lock()
	defer s.using.Unlock()
	err := fmt.Errorf("%w, and there is no fresh one yet", ErrDamaged)
	if s.db != nil {
		err = guard(func() error { return f(s.db) })
	}
	if !errors.Is(err, ErrDamaged) {
		return err
	}
	// Do not close the former one: that would wait for the locks that it still holds.
	db, openErr := open(s.path, err, s.opts)
	s.db = db
	if openErr != nil || !again {
		return errors.Join(err, openErr)
	}
	return guard(func() error { return f(db) })
}

func (s *Store) view(again bool, f func(*bolt.Tx) error) error {
	return s.use(again, func(db *bolt.DB) error { return db.View(f) })
}

func (s *Store) update(f func(*bolt.Tx) error) error {
	return s.use(true, func(db *bolt.DB) error { return db.Update(f) })
}

// get returns the value of a key, or nil if there is none.
func get(tx *bolt.Tx, bucket, key []byte) ([]byte, error) {
	sealed := tx.Bucket(bucket).Get(key)
	if sealed == nil {
		return nil, nil
	}
	value, ok := unseal(bucket, key, sealed)
	if !ok {
		return nil, fmt.Errorf("%w: wrong checksum of %q", ErrDamaged, key)
	}
	return value, nil
}

func put(tx *bolt.Tx, bucket, key, value []byte) error {
	return tx.Bucket(bucket).Put(key, seal(bucket, key, value))
}

// each calls yield with each key of a bucket that begins with prefix, and with its value.
func each(tx *bolt.Tx, bucket, prefix []byte, yield func(key, value []byte) error) error {
	c := tx.Bucket(bucket).Cursor()
	for k, v := c.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = c.Next() {
		value, ok := unseal(bucket, k, v)
		if !ok {
			return fmt.Errorf("%w: wrong checksum of %q", ErrDamaged, k)
		}
		if err := yield(k, value); err != nil {
			return err
		}
	}
	return nil
}

// RaiseEpoch raises the stored epoch by at least one, to above atLeast, syncs it to disk and returns it.
func (s *Store) RaiseEpoch(atLeast uint64) (epoch uint64, err error) {
	err = s.update(func(tx *bolt.Tx) error {
		v, err := get(tx, bucketValues, keyEpoch)
		if err != nil {
			return err
		}
		epoch = 0
		if len(v) == 8 {
			epoch = binary.BigEndian.Uint64(v)
		}
		epoch = max(epoch, atLeast) + 1
		return put(tx, bucketValues, keyEpoch, binary.BigEndian.AppendUint64(nil, epoch))
	})
	if err != nil {
		return 0, fmt.Errorf("raise epoch: %w", err)
	}
	return epoch, nil
}

// Frames calls yield with each stored frame and when it arrived, in the order of the keys. The bytes are valid only
// during the call. If Frames returns ErrDamaged, yield has had the sound frames up to the damage.
func (s *Store) Frames(yield func(arrived time.Time, raw []byte) error) error {
	err := s.view(false, func(tx *bolt.Tx) error {
		return each(tx, bucketFrames, nil, func(_, v []byte) error { return yield(cutFrame(v)) })
	})
	if err != nil {
		return fmt.Errorf("read stored frames: %w", err)
	}
	return nil
}

// Value returns a copy of the value last committed under name, or nil.
func (s *Store) Value(name string) []byte {
	var out []byte
	// An unreadable value counts as missing: a closed store has none, and OnDamage was told of a damaged one.
	_ = s.view(true, func(tx *bolt.Tx) error {
		v, err := get(tx, bucketValues, []byte("v/"+name))
		if v != nil {
			out = append([]byte{}, v...)
		}
		return err
	})
	return out
}

// Values calls yield with each value whose name begins with prefix, and with the rest of the name. It may call yield
// twice for a value.
func (s *Store) Values(prefix string, yield func(rest string, value []byte)) error {
	head := []byte("v/" + prefix)
	err := s.view(true, func(tx *bolt.Tx) error {
		return each(tx, bucketValues, head, func(k, v []byte) error {
			yield(string(k[len(head):]), bytes.Clone(v))
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("read stored values: %w", err)
	}
	return nil
}

// Put queues a frame and its arrival time. raw is kept until it is committed and must not change.
func (s *Store) Put(key FrameKey, arrived time.Time, raw []byte) {
	s.enqueue(write{key: key, at: arrived, raw: raw})
}

// Refill queues a frame like Put, but stores it only if it is missing.
func (s *Store) Refill(key FrameKey, arrived time.Time, raw []byte) {
	s.enqueue(write{key: key, at: arrived, raw: raw, missing: true})
}

// Hold queues the hold of the op at index op of a frame; the caller defines what hold means. The hold is dropped with
// the frame.
func (s *Store) Hold(key FrameKey, op uint16, hold uint8) {
	s.mu.Lock()
	if n := len(s.queue); n > 0 && s.queue[n-1].marks && s.queue[n-1].key == key { // a frame's holds come together
		last := &s.queue[n-1]
		last.raw = appendHold(last.raw, op, hold)
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	s.enqueue(write{key: key, raw: appendHold(nil, op, hold), marks: true})
}

// Holds calls yield with each committed hold. It may call yield twice for a hold.
func (s *Store) Holds(yield func(key FrameKey, op uint16, hold uint8)) error {
	err := s.view(true, func(tx *bolt.Tx) error {
		return each(tx, bucketHolds, nil, func(k, v []byte) error {
			if len(k) != len(FrameKey{}) {
				return nil
			}
			for op, hold := range holdsIn(v) {
				yield(FrameKey(k), op, hold)
			}
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("read stored holds: %w", err)
	}
	return nil
}

// Drop queues the removal of a frame.
func (s *Store) Drop(key FrameKey) { s.enqueue(write{key: key}) }

// Set queues a small named value; nil removes it. It is committed after everything queued before it.
func (s *Store) Set(name string, value []byte) { s.enqueue(write{name: name, raw: value}) }

func (s *Store) enqueue(w write) {
	s.mu.Lock()
	if len(s.queue) >= MaxQueued {
		s.stats.Dropped++
	} else {
		s.queue = append(s.queue, w)
		s.queued++
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Stats returns the counters.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.Waiting, st.LastError = st.Waiting+len(s.queue), s.failed
	return st
}

// Sync returns once everything queued before it is on disk; it does not wait for more to gather. It returns an error if
// such a commit fails or ctx ends. Run must be running.
func (s *Store) Sync(ctx context.Context) error {
	s.mu.Lock()
	until := s.queued
	s.mu.Unlock()
	for first := true; ; first = false {
		s.mu.Lock()
		done, tried, failed := s.settled >= until, s.tried, s.failed
		s.mu.Unlock()
		if done {
			return nil
		}
		if failed != nil && !first {
			return failed
		}
		select {
		case s.hurry <- struct{}{}:
		default:
		}
		select {
		case <-tried:
		case <-ctx.Done():
			return fmt.Errorf("wait for the store: %w", cmp.Or(failed, ctx.Err()))
		}
	}
}

// Run commits what is queued until ctx ends, then commits the rest once.
func (s *Store) Run(ctx context.Context) error {
	timer := time.NewTimer(Gather)
	defer timer.Stop()
	var last time.Time // of the last commit
	for {
		select {
		case <-ctx.Done():
			return s.Flush()
		case <-s.wake:
		}
		gather := Gather
		if time.Since(last) < time.Second {
			gather = GatherMore
		}
		timer.Reset(gather)
		select {
		case <-ctx.Done():
			return s.Flush()
		case <-s.hurry:
		case <-timer.C:
		}
		last = time.Now()
		// A full disk must not stop the node: failed writes stay queued and are shown in Stats.
		if err := s.Flush(); err != nil {
			timer.Reset(Retry)
			select {
			case <-ctx.Done():
				return s.Flush()
			case <-timer.C:
			}
			select {
			case s.wake <- struct{}{}:
			default:
			}
		}
	}
}

// Flush commits what is queued now. If that fails, the writes stay queued.
func (s *Store) Flush() error {
	s.mu.Lock()
	batch := s.queue
	s.queue, s.stats.Waiting = nil, len(s.queue)
	s.mu.Unlock()
	if len(batch) == 0 {
		return nil
	}
	// bbolt splits a page only at commit and shifts all that follows a new key, so 65,536 values out of order take
	// seconds.
	slices.SortStableFunc(batch, func(a, b write) int {
		return cmp.Or(cmp.Compare(a.name, b.name), bytes.Compare(a.key[:], b.key[:]))
	})
	err := s.update(func(tx *bolt.Tx) error {
		tx.Bucket(bucketFrames).FillPercent = 1 // an origin's frames come in key order: leave no room between them
		for _, w := range batch {
			if err := w.commit(tx); err != nil {
				return err
			}
		}
		return nil
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Waiting = 0
	close(s.tried)
	s.tried = make(chan struct{})
	if s.failed = err; err != nil {
		s.queue = append(batch, s.queue...)
		return fmt.Errorf("commit %d writes: %w", len(batch), err)
	}
	s.settled += uint64(len(batch))
	s.stats.Commits++
	return nil
}

func (w *write) commit(tx *bolt.Tx) error {
	frames, values, holds := tx.Bucket(bucketFrames), tx.Bucket(bucketValues), tx.Bucket(bucketHolds)
	switch {
	case w.name != "" && w.raw == nil:
		return values.Delete([]byte("v/" + w.name))
	case w.name != "":
		return put(tx, bucketValues, []byte("v/"+w.name), w.raw)
	case w.marks:
		old, err := get(tx, bucketHolds, w.key[:])
		if err != nil {
			return err
		}
		return put(tx, bucketHolds, w.key[:], mergeHolds(old, w.raw))
	case w.raw == nil:
		return errors.Join(frames.Delete(w.key[:]), holds.Delete(w.key[:]))
	case w.missing && frames.Get(w.key[:]) != nil:
		return nil
	}
	value := appendFrame(make([]byte, 0, arrivedLen+len(w.raw)+crcLen), w.at, w.raw)
	sum := checksum(bucketFrames, w.key[:], value)
	return frames.Put(w.key[:], binary.BigEndian.AppendUint32(value, sum))
}

// Close closes the file. Run must have returned.
func (s *Store) Close() error {
	s.using.Lock()
	defer s.using.Unlock()
	if s.db == nil {
		return nil
	}
	if err := guard(s.db.Close); err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}
