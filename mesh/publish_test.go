package mesh

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/replica"
)

// A frame that cannot be published changes nothing: it is not held, and its number is used by the next one.
func TestSignThatFails(t *testing.T) {
	const epoch = 1 << 12 // above those that fill the share
	n := newNode(t, newSecrets(t), newIdentity(t), func(c *Config) { c.Epoch = epoch })
	now := time.Now()
	refused := func(name, want string, issued time.Time, payload int, expires time.Time) {
		t.Helper()
		before, published := n.Digest(), n.Stats().Published
		f, err := n.Sign(issued, make([]byte, payload), expires)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
		if f.Seq != 0 || n.Digest() != before || n.Stats().Published != published {
			t.Errorf("%s: frame %+v, digest %x", name, f, n.Digest())
		}
	}
	refused("over", "has ended", now.Add(-time.Hour), 1, now.Add(-time.Second))
	refused("ends before it begins", "ends before it begins", now.Add(time.Second), 1, now)
	refused("too long", "payload of", now, frame.MaxPayload+1, now.Add(time.Hour))
	refused("future", "ahead of the clock", now.Add(frame.FutureSkew+time.Minute), 1, now.Add(frame.FutureSkew+time.Hour))
	refused("lives too long", "", now, 1, now.Add(frame.MaxLife+time.Hour))
	var raws [][]byte
	for i := range 1024 { // of as many epochs as one origin may have
		f, err := n.id.Sign(frame.Frame{MeshID: n.cfg.Secrets.MeshID, Epoch: uint64(i + 1), Seq: 1, Issued: now, Expires: now.Add(time.Hour - time.Duration(i%2)*time.Minute)})
		if err != nil {
			t.Fatal(err)
		}
		raws = append(raws, f.Raw)
	}
	if err := n.Restore(slices.Values(raws)); err != nil {
		t.Fatal(err)
	}
	refused("full", "too much of this node", now, 0, now.Add(2*time.Hour))
	n.Expire(now.Add(time.Hour - time.Minute))
	if f := publish(t, n, "fits again", 2*time.Hour); f.Seq != 1 {
		t.Errorf("number %d: what was refused has used some", f.Seq)
	}
	n.phase = phaseEnded
	refused("after the end of Run", ErrStopped.Error(), now, 0, now.Add(time.Hour))
}

// Once Sign returns, the frame is held and verifies, and others get it even if nobody calls Send.
func TestSignWithoutSend(t *testing.T) {
	t.Parallel()
	secrets := newSecrets(t)
	a := newNode(t, secrets, newIdentity(t), nil).run(t)
	now := time.Now()
	f, err := a.Sign(now, []byte("not sent"), now.Add(time.Hour))
	if err != nil || f.Verify() != nil {
		t.Fatalf("%v, %v", err, f.Verify())
	}
	if epoch, seq := a.Last(); f.Epoch != epoch || f.Seq != seq || a.Digest() == [32]byte{} {
		t.Errorf("the last frame is %d/%d, want %v", epoch, seq, f.Ref())
	}
	b := newNode(t, secrets, newIdentity(t), func(c *Config) { c.Join = []string{a.Addr().String()} }).run(t)
	eventually(t, 30*time.Second, "the frame came by sync", func() bool { return a.Digest() == b.Digest() })
}

// A copy of the node may have used the next numbers: Sign passes them over, and both stay.
func TestSignPassesOverNumbersInUse(t *testing.T) {
	n := newNode(t, newSecrets(t), newIdentity(t), nil)
	now := time.Now()
	own := publish(t, n, "before", time.Hour)
	copied, err := n.id.Sign(frame.Frame{MeshID: own.MeshID, Epoch: own.Epoch, Seq: own.Seq + 1, Issued: now, Expires: now.Add(time.Hour), Payload: []byte("a copy's")})
	if err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	n.stepLocked(now, replica.FramesEvent{Via: replica.ViaPush, Frames: []frame.Frame{copied}})
	n.mu.Unlock()
	next := publish(t, n, "after", time.Hour)
	if next.Seq != own.Seq+2 {
		t.Errorf("goes on with %d after %d and a copy's %d", next.Seq, own.Seq, copied.Seq)
	}
	for _, r := range []frame.Ref{own.Ref(), copied.Ref(), next.Ref()} {
		if !n.core.Holds(r) {
			t.Errorf("%v is not held", r)
		}
	}
}

// With several callers at once, and epoch changes between them, numbers go up and no name is used twice.
func TestPublishTogether(t *testing.T) {
	const writers, each = 4, 50
	n := newNode(t, newSecrets(t), newIdentity(t), nil)
	var (
		mu   sync.Mutex
		used = make(map[frame.Ref]bool)
		wg   sync.WaitGroup
	)
	for range writers {
		wg.Go(func() {
			var last frame.Ref
			for i := range each {
				now := time.Now()
				f, err := n.Publish(now, nil, now.Add(time.Hour))
				if err != nil || compareRefs(last, f.Ref()) >= 0 {
					t.Errorf("%v after %v, %v", f.Ref(), last, err)
				}
				last = f.Ref()
				mu.Lock()
				if used[last] {
					t.Errorf("%v twice", last)
				}
				used[last] = true
				mu.Unlock()
				if i == each/2 {
					n.rollEpoch(now, f.Epoch)
				}
			}
		})
	}
	wg.Wait()
	if epoch, _ := n.Last(); epoch == 1 || n.Stats().Held != writers*each {
		t.Errorf("epoch %d; %d frames are held, want %d", epoch, n.Stats().Held, writers*each)
	}
}
