package main

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// raw sends a packet to every target as it is.
func (w *world) raw(b []byte) {
	for _, to := range w.targets {
		w.count(w.udp.WriteToUDPAddrPort(b, to))
	}
}

// packet sends an encrypted packet to every target, with a proof if this is a member.
func (w *world) packet(plain []byte) {
	if w.proofs == nil {
		w.raw(seal(w.secrets.GossipKey, 1, plain, nil))
		return
	}
	for _, to := range w.targets {
		w.count(w.udp.WriteToUDPAddrPort(w.proofs.seal(to, plain), to))
	}
}

// say sends one of meshban's messages to every target.
func (w *world) say(msg []byte) { w.packet(append([]byte{mlUser}, msg...)) }

func (w *world) count(n int, err error) {
	w.report.Messages++
	w.report.Bytes += n
	if err != nil {
		w.report.Errors++
	}
}

// stream sends bytes by stream to a target and waits until the target answers or closes it, or the deadline of 2 s passes.
func (w *world) stream(to netip.AddrPort, b []byte) {
	from := &net.TCPAddr{IP: w.self.Addr().AsSlice()}
	conn, err := (&net.Dialer{LocalAddr: from, Timeout: time.Second}).Dial("tcp", to.String())
	if err != nil {
		w.count(0, err)
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
	w.count(conn.Write(b))
	_, _ = conn.Read(make([]byte, 64))
}

// streams sends a message to every target by several streams at once.
func (w *world) streams(at int, plain []byte) {
	done := make(chan struct{})
	b := sealStream(w.secrets.GossipKey, 1, plain)
	for _, to := range w.targets {
		for range at {
			go func() {
				(&world{self: w.self}).stream(to, b)
				done <- struct{}{}
			}()
		}
	}
	for range at * len(w.targets) {
		w.count(len(b), nil)
		<-done
	}
}

// every calls do at a rate until ctx ends.
func every(ctx context.Context, hz int, do func(i int)) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	begin := time.Now()
	for i := 0; ; {
		for ; i < int(time.Since(begin).Seconds()*float64(hz)) && ctx.Err() == nil; i++ {
			do(i)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
