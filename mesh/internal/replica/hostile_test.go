package replica

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/pki"
	"pgregory.net/rapid"
)

// visitor is a peer of one core that may say anything.
type visitor struct {
	tb   testing.TB
	c    *Core
	id   frame.ID
	now  time.Time
	mine uint64 // the visitor's id of the session
	ours uint64 // the core's id of it
}

func newVisitor(tb testing.TB, c *Core) *visitor {
	v := &visitor{tb: tb, c: c, id: frame.ID{0xbb}, now: simStart, mine: 77}
	c.Step(v.now, UpEvent{v.id})
	return v
}

// say gives the core a message and returns its actions and answers.
func (v *visitor) say(m *Message) (Actions, []*Message) {
	v.tb.Helper()
	if m.From.IsZero() {
		m.From = v.id
	}
	if m.Session == 0 {
		m.Session = v.ours
	}
	m, err := DecodeMessage(m.encode())
	if err != nil {
		v.tb.Fatal(err)
	}
	var all Actions
	var said []*Message
	for part := range m.Split {
		out := v.c.Step(v.now, MessageEvent{part, 0})
		all.Unasked += out.Unasked
		all.Streamed += out.Streamed
		for _, o := range out.Send {
			answer, err := DecodeMessage(o.Msg)
			if err != nil {
				v.tb.Fatal(err)
			}
			said = append(said, answer)
		}
	}
	return all, said
}

// visit begins a session with a vector and returns the answers.
func (v *visitor) visit(vector Message) []*Message {
	v.tb.Helper()
	_, said := v.say(&Message{kind: syncCheck, Session: v.mine, root: [32]byte{1}})
	if len(said) != 1 || said[0].kind != syncDiffer || said[0].Session != v.mine {
		v.tb.Fatalf("the answer to a check is %+v", said)
	}
	v.ours = said[0].token
	vector.kind, vector.reply, vector.token, vector.last, vector.root = syncVector, true, v.mine, lastKey, [32]byte{1}
	_, said = v.say(&vector)
	return said
}

func kinds(said []*Message) (k []syncKind) {
	for _, m := range said {
		k = append(k, m.kind)
	}
	return k
}

// fill gives a core frames of one stream, without signing them.
func fill(c *Core, key StreamKey, seqs ...uint64) {
	for _, seq := range seqs {
		raw := slices.Clone(hourRaw)
		raw[len(raw)-1], raw[len(raw)-2], raw[len(raw)-3] = byte(seq), byte(seq>>8), byte(seq>>16)
		c.insert(frame.Frame{Origin: key.Origin, Epoch: key.Epoch, Seq: seq, Expires: simStart.Add(time.Hour), Raw: raw})
	}
}

// hourRaw is a frame that ends an hour after simStart.
var hourRaw = func() []byte {
	f, err := signers[0].Sign(frame.Frame{Epoch: 1, Seq: 1, Issued: simStart, Expires: simStart.Add(time.Hour)})
	if err != nil {
		panic(err)
	}
	return f.Raw
}()

func upTo(n uint64) (seqs []uint64) {
	for seq := uint64(1); seq <= n; seq++ {
		seqs = append(seqs, seq)
	}
	return seqs
}

