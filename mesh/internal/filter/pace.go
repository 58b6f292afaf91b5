package filter

import (
	"net/netip"
	"sync"
	"time"
)

// A node's sending rate is one rule known to both ends. An agent keeps to SayRate and SayBurst. A receiver accepts
// originRate and originBurst from one address in the name of one origin, which leaves room for the second copies that
// gossip brings. It drops packets beyond that, and a sync repairs what was good in them. A source is reported as a
// flood only at accuseFactor times that rate, which no agent reaches. An origin that is slowed does not know it, so it
// is not reported for sending as before. After a pause of this process, packets that came meanwhile count as if they
// had been read when they came.

const (
	// SayRate bounds the small frames that an agent sends in a second, and SayBurst those that it sends at once.
	SayRate, SayBurst = 80, 20

	// originRate is what one address may send in the name of one origin, in units a second, and originBurst at once: 100
	// and 50 small frames, or three times as many of a bulk. A single ban takes a peer up to 0.3 ms of a core, and an
	// agent that bans more than that fills its frames: it sends SayBurst at once, of which gossip brings up to 18 a
	// second time.
	originRate, originBurst = 300, 150
	// smallCost and bulkCost are the costs of frames up to wire.FreshSize and of larger ones. Frames of an origin that Slow
	// was called for within slowFor cost slowFactor times as much.
	smallCost, bulkCost = 3, 1
	slowFactor          = 8
	slowFor             = 10 * time.Second
	// accuseFactor is how many times its limit a source must send to be reported.
	accuseFactor = 2

	// pulseEvery is how often this process records that it runs, and pauseLeast the shortest gap that counts as a
	// pause. While fewer than busyRate packets a second arrive, pauses hardly matter and the pulse is pulseRarely times
	// slower: each one wakes the processor.
	pulseEvery, pauseLeast = 100 * time.Millisecond, 250 * time.Millisecond
	pulseRarely, busyRate  = 10, 20
	// pauseMost bounds the pause that is made up for: the socket holds no more than what comes in a few seconds.
	pauseMost = 30 * time.Second
	// catchUpFor is how long after a pause the packets that came meanwhile may be read, and pauseAgain the least time
	// between two pauses that are made up for.
	catchUpFor, pauseAgain = time.Second, 3 * time.Second
)

// pauses makes up for the time in which this process did not run, for example because it was stopped or its machine
// suspended. The socket keeps what comes meanwhile, and all of it is read at once.
type pauses struct {
	mu     sync.Mutex
	pulse  time.Time // when the process was last known to run
	rarely bool      // the pulse is pulseRarely times slower
	begun  time.Time // end of the last pause that is made up for
	frames *Buckets[sourceOrigin]
	source *Buckets[netip.Addr]
}

// note records that the process runs.
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
	frames := NewBuckets[sourceOrigin](0, int(gap.Seconds()*originRate))
	source := NewBuckets[netip.Addr](0, int(gap.Seconds()*sourceRate))
	p.frames, p.source = &frames, &source
}

// adapt takes how many packets have come since the last pulse, and returns the time to the next one.
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

// catchingUp returns the extra allowances for a pause that has just ended; nil: none.
func (p *pauses) catchingUp(now time.Time) (*Buckets[sourceOrigin], *Buckets[netip.Addr]) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.pulse.IsZero() && now.Sub(p.pulse) >= pauseLeast {
		p.noteLocked(now) // this packet was read before the next pulse
	}
	if p.frames != nil && now.Sub(p.begun) >= catchUpFor {
		p.frames, p.source = nil, nil
	}
	return p.frames, p.source
}
