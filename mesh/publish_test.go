package mesh

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
)

// Publish first calls its callback with the frame as it is published, except for the signature, before anybody else has it.
func TestPublishFirst(t *testing.T) {
	n := newNode(t, newSecrets(t), newIdentity(t), nil)
	now := time.Now()
	var drafts []frame.Frame
	f, err := n.Publish(now, []byte("one"), now.Add(time.Hour), func(d frame.Frame) {
		d.Raw = slices.Clone(d.Raw)
		drafts = append(drafts, d)
		if root := n.Digest(); root != [32]byte{} {
			t.Errorf("the mesh holds something already: %x", root)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Verify(); err != nil {
		t.Error(err)
	}
	if len(drafts) != 1 {
		t.Fatalf("called first %d times", len(drafts))
	}
	d := drafts[0]
	if d.Verify() == nil {
		t.Error("the draft is signed")
	}
	if d.Ref() != f.Ref() || !d.Issued.Equal(f.Issued) || !d.Expires.Equal(f.Expires) || string(d.Payload) != "one" || d.Origin != n.id.ID() || len(d.Raw) != len(f.Raw) {
		t.Errorf("draft %+v, frame %+v", d, f)
	}
	if n.Digest() == [32]byte{} {
		t.Error("the mesh does not hold it")
	}
}

// A frame that cannot be published does not count here either.
func TestPublishRefusesBeforeFirst(t *testing.T) {
	n := newNode(t, newSecrets(t), newIdentity(t), nil)
	now := time.Now()
	for _, c := range []struct {
		name, want string
		issued     time.Time
		payload    int
		expires    time.Time
	}{
		{"over", "has ended", now.Add(-time.Hour), 1, now.Add(-time.Second)},
		{"ends before it begins", "ends before it begins", now.Add(time.Second), 1, now},
		{"too long", "payload of", now, frame.MaxPayload + 1, now.Add(time.Hour)},
		{"future", "ahead of the clock", now.Add(frame.FutureSkew + time.Minute), 1, now.Add(frame.FutureSkew + time.Hour)},
		{"lives too long", "", now, 1, now.Add(frame.MaxLife + time.Hour)},
	} {
		_, err := n.Publish(c.issued, make([]byte, c.payload), c.expires, func(d frame.Frame) { t.Errorf("%s: called with %+v", c.name, d) })
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	publish(t, n, "fills the share", time.Hour)
	n.core.most.frames = 1
	_, err := n.Publish(now, nil, now.Add(time.Hour), func(d frame.Frame) { t.Errorf("full: called with %+v", d) })
	if err == nil || !strings.Contains(err.Error(), "too much of this node") {
		t.Errorf("full: %v", err)
	}
	n.core.most.frames = 2
	if f := publish(t, n, "fits again", time.Hour); f.Seq != 2 {
		t.Errorf("number %d: what was refused has used some", f.Seq)
	}
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
	c := newCore(frame.ID{1}, 1, nil)
	c.origins[one.Origin] = &load{frames: most - 1, bytes: (most - 1) * len(one.Raw), epochs: 1}
	if v := c.judge(time.Now(), one); v != verdictNew {
		t.Errorf("frame %d of one node, %d bytes each, is judged %d, want %d", most, len(one.Raw), v, verdictNew)
	}
}

// takeName makes a copy of the node use the name of d. n.mu is held.
func takeName(t *testing.T, n *testNode, d frame.Frame) {
	t.Helper()
	copied, err := n.id.Sign(frame.Frame{MeshID: d.MeshID, Epoch: d.Epoch, Seq: d.Seq, Issued: d.Issued, Expires: d.Expires, Payload: []byte("a copy's")})
	if err != nil {
		t.Fatal(err)
	}
	n.stepLocked(d.Issued, evFrames{via: viaPush, frames: []frame.Frame{copied}})
}

// Once its content counts here, a frame is published, even if its name or its room is taken meanwhile.
func TestPublishAfterFirst(t *testing.T) {
	n := newNode(t, newSecrets(t), newIdentity(t), nil)
	own := publish(t, n, "before", time.Hour)
	now := time.Now()
	var drafts []frame.Ref
	f, err := n.Publish(now, []byte("mine"), now.Add(time.Hour), func(d frame.Frame) {
		n.mu.Lock()
		defer n.mu.Unlock()
		if drafts = append(drafts, d.Ref()); len(drafts) > 1 {
			n.core.most.frames = 0
		} else {
			takeName(t, n, d)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(drafts) != 2 || drafts[1] != f.Ref() || drafts[0] == drafts[1] {
		t.Errorf("named %v, published %v", drafts, f.Ref())
	}
	for _, r := range []frame.Ref{own.Ref(), drafts[0], f.Ref()} {
		if _, held := n.core.get(r); !held {
			t.Errorf("%v is not held", r)
		}
	}
	n.core.most.frames = maxOriginFrames
	if next := publish(t, n, "after", time.Hour); next.Seq != f.Seq+1 {
		t.Errorf("goes on with %d after %d", next.Seq, f.Seq)
	}
}

// A copy that always takes the name first is reported, and does not hold up the caller for ever.
func TestPublishAgainstACopy(t *testing.T) {
	n := newNode(t, newSecrets(t), newIdentity(t), nil)
	now, calls := time.Now(), 0
	_, err := n.Publish(now, []byte("mine"), now.Add(time.Hour), func(d frame.Frame) {
		n.mu.Lock()
		defer n.mu.Unlock()
		calls++
		takeName(t, n, d)
	})
	if err == nil || !strings.Contains(err.Error(), "this node's key") || calls != maxDrafts {
		t.Errorf("%v after %d names", err, calls)
	}
}

// Publish returns an error if the frame or the mesh ends while the frame is being signed.
func TestPublishEndsMeanwhile(t *testing.T) {
	n := newNode(t, newSecrets(t), newIdentity(t), nil)
	now := time.Now()
	_, err := n.Publish(now, nil, now.Add(time.Second), func(frame.Frame) { n.now = func() time.Time { return now.Add(2 * time.Second) } })
	if err == nil || !strings.Contains(err.Error(), "has ended") {
		t.Errorf("the frame's end: %v", err)
	}
	_, err = n.Publish(now, nil, now.Add(time.Hour), func(frame.Frame) {
		n.mu.Lock()
		n.phase = phaseEnded
		n.mu.Unlock()
	})
	if !errors.Is(err, ErrStopped) {
		t.Errorf("the end of Run: %v", err)
	}
}

// With several callers at once, and epoch changes between them, every frame has the name that its callback was given, and
// no name is used twice.
func TestPublishTogether(t *testing.T) {
	const writers, each = 4, 50
	n := newNode(t, newSecrets(t), newIdentity(t), nil)
	var (
		mu   sync.Mutex
		last frame.Ref
		wg   sync.WaitGroup
	)
	for range writers {
		wg.Go(func() {
			for i := range each {
				var named frame.Ref
				now := time.Now()
				f, err := n.Publish(now, nil, now.Add(time.Hour), func(d frame.Frame) {
					mu.Lock()
					defer mu.Unlock()
					if named = d.Ref(); !before(last, named) {
						t.Errorf("%v after %v", named, last)
					}
					last = named
				})
				if err != nil || f.Ref() != named {
					t.Errorf("named %v, published %v, %v", named, f.Ref(), err)
				}
				if i == each/2 {
					n.rollEpoch(now, f.Epoch)
				}
			}
		})
	}
	wg.Wait()
	if last.Epoch == 1 || n.core.count != writers*each {
		t.Errorf("the last is %v; %d frames are held, want %d", last, n.core.count, writers*each)
	}
}
