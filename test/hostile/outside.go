package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"time"
)

// garbage sends what an outsider without the mesh's key can send: noise, messages under another key, streams that
// announce a large message, and silent streams.
func garbage(ctx context.Context, w *world) error {
	var open []net.Conn
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
	}()
	from := &net.TCPAddr{IP: w.self.Addr().AsSlice()}
	every(ctx, 2000, func(i int) {
		noise := make([]byte, mathrand.IntN(1400))
		_, _ = rand.Read(noise)
		w.raw(noise)
		w.say(noise)
		if i%20 != 0 {
			return
		}
		to := w.targets[i/20%len(w.targets)]
		conn, err := (&net.Dialer{LocalAddr: from, Timeout: 50 * time.Millisecond}).DialContext(ctx, "tcp", to.String())
		if err != nil {
			return
		}
		open = append(open, conn)
		_ = conn.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
		switch i / 60 % 4 {
		case 0: // nothing
		case 1:
			w.count(conn.Write(noise))
		case 2:
			w.count(conn.Write(binary.BigEndian.AppendUint32([]byte{mlEncrypt}, 4<<20)))
			w.count(conn.Write(append([]byte{1}, make([]byte, 1<<20)...)))
		case 3:
			w.count(conn.Write(sealStream(w.secrets.GossipKey, 1, noise)))
		}
	})
	return nil
}

// enrol tries to become a member, as fast as it can.
func enrol(ctx context.Context, w *world) error {
	from := &net.TCPAddr{IP: w.self.Addr().AsSlice()}
	every(ctx, 300, func(i int) {
		conn, err := (&net.Dialer{LocalAddr: from, Timeout: 50 * time.Millisecond}).DialContext(ctx, "tcp", w.targets[0].String())
		w.count(0, err)
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(3 * time.Second))
			c := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
			if i%2 == 0 && c.HandshakeContext(ctx) == nil {
				_, _ = c.Write(make([]byte, 100))
			}
			_, _ = c.Read(make([]byte, 1))
		}()
	})
	return nil
}

// stall opens 300 streams a second from a hundred addresses, 100 to 199 of its /24. Each begins a TLS hello or announces a
// large message and then stays silent until it is closed. It prints "full" once it has opened more than any node serves.
func stall(ctx context.Context, w *world) error {
	const addresses = 100
	own := w.self.Addr().As4()
	link, err := linkOf(w.self.Addr())
	if err != nil {
		return err
	}
	var take strings.Builder // one run of ip for all: a hundred take a minute on a busy machine
	for i := range addresses {
		fmt.Fprintf(&take, "addr add %d.%d.%d.%d/32 dev %s\n", own[0], own[1], own[2], 100+i, link)
	}
	ip := exec.CommandContext(ctx, "ip", "-batch", "-")
	ip.Stdin = strings.NewReader(take.String())
	if out, err := ip.CombinedOutput(); err != nil {
		return fmt.Errorf("take the addresses: %w: %s", err, out)
	}
	hello := append([]byte{0x16, 3, 1, 2, 0}, make([]byte, 100)...)
	large := append(binary.BigEndian.AppendUint32([]byte{mlEncrypt}, 4<<20), make([]byte, 1<<20)...)
	every(ctx, 300, func(i int) {
		if i == 400*len(w.targets) {
			fmt.Println("full")
		}
		from := &net.TCPAddr{IP: net.IPv4(own[0], own[1], own[2], byte(100+i%addresses))}
		to := w.targets[i/addresses%len(w.targets)]
		w.report.Messages++
		go func() {
			conn, err := (&net.Dialer{LocalAddr: from, Timeout: time.Second}).DialContext(ctx, "tcp", to.String())
			if err != nil {
				return
			}
			defer conn.Close()
			begin := hello
			if i%10 == 0 {
				begin = large
			}
			_, _ = conn.Write(begin)
			_, _ = conn.Read(make([]byte, 1))
		}()
	})
	return nil
}

// linkOf returns the name of the interface that has an address.
func linkOf(addr netip.Addr) (string, error) {
	links, err := net.Interfaces()
	if err != nil {
		return "", err
	}
	for _, l := range links {
		addrs, err := l.Addrs()
		if err != nil {
			return "", err
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr() == addr {
				return l.Name, nil
			}
		}
	}
	return "", fmt.Errorf("no interface has %v", addr)
}
