//go:build linux && netns

package chaos

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	meshLink = "mesh0"
	// frameRoom exceeds the size of any frame: the devices' MTU is 1,500.
	frameRoom = 1 << 14
	// lateBy bounds by how much a reordered frame is late.
	lateBy = 60 * time.Millisecond
)

// macPrefix is the start of the MAC address of every node's mesh interface; the node's number follows.
var macPrefix = []byte{0x02, 0x6d, 0x62, 0x01, 0x00}

// fault is what happens to frames from one node to another. The numbers are probabilities.
type fault struct {
	loss, double, reorder, damage float64
	delay                         time.Duration
	cut, noUDP, noTCP             bool
	mtu                           int // longer IP packets are dropped silently; 0 = no limit
}

// with returns both faults combined.
func (f fault) with(g fault) fault {
	f.loss = max(f.loss, g.loss)
	f.double = max(f.double, g.double)
	f.reorder = max(f.reorder, g.reorder)
	f.damage = max(f.damage, g.damage)
	f.delay += g.delay
	f.cut, f.noUDP, f.noTCP = f.cut || g.cut, f.noUDP || g.noUDP, f.noTCP || g.noTCP
	if f.mtu == 0 || g.mtu != 0 && g.mtu < f.mtu {
		f.mtu = g.mtu
	}
	return f
}

// network is an Ethernet switch with a port for each node.
type network struct {
	ports  []*os.File
	faults atomic.Pointer[[][]fault] // [from][to]; never changed in place
	wg     sync.WaitGroup            // readers
}

// openTAP makes a TAP device in the calling thread's network namespace. It exists until the file is closed. The device
// offers no offloads, so the kernel computes and checks every checksum.
func openTAP(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("open /dev/net/tun", err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make TAP device %s: %w", name, err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil
}

// newNetwork forwards frames between ports until close.
func newNetwork(ports []*os.File, seed uint64) *network {
	w := &network{ports: ports}
	w.set(nil)
	for i := range ports {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		w.wg.Go(func() { w.read(i, r) })
	}
	return w
}

func (w *network) close() error {
	var errs []error
	for _, p := range w.ports {
		errs = append(errs, p.Close())
	}
	w.wg.Wait()
	return errors.Join(errs...)
}

// set replaces all faults with those of some episodes.
func (w *network) set(episodes []episode) {
	all := make([][]fault, len(w.ports))
	for from := range all {
		all[from] = make([]fault, len(w.ports))
		for to := range all[from] {
			for _, e := range episodes {
				if e.on(from, to) {
					all[from][to] = all[from][to].with(e.fault)
				}
			}
		}
	}
	w.faults.Store(&all)
}

func (w *network) read(from int, r *rand.Rand) {
	buf := make([]byte, frameRoom)
	for {
		n, err := w.ports[from].Read(buf)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil || n < ethHeader {
			continue // the device is down
		}
		faults := (*w.faults.Load())[from]
		for to := range w.ports {
			if to != from && addressed(buf[:n], to) {
				w.pass(to, slices.Clone(buf[:n]), faults[to], r)
			}
		}
	}
}

const ethHeader = 14

// addressed reports whether a frame is for a node or for all nodes.
func addressed(frame []byte, to int) bool {
	return frame[0]&1 != 0 || string(frame[:5]) == string(macPrefix) && int(frame[5]) == to+1
}

func (w *network) pass(to int, frame []byte, f fault, r *rand.Rand) {
	p := parse(frame)
	if f.cut || f.noUDP && p.proto == unix.IPPROTO_UDP || f.noTCP && p.proto == unix.IPPROTO_TCP ||
		f.mtu != 0 && p.proto != 0 && len(frame)-ethHeader > f.mtu || r.Float64() < f.loss {
		return
	}
	if r.Float64() < f.damage {
		damage(frame, p, r)
	}
	copies := 1
	if r.Float64() < f.double {
		copies = 2
	}
	for range copies {
		delay := f.delay
		if r.Float64() < f.reorder {
			delay += rand.N(lateBy)
		}
		if delay == 0 {
			w.write(to, frame)
			continue
		}
		time.AfterFunc(delay, func() { w.write(to, frame) })
	}
}

// write drops a frame that the device does not accept, as a full queue does.
func (w *network) write(to int, frame []byte) { _, _ = w.ports[to].Write(frame) }

// packet tells where the payload of an IP packet is in its frame.
type packet struct {
	proto   byte // 0 = not IP
	payload int  // offset of the payload of TCP or UDP, otherwise the end
}

func parse(frame []byte) packet {
	const v4, v6 = ethHeader + 20, ethHeader + 40 // where the next header is, without options
	p, next := packet{payload: len(frame)}, 0
	switch kind := binary.BigEndian.Uint16(frame[12:]); {
	case kind == unix.ETH_P_IP && len(frame) >= v4:
		p.proto, next = frame[ethHeader+9], ethHeader+int(frame[ethHeader]&15)*4
	case kind == unix.ETH_P_IPV6 && len(frame) >= v6:
		p.proto, next = frame[ethHeader+6], v6
	}
	switch {
	case p.proto == unix.IPPROTO_UDP:
		p.payload = min(next+8, len(frame))
	case p.proto == unix.IPPROTO_TCP && len(frame) >= next+20:
		p.payload = min(next+int(frame[next+12]>>4)*4, len(frame))
	}
	return p
}

// damage changes a frame. Half of the time it flips a bit, which the kernel detects by the checksum; otherwise it swaps two
// words of the payload, which no Internet checksum detects, so the program has to. It leaves frames that are not IP alone,
// because they have no checksum.
func damage(frame []byte, p packet, r *rand.Rand) {
	if p.proto == 0 {
		return
	}
	words := (len(frame) - p.payload) / 2
	if words < 2 || r.IntN(2) == 0 {
		at := ethHeader + r.IntN(len(frame)-ethHeader)
		frame[at] ^= 1 << r.IntN(8)
		return
	}
	a, b := p.payload+2*r.IntN(words), p.payload+2*r.IntN(words)
	frame[a], frame[b] = frame[b], frame[a]
	frame[a+1], frame[b+1] = frame[b+1], frame[a+1]
}
