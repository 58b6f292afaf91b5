package fw

import (
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// maxElements bounds the elements of one message: an element takes at most 84 bytes (IPv6, width, port, timeout,
	// counters), and the list, a nested attribute, at most 65,535.
	maxElements = 770
	// setSendBuffer holds the largest message including the kernel's overhead.
	setSendBuffer = 1 << 20
)

// nfSocket is a netlink socket to netfilter, opened when first needed and reopened after a failure of the socket.
type nfSocket struct{ sock *netlink.Conn }

func (c *nfSocket) open() error {
	if c.sock != nil {
		return nil
	}
	sock, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	_ = sock.SetWriteBuffer(setSendBuffer) // without it large messages fail one by one, with a clear error
	c.sock = sock
	return nil
}

func (c *nfSocket) close() error {
	if c.sock == nil {
		return nil
	}
	err := c.sock.Close()
	c.sock = nil
	return err
}

// execute sends one request to a subsystem and waits for the kernel's verdict, which arrives before the send returns.
func (c *nfSocket) execute(subsystem, cmd uint16, flags netlink.HeaderFlags, data []byte) ([]netlink.Message, error) {
	if err := c.open(); err != nil {
		return nil, err
	}
	answers, err := c.sock.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(subsystem<<8 | cmd), Flags: netlink.Request | flags},
		Data:   data,
	})
	var errno syscall.Errno
	if err != nil && (!errors.As(err, &errno) || errno == syscall.ENOBUFS) {
		_ = c.close() // the socket may now hold answers to other requests
	}
	return answers, err
}

// allSucceed sends requests that the kernel answers only if they fail, and reports whether all of them succeeded. It
// costs one round trip. If it returns false, ask one by one which of them failed.
func (c *nfSocket) allSucceed(subsystem uint16, requests []netlink.Message) (bool, error) {
	if err := c.open(); err != nil || len(requests) == 0 {
		return err == nil, err
	}
	for i := range requests {
		requests[i].Header.Type |= netlink.HeaderType(subsystem << 8)
		requests[i].Header.Flags |= netlink.Request
	}
	last := &requests[len(requests)-1]
	last.Header.Flags |= netlink.Acknowledge
	if _, err := c.sock.SendMessages(requests); err != nil {
		_ = c.close()
		return false, err
	}
	answers, err := c.sock.Receive()
	if err == nil && len(answers) == 1 && answers[0].Header.Sequence == last.Header.Sequence {
		return true, nil
	}
	return false, c.close() // more answers wait
}

// ipsetConn speaks to ip_set.
type ipsetConn struct {
	nfSocket
	buf      []byte
	counters bool // create sets of bans that count packets for each element
}

func (c *ipsetConn) do(cmd uint16, flags netlink.HeaderFlags, m message) ([]netlink.Message, error) {
	c.buf = m[:0]
	return c.execute(unix.NFNL_SUBSYS_IPSET, cmd, flags, m)
}

// setSpec says how a set is created.
type setSpec struct {
	name     string
	typeName string
	revision uint8
	v6       bool
	maxElem  uint32
	timeouts bool
}

func (s setSpec) family() uint8 {
	if s.v6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// create makes the set; hashSize is the initial number of buckets. It is an error if the name is taken.
func (c *ipsetConn) create(s setSpec, hashSize uint32) error {
	m := newMessage(c.buf, s.name)
	m.string(attrTypeName, s.typeName)
	m.uint8(attrRevision, s.revision)
	m.uint8(attrFamily, s.family())
	data := m.open(attrData)
	m.uint32(dataHashSize, hashSize)
	m.uint32(dataMaxElem, s.maxElem)
	if s.timeouts {
		m.uint32(dataTimeout, 0)
		if c.counters {
			m.uint32(dataFlags, withCounters)
		}
	}
	m.shut(data)
	_, err := c.do(cmdCreate, netlink.Acknowledge|netlink.Create|netlink.Excl, m)
	return ipsetError("create", s.name, err)
}

// destroy removes the set; a missing set is no error.
func (c *ipsetConn) destroy(set string) (existed bool, err error) {
	_, err = c.do(cmdDestroy, netlink.Acknowledge|netlink.Excl, newMessage(c.buf, set)) // Excl: report a missing set
	if errors.Is(err, syscall.ENOENT) {
		return false, nil
	}
	return err == nil, ipsetError("destroy", set, err)
}

// swap exchanges the contents of two sets, atomically for every packet.
func (c *ipsetConn) swap(set, other string) error {
	m := newMessage(c.buf, set)
	m.string(attrTypeName, other)
	_, err := c.do(cmdSwap, netlink.Acknowledge, m)
	return ipsetError("swap", set, err)
}

// head returns a set's type; ok is false if there is no such set.
func (c *ipsetConn) head(set string) (h setHeader, ok bool, err error) {
	answers, err := c.do(cmdHeader, 0, newMessage(c.buf, set))
	if errors.Is(err, syscall.ENOENT) {
		return h, false, nil
	}
	if err != nil {
		return h, false, ipsetError("look at", set, err)
	}
	if len(answers) == 0 {
		return h, false, fmt.Errorf("query set %q: no answer", set)
	}
	h, err = parseHeader(answers[0].Data)
	return h, err == nil, err
}

// has reports whether an element is in the set.
func (c *ipsetConn) has(set string, e element) (bool, error) {
	m := newMessage(c.buf, set)
	m.element(e)
	_, err := c.do(cmdTest, netlink.Acknowledge, m)
	if errors.Is(err, errIPSetExist) { // the kernel's answer if the element is not there
		return false, nil
	}
	return err == nil, ipsetError("test", set, err)
}

// haveAll reports whether each set has its element.
func (c *ipsetConn) haveAll(sets []setElement) (bool, error) {
	requests := make([]netlink.Message, len(sets))
	for i, s := range sets {
		m := newMessage(nil, s.set)
		m.element(s.element)
		requests[i] = netlink.Message{Header: netlink.Header{Type: cmdTest}, Data: m}
	}
	ok, err := c.allSucceed(unix.NFNL_SUBSYS_IPSET, requests)
	if err != nil {
		return false, fmt.Errorf("test the sets: %w", err)
	}
	return ok, nil
}

// setElement is an element of a set.
type setElement struct {
	set string
	element
}

// add puts elements in; for those already there the timeout restarts. It returns those refused because the set is full.
func (c *ipsetConn) add(set string, elements []element) (left []element, err error) {
	for some := range slices.Chunk(elements, maxElements) {
		switch err := c.change(cmdAdd, "add to", set, some); {
		case errors.Is(err, errSetFull) && len(some) > 1:
			// The kernel does not say which were refused. It has taken those before the first refused one. Elements
			// already there are taken even if the set is full.
			for i := range some {
				one, err := c.add(set, some[i:i+1])
				if err != nil {
					return nil, err
				}
				left = append(left, one...)
			}
		case errors.Is(err, errSetFull):
			left = append(left, some...)
		case err != nil:
			return nil, err
		}
	}
	return left, nil
}

// del takes elements out; missing ones are ignored.
func (c *ipsetConn) del(set string, elements []element) error {
	for some := range slices.Chunk(elements, maxElements) {
		if err := c.change(cmdDel, "remove from", set, some); err != nil {
			return err
		}
	}
	return nil
}

// change sends at most maxElements elements.
func (c *ipsetConn) change(cmd uint16, action, set string, elements []element) error {
	_, err := c.do(cmd, netlink.Acknowledge, elementsMessage(c.buf, set, elements))
	return ipsetError(action, set, err)
}