// A check is answered with a message of about its own size and leaves nothing behind: anybody can send one in a peer's
// name.
func TestCheckInAnothersName(t *testing.T) {
	c := coreFor(1)
	for i := range byte(200) {
		fill(c, StreamKey{frame.ID{1, i}, 1}, 1, 3, 5)
	}
	v := newVisitor(t, c)
	p := c.peers[v.id]
	before := *p
	for i := range uint64(1000) {
		check := &Message{kind: syncCheck, Session: i + 1, root: [32]byte{byte(i)}}
		_, said := v.say(check)
		size := 0
		for _, m := range said {
			size += len(m.encode())
		}
		if most := len(check.encode()) + 9; size > most {
			t.Fatalf("a check of %d bytes is answered with %d", most-9, size)
		}
	}
	if p.phase != before.phase || p.peerSession.open || p.waitTill != before.waitTill || c.sourceTill != (time.Time{}) {
		t.Errorf("checks left %+v behind", *p)
	}
	if _, said := v.say(&Message{kind: syncCheck, Session: 5, root: c.root.sum()}); len(said) != 1 || said[0].kind != syncSame || p.phase != before.phase {
		t.Errorf("the same root: %v, phase %d", kinds(said), p.phase)
	}
	// No session begins without the answer to the check, whatever is claimed.
	for i := range uint64(100) {
		vector := &Message{kind: syncVector, reply: true, Session: i, token: i, last: lastKey}
		if out, said := v.say(vector); len(said) != 0 || out.Unasked != 1 {
			t.Fatalf("a vector without a session is answered with %v", kinds(said))
		}
	}
	// Nor with another peer's answer, nor with an old one.
	_, said := v.say(&Message{kind: syncCheck, Session: 9, root: [32]byte{1}})
	token := said[0].token
	other := frame.ID{0xcc}
	c.Step(v.now, UpEvent{other})
	if _, said := v.say(&Message{kind: syncVector, From: other, reply: true, Session: token, token: 9, last: lastKey}); len(said) != 0 {
		t.Errorf("another peer's session: %v", kinds(said))
	}
	v.now = v.now.Add(2*cookieLife + time.Second)
	if _, said := v.say(&Message{kind: syncVector, reply: true, Session: token, token: 9, last: lastKey}); slices.Contains(kinds(said), syncVector) {
		t.Errorf("an answer of long ago: %v", kinds(said))
	}
}

// A message that belongs to no session costs nothing and is counted.
func TestUnasked(t *testing.T) {
	key := StreamKey{frame.ID{5}, 3}
	c := coreFor(2)
	fill(c, key, upTo(2000)...)
	v := newVisitor(t, c)
	all := window{{1, math.MaxUint64 - 1}}
	messages := func() []*Message {
		return []*Message{
			{kind: syncVector, last: lastKey}, {kind: syncVector, reply: true, last: lastKey},
			{kind: syncChunk, num: 1}, {kind: syncAck, num: 1, fresh: 9}, {kind: syncSame}, {kind: syncDiffer, token: 3},
			{kind: syncDetail, detail: streamDetail{Key: key, First: 1, Last: math.MaxUint64}},
			{kind: syncWant, want: []streamWant{{key, all}}},
		}
	}
	for _, m := range messages() {
		m.Session = 4711
		if out, said := v.say(m); out.Unasked != 1 || len(said) != 0 || len(c.transfers) != 0 {
			t.Errorf("kind %d: %d unasked, answered %v, %d transfers", m.kind, out.Unasked, kinds(said), len(c.transfers))
		}
	}
	// Within the peer's session: it has claimed to hold everything, so hashes are sent, and each may be asked for once.
	said := v.visit(Message{streams: []streamVector{{Key: key, Live: 1, First: 1, Last: math.MaxUint64, Seen: all}}})
	if want := []syncKind{syncVector, syncDetail, syncDetail, syncDetail, syncDetail}; !slices.Equal(kinds(said), want) {
		t.Fatalf("answered with %v, want %v", kinds(said), want)
	}
	detail := said[1].detail
	if out, said := v.say(&Message{kind: syncWant, want: []streamWant{{key, all}}}); out.Unasked != 1 || len(said) != 0 {
		t.Errorf("more than what was told: %d unasked, answered %v", out.Unasked, kinds(said))
	}
	within := []streamWant{{key, window{{detail.First, detail.First}, {detail.Last, detail.Last}}}}
	if out, said := v.say(&Message{kind: syncWant, want: within}); out.Streamed != 2 || !slices.Equal(kinds(said), []syncKind{syncChunk}) {
		t.Errorf("what was told: streamed %d, answered %v", out.Streamed, kinds(said))
	}
	for range 1000 {
		if out, said := v.say(&Message{kind: syncWant, want: within}); out.Unasked != 1 || len(said) != 0 {
			t.Fatalf("the same once more: %d unasked, answered %v", out.Unasked, kinds(said))
		}
	}
	// A second vector, and more details than a vector allows, are refused.
	if out, _ := v.say(&Message{kind: syncVector, reply: true, token: v.mine, last: lastKey}); out.Unasked != 1 {
		t.Error("a second vector was looked at")
	}
	refused := uint64(0)
	for range 100 {
		out, _ := v.say(&Message{kind: syncDetail, detail: streamDetail{Key: StreamKey{frame.ID{9}, 1}, First: 1, Last: 9}})
		refused += out.Unasked
	}
	if refused != 100-maxDetails {
		t.Errorf("%d of 100 details were refused", refused)
	}
}

