package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/meshban/meshban/mesh/frame"
)

// forgeSource sends to each target from the other targets' addresses, in their names, more than a member may.
func forgeSource(ctx context.Context, w *world) error {
	keys := map[netip.Addr]ed25519.PublicKey{}
	members := w.members()
	for _, n := range w.ml.Members() {
		if id, err := frame.ParseID(n.Name); err == nil {
			addr, _ := netip.AddrFromSlice(n.Addr)
			keys[addr.Unmap()] = members[id]
		}
	}
	const kept = 64 // signing is slow
	socks, packets := make([]*net.UDPConn, len(w.targets)), make([][][]byte, len(w.targets))
	for i, as := range w.targets {
		var err error
		if socks[i], err = listenAs(ctx, as); err != nil {
			return err
		}
		defer socks[i].Close()
		key := keys[as.Addr()]
		if key == nil {
			return errors.New("no member is at " + as.String())
		}
		for seq := range kept {
			now := time.Now()
			f := crafted{
				mesh: w.secrets.MeshID, key: key, epoch: w.epoch, seq: uint64(seq + 1),
				issued: now, expires: now.Add(w.life), payload: bans(now.Add(w.life), w.bans...),
			}
			packets[i] = append(packets[i], seal(w.secrets.GossipKey, 1, append([]byte{mlUser}, packet(kindPush, f.sign(w.key))...), nil))
		}
	}
	every(ctx, 2000, func(n int) {
		for i := range socks {
			for j, to := range w.targets {
				if i != j {
					w.count(socks[i].WriteToUDPAddrPort(packets[i][n%kept], to))
				}
			}
		}
	})
	return nil
}

// listenAs opens a socket that sends from another host's address.
func listenAs(ctx context.Context, addr netip.AddrPort) (*net.UDPConn, error) {
	const ipTransparent = 19 // ip(7), Linux
	var opts net.ListenConfig
	opts.Control = func(_, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, ipTransparent, 1) }); e != nil {
			return e
		}
		return err
	}
	conn, err := opts.ListenPacket(ctx, "udp4", addr.String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}
