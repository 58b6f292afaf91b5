package prober

import (
	"encoding/binary"
	"net/netip"
)

const (
	ethernetHeader, ipHeader, icmpHeader = 14, 20, 8
	// markSize is the size of what tells a probe's packets from any other ping.
	markSize  = 16
	echo      = 8 // the ICMP type of a ping
	protoICMP = 1
	lifetime  = 64
)

// ping returns an Ethernet frame with an ICMP echo request that carries mark.
func ping(to, from [6]byte, dst, src netip.Addr, mark [markSize]byte) []byte {
	b := make([]byte, ethernetHeader+ipHeader+icmpHeader+markSize)
	copy(b, to[:])
	copy(b[6:], from[:])
	binary.BigEndian.PutUint16(b[12:], 0x0800) // IPv4
	ip := b[ethernetHeader:]
	ip[0] = 4<<4 | ipHeader/4
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	ip[8], ip[9] = lifetime, protoICMP
	copy(ip[12:], src.AsSlice())
	copy(ip[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(ip[10:], checksum(ip[:ipHeader]))
	icmp := ip[ipHeader:]
	icmp[0] = echo
	copy(icmp[icmpHeader:], mark[:])
	binary.BigEndian.PutUint16(icmp[2:], checksum(icmp))
	return b
}

// checksum returns the Internet checksum (RFC 1071) of an even number of bytes.
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
