package mesh

import (
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/meshtest"
	"github.com/meshban/meshban/mesh/internal/mlwire"
)

func lists(n *testNode, id frame.ID) bool {
	return slices.ContainsFunc(n.Members(), func(m Member) bool { return m.ID == id })
}

// isGone reports whether a member has left or died, and is no longer suspect.
func isGone(n *testNode, id frame.ID) bool {
	return slices.ContainsFunc(n.Members(), func(m Member) bool { return m.ID == id && (m.State == StateDead || m.State == StateLeft) })
}

func knows(n *testNode, id frame.ID) bool {
	return slices.ContainsFunc(n.Known(), func(p Peer) bool { return p.ID == id })
}

// A member that was silent for a minute is forgotten: it leaves the list, and its address may be banned. One that is heard
// from again is back.
func TestForget(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, 4, nil)
		eventually(t, 30*time.Second, "everybody knows everybody", c.allAlive)
		eventually(t, 30*time.Second, "all addresses are proved", c.allProved)
		n, gone := c.nodes[0], c.nodes[3]
		id := gone.id.ID()
		if err := n.CheckForget(frame.ID{7}); !errors.Is(err, ErrNoMember) {
			t.Errorf("a node that nobody knows: %v", err)
		}
		if err := n.CheckForget(id); !errors.Is(err, errHeard) {
			t.Errorf("a living member: %v", err)
		}
		if err := gone.stop(); err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Minute, "it has gone", func() bool { return isGone(n, id) })
		if err := n.CheckForget(id); !errors.Is(err, errHeard) {
			t.Errorf("a member that was heard a moment ago: %v", err)
		}
		eventually(t, 5*time.Minute, "it was silent for long enough", func() bool { return n.CheckForget(id) == nil })
		if !knows(n, id) {
			t.Error("its address is not protected before it is forgotten")
		}
		n.Forget(id, n.id.ID(), time.Now(), true)
		if lists(n, id) || knows(n, id) {
			t.Errorf("forgotten, but listed %v, known %v", lists(n, id), knows(n, id))
		}

		// Restarting the node that forgot it changes nothing.
		saved, err := json.Marshal(n.peers.remember(time.Now()))
		if err != nil {
			t.Fatal(err)
		}
		var remembered []Peer
		if err := json.Unmarshal(saved, &remembered); err != nil {
			t.Fatal(err)
		}
		again := newPeerTable(n.id.ID(), remembered, n.trusted)
		again.since = time.Now()
		now := time.Now().Add(time.Second)
		if slices.ContainsFunc(again.members(now), func(m Member) bool { return m.ID == id }) {
			t.Error("listed again after a restart")
		}
		if !slices.ContainsFunc(again.known(now), func(p Peer) bool { return p.ID == id }) {
			t.Error("its address may be banned before this run has listened for it")
		}
		if later := now.Add(forgetAfter); slices.ContainsFunc(again.known(later), func(p Peer) bool { return p.ID == id }) {
			t.Error("its address is protected again")
		}

		back := newNode(t, c.secrets, gone.id, c.config(3, func(_ int, cfg *Config) { cfg.Epoch = 2 })).run(t)
		c.nodes[3] = back
		eventually(t, 30*time.Second, "it is back", func() bool { return lists(n, id) && knows(n, id) && n.aliveCount() == 4 })
	})
}

// A captured node can send a member's signed metadata again, with a higher number. That brings nobody back who was forgotten, nor
// does it keep one that is down from being forgotten.
func TestForgottenAndReplayed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		eventually(t, 30*time.Second, "everybody knows everybody", c.allAlive)
		eventually(t, 30*time.Second, "all addresses are proved", c.allProved)
		n, captured, gone := c.nodes[0], c.nodes[1], c.nodes[2]
		id, about := gone.id.ID(), gone.ml.Load().LocalNode()
		news := mlwire.AliveMessage{Node: about.Name, Addr: about.Addr, Port: about.Port, Meta: about.Meta, Vsn: mlwire.Versions[:]}
		if err := gone.stop(); err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Minute, "it has gone", func() bool { return isGone(n, id) })
		suspect := false
		replay := func() {
			news.Incarnation++
			b := meshtest.Sealed(t, c.secrets.GossipKey[:], 1, meshtest.OfMemberlist(t, mlwire.Alive, news), nil)
			if _, err := captured.tr.Load().WriteToAddress(b, memberlist.Address{Addr: c.addrs[0].String(), Name: n.id.ID().String()}); err != nil {
				t.Fatal(err)
			}
			<-time.After(time.Second)
			n.peers.update(id, func(p *peer) { suspect = suspect || p.State == StateSuspect })
		}
		for range 90 {
			replay()
		}
		if err := n.CheckForget(id); err != nil || !suspect {
			t.Fatalf("it cannot be forgotten: %v; suspect meanwhile: %v", err, suspect)
		}
		suspect = false
		n.Forget(id, n.id.ID(), time.Now(), true)
		for range 120 {
			if replay(); lists(n, id) || knows(n, id) {
				t.Fatalf("forgotten, but listed %v, known %v", lists(n, id), knows(n, id))
			}
		}
		if !suspect {
			t.Error("no news has come of it")
		}
		c.nodes[2] = newNode(t, c.secrets, gone.id, c.config(2, func(_ int, cfg *Config) { cfg.Epoch = 2 })).run(t)
		eventually(t, 30*time.Second, "it is back", func() bool { return lists(n, id) && knows(n, id) && n.aliveCount() == 3 })
	})
}

