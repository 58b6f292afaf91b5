//go:build linux && netns

package rig

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// ProbeEvery is the time between two rounds of a prober, and between two
	// probes of one pair unless the prober is sparse or has many pairs.
	ProbeEvery = time.Millisecond
	// firstPort to lastPort are the probes' source ports. Each pair of any prober
	// of a fleet has its own.
	firstPort, lastPort = 10000, 59999
	// maxEach bounds the probes that all probers together send in a round; with more pairs, each is probed less often.
	// A probe and its answer take 15 us of a processor that the agents need. Once a real-time thread takes 95 % of a
	// processor, the kernel stops it for 50 ms of each second (sched_rt_runtime_us).
	maxEach = 16
	// leastRest is the pause after a round that took longer than its time: the kernel would stop a thread that never rests.
	leastRest = ProbeEvery / 4
	// probeBuffer is the size of the socket's send and receive buffers, in bytes.
	probeBuffer = 8 << 20
)

// watched is the number of pairs of all probers.
var watched atomic.Int64

// Prober sends a TCP SYN for each watched pair of source and node every
// millisecond (every few if it is sparse or has many pairs), and learns from
// the answers which of them got through.
//
// It works below the attacker's IP stack, with one packet socket. A probe's
// sequence number is its index in the pair's list of send times and comes back
// in the answer, so that reading late shifts no time. Its thread takes no lock:
// on a busy machine it would wait for the lock's holder.
type Prober struct {
	fleet *Fleet
	every int // rounds between two probes of one pair
	fd    int
	from  unix.SockaddrLinklayer
	start time.Time // monotonic zero of all send times

	stop chan struct{} // closed by close
	done chan struct{} // closed after loop has returned and failed is set

	change sync.Mutex              // held while pairs is replaced
	pairs  atomic.Pointer[[]*Pair] // never changed in place
	ports  [lastPort + 1]atomic.Pointer[Pair]
	failed atomic.Pointer[error] // why the loop ended
	paused atomic.Pointer[pause] // the longest one
}

// pause is a round that began late or took long.
type pause struct {
	at         time.Duration // since the prober's start
	late, took time.Duration
	cpu        time.Duration // the thread's own processor time since the round before it
}

func (p *pause) String() string {
	return fmt.Sprintf("the prober's longest pause ended %v after its start: it woke %v late, its round took %v, and %v of both it ran",
		p.at.Round(time.Millisecond), p.late, p.took, p.cpu)
}

// Prober opens a prober in the attacker; it ends with the fleet.
func (f *Fleet) Prober(t testing.TB) *Prober {
	t.Helper()
	return f.SparseProber(t, 1)
}

// SparseProber opens a prober for many pairs: it probes each only in every n-th
// round, and spreads the pairs over the rounds.
func (f *Fleet) SparseProber(t testing.TB, n int) *Prober {
	t.Helper()
	p := &Prober{
		fleet: f, every: n, start: time.Now(), stop: make(chan struct{}), done: make(chan struct{}),
	}
	p.pairs.Store(&[]*Pair{})
	if err := f.Attacker.InNet(p.open); err != nil {
		t.Fatalf("open the prober: %v", err)
	}
	f.onClose(p.close)
	go func() {
		defer close(p.done)
		if err := onThread(p.loop); err != nil {
			p.failed.Store(&err)
		}
	}()
	return p
}

// open runs in the attacker's network namespace.
func (p *Prober) open() error {
	link, err := net.InterfaceByName("probe0")
	if err != nil {
		return err
	}
	filter, err := answerFilter()
	if err != nil {
		return err
	}
	// Protocol 0: nothing arrives before the filter is attached and bind names a protocol.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("packet socket: %w", err)
	}
	p.fd = fd
	err = errors.Join(
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, probeBuffer),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, probeBuffer),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
	)
	all := uint16(unix.ETH_P_ALL)
	p.from = unix.SockaddrLinklayer{Ifindex: link.Index, Protocol: all>>8 | all<<8}
	return errors.Join(err, unix.Bind(fd, &p.from))
}

func (p *Prober) close() error {
	close(p.stop)
	<-p.done
	p.change.Lock()
	watched.Add(-int64(len(*p.pairs.Swap(&[]*Pair{}))))
	p.change.Unlock()
	return errors.Join(p.err(), unix.Close(p.fd))
}

// err returns the error that ended the loop, or nil.
func (p *Prober) err() error {
	if e := p.failed.Load(); e != nil {
		return *e
	}
	return nil
}