// Whatever a peer claims to lack, a transfer's list stays short, and asking for more does not lengthen it.
func TestTransferIsBounded(t *testing.T) {
	c := coreFor(3)
	var keys []StreamKey
	for i := range 40 {
		key := StreamKey{frame.ID{1, byte(i)}, 1}
		keys = append(keys, key)
		fill(c, key, upTo(200)...)
	}
	v := newVisitor(t, c)
	var streams []streamVector
	for _, key := range keys {
		seen := window{}
		for seq := uint64(1); seq < 200; seq += 2 {
			seen = append(seen, span{seq, seq})
		}
		streams = append(streams, streamVector{Key: key, First: 1, Last: math.MaxUint64, Seen: seen})
	}
	v.visit(Message{streams: streams})
	tr := c.transfers[v.id]
	if tr == nil {
		t.Fatal("nothing is streamed")
	}
	spans := 0
	for _, w := range tr.work {
		spans += len(w.Spans)
	}
	if spans > maxWork || cap(tr.work) > 4*maxWork {
		t.Errorf("%d spans wait", spans)
	}
}

// A vector is processed in bounded parts, which together say what it says.
func TestVectorParts(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &Message{kind: syncVector, last: lastKey}
		n := rapid.IntRange(0, 30).Draw(rt, "streams")
		for i := range n {
			v := streamVector{Key: StreamKey{frame.ID{1, byte(i / 3)}, uint64(i%3 + 1)}, First: 1, Last: math.MaxUint64}
			for seq := range rapid.Uint64Range(0, 3*maxVectorPart).Draw(rt, "spans") {
				v.Seen = append(v.Seen, span{2*seq + 1, 2*seq + 1})
			}
			m.streams = append(m.streams, v)
		}
		if n > 0 && rapid.Bool().Draw(rt, "in part") {
			m.after = m.streams[rapid.IntRange(0, n-1).Draw(rt, "after")].Key
			m.last = m.streams[rapid.IntRange(0, n-1).Draw(rt, "last")].Key
		}
		in := func(p *Message, key StreamKey) bool { return key.compare(p.after) > 0 && key.compare(p.last) <= 0 }
		probe := StreamKey{frame.ID{1, byte(rapid.IntRange(0, 10).Draw(rt, "probe"))}, rapid.Uint64Range(1, 4).Draw(rt, "epoch")}
		covered, last := 0, 0
		seen := make(map[StreamKey]window)
		for p := range m.Split {
			cost := 0
			for _, v := range p.streams {
				cost += 1 + len(v.Seen)
				if seen[v.Key] == nil && v.First != 1 || seen[v.Key] != nil && v.First != seen[v.Key][len(seen[v.Key])-1].last+1 {
					rt.Fatalf("a window goes on at %d", v.First)
				}
				seen[v.Key] = append(seen[v.Key], v.Seen...)
			}
			if cost > 2*maxVectorPart {
				rt.Fatalf("a part of %d streams and spans", cost)
			}
			if in(p, probe) {
				covered++
				listed := slices.ContainsFunc(m.streams, func(v streamVector) bool { return v.Key == probe })
				if here := slices.ContainsFunc(p.streams, func(v streamVector) bool { return v.Key == probe }); listed && !here {
					rt.Fatalf("%v is listed, and a part says that it is absent", probe)
				}
			}
			if !p.more {
				last++
			}
		}
		want := 0
		if in(m, probe) {
			want = 1
		}
		if covered != want || last != 1 {
			rt.Fatalf("%d parts are about %v, want %d; %d last ones", covered, probe, want, last)
		}
		for _, v := range m.streams {
			if !slices.Equal(seen[v.Key], v.Seen) {
				rt.Fatalf("the parts of a window have %d spans, want %d", len(seen[v.Key]), len(v.Seen))
			}
		}
	})
}