// A captured node's word hides no living member, and leaves the address of one that is cut off protected for an hour.
func TestForgottenByACapturedNode(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		eventually(t, 30*time.Second, "everybody knows everybody", c.allAlive)
		eventually(t, 30*time.Second, "all addresses are proved", c.allProved)
		n, victim, bad := c.nodes[0], c.nodes[1].id.ID(), c.nodes[2].id.ID()
		for _, said := range []time.Time{time.Now(), time.Now().Add(time.Hour), {}} {
			if n.Forget(victim, bad, said, false) || !lists(n, victim) || !knows(n, victim) {
				t.Errorf("a word of %v about a living member counts", said)
			}
		}
		cut := c.addrs[1]
		c.hub.setCut(func(from, to netip.AddrPort) bool { return from == cut || to == cut })
		eventually(t, time.Minute, "it is cut off", func() bool { return isGone(n, victim) })
		n.Forget(victim, bad, time.Now(), false)
		if !lists(n, victim) {
			t.Error("hidden although it was heard a moment ago")
		}
		eventually(t, 5*time.Minute, "it is forgotten", func() bool { // hearsay about it may void the word
			n.Forget(victim, bad, time.Now(), false)
			return !lists(n, victim)
		})
		if !knows(n, victim) {
			t.Error("its address may be banned after a minute")
		}
		<-time.After(protectSilent / 2)
		if !knows(n, victim) {
			t.Error("its address may be banned after half an hour")
		}
		c.hub.setCut(nil)
		eventually(t, time.Minute, "it is back", func() bool { return lists(n, victim) && n.aliveCount() == 3 })
		if n.Forget(victim, bad, time.Now(), false); !lists(n, victim) {
			t.Error("hidden once more")
		}
	})
}

// A member that answered a ping while leaving can still be forgotten, once it falls silent.
func TestForgetAnswered(t *testing.T) {
	now, id, addr := time.Unix(1e9, 0), frame.ID{2}, netip.MustParseAddrPort("192.0.2.2:7946")
	table := newPeerTable(frame.ID{1}, []Peer{{ID: id, Addr: addr, Seen: now}}, func(frame.ID) bool { return true })
	table.since = now
	table.peers[id].meta = "said"
	if !table.answered(now, id, addr) {
		t.Fatal("its answer is not noted")
	}
	now = now.Add(time.Second)
	if !table.forgetWord(now, id, forgotten{By: frame.ID{3}, Said: now}) {
		t.Error("the word is lost")
	}
	for _, after := range []time.Duration{0, hearsay + time.Second} {
		now = now.Add(after)
		table.silent(now)
		table.mu.Lock()
		hidden := table.hidden(now, table.peers[id])
		table.mu.Unlock()
		if hidden != (after > forgetAfter) {
			t.Errorf("hidden %v after %v", hidden, after)
		}
	}
}

// What a revoked node said about others is void.
func TestUnforget(t *testing.T) {
	table := newPeerTable(frame.ID{1}, []Peer{{ID: frame.ID{2}, Addr: netip.MustParseAddrPort("192.0.2.2:7946"), Seen: time.Unix(1e9, 0)}}, func(frame.ID) bool { return true })
	now := time.Unix(1e9, 0).Add(time.Hour)
	if !table.forgetWord(now, frame.ID{2}, forgotten{By: frame.ID{3}, Said: now}) || len(table.members(now)) != 0 {
		t.Errorf("not forgotten: %v", table.members(now))
	}
	if table.forgetWord(now, frame.ID{2}, forgotten{By: frame.ID{4}, Said: now}) {
		t.Error("the same word is news twice")
	}
	table.unforget(now, frame.ID{3})
	table.unforget(now, frame.ID{4})
	if len(table.members(now)) != 1 {
		t.Error("still forgotten")
	}
}

// Repeating the same about a member endlessly makes a node neither look for its addresses again nor write to its disk.
func TestForgetSaidAgain(t *testing.T) {
	now, id := time.Unix(1e9, 0), frame.ID{2}
	table := newPeerTable(frame.ID{1}, []Peer{{ID: id, Addr: netip.MustParseAddrPort("192.0.2.2:7946"), Seen: now}}, func(frame.ID) bool { return true })
	say := func(by frame.ID, sure, want bool) {
		t.Helper()
		now = now.Add(time.Second)
		table.dirty = false
		news := table.forgetWord(now, id, forgotten{By: by, Said: now, Sure: sure})
		_, dirty, known, _ := table.take()
		if news != want || dirty != want || known != want {
			t.Errorf("news %v, to be stored %v, other addresses %v; want %v", news, dirty, known, want)
		}
	}
	say(frame.ID{3}, false, true)
	for range 10 {
		say(frame.ID{3}, false, false)
		say(frame.ID{4}, false, false)
	}
	say(frame.ID{5}, true, true) // by the operator
	say(frame.ID{5}, true, false)
	say(frame.ID{3}, false, false)

	now = now.Add(time.Hour)
	table.update(id, func(p *peer) { p.seen, p.word = now, forgotten{} }) // it came back, and is gone again
	say(frame.ID{3}, false, true)
	now = now.Add(time.Hour)
	table.update(id, func(p *peer) { p.seen = now }) // it was heard from
	say(frame.ID{3}, false, true)
}