// loop sends and reads on one thread until close. Most answers are in the socket
// before the send returns, so reading once a round is enough.
func (p *Prober) loop() error {
	prefer()
	next := time.Now()
	buf := make([]byte, 256)
	ran := threadTime()
	for turn := 0; ; turn++ {
		select {
		case <-p.stop:
			return nil
		default:
		}
		begun := time.Now()
		if err := p.round(turn, buf); err != nil {
			return err
		}
		now, before := time.Now(), ran
		ran = threadTime()
		p.note(pause{at: now.Sub(p.start), late: begun.Sub(next), took: now.Sub(begun), cpu: ran - before})
		next = next.Add(ProbeEvery)
		wait := next.Sub(now)
		if wait <= 0 { // never make up for lost rounds with a burst
			wait = leastRest
			next = now.Add(wait)
		}
		ts := unix.NsecToTimespec(wait.Nanoseconds())
		_ = unix.Nanosleep(&ts, nil) // a signal only makes the next round early
	}
}

// prefer gives the calling thread precedence, which keeps the probes regular beside busy agents. Where the system refuses
// that, only the gaps grow, and they are measured. On a single processor a real-time thread that spins for a lock of Go's
// runtime would keep the thread that holds it from running, and everything else, until the kernel throttles it after 0.95 s.
func prefer() {
	var cpus unix.CPUSet
	if err := unix.SchedGetaffinity(0, &cpus); err == nil && cpus.Count() == 1 {
		_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), -20)
		return
	}
	_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}, 0)
}

// note keeps the longest pause, so that a gap caused by the prober can be told from one caused by the product.
func (p *Prober) note(n pause) {
	if worst := p.paused.Load(); worst == nil || n.late+n.took > worst.late+worst.took {
		p.paused.Store(&n)
	}
}

// threadTime returns the processor time that the calling thread has used.
func threadTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// round sends one probe for each pair whose turn it is, and then reads the
// answers.
func (p *Prober) round(turn int, buf []byte) error {
	pairs := *p.pairs.Load()
	every := max(p.every, int(watched.Load()+maxEach-1)/maxEach)
	for i := turn % every; i < len(pairs); i += every {
		pair := pairs[i]
		seq, err := pair.history.send(time.Since(p.start))
		if err != nil {
			return fmt.Errorf("%v: %w", pair, err)
		}
		err = unix.Sendto(p.fd, pair.frame.with(seq), 0, &pair.to)
		if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("send to %v: %w", pair, err)
		}
	}
	for {
		n, _, err := unix.Recvfrom(p.fd, buf, unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("read answers: %w", err)
		}
		if port, seq, ok := answer(buf[:min(n, len(buf))]); ok {
			if pair := p.ports[min(port, lastPort)].Load(); pair != nil {
				pair.history.answer(seq)
			}
		}
	}
}

// Watch starts to probe a port of the node, closed or open, from src at the
// node's probe address of the same family. Pair.Stop ends it.
func (p *Prober) Watch(src netip.Addr, node *Node, port uint16) *Pair {
	dst := node.Probe
	if src.Is6() {
		dst = node.Probe6
	}
	pair := &Pair{
		Src: src, Node: node, Port: port, prober: p,
		to: unix.SockaddrLinklayer{Ifindex: p.from.Ifindex, Protocol: p.from.Protocol, Halen: 6},
	}
	copy(pair.to.Addr[:], node.probeMAC[:])
	p.change.Lock()
	defer p.change.Unlock()
	for pair.source == 0 || p.ports[pair.source].Load() != nil {
		pair.source = p.fleet.probePort()
	}
	pair.frame = newSYN(mac(2, attackerHost), node.probeMAC,
		netip.AddrPortFrom(src, pair.source), netip.AddrPortFrom(dst, port))
	p.ports[pair.source].Store(pair)
	pairs := append(slices.Clone(*p.pairs.Load()), pair)
	p.pairs.Store(&pairs)
	watched.Add(1)
	return pair
}

// WatchAll watches one closed port of every node of the fleet from src. It
// returns once every pair has passed the positive control, or with an error.
func (p *Prober) WatchAll(src netip.Addr) (Pairs, error) {
	var pairs Pairs
	for _, n := range p.fleet.Nodes {
		pairs = append(pairs, p.Watch(src, n, ClosedPort))
	}
	return pairs, pairs.Control()
}

// ClosedPort is a port on which no test listens.
const ClosedPort = 9

func (p *Prober) forget(pair *Pair) {
	p.change.Lock()
	defer p.change.Unlock()
	before := *p.pairs.Load()
	pairs := slices.DeleteFunc(slices.Clone(before), func(q *Pair) bool { return q == pair })
	p.pairs.Store(&pairs)
	watched.Add(int64(len(pairs) - len(before)))
	p.ports[pair.source].CompareAndSwap(pair, nil)
}
