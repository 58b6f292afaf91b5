package mesh

import (
	"net/netip"
	"sync"
	"time"
)

// What a node may say is one rule that both ends know. An agent keeps to SayRate and SayBurst; whoever hears it takes
// voiceRate and voiceBurst from one address in the name of one origin, which leaves room for what gossip brings a second time;
// beyond that a packet is dropped, and a sync repairs what was good of it. Only who says accuseFactor times as much as that,
// which no agent does, is told of as a flood; an origin that is slowed, which it does not know, may say as much as before
// without being told of. After a pause of this process what came meanwhile counts as if it had been heard then.

const (
	// SayRate bounds the small frames that an agent sends in a second, and SayBurst those that it sends at once.
	SayRate, SayBurst = 80, 20
	// SayBulkRate bounds the bans that an agent sends in full frames in a second, SayBulkBurst those that it sends at once. A
	// peer needs 6 us of a core for one: a bulk takes a seventh of a core there, and a fresh ban does not find it in its way.
	SayBulkRate, SayBulkBurst = 22_500, 5_000

	// voiceRate is what one address may say in the name of one origin, in units a second, and voiceBurst at once: 100 and 50
	// small frames, or three times as many of a bulk. A ban by itself takes a peer up to 0.3 ms of a core, and who bans more
	// than that many fills his frames: an agent says SayBurst at once, of which gossip brings up to 18 a second time.
	voiceRate, voiceBurst = 300, 150
	// smallCost and bulkCost are what frames up to freshSize and larger ones count as. Those of an origin that Slow named
	// within slowFor count slowFactor times as much.
	smallCost, bulkCost = 3, 1
	slowFactor          = 8
	slowFor             = 10 * time.Second
	// accuseFactor is how many times its share somebody sends who is told of.
	accuseFactor = 2

	// pulseEvery is how often this process notes that it runs, and pauseLeast the least time without that counts as a pause. While
	// fewer than busyRate packets a second arrive, for which no pause matters much, it does so pulseRarely as often: each time
	// wakes the processor.
	pulseEvery, pauseLeast = 100 * time.Millisecond, 250 * time.Millisecond
	pulseRarely, busyRate  = 10, 20
	// pauseMost bounds the pause that is made up for: the socket holds no more than what comes in some seconds.
	pauseMost = 30 * time.Second
	// catchUpFor is how long after a pause what came meanwhile may still be read, and pauseAgain the least time from one pause
	// that is made up for to the next.
	catchUpFor, pauseAgain = time.Second, 3 * time.Second
)

// pauses makes up for the time in which this process did not run, as when it was stopped or its machine suspended. The
// socket has kept what came meanwhile, and all of it is read at once.
type pauses struct {
	mu     sync.Mutex
	pulse  time.Time // when the process was last known to run
	rarely bool      // the pulse beats pulseRarely as often
	begun  time.Time // when the last pause that is made up for was over
	frames *buckets[voice]
	source *buckets[netip.Addr]
}

// note notes that the process runs.
func (p *pauses) note(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.noteLocked(now)
}

func (p *pauses) noteLocked(now time.Time) {
	last := p.pulse
	p.pulse = now
	if last.IsZero() {
		return
	}
	least := pauseLeast
	if p.rarely {
		least += pulseEvery * (pulseRarely - 1)
	}
	// A suspended machine's monotonic clock stands still.
	gap := min(max(now.Sub(last), now.Round(0).Sub(last.Round(0))), pauseMost)
	if gap < least || now.Sub(p.begun) < pauseAgain {
		return
	}
	p.begun = now
	frames := newBuckets[voice](0, gap.Seconds()*voiceRate)
	source := newBuckets[netip.Addr](0, gap.Seconds()*sourceRate)
	p.frames, p.source = &frames, &source
}

// adapt takes how many packets have come since the last pulse, and returns when the next one is due.
func (p *pauses) adapt(packets int) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	every := pulseEvery
	if p.rarely {
		every *= pulseRarely
	}
	if p.rarely = float64(packets) < busyRate*every.Seconds(); p.rarely {
		return pulseEvery * pulseRarely
	}
	return pulseEvery
}

// catchingUp returns what each may have said during the pause that was over a moment ago; nil: there was none.
func (p *pauses) catchingUp(now time.Time) (*buckets[voice], *buckets[netip.Addr]) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.pulse.IsZero() && now.Sub(p.pulse) >= pauseLeast {
		p.noteLocked(now) // this packet is read before the pulse beats again
	}
	if p.frames != nil && now.Sub(p.begun) >= catchUpFor {
		p.frames, p.source = nil, nil
	}
	return p.frames, p.source
}