// No decoder accepts more than its bound.
func TestSyncBounds(t *testing.T) {
	key := StreamKey{frame.ID{1}, 1}
	wide := func(n int) (w window) {
		for i := range uint64(n) {
			w = append(w, span{2*i + 1, 2*i + 1})
		}
		return w
	}
	stream := func(i, spans int) streamVector {
		return streamVector{Key: StreamKey{frame.ID{1}, uint64(i + 1)}, First: 1, Last: math.MaxUint64, Seen: wide(spans)}
	}
	var many []streamVector
	for i := range maxVectorStreams + 1 {
		many = append(many, stream(i, 0))
	}
	details := make([]seqHash, maxDetail+1)
	for i := range details {
		details[i].Seq = uint64(i + 1)
	}
	detail := func(n int) *Message {
		return &Message{kind: syncDetail, detail: streamDetail{Key: key, First: 1, Last: math.MaxUint64, Hashes: details[:n]}}
	}
	want := func(n int) *Message { return &Message{kind: syncWant, want: []streamWant{{key, wide(n)}}} }
	for _, tt := range []struct {
		name string
		m    *Message
		ok   bool
	}{
		{"ok: streams", &Message{kind: syncVector, streams: many[1:]}, true},
		{"bad: streams", &Message{kind: syncVector, streams: many}, false},
		{"ok: spans", &Message{kind: syncVector, streams: []streamVector{stream(0, 1), stream(1, maxVectorSpans-1)}}, true},
		{"bad: spans of all streams together", &Message{kind: syncVector, streams: []streamVector{stream(0, 2), stream(1, maxVectorSpans-1)}}, false},
		{"ok: hashes", detail(maxDetail), true},
		{"bad: hashes", detail(maxDetail + 1), false},
		{"ok: spans that are wanted", want(maxDetail), true},
		{"bad: spans that are wanted", want(maxDetail + 1), false},
		{"bad: a token in a check", &Message{kind: syncCheck, token: 1}, false},
	} {
		b := tt.m.encode()
		if _, err := DecodeMessage(b); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
		if tt.ok && len(b) > MaxMessage {
			t.Errorf("%s: %d bytes", tt.name, len(b))
		}
	}
	if _, err := DecodeMessage(make([]byte, MaxMessage+1)); err == nil {
		t.Error("a message that is too long was looked at")
	}
}

// Two nodes hold different frames but equal digests of a stream, which somebody who chose the frames could once bring
// about. The roots differ, so hashes are compared.
func TestEqualDigestsOfOtherFrames(t *testing.T) {
	s := newSimulation(t, 2, 12)
	for seq := uint64(1); seq <= 40; seq++ {
		common := testFrame(t, signers[1], 1, seq, s.now, time.Hour, "common")
		for i := range s.cores {
			s.step(i, FramesEvent{Via: ViaRestore, Frames: []frame.Frame{common}})
			s.step(i, FramesEvent{Via: ViaRestore, Frames: []frame.Frame{testFrame(t, signers[0], 1, seq, s.now, time.Hour, fmt.Sprint(i))}})
		}
	}
	key := StreamKey{signers[0].ID(), 1}
	s.cores[0].streams[key].sum = s.cores[1].streams[key].sum
	s.connect()
	s.run(time.Minute)
	for seq := uint64(1); seq <= 40; seq++ {
		a, _ := s.cores[0].get(frame.Ref{Origin: key.Origin, Epoch: 1, Seq: seq})
		b, _ := s.cores[1].get(frame.Ref{Origin: key.Origin, Epoch: 1, Seq: seq})
		if string(a) != string(b) {
			t.Fatalf("frame %d differs for good", seq)
		}
	}
}

