package filter

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"maps"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/mlwire"
	"github.com/meshban/meshban/mesh/internal/wire"
)

const (
	// sourceRate is the work that one address may cause, in units a second, and sourceBurst at once: 500 and 250
	// frames, whose signatures take 60 us each to verify. An import is 100 to 180 large frames a second. Anything
	// beyond is dropped and comes by sync.
	sourceRate, sourceBurst = 500 * frameCost, 250 * frameCost
	// frameCost is the cost of a frame or a sync message; memberlist's news of members costs 1.
	frameCost = 4
	// elsewhereRate bounds, per second and at once, the frames and other messages of ours that arrive in packets
	// without a member's proof, and by streams from addresses where no member has answered, all together: a holder of
	// the mesh's key can send from as many addresses as it likes.
	elsewhereRate = 1000
	// strayPings bounds, per second and at once, the pings without a member's proof that are answered: each answer is a
	// packet to an address that the sender may have chosen. A newcomer whose ping is dropped tries again by TCP.
	strayPings = 200
	// sourceStreamRate is what one address may send by streams, in bytes a second, and sourceStreamBurst at once; a
	// faster sender is read more slowly. A million imported bans are 4 MB.
	sourceStreamRate, sourceStreamBurst = 8 << 20, 8 << 20
	// MaxStreamMessage bounds a message by stream, in bytes: the largest is a membership exchange.
	MaxStreamMessage = 4<<20 + 4096
	// maxStreamBytes bounds the messages by stream that are being read or handled, in bytes, and sourceBytes those of
	// one address. memberlist copies each about five times. Strangers have separate slots and memory: see
	// slots.go.
	maxStreamBytes, sourceBytes = 12 << 20, MaxStreamMessage + 1<<20
	// maxStreamsOpen bounds the open streams of all addresses, sourceStreams those of one.
	maxStreamsOpen, sourceStreams = 512, 32
	// streamsRate is how many streams a known address may open, in a second and at once: each takes a goroutine and 0.1
	// ms of a core, whatever it carries.
	streamsRate = 500
	// maxDatagram bounds a packet, in bytes: no member sends a larger one.
	maxDatagram = 1500
	// streamStep is how far a message's buffer grows at first, in bytes.
	streamStep = 64 << 10
	// streamPause is how long a stream from a sender that is too fast waits before it is read again.
	streamPause = 20 * time.Millisecond
	// noticesRate is how many notices and reports of UDP paths one address may send in a second, and noticesBurst at
	// once, whoever they claim to be from: each signature takes 60 us. A member sends fewer; several may share an
	// address.
	noticesRate, noticesBurst = 32, 64
	// maxSources bounds the addresses with an account of their own; all others share one.
	maxSources = 4096

	// leastNode is the smallest size of a member in a membership exchange, in bytes.
	leastNode = 40
)

var (
	errNotEncrypted = errors.New("not encrypted as members do")
	errStreamSize   = errors.New("length of a message out of range")
	errStreamKind   = errors.New("a message that members do not send")
	errStreamBudget = errors.New("too much arrives by stream")
)

// guard belongs to one transport.
type guard struct {
	keys  func() [][]byte
	now   func() time.Time
	count *Count
	// flooded is called with an address that sends accuseFactor times its limit. forged says that a member is at that
	// address but did not send this. flooded must not block.
	flooded   func(from netip.Addr, forged bool)
	packets   Buckets[netip.Addr]
	elsewhere Buckets[struct{}] // see elsewhereRate
	strays    Buckets[struct{}] // see strayPings
	notices   Buckets[netip.Addr]
	news      Buckets[netip.Addr] // new or changed members
	origins   Buckets[sourceOrigin]
	// packetFlood and originFlood run out when an address is to be reported.
	packetFlood Buckets[netip.Addr]
	originFlood Buckets[sourceOrigin]
	pauses      pauses
	arrived     Buckets[netip.Addr] // bytes of streams
	opened      Buckets[netip.Addr] // streams, except strangers'

	aeads   sync.Map // key, as text -> cipher.AEAD
	scratch []byte   // for the goroutine that checks packets
	frames  [][]byte // likewise
	noticed int      // likewise: notices in the packet
	milder  bool     // likewise: the packet was changed, see doubt and checkAck
	nonce   []byte   // likewise: the packet's nonce; text is what it encrypts
	text    []byte
	// source and sender are likewise about the packet: its source address, and the member whose proof it carries; zero:
	// none.
	source netip.Addr
	sender frame.ID

	// isMember reports whether a member has answered at an address. nil: none has.
	isMember func(netip.Addr) bool
	// proven returns which member at an address sent text; nonce, which encrypts text, is the proof. nil: every packet
	// from a member's address counts as the member's.
	proven func(from netip.Addr, nonce, text []byte) (frame.ID, bool)
	// acked reports whether the node that was pinged with the number seq sent text; nonce, which encrypts text, is the
	// proof. nil: every answer counts.
	acked func(seq uint32, nonce, text []byte) bool
	// answers reports whether the given member has answered at an address. Used only with proven.
	answers func(frame.ID, netip.Addr) bool
	// knows reports whether a member was checked at this address with this metadata. nil: none was.
	knows func(frame.ID, netip.AddrPort, []byte) bool
	// ceilingOf returns the highest incarnation that news of a node may carry, and whether the node is this one. nil:
	// all have the first ceiling. heard is called with the incarnations of accepted news of this node. Neither must
	// block.
	ceilingOf func(frame.ID) (most uint32, self bool)
	heard     func(incarnation uint32)
	// leaving reports whether a member has recently signed that it is leaving. nil: none has. It must not block.
	leaving func(frame.ID) bool

	mu             sync.Mutex
	slowed         map[frame.ID]time.Time // until when
	streams        map[netip.Addr]*streamUse
	open           int                      // streams accepted from members and key holders
	keyHoldersOpen int                      // of open: key holders', see openStream
	bytes          int64                    // of all streams except strangers'
	keyHolderBytes int64                    // of bytes: those of key holders
	strangers      []*openStream            // oldest first
	nets           map[netip.Prefix]int     // how many of strangers each network has
	strange        int64                    // bytes of strangers' streams
	keyHolders     map[netip.Addr]time.Time // see openStream.noteKey
}

