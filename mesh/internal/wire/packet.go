package wire

import "encoding/binary"

const (
	// MaxPacket bounds a message sent by UDP, in bytes: with memberlist's encryption and the UDP and IPv6 headers it stays
	// below 1,500.
	MaxPacket = 1380
	// FreshSize is the largest packet or frame, in bytes, that goes before larger ones, at both ends. A few fresh bans fit,
	// the frames of a bulk do not, so a fresh ban overtakes a bulk.
	FreshSize = 512

	// MaxMembers bounds the members that a node keeps track of.
	MaxMembers = 1 << 14
)

// The first byte of each message that we send through memberlist.
const (
	KindPush   byte = 1 + iota // frames from their origin, from gossip, or passed on by another node
	KindTree                   // frames along a tree, relayed once
	KindSync                   // a step of a comparison
	KindChunk                  // frames of a sync, which wait behind everything else
	KindAsk                    // asks which node is at an address, or answers
	KindBye                    // the sender is about to leave
	KindNotice                 // a notice to one member
	KindPath                   // tests whether UDP gets through
)

// AppendPacked appends a frame to a packet of frames.
func AppendPacked(b, raw []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(raw))), raw...)
}

// NextPacked takes the first frame, of at most limit bytes, off a packet without its kind.
func NextPacked(b []byte, limit int) (raw, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if n == 0 || n > limit || len(b)-2 < n {
		return nil, nil, false
	}
	return b[2 : 2+n : 2+n], b[2+n:], true
}

// Pack packs frames into packets of a kind.
func Pack(kind byte, raws [][]byte) [][]byte {
	var packets [][]byte
	for _, raw := range raws {
		last := len(packets) - 1
		if last < 0 || len(packets[last])+2+len(raw) > MaxPacket {
			packets, last = append(packets, append(make([]byte, 0, 3+len(raw)), kind)), last+1
		}
		packets[last] = AppendPacked(packets[last], raw)
	}
	return packets
}