// Frames of one name that differ are found anywhere in a long stream: one number far from the others does not keep the
// others from being compared.
func TestLongStreamsAreCompared(t *testing.T) {
	s := newSimulation(t, 2, 13)
	key := StreamKey{signers[0].ID(), 1}
	const n = 3 * maxDetails * maxDetail
	for _, c := range s.cores {
		fill(c, key, append(upTo(n), 1<<62)...)
	}
	const differs = 77
	for i := range s.cores {
		c := s.cores[i]
		c.remove(c.streams[key], differs)
		c.insert(testFrame(t, signers[0], 1, differs, s.now, time.Hour, fmt.Sprint(i)))
	}
	for i := range s.cores {
		s.cores[i].Step(s.now, UpEvent{s.cores[1-i].self})
	}
	same := func() bool {
		a, _ := s.cores[0].get(frame.Ref{Origin: key.Origin, Epoch: 1, Seq: differs})
		b, _ := s.cores[1].get(frame.Ref{Origin: key.Origin, Epoch: 1, Seq: differs})
		return string(a) == string(b)
	}
	for start := s.now; !same(); s.run(time.Second) {
		if s.now.Sub(start) > 2*time.Minute {
			t.Fatal("two frames of one name differ for good")
		}
	}
}

// With more streams than a vector lists, all that differ are found, in the order of keys, in a few sessions.
func TestManyStreamsAreCompared(t *testing.T) {
	s := newSimulation(t, 2, 14)
	const perOrigin = maxVectorStreams / 2
	lost := rand.New(rand.NewPCG(3, 4)).Perm(perOrigin * len(signers))[:20]
	for i := range perOrigin * len(signers) {
		for seq := uint64(1); seq <= 2; seq++ {
			f := testFrame(t, signers[i%len(signers)], uint64(1+i/len(signers)), seq, s.now, time.Hour, "")
			s.step(1, FramesEvent{Via: ViaRestore, Frames: []frame.Frame{f}})
			if at := slices.Index(lost, i); at < 0 || at%2 == 0 && seq == 1 { // of the lost streams core 0 has one frame, or none
				s.step(0, FramesEvent{Via: ViaRestore, Frames: []frame.Frame{f}})
			}
		}
	}
	s.connect()
	for start := s.now; s.cores[0].root.sum() != s.cores[1].root.sum(); s.run(100 * time.Millisecond) {
		if s.now.Sub(start) > 20*time.Second {
			t.Fatalf("%d frames are missing still", s.cores[1].count-s.cores[0].count)
		}
	}
	s.checkEqual()
}