// sourceOrigin is an origin as sent by one address. A forger spends its own budget, not the origin's, because the key
// includes the source address.
type sourceOrigin struct {
	from   netip.Addr
	origin frame.ID
}

// streamUse is what an address's streams take up.
type streamUse struct {
	streams int
	bytes   int64
}

func newGuard(keys func() [][]byte, now func() time.Time, count *Count, flooded func(netip.Addr, bool)) *guard {
	g := &guard{
		keys: keys, now: now, count: count, flooded: flooded,
		packets: NewBuckets[netip.Addr](sourceRate, sourceBurst), elsewhere: NewBuckets[struct{}](elsewhereRate, elsewhereRate),
		strays:  NewBuckets[struct{}](strayPings, strayPings),
		notices: NewBuckets[netip.Addr](noticesRate, noticesBurst),
		news:    NewBuckets[netip.Addr](newsRate, newsBurst), origins: NewBuckets[sourceOrigin](originRate, originBurst),
		packetFlood: NewBuckets[netip.Addr](accuseFactor*sourceRate, accuseFactor*sourceBurst),
		originFlood: NewBuckets[sourceOrigin](accuseFactor*originRate, accuseFactor*originBurst),
		arrived:     NewBuckets[netip.Addr](sourceStreamRate, sourceStreamBurst), opened: NewBuckets[netip.Addr](streamsRate, streamsRate), streams: make(map[netip.Addr]*streamUse),
		slowed: make(map[frame.ID]time.Time), keyHolders: make(map[netip.Addr]time.Time), nets: make(map[netip.Prefix]int),
	}
	// A holder of the mesh's key can open streams from more addresses than there are accounts.
	for _, b := range []*Buckets[netip.Addr]{&g.packets, &g.notices, &g.news, &g.packetFlood, &g.arrived, &g.opened} {
		b.reserved = func(a netip.Addr) bool { return a == anywhere || a == unproven || g.isMember != nil && g.isMember(a) }
	}
	return g
}

// SourceOf returns the address that is charged: an IPv6 host's whole /64, except for a member at the address where it
// has answered, which shares its account with nobody in the /64.
func SourceOf(a net.Addr, isMember func(netip.Addr) bool) netip.Addr {
	var addr netip.Addr
	switch a := a.(type) {
	case *net.UDPAddr:
		addr = a.AddrPort().Addr()
	case *net.TCPAddr:
		addr = a.AddrPort().Addr()
	default:
		return netip.Addr{}
	}
	if addr = addr.Unmap().WithZone(""); isMember != nil && isMember(addr) {
		return addr
	}
	return sourceAddr(addr)
}

