package fw

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The netlink protocol of ip_set: include/uapi/linux/netfilter/ipset/ip_set.h in the kernel.
const (
	ipsetProtocol = 6

	cmdCreate  = 2
	cmdDestroy = 3
	cmdSwap    = 6
	cmdAdd     = 9
	cmdDel     = 10
	cmdTest    = 11
	cmdHeader  = 12

	// Attributes of a command.
	attrProtocol = 1
	attrSetName  = 2
	attrTypeName = 3 // the other set's name in cmdSwap
	attrRevision = 4
	attrFamily   = 5
	attrData     = 7
	attrADT      = 8
	attrLineNo   = 9

	// Attributes of data.
	dataIP       = 1
	dataCIDR     = 3
	dataPort     = 4
	dataTimeout  = 6
	dataProto    = 7
	dataFlags    = 8
	dataHashSize = 18
	dataMaxElem  = 19
	dataBytes    = 24
	dataPackets  = 25

	withCounters = 1 << 3 // among dataFlags

	addrIPv4 = 1
	addrIPv6 = 2

	nested       = 1 << 15 // NLA_F_NESTED
	networkOrder = 1 << 14 // NLA_F_NET_BYTEORDER

	// maxIPSetTimeout is the longest timeout of an element, in seconds: the kernel's IPSET_MAX_TIMEOUT,
	// (UINT_MAX >> 1) / 1000, less one.
	maxIPSetTimeout = 2147482
)

// ip_set's errors are errno values above 4096.
const (
	errIPSetFindType     = syscall.Errno(4098)
	errIPSetBusy         = syscall.Errno(4100)
	errIPSetTypeMismatch = syscall.Errno(4102)
	errIPSetExist        = syscall.Errno(4103)
	errIPSetReferenced   = syscall.Errno(4108)
	errIPSetHashFull     = syscall.Errno(4352)
)

// errTypeMismatch: a set of ours exists with another type.
var errTypeMismatch = errors.New("the set has another type")

// errSetFull: no more elements fit.
var errSetFull = errors.New("the set is full")

// element is one element of a set. With proto 0 it has no port.
type element struct {
	prefix  netip.Prefix
	proto   uint8
	port    uint16
	timeout uint32   // seconds; 0 = the set's default, which is for ever
	hits    *Dropped // its counters; nil = left as they are
}

// timeoutSeconds returns the kernel timeout of something that ends at until: rounded up, 1..maxIPSetTimeout.
func timeoutSeconds(now, until time.Time) uint32 {
	left := (until.Sub(now) + time.Second - 1) / time.Second
	return uint32(min(max(left, 1), maxIPSetTimeout))
}

// message is a request under construction; the netlink header is left to the socket.
type message []byte

// newMessage starts a message with the nfgenmsg header and the attributes that every command carries.
func newMessage(buf []byte, set string) message {
	m := message(append(buf[:0], unix.AF_INET, 0, 0, 0)) // family, NFNETLINK_V0, res_id
	m.uint8(attrProtocol, ipsetProtocol)
	m.string(attrSetName, set)
	return m
}

func (m *message) header(typ uint16, payload int) {
	*m = binary.NativeEndian.AppendUint16(*m, uint16(4+payload))
	*m = binary.NativeEndian.AppendUint16(*m, typ)
}

func (m *message) pad() {
	for len(*m)%4 != 0 {
		*m = append(*m, 0)
	}
}

func (m *message) bytes(typ uint16, b []byte) {
	m.header(typ, len(b))
	*m = append(*m, b...)
	m.pad()
}

func (m *message) string(typ uint16, s string) {
	m.header(typ, len(s)+1)
	*m = append(append(*m, s...), 0)
	m.pad()
}

func (m *message) uint8(typ uint16, v uint8) { m.bytes(typ, []byte{v}) }

func (m *message) uint16(typ uint16, v uint16) {
	m.header(typ|networkOrder, 2)
	*m = binary.BigEndian.AppendUint16(*m, v)
	m.pad()
}

func (m *message) uint32(typ uint16, v uint32) {
	m.header(typ|networkOrder, 4)
	*m = binary.BigEndian.AppendUint32(*m, v)
}

func (m *message) uint64(typ uint16, v uint64) {
	m.header(typ|networkOrder, 8)
	*m = binary.BigEndian.AppendUint64(*m, v)
}

// open starts a nested attribute; shut, given what open returned, ends it.
func (m *message) open(typ uint16) int {
	m.header(typ|nested, 0)
	return len(*m) - 4
}

func (m *message) shut(at int) {
	binary.NativeEndian.PutUint16((*m)[at:], uint16(len(*m)-at))
}

// element appends the nested attrData of one element.
func (m *message) element(e element) {
	data := m.open(attrData)
	ip := m.open(dataIP)
	if addr := e.prefix.Addr(); addr.Is4() {
		b := addr.As4()
		m.bytes(addrIPv4|networkOrder, b[:])
	} else {
		b := addr.As16()
		m.bytes(addrIPv6|networkOrder, b[:])
	}
	m.shut(ip)
	if !e.prefix.IsSingleIP() {
		m.uint8(dataCIDR, uint8(e.prefix.Bits()))
	}
	if e.proto != 0 {
		m.uint8(dataProto, e.proto)
		m.uint16(dataPort, e.port)
	}
	if e.timeout != 0 {
		m.uint32(dataTimeout, e.timeout)
	}
	if e.hits != nil {
		m.uint64(dataPackets, e.hits.Packets)
		m.uint64(dataBytes, e.hits.Bytes)
	}
	m.shut(data)
}

// elementsMessage returns an add or del message for all the elements. The list is one nested attribute with a 16-bit
// length: the caller keeps to maxElements.
func elementsMessage(buf []byte, set string, elements []element) message {
	m := newMessage(buf, set)
	if len(elements) == 1 {
		m.element(elements[0])
		return m
	}
	m.uint32(attrLineNo, 0)
	adt := m.open(attrADT)
	for _, e := range elements {
		m.element(e)
	}
	m.shut(adt)
	return m
}

// setHeader is what the kernel says about a set.
type setHeader struct {
	typeName string
	family   uint8
}

// parseHeader reads the answer to cmdHeader, nfgenmsg included.
func parseHeader(b []byte) (setHeader, error) {
	var h setHeader
	if len(b) < 4 {
		return h, errors.New("ipset: answer too short")
	}
	ad, err := netlink.NewAttributeDecoder(b[4:])
	if err != nil {
		return h, fmt.Errorf("ipset: answer: %w", err)
	}
	for ad.Next() {
		switch ad.Type() {
		case attrTypeName:
			h.typeName = ad.String()
		case attrFamily:
			h.family = ad.Uint8()
		}
	}
	if err := ad.Err(); err != nil {
		return h, fmt.Errorf("ipset: answer: %w", err)
	}
	return h, nil
}

// ipsetError converts the kernel's error numbers to words, and to errors that callers branch on.
func ipsetError(action, set string, err error) error {
	if err == nil {
		return nil
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		switch errno {
		case syscall.EPERM, syscall.EACCES:
			err = ErrPermission
		case errIPSetFindType:
			err = fmt.Errorf("the kernel lacks this set type: %w", ErrUnsupported)
		case errIPSetBusy, errIPSetReferenced:
			err = fmt.Errorf("the set is in use: %w", syscall.EBUSY)
		case errIPSetTypeMismatch:
			err = errTypeMismatch
		case errIPSetExist:
			err = syscall.EEXIST
		case errIPSetHashFull:
			err = errSetFull
		default:
			err = errno
		}
	}
	return fmt.Errorf("%s set %q: %w", action, set, err)
}
