package fw

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
)

// kindPortNet, wider prefixes with a port, exists only in nf_tables, where a set of exact elements cannot hold a
// prefix.
const (
	kindPortNet = kinds
	nftKinds    = kinds + 1
)

// excepting reports whether sets of a kind hold exceptions. Those belong to no generation.
func excepting(kind int) bool { return kind == kindNever || kind == kindAllow }

const (
	nftTable = "meshban"

	// nftMessage is the most elements that one message may carry: its list is a nested attribute of at most 65,535
	// bytes.
	nftMessage = 1000
	// nftPending is the number of elements after which a load commits a transaction.
	nftPending = 4 * nftMessage

	// Socket buffers are limits, not memory in use: a transaction is sent in one piece, and its messages are
	// acknowledged only after the last one.
	nftSendBuffer    = 256 << 20
	nftReceiveBuffer = 16 << 20
)

// nftSetName is the name of a set in a generation, which is "" or "x".
func nftSetName(v6 bool, kind int, generation string) string {
	name := "meshban4"
	if v6 {
		name = "meshban6"
	}
	name += [...]string{kindAddr: "", kindNet: "n", kindPort: "p", kindNever: "v", kindAllow: "a", kindPortNet: "pn"}[kind]
	if excepting(kind) {
		return name
	}
	return name + generation
}

func nftOurTable() *nftables.Table {
	return &nftables.Table{Name: nftTable, Family: nftables.TableFamilyINet}
}

// nftSet describes a set of ours.
func nftSet(v6 bool, kind int, generation string) *nftables.Set {
	addr := nftables.TypeIPAddr
	if v6 {
		addr = nftables.TypeIP6Addr
	}
	s := &nftables.Set{Table: nftOurTable(), Name: nftSetName(v6, kind, generation), KeyType: addr}
	s.HasTimeout = !excepting(kind)
	s.Interval = kind == kindNet || excepting(kind) || kind == kindPortNet
	if kind == kindPort || kind == kindPortNet {
		s.KeyType = nftables.MustConcatSetType(addr, nftables.TypeInetProto, nftables.TypeInetService)
		s.Concatenation = kind == kindPortNet
	}
	return s
}

// nftKey returns an element's key: an address, and for sets with ports the protocol and port, each padded to 4 bytes.
func nftKey(addr netip.Addr, k portKey) []byte {
	key := make([]byte, 0, 24)
	key = append(key, addr.AsSlice()...)
	if k.proto != 0 {
		key = append(key, k.proto, 0, 0, 0)
		key = binary.BigEndian.AppendUint16(key, k.port)
		key = append(key, 0, 0)
	}
	return key
}

// nftTimeout returns the kernel timeout of something that ends at until, 0 for the zero time and for a sentinel. The
// kernel may shorten it by a tick of its clock, at most 10 ms, and nothing may end too soon.
func nftTimeout(now, until time.Time) time.Duration {
	const tick = 10 * time.Millisecond
	if until.IsZero() || until.Equal(sentinelEnd) {
		return 0
	}
	return max(until.Sub(now), 0) + tick
}

// nftIntervals encodes segments: without a port as pairs of start and end elements, with a port as one element that has
// both.
func nftIntervals(now time.Time, segments []segment, k portKey) []nftables.SetElement {
	out := make([]nftables.SetElement, 0, 2*len(segments))
	for _, s := range segments {
		timeout := nftTimeout(now, s.until)
		if k.proto != 0 {
			out = append(out, nftables.SetElement{Key: nftKey(s.first, k), KeyEnd: nftKey(s.last, k), Timeout: timeout})
			continue
		}
		out = append(out, nftables.SetElement{Key: nftKey(s.first, k), Timeout: timeout})
		if end := s.last.Next(); end.IsValid() {
			out = append(out, nftables.SetElement{Key: nftKey(end, k), IntervalEnd: true})
		}
	}
	return out
}

// nftConn is a lasting connection to nf_tables. What is queued on it takes effect in one step at flush.
type nftConn struct {
	*nftables.Conn
	pending int // elements queued
}

func dialNFT() (*nftConn, error) {
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		// Without CAP_NET_ADMIN these fail; so does everything that follows, with a clearer error.
		_ = c.SetWriteBuffer(nftSendBuffer)
		_ = c.SetReadBuffer(nftReceiveBuffer)
		return nil
	}))
	if err != nil {
		return nil, fmt.Errorf("open nf_tables: %w", err)
	}
	return &nftConn{Conn: conn}, nil
}

// put queues the addition of elements; for existing ones nothing changes, or from Linux 6.12 on only the timeout.
func (c *nftConn) put(s *nftables.Set, elements []nftables.SetElement) error {
	return c.each(elements, func(part []nftables.SetElement) error { return c.SetAddElements(s, part) })
}

// take queues the removal of elements. A missing one would undo the whole transaction, so each is added first.
func (c *nftConn) take(s *nftables.Set, elements []nftables.SetElement) error {
	if err := c.put(s, elements); err != nil {
		return err
	}
	return c.del(s, elements)
}

// del queues the removal of elements that certainly exist.
func (c *nftConn) del(s *nftables.Set, elements []nftables.SetElement) error {
	return c.each(elements, func(part []nftables.SetElement) error { return c.SetDeleteElements(s, part) })
}

func (c *nftConn) each(elements []nftables.SetElement, f func([]nftables.SetElement) error) error {
	c.pending += len(elements)
	for len(elements) > 0 {
		n := min(len(elements), nftMessage)
		if err := f(elements[:n]); err != nil {
			return fmt.Errorf("nf_tables: %w", err)
		}
		elements = elements[n:]
	}
	return nil
}

// flush commits what is queued, all or nothing.
func (b *nft) flush(action string) error {
	b.conn.pending = 0
	err := b.conn.Flush()
	if err == nil {
		b.commits++
		return nil
	}
	return nftError(action, errors.Join(err, b.reset()))
}

// reset reopens the connection, which discards what is queued on it and any unread answers.
func (b *nft) reset() error {
	_ = b.conn.CloseLasting()
	conn, err := dialNFT()
	if err == nil {
		b.conn = conn
	}
	return err
}

// nftError keeps the first of the many errors that one transaction may return.
func nftError(action string, err error) error {
	if err == nil {
		return nil
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		err = errno
		if errno == syscall.EPERM || errno == syscall.EACCES {
			err = ErrPermission
		}
	}
	return fmt.Errorf("nf_tables: %s: %w", action, err)
}
