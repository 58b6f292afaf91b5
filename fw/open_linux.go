package fw

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"syscall"

	"github.com/google/nftables"
)

// openers are the ways to drop packets on Linux.
var openers = map[string]opener{
	NameIPSet:    openIPSet,
	NameNFTables: openNFT,
	NameIPTables: openIPTables,
}

// keep names what a clean-up must leave alone because the backend in use needs it. The zero keep spares nothing.
type keep struct {
	backend string
	xt      *xtables // whose rules stay
}

func (k keep) rules(nft, v6 bool, table string) bool {
	return k.xt != nil && k.xt.families[0].nft == nft && k.xt.table == table &&
		(!v6 || len(k.xt.families) > 1)
}

// Teardown removes everything of ours from the kernel, whichever backend made it, and returns what it removed. It is
// idempotent and needs no running Syncer.
func Teardown(ctx context.Context, opts Options) (removed []string, err error) {
	return cleanup(ctx, opts.withDefaults(), keep{})
}

// Found returns our chains and tables in the kernel, whichever backend made them. Sets alone are no sign of an agent: a
// unit creates them at boot.
func Found(ctx context.Context, opts Options) (found []string, err error) {
	opts = opts.withDefaults()
	for _, nft := range []bool{true, false} {
		for _, v6 := range []bool{false, true} {
			for _, table := range []string{tableRaw, tableMangle} {
				there, err := hasChain(ctx, opts, nft, v6, table)
				if err != nil {
					return nil, err
				}
				if there {
					found = append(found, fmt.Sprintf("the chain %s in table %s", chainMain, table))
				}
			}
		}
	}
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nf_tables: %w", err)
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.EOPNOTSUPP) {
		return nil, fmt.Errorf("list nf_tables tables: %w", err)
	}
	if slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == nftTable }) {
		found = append(found, "the table inet "+nftTable)
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

// hasChain reports whether a table of one iptables variant and family has our chain.
func hasChain(ctx context.Context, opts Options, nft, v6 bool, table string) (bool, error) {
	there, err := xtTableExists(nft, v6, table)
	if err != nil || !there {
		return false, err
	}
	if nft {
		_, there, err = nftHas(v6, table, chainMain)
		return there, err
	}
	f, err := findVariant(ctx, opts, nft, v6)
	if f == nil || err != nil {
		return false, err
	}
	have, err := f.list(ctx, table, f.wait)
	return err == nil && have.has(chainMain), err
}

// cleanup removes what is ours and not kept, and continues past errors.
func cleanup(ctx context.Context, opts Options, k keep) (removed []string, err error) {
	var errs []error
	note := func(gone []string, err error) {
		removed = append(removed, gone...)
		if err != nil {
			errs = append(errs, err)
		}
	}
	for _, nft := range []bool{true, false} {
		for _, v6 := range []bool{false, true} {
			note(cleanupRules(ctx, opts, k, nft, v6))
		}
	}
	if k.backend != NameNFTables {
		note(cleanupNFT())
	}
	if k.backend != NameIPSet {
		var conn ipsetConn
		gone, err := teardownSets(ctx, &conn)
		if noIPSet(err) {
			err = nil
		}
		note(gone, err)
		_ = conn.close()
	}
	return removed, errors.Join(errs...)
}

// cleanupRules removes our rules from the tables of one iptables variant and family. It asks the kernel first, because
// even a listing by the legacy command would make the kernel register its tables.
func cleanupRules(ctx context.Context, opts Options, k keep, nft, v6 bool) (removed []string, err error) {
	var f *xtFamily
	for _, table := range []string{tableRaw, tableMangle} {
		if k.rules(nft, v6, table) {
			continue
		}
		there, err := xtTableExists(nft, v6, table)
		if err != nil {
			return removed, err
		}
		if !there {
			continue
		}
		if f == nil {
			if f, err = findVariant(ctx, opts, nft, v6); f == nil || err != nil {
				return removed, err
			}
		}
		gone, err := f.teardown(ctx, table)
		removed = append(removed, gone...)
		if err != nil {
			return removed, err
		}
	}
	return removed, nil
}

// findVariant finds a command of the wanted variant, or returns nil. Without a command the variant holds no rules of
// ours, unless the command was removed after it wrote some.
func findVariant(ctx context.Context, opts Options, nft, v6 bool) (*xtFamily, error) {
	named := "iptables-legacy"
	if nft {
		named = "iptables-nft"
	}
	for _, cmd := range []string{opts.IPTables, named} {
		if _, err := exec.LookPath(commandName(cmd, v6, false)); err != nil {
			continue
		}
		o := opts
		o.IPTables = cmd
		f, err := newXTFamily(ctx, o, v6)
		if err != nil {
			return nil, fmt.Errorf("find %s: %w", cmd, err)
		}
		if f.nft == nft {
			return f, nil
		}
	}
	return nil, nil
}

// cleanupNFT deletes our table of nf_tables.
func cleanupNFT() (removed []string, err error) {
	conn, err := dialNFT()
	if err != nil {
		return nil, err
	}
	b := &nft{conn: conn}
	defer func() { _ = b.Close() }()
	existed, err := b.deleteTable()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EOPNOTSUPP) {
		return nil, nil // a kernel without nf_tables
	}
	if existed {
		removed = []string{"nftables: the table inet " + nftTable}
	}
	return removed, err
}
