package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/store/storetest"
)

// damagedFrames is how many frames the tests' store has: enough for branch pages, free pages and a height of three.
const damagedFrames = 1200

// filled fills a store with frames, some of which are dropped again, holds and values, and returns the contents of its
// file.
func filled(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "store.db")
	s := opened(t, path)
	if _, err := s.RaiseEpoch(7); err != nil {
		t.Fatal(err)
	}
	for round := range 4 {
		for i := range damagedFrames {
			if i%4 == round || round == 3 && i%5 == 0 {
				s.Put(frameKey(i), arrived, frameRaw(i))
			}
			if round == 2 && i%10 == 1 {
				s.Put(KeyOf([16]byte{9}, 1, uint64(i)), arrived, frameRaw(i))
			}
			if round == 3 && i%10 == 1 {
				s.Drop(KeyOf([16]byte{9}, 1, uint64(i)))
			}
			if i%100 == round {
				s.Hold(frameKey(i), 3, 2)
				s.Set(fmt.Sprint("value", i), bytes.Repeat([]byte{byte(i)}, i))
			}
		}
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func frameKey(i int) FrameKey { return KeyOf([16]byte{byte(i % 3)}, 1, uint64(i)) }

func frameRaw(i int) []byte {
	return bytes.Repeat(binary.BigEndian.AppendUint64(nil, uint64(i)), 20+i%100)
}

// A store with any single damage opens, returns only what was put into it, and works from then on. If anything is
// missing, it says so. Of 90 damages, 35 once refused every start, 2 panicked, one never ended and 7 lost frames
// silently.
func TestAnyDamageOpens(t *testing.T) {
	whole := filled(t)
	rnd := rand.New(rand.NewPCG(14, 1))
	dir := t.TempDir()
	n := 0
	all := storetest.Damages(rnd, nil)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		for range 4 {
			n++
			path := filepath.Join(dir, fmt.Sprint(n))
			b := all[name](bytes.Clone(whole))
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := opensAndWorks(path, bytes.Equal(b, whole)); err != nil {
				t.Errorf("%s (%d): %v", name, n, err)
			}
			aside, _ := filepath.Glob(path + "*")
			for _, p := range aside {
				_ = os.Remove(p)
			}
		}
	}
	t.Logf("%d damages", n)
}

func opensAndWorks(path string, sound bool) error {
	var told []Damage
	s, err := Open(path, Options{OnDamage: func(d Damage) { told = append(told, d) }, NoSync: true})
	if err != nil {
		return err
	}
	if sound && len(told) > 0 {
		return fmt.Errorf("a sound file is set aside: %v", told[0].Cause)
	}
	var have []int
	err = s.Frames(func(at time.Time, raw []byte) error {
		have = append(have, int(binary.BigEndian.Uint64(raw)))
		if i := int(binary.BigEndian.Uint64(raw)); i >= damagedFrames || !bytes.Equal(raw, frameRaw(i)) || !at.Equal(arrived) {
			return fmt.Errorf("frame %x was never put", raw[:8])
		}
		return nil
	})
	if err != nil {
		return err
	}
	held := map[FrameKey]bool{}
	if err := s.Holds(func(key FrameKey, _ uint16, _ uint8) { held[key] = true }); err != nil {
		return err
	}
	holds := len(held)
	for _, i := range have {
		if i%100 < 4 && !held[frameKey(i)] {
			return fmt.Errorf("the hold of frame %d is lost, and the frame is not", i)
		}
	}
	found := len(have)
	epoch, err := s.RaiseEpoch(0)
	if err != nil {
		return err
	}
	if len(told) == 0 && (found != damagedFrames || holds != damagedFrames/25 || epoch != 9) {
		return fmt.Errorf("%d frames, %d holds, epoch %d, and not a word", found, holds, epoch)
	}
	if len(told) > 1 {
		return fmt.Errorf("set aside %d times", len(told))
	}
	if len(told) == 1 {
		if _, err := os.Stat(told[0].Aside); err != nil || told[0].Kept != found {
			return fmt.Errorf("%+v; %d frames, %w", told[0], found, err)
		}
	}
	for i := range 200 {
		s.Put(frameKey(i*7), arrived, frameRaw(i*7))
		s.Drop(frameKey(i*7 + 1))
	}
	if err := errors.Join(s.Flush(), s.Close()); err != nil {
		return err
	}
	again, err := Open(path, Options{OnDamage: func(d Damage) { err = fmt.Errorf("damaged once more: %w", d.Cause) }, NoSync: true})
	if err != nil {
		return err
	}
	return again.Close()
}

// A file damaged while in use is replaced like one found damaged, and what is queued is written. A page beyond the end
// of the file once ended the process.
func TestDamageInUse(t *testing.T) {
	whole := filled(t)
	for name, damage := range map[string]func(f *os.File) error{
		"cut":   func(f *os.File) error { return f.Truncate(4096) },
		"zeros": func(f *os.File) error { _, err := f.WriteAt(make([]byte, len(whole)), 0); return err },
		"noise": func(f *os.File) error {
			_, err := io.CopyN(io.NewOffsetWriter(f, 0), rand.NewChaCha8([32]byte{1}), int64(len(whole)))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "store.db")
			if err := os.WriteFile(path, whole, 0o600); err != nil {
				t.Fatal(err)
			}
			var told []Damage
			s, err := Open(path, Options{OnDamage: func(d Damage) { told = append(told, d) }})
			if err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err == nil {
				err = errors.Join(damage(f), f.Close())
			}
			if err != nil {
				t.Fatal(err)
			}
			s.Put(frameKey(0), arrived, frameRaw(0))
			s.Refill(frameKey(0), arrived, frameRaw(1))
			s.Refill(frameKey(1), arrived, frameRaw(1))
			if err := s.Flush(); err != nil {
				t.Fatal(err)
			}
			if len(told) != 1 {
				t.Errorf("told of %d damages", len(told))
			}
			if got := frames(t, s); len(got) != 2 || !bytes.Equal(got[0], frameRaw(0)) || !bytes.Equal(got[1], frameRaw(1)) {
				t.Errorf("%d frames", len(got))
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// If the disk keeps damaging the store, the files set aside do not fill it up.
func TestFewDamagedFilesAreKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	for range 5 {
		if err := os.WriteFile(path, []byte("not a store"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := opened(t, path).Close(); err != nil {
			t.Fatal(err)
		}
	}
	all, err := filepath.Glob(path + "*")
	if err != nil || len(all) != 1+maxAside {
		t.Errorf("%q, %v", all, err)
	}
}