func sourceAddr(addr netip.Addr) netip.Addr {
	if addr = addr.Unmap().WithZone(""); addr.Is6() {
		if p, err := addr.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return addr
}

// aead returns a key's cipher.
func (g *guard) aead(key []byte) (cipher.AEAD, error) {
	if a, ok := g.aeads.Load(string(key)); ok {
		return a.(cipher.AEAD), nil
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	a, err := cipher.NewGCM(block)
	if err == nil {
		g.aeads.Store(string(key), a)
	}
	return a, err
}

// packet reports whether memberlist may see a packet. It makes accusations and answers in the packet harmless if it
// cannot believe them: see doubt and checkAck. Only one goroutine calls it.
func (g *guard) packet(b []byte, from netip.Addr) bool {
	if len(b) > maxDatagram {
		g.count.Refused.Add(1)
		return false
	}
	plain, a, ok := g.decrypt(b)
	if !ok {
		g.count.Strangers.Add(1)
		return false
	}
	g.frames, g.noticed, g.milder = g.frames[:0], 0, false
	g.source, g.sender, g.nonce, g.text = from, frame.ID{}, b[1:1+mlwire.NonceLen], plain
	verifies := from // the account for what makes this node verify signatures
	switch {
	case g.isElsewhere(from):
		from, verifies = anywhere, unproven
	case g.proven != nil:
		if g.sender, ok = g.proven(from, g.nonce, plain); !ok {
			from, verifies = unproven, unproven
		}
	}
	cost, ok := g.packetCost(plain, verifies, true, &g.frames)
	if !ok {
		g.count.Refused.Add(1)
		return false
	}
	now := g.now()
	if !g.allow(now, from, cost, g.frames) || !g.allowNotices(now, verifies, g.noticed) {
		return false
	}
	if g.milder {
		reseal(a, b[:1+mlwire.NonceLen], plain, nil)
	}
	return true
}

// seal encodes one of memberlist's messages and encrypts it as a packet.
func (g *guard) seal(kind byte, message any) ([]byte, error) {
	body, err := mlwire.Encode(message)
	if err != nil {
		return nil, err
	}
	a, err := g.aead(g.keys()[0])
	if err != nil {
		return nil, err
	}
	head := append(make([]byte, 0, mlwire.Overhead+1+len(body)), 1)
	head = head[:1+mlwire.NonceLen]
	if _, err := rand.Read(head[1:]); err != nil {
		return nil, err
	}
	return a.Seal(head, head[1:], append([]byte{kind}, body...), nil), nil
}

// reseal encrypts the changed message after head, which ends with the nonce. Reusing the nonce is harmless: the result
// stays in this process.
func reseal(a cipher.AEAD, head, plain, data []byte) []byte {
	return a.Seal(head, head[len(head)-mlwire.NonceLen:], plain, data)
}

// allowNotices reports whether a source may send n more notices, whose signatures get verified.
func (g *guard) allowNotices(now time.Time, from netip.Addr, n int) bool {
	if n > 0 && !g.notices.Take(now, from, n) {
		g.count.Limited.Add(1)
		return false
	}
	return true
}

// allow reports whether a source may send a message of this cost with these frames.
func (g *guard) allow(now time.Time, from netip.Addr, cost int, raws [][]byte) bool {
	frames, source := g.pauses.catchingUp(now)
	spend := func(flood bool) bool {
		g.count.Limited.Add(1)
		switch {
		case !flood || frames != nil: // a node that was suspended accuses nobody
		case from == unproven || from == anywhere:
			g.flooded(g.source, from == unproven)
		default:
			g.flooded(from, false)
		}
		return false
	}
	flood, n := !g.packetFlood.Take(now, from, cost), cost/frameCost
	other := n > 0 && from == anywhere // bounded by elsewhere alone, so that newcomers' pings pass meanwhile
	if !other && !g.packets.Take(now, from, cost) && (source == nil || !source.Take(now, from, cost)) {
		return spend(flood)
	}
	if n > 0 && g.isElsewhere(from) && !g.elsewhere.Take(now, struct{}{}, n) {
		return spend(flood && other)
	}
	for _, raw := range raws {
		v, cost := sourceOriginOf(from, raw)
		flood := !g.originFlood.Take(now, v, cost)
		slowed := g.isSlowed(now, v.origin)
		if slowed {
			cost *= slowFactor
		}
		if !g.origins.Take(now, v, cost) && (slowed || frames == nil || !frames.Take(now, v, cost)) {
			return spend(flood)
		}
	}
	return true
}

// isElsewhere reports whether an account is not that of an address where a member has answered.
func (g *guard) isElsewhere(from netip.Addr) bool { return g.isMember != nil && !g.isMember(from) }

// sourceOriginOf returns the origin, as its source sends it, and the cost of a frame.
func sourceOriginOf(from netip.Addr, raw []byte) (v sourceOrigin, cost int) {
	v, cost = sourceOrigin{from: from}, smallCost
	if len(raw) >= frame.KeyAt+ed25519.PublicKeySize { // a shorter one is not a frame
		v.origin = frame.IDOf(raw[frame.KeyAt : frame.KeyAt+ed25519.PublicKeySize])
	}
	if len(raw) > wire.FreshSize {
		cost = bulkCost
	}
	return v, cost
}

// slow makes an origin's frames cost more for slowFor.
func (g *guard) slow(origin frame.ID) {
	now := g.now()
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.slowed) >= maxSources {
		maps.DeleteFunc(g.slowed, func(_ frame.ID, until time.Time) bool { return !until.After(now) })
	}
	if _, known := g.slowed[origin]; known || len(g.slowed) < maxSources {
		g.slowed[origin] = now.Add(slowFor)
	}
}

// slowedNow returns how many origins are slowed.
func (g *guard) slowedNow() (n int) {
	now := g.now()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, until := range g.slowed {
		if until.After(now) {
			n++
		}
	}
	return n
}

func (g *guard) isSlowed(now time.Time, origin frame.ID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	until, ok := g.slowed[origin]
	if ok && !until.After(now) {
		delete(g.slowed, origin)
		return false
	}
	return ok
}

// decrypt opens a packet, and returns the text and the cipher that opened it. The text is valid until the next call.
func (g *guard) decrypt(b []byte) ([]byte, cipher.AEAD, bool) {
	if len(b) <= mlwire.Overhead || b[0] != 1 { // version 0 pads, and memberlist does not check how
		return nil, nil, false
	}
	for _, key := range g.keys() {
		a, err := g.aead(key)
		if err != nil {
			continue
		}
		plain, err := a.Open(g.scratch[:0], b[1:1+mlwire.NonceLen], b[1+mlwire.NonceLen:], nil)
		if err == nil {
			g.scratch = plain
			return plain, a, true
		}
	}
	return nil, nil, false
}

// packetCost returns the cost of a decrypted packet and adds its frames to frames; ok is false if no member sends such
// a packet.
func (g *guard) packetCost(b []byte, from netip.Addr, outer bool, frames *[][]byte) (cost int, ok bool) {
	if len(b) == 0 {
		return 0, false
	}
	switch kind, rest := b[0], b[1:]; kind {
	case mlwire.CRC:
		if !outer || len(rest) < 5 {
			return 0, false
		}
		cost, ok := g.packetCost(rest[4:], from, true, frames)
		if g.milder {
			binary.BigEndian.PutUint32(rest, crc32.ChecksumIEEE(rest[4:]))
		}
		return cost, ok
	case mlwire.Compound:
		if !outer || len(rest) == 0 {
			return 0, false
		}
		n := int(rest[0])
		lengths, bodies := rest[1:], []byte(nil)
		if len(lengths) < 2*n {
			return 0, false
		}
		lengths, bodies = lengths[:2*n], lengths[2*n:]
		for ; len(lengths) > 0; lengths = lengths[2:] {
			size := int(binary.BigEndian.Uint16(lengths))
			if size > len(bodies) {
				return 0, false
			}
			part, ok := g.packetCost(bodies[:size], from, false, frames)
			if !ok {
				return 0, false
			}
			cost += part
			bodies = bodies[size:]
		}
		return cost, true
	case mlwire.User:
		g.noticed += notices(rest)
		return userCost(rest, frames), true
	case mlwire.Ping:
		return 1, g.checkPing(rest, from) == nil
	case mlwire.Ack:
		genuine, err := g.checkAck(rest)
		if !genuine && err == nil {
			b[0], g.milder = mlwire.Nack, true // memberlist ignores it: it asks no node to ping for another
		}
		return 1, err == nil
	case mlwire.Alive:
		return 1, g.checkAlive(rest, from) == nil
	case mlwire.Suspect, mlwire.Dead:
		a, err := g.checkAccusation(rest)
		if kind == mlwire.Dead && err == nil && g.doubt(a) {
			b[0], g.milder = mlwire.Suspect, true // the same fields follow
		}
		return 1, err == nil
	}
	return 1, false
}

// notices returns how many signatures of notices, or of reports in their form, one of our messages makes us verify.
func notices(b []byte) int {
	if len(b) > 0 && (b[0] == wire.KindNotice || b[0] == wire.KindPath) {
		return 1
	}
	return 0
}

// userCost returns the cost of one of our messages and adds its frames to frames.
func userCost(b []byte, frames *[][]byte) int {
	if len(b) == 0 || (b[0] != wire.KindPush && b[0] != wire.KindTree) {
		return frameCost
	}
	cost := 0
	for b = b[1:]; len(b) >= 2; {
		n := int(binary.BigEndian.Uint16(b))
		if n > len(b)-2 {
			break
		}
		cost += frameCost
		*frames = append(*frames, b[2:2+n])
		b = b[2+n:]
	}
	return max(cost, frameCost)
}
