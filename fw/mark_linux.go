package fw

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"unsafe"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// getInfo asks the legacy kernel tables for a table's head: IPT_SO_GET_INFO, IP6T_SO_GET_INFO.
const getInfo = 64

// tableInfo is struct ipt_getinfo, which is the same as ip6t_getinfo.
type tableInfo struct {
	name       [32]byte
	hooks      uint32
	entry      [5]uint32
	underflow  [5]uint32
	numEntries uint32
	size       uint32
}

// legacyMark returns a text that changes when rules are added to a legacy table or removed from it.
func (f *xtFamily) legacyMark(table string) (string, error) {
	domain, level := unix.AF_INET, unix.SOL_IP
	if f.v6 {
		domain, level = unix.AF_INET6, unix.SOL_IPV6
	}
	if f.asks == nil {
		fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW) // as iptables does; no packet is sent
		if err != nil {
			return "", fmt.Errorf("look at the table %s: %w", table, err)
		}
		f.asks = os.NewFile(uintptr(fd), f.name)
	}
	var info tableInfo
	copy(info.name[:], table)
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, f.asks.Fd(), uintptr(level), getInfo,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return "", fmt.Errorf("look at the table %s: %w", table, errno)
	}
	return fmt.Sprint(info.hooks, info.entry, info.underflow, info.numEntries, info.size), nil
}

// nftGeneration reads the number that each change of nf_tables increments.
func (c *nfSocket) nftGeneration() (uint32, error) {
	answers, err := c.execute(unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETGEN, 0, []byte{unix.AF_UNSPEC, 0, 0, 0})
	if err != nil {
		return 0, nftError("read the generation", err)
	}
	for _, answer := range answers {
		if len(answer.Data) < 4 {
			continue
		}
		ad, err := netlink.NewAttributeDecoder(answer.Data[4:])
		if err != nil {
			return 0, nftError("read the generation", err)
		}
		for ad.Next() {
			if v := ad.Bytes(); ad.Type() == unix.NFTA_GEN_ID && len(v) == 4 {
				return binary.BigEndian.Uint32(v), nil
			}
		}
	}
	return 0, errors.New("nf_tables: the kernel returned no generation")
}

// close frees the sockets that mark uses.
func (x *xtables) close() error {
	for _, f := range x.families {
		if f.asks != nil {
			_ = f.asks.Close()
			f.asks = nil
		}
	}
	return x.sock.close()
}

// mark returns a text that changes whenever anybody, including this agent, has changed rules.
func (x *xtables) mark() (string, error) {
	var parts []string
	for _, f := range x.families {
		if f.nft {
			generation, err := x.sock.nftGeneration()
			return fmt.Sprint("nf_tables ", generation), err // one for both families
		}
		part, err := f.legacyMark(x.table)
		if errors.Is(err, syscall.ENOPROTOOPT) || errors.Is(err, syscall.ENOENT) {
			part, err = "none", nil // the table is gone
		}
		if err != nil {
			return "", err
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, "; "), nil
}
