//go:build linux && netns

package rig

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	etherLen = 14
	ip4Len   = 20
	ip6Len   = 40
	tcpLen   = 20

	flagSYN, flagRST, flagACK = 0x02, 0x04, 0x10
)

// synFrame is a complete Ethernet frame with a TCP SYN; only the sequence number
// changes from one probe to the next.
type synFrame struct {
	bytes []byte
	seqAt int
	sumAt int
	sum   uint32 // ones' complement sum without the sequence number
}

// newSYN builds the frame. src and dst are of one family.
func newSYN(from, to [6]byte, src, dst netip.AddrPort) *synFrame {
	ipLen, etherType := ip4Len, uint16(unix.ETH_P_IP)
	if src.Addr().Is6() {
		ipLen, etherType = ip6Len, unix.ETH_P_IPV6
	}
	b := make([]byte, etherLen+ipLen+tcpLen)
	copy(b[0:], to[:])
	copy(b[6:], from[:])
	binary.BigEndian.PutUint16(b[12:], etherType)
	ip, tcp := b[etherLen:], b[etherLen+ipLen:]
	if ipLen == ip4Len {
		ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_TCP
		binary.BigEndian.PutUint16(ip[2:], ip4Len+tcpLen)
		ip[6] = 0x40 // do not fragment
		copy(ip[12:], src.Addr().AsSlice())
		copy(ip[16:], dst.Addr().AsSlice())
		binary.BigEndian.PutUint16(ip[10:], fold(sum16(0, ip[:ip4Len])))
	} else {
		ip[0], ip[6], ip[7] = 0x60, unix.IPPROTO_TCP, 64
		binary.BigEndian.PutUint16(ip[4:], tcpLen)
		copy(ip[8:], src.Addr().AsSlice())
		copy(ip[24:], dst.Addr().AsSlice())
	}
	binary.BigEndian.PutUint16(tcp[0:], src.Port())
	binary.BigEndian.PutUint16(tcp[2:], dst.Port())
	tcp[12], tcp[13] = tcpLen/4<<4, flagSYN
	binary.BigEndian.PutUint16(tcp[14:], 64240)
	sum := sum16(unix.IPPROTO_TCP+tcpLen, src.Addr().AsSlice()) // pseudo header
	sum = sum16(sum, dst.Addr().AsSlice())
	return &synFrame{
		bytes: b, seqAt: etherLen + ipLen + 4, sumAt: etherLen + ipLen + 16,
		sum: sum16(sum, tcp[:tcpLen]),
	}
}

// with sets the sequence number and returns the frame, valid until the next
// call.
func (f *synFrame) with(seq uint32) []byte {
	binary.BigEndian.PutUint32(f.bytes[f.seqAt:], seq)
	sum := f.sum + seq>>16 + seq&0xffff
	binary.BigEndian.PutUint16(f.bytes[f.sumAt:], fold(sum))
	return f.bytes
}

// sum16 adds b, of even length, to a ones' complement sum (RFC 1071).
func sum16(sum uint32, b []byte) uint32 {
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	return sum
}

func fold(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// answer returns the probe's source port and sequence number from a frame that
// the filter accepted.
func answer(b []byte) (port uint16, seq uint32, ok bool) {
	if len(b) < etherLen+ip4Len+tcpLen {
		return 0, 0, false
	}
	tcp := b[etherLen+int(b[etherLen]&0x0f)*4:]
	if b[etherLen]>>4 == 6 {
		tcp = b[etherLen+ip6Len:]
	}
	if len(tcp) < tcpLen {
		return 0, 0, false
	}
	return binary.BigEndian.Uint16(tcp[2:]), binary.BigEndian.Uint32(tcp[8:]) - 1, true
}

// answerFilter accepts unfragmented TCP with RST, or with SYN and ACK, over IPv4
// and IPv6 without options: the answers of a closed and an open port to a SYN.
func answerFilter() ([]unix.SockFilter, error) {
	flags4 := uint32(etherLen + ip4Len + 13)
	flags6 := uint32(etherLen + ip6Len + 13)
	// A jump counts the instructions that it skips; 16 accepts, 17 drops.
	prog, err := bpf.Assemble([]bpf.Instruction{
		0:  bpf.LoadAbsolute{Off: 12, Size: 2},
		1:  bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_IPV6, SkipTrue: 6},
		2:  bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.ETH_P_IP, SkipTrue: 14},
		3:  bpf.LoadAbsolute{Off: etherLen, Size: 1},
		4:  bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0x45, SkipTrue: 12},
		5:  bpf.LoadAbsolute{Off: etherLen + 9, Size: 1},
		6:  bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_TCP, SkipTrue: 10},
		7:  bpf.Jump{Skip: 4},
		8:  bpf.LoadAbsolute{Off: etherLen + 6, Size: 1},
		9:  bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_TCP, SkipTrue: 7},
		10: bpf.LoadAbsolute{Off: flags6, Size: 1},
		11: bpf.Jump{Skip: 1},
		12: bpf.LoadAbsolute{Off: flags4, Size: 1},
		13: bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: flagRST, SkipTrue: 2},
		14: bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: flagSYN, SkipTrue: 2},
		15: bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: flagACK, SkipTrue: 1},
		16: bpf.RetConstant{Val: 128},
		17: bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return nil, fmt.Errorf("assemble the filter: %w", err)
	}
	out := make([]unix.SockFilter, len(prog))
	for i, in := range prog {
		out[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	return out, nil
}
