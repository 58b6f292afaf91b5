package fw

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// nonRecursive makes the kernel refuse to delete an object that is not empty: NLM_F_NONREC.
const nonRecursive = 0x100

func nftFamily(v6 bool) nftables.TableFamily {
	if v6 {
		return nftables.TableFamilyIPv6
	}
	return nftables.TableFamilyIPv4
}

// nftHas reports whether nf_tables has a table, and a chain in it.
func nftHas(v6 bool, table, chain string) (tableThere, chainThere bool, err error) {
	conn, err := nftables.New()
	if err != nil {
		return false, false, fmt.Errorf("open nf_tables: %w", err)
	}
	family := nftFamily(v6)
	tables, err := conn.ListTablesOfFamily(family)
	if err != nil {
		return false, false, fmt.Errorf("list nf_tables tables: %w", err)
	}
	for _, t := range tables {
		tableThere = tableThere || t.Name == table
	}
	if !tableThere {
		return false, false, nil
	}
	chains, err := conn.ListChainsOfTableFamily(family)
	if err != nil {
		return true, false, fmt.Errorf("list nf_tables chains: %w", err)
	}
	for _, c := range chains {
		chainThere = chainThere || c.Table.Name == table && c.Name == chain
	}
	return true, chainThere, nil
}

// nftRemoveEmpty deletes the base chain, if its policy accepts, and then the table if alsoTable is set. The kernel
// itself makes sure that each is deleted only if empty. It returns what it removed.
func nftRemoveEmpty(v6 bool, table, chain string, alsoTable, accepts bool) (removed []string, err error) {
	name := func(attr uint16, s string) netlink.Attribute {
		return netlink.Attribute{Type: attr, Data: append([]byte(s), 0)}
	}
	if accepts {
		gone, err := nftDelete(v6, unix.NFT_MSG_DELCHAIN, name(unix.NFTA_CHAIN_TABLE, table), name(unix.NFTA_CHAIN_NAME, chain))
		if err != nil {
			return nil, fmt.Errorf("remove the empty chain %s of table %s: %w", chain, table, err)
		}
		if gone {
			removed = append(removed, fmt.Sprintf("the empty chain %s in table %s", chain, table))
		}
	}
	if alsoTable {
		gone, err := nftDelete(v6, unix.NFT_MSG_DELTABLE, name(unix.NFTA_TABLE_NAME, table))
		if err != nil {
			return removed, fmt.Errorf("remove the empty table %s: %w", table, err)
		}
		if gone {
			removed = append(removed, "the empty table "+table)
		}
	}
	return removed, nil
}

// nftDelete deletes one empty object; it is no error if the object is missing or not empty.
func nftDelete(v6 bool, msg int, attrs ...netlink.Attribute) (gone bool, err error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return false, fmt.Errorf("open nf_tables: %w", err)
	}
	defer func() { _ = conn.Close() }()
	body, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		return false, err
	}
	batch := []byte{unix.AF_UNSPEC, 0, 0, unix.NFNL_SUBSYS_NFTABLES}
	_, err = conn.SendMessages([]netlink.Message{
		{Header: netlink.Header{Type: unix.NFNL_MSG_BATCH_BEGIN, Flags: netlink.Request}, Data: batch},
		{
			Header: netlink.Header{
				Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | msg),
				Flags: netlink.Request | netlink.Acknowledge | nonRecursive,
			},
			Data: append([]byte{byte(nftFamily(v6)), 0, 0, 0}, body...),
		},
		{Header: netlink.Header{Type: unix.NFNL_MSG_BATCH_END, Flags: netlink.Request}, Data: batch},
	})
	if err != nil {
		return false, err
	}
	_, err = conn.Receive()
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EBUSY) {
		return false, nil
	}
	return err == nil, err
}
