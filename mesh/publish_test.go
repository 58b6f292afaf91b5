package mesh

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
)

// A frame that cannot be published changes nothing: it is not held, and its number is used by the next one.
func TestSignThatFails(t *testing.T) {
	n := newNode(t, newSecrets(t), newIdentity(t), nil)
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
	publish(t, n, "fills the share", time.Hour)
	n.core.most.frames = 1
	refused("full", "too much of this node", now, 0, now.Add(time.Hour))
	n.core.most.frames = 2
	if f := publish(t, n, "fits again", time.Hour); f.Seq != 2 {
		t.Errorf("number %d: what was refused has used some", f.Seq)
	}
	n.phase = phaseEnded
	refused("after the end of Run", ErrStopped.Error(), now, 0, now.Add(time.Hour))
}

// Once Sign returns, the frame is held and verifies, and others get it even if nobody calls Send.
func TestSignWithoutSend(t *testing.T) {
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

// A peer that has filled the ledger keeps nobody from banning at home.
func TestPublishIntoAFullLedger(t *testing.T) {
	n := newNode(t, newSecrets(t), newIdentity(t), nil)
	n.core.count = maxHeld
	other := testFrame(t, signers[0], 1, 1, time.Now(), time.Hour, "of another")
	if v := n.core.judge(time.Now(), other); v != verdictFull {
		t.Errorf("the frame of another is judged %d in a full ledger, want %d", v, verdictFull)
	}
	f := publish(t, n, "at home", time.Hour)
	if _, held := n.core.get(f.Ref()); !held {
		t.Error("the own frame is not held")
	}
}

// A million bans of one node fit, even if each came in its own frame: that is how many peers let it have in force by
// default.
func TestAMillionFramesOfOneNodeFit(t *testing.T) {
	one := testFrame(t, signers[0], 1<<33, 1<<20, time.Now(), time.Hour, string(make([]byte, benchPayload)))
	const most = 1_250_000
	c := newCore(frame.ID{1}, frame.ID{}, 1, nil)
	c.origins[one.Origin] = &load{frames: most - 1, bytes: (most - 1) * len(one.Raw), epochs: 1}
	if v := c.judge(time.Now(), one); v != verdictNew {
		t.Errorf("frame %d of one node, %d bytes each, is judged %d, want %d", most, len(one.Raw), v, verdictNew)
	}
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
	n.stepLocked(now, evFrames{via: viaPush, frames: []frame.Frame{copied}})
	n.mu.Unlock()
	next := publish(t, n, "after", time.Hour)
	if next.Seq != own.Seq+2 {
		t.Errorf("goes on with %d after %d and a copy's %d", next.Seq, own.Seq, copied.Seq)
	}
	for _, r := range []frame.Ref{own.Ref(), copied.Ref(), next.Ref()} {
		if _, held := n.core.get(r); !held {
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
				if err != nil || !before(last, f.Ref()) {
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
	if epoch, _ := n.Last(); epoch == 1 || n.core.count != writers*each {
		t.Errorf("epoch %d; %d frames are held, want %d", epoch, n.core.count, writers*each)
	}
}