// A withdrawn origin's frames are dropped at once, however many they are. Their names are reported in slices, without those
// held again by then.
func TestWithdrawalIsSliced(t *testing.T) {
	c := coreFor(5)
	key, other := StreamKey{frame.ID{5}, 1}, StreamKey{frame.ID{6}, 1}
	fill(c, key, upTo(3*maxLeaveStep)...)
	fill(c, other, upTo(10)...)
	alone := coreFor(5)
	fill(alone, other, upTo(10)...)
	var out Actions
	c.withdraw(key.Origin, &out)
	if len(out.Expired) != maxLeaveStep || c.count != 10 || c.root.sum() != alone.root.sum() || c.origins[key.Origin] != nil {
		t.Fatalf("%d names in one step, %d frames are held", len(out.Expired), c.count)
	}
	again := uint64(3 * maxLeaveStep)
	fill(c, key, again)
	told := len(out.Expired)
	for _, due := c.Next(); due && len(c.leaving) > 0; {
		out := c.Step(simStart, TickEvent{})
		told += len(out.Expired)
		if len(out.Expired) > maxLeaveStep || slices.ContainsFunc(out.Expired, func(r frame.Ref) bool { return r.Seq == again }) {
			t.Fatalf("%d names in one step", len(out.Expired))
		}
	}
	if told != 3*maxLeaveStep-1 {
		t.Errorf("%d names were told", told)
	}
	if out := c.Step(simStart.Add(2*time.Hour), TickEvent{}); len(out.Expired) != 11 || c.count != 0 || c.root.sum() != [32]byte{} {
		t.Errorf("in the end %d expired, %d are held", len(out.Expired), c.count)
	}
}

// A peer that now and then gives one new frame of its own keeps others from streaming for no longer than its turn, even if it
// leaves and comes back.
func TestSyncSourceHasATurn(t *testing.T) {
	for _, flaps := range []bool{false, true} {
		c := coreFor(6)
		captured, honest := frame.ID{0xc}, frame.ID{0xd}
		now := simStart
		c.Step(now, UpEvent{captured})
		c.Step(now, UpEvent{honest})
		waited, worst := time.Duration(0), time.Duration(0)
		for seq := uint64(1); seq < 300; seq++ {
			f := testFrame(t, signers[0], 1, seq, now, time.Hour, "")
			if out := c.Step(now, FramesEvent{Via: ViaSync, Frames: []frame.Frame{f}, From: captured}); len(out.Admitted) != 1 {
				t.Fatal("the frame was not new")
			}
			c.reserve(now, captured)
			if waited += 500 * time.Millisecond; !c.taken(now, honest) {
				waited = 0
			}
			worst = max(worst, waited)
			if flaps {
				c.Step(now, DownEvent{captured})
				c.Step(now, UpEvent{captured})
			}
			now = now.Add(500 * time.Millisecond)
		}
		if worst > sourceTurn+time.Second || worst == 0 {
			t.Errorf("another peer may give nothing for %v (comes back: %v)", worst, flaps)
		}
	}
}

// Peers without a certificate, which anybody with the mesh's key can make up, share one transfer and never become a node's
// only source.
func TestStrangersTakeOneTransfer(t *testing.T) {
	c := coreFor(7)
	key := StreamKey{frame.ID{5}, 1}
	fill(c, key, upTo(3)...)
	c.authority = frame.ID{0xaa}
	now, member := simStart, frame.ID{1}
	c.nodes[member] = &standing{cert: pki.Certificate{Serial: 1, NotAfter: now.Add(time.Hour)}}
	c.nodes[c.self] = &standing{cert: pki.Certificate{Serial: 2, NotAfter: now.Add(time.Hour)}}
	work := func() []streamWant { return []streamWant{{key, window{{1, 3}}}} }
	for i := range byte(8) {
		stranger := frame.ID{8, i}
		c.Step(now, UpEvent{stranger})
		if got, want := c.mayHost(now, stranger, c.peers[stranger]), i == 0; got != want {
			t.Errorf("stranger %d may begin a session: %v", i, got)
		}
		c.queue(now, stranger, &session{id: uint64(i)}, work())
		c.reserve(now, stranger)
	}
	c.Step(now, UpEvent{member})
	if len(c.transfers) != strangerTransfers || !c.mayHost(now, member, c.peers[member]) {
		t.Errorf("%d transfers to strangers", len(c.transfers))
	}
	newcomer := coreFor(8)
	newcomer.authority = c.authority
	newcomer.nodes[newcomer.self] = c.nodes[c.self]
	if newcomer.isStranger(now, member) {
		t.Error("a newcomer takes members for strangers")
	}
}
