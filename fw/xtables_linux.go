package fw

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/coreos/go-iptables/iptables"
)

// Names in the kernel.
const (
	chainMain = "MESHBAN"     // matches packets
	chainHit  = "MESHBAN-HIT" // decides about packets that matched
	chainHook = "PREROUTING"

	// checkWait is how many seconds a check waits for the lock: new bans wait behind the check.
	checkWait = "1"

	tableRaw    = "raw"
	tableMangle = "mangle"
)

// jumpRule sends every packet from outside to chainMain.
var jumpRule = []string{"!", "-i", "lo", "-j", chainMain}

// A comment on the last rule of chainHit records what iptables-nft created only for us, so that a later process can
// remove it. Only packets that are dropped get there.
const (
	madeNothing = ""
	madeChain   = "meshban-made-chain" // the base chain PREROUTING
	madeTable   = "meshban-made-table" // the table, and so the chain too
)

// xtFamily is one iptables command, for IPv4 or IPv6.
type xtFamily struct {
	v6   bool
	nft  bool // the nf_tables variant, not the legacy one
	path string
	name string // for people: "ip6tables (legacy)"
	wait string // seconds to wait for the lock before a change
	ipt  *iptables.IPTables
	asks *os.File // a socket for legacyMark, nil until it is needed
	made string   // what the table in use has only because of us, see madeNothing
}

// commandName returns the command of one address family, named after the IPv4 one: "ip6tables-legacy" for
// "iptables-legacy", with "-restore" at the end if wanted.
func commandName(v4 string, v6, restore bool) string {
	dir, base := filepath.Split(v4)
	if v6 {
		base = strings.Replace(base, "iptables", "ip6tables", 1)
	}
	if restore {
		base += "-restore"
	}
	return dir + base
}

// newXTFamily finds the command and asks for its version.
func newXTFamily(ctx context.Context, opts Options, v6 bool) (*xtFamily, error) {
	cmd := commandName(opts.IPTables, v6, false)
	path, err := exec.LookPath(cmd)
	if err != nil {
		return nil, fmt.Errorf("%s is not installed: %w", cmd, ErrUnsupported)
	}
	version, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --version: %w", cmd, err)
	}
	f := &xtFamily{v6: v6, path: path, nft: bytes.Contains(version, []byte("nf_tables"))}
	seconds := int((opts.LockTimeout + time.Second - 1) / time.Second)
	f.wait = strconv.Itoa(seconds)
	proto := iptables.ProtocolIPv4
	f.name = "iptables"
	if v6 {
		proto, f.name = iptables.ProtocolIPv6, "ip6tables"
	}
	if f.nft {
		f.name += " (nf_tables)"
	} else {
		f.name += " (legacy)"
	}
	f.ipt, err = iptables.New(iptables.IPFamily(proto), iptables.Path(path), iptables.Timeout(seconds))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cmd, err)
	}
	return f, nil
}

// listing is one table as `iptables -S` prints it.
type listing struct {
	rules  map[string][]string // by chain, without "-A CHAIN "
	policy map[string]string
}

func (l listing) has(chain string) bool {
	_, ok := l.rules[chain]
	return ok
}

// jumps returns the positions, from 1, of our jumps in the hook's chain.
func (l listing) jumps() []int {
	var at []int
	for i, rule := range l.rules[chainHook] {
		if f := strings.Fields(rule); len(f) >= 2 && f[len(f)-2] == "-j" && f[len(f)-1] == chainMain {
			at = append(at, i+1)
		}
	}
	return at
}

// jumpInPlace reports whether there is exactly one jump, first and in our form.
func (l listing) jumpInPlace() bool {
	at := l.jumps()
	return len(at) == 1 && at[0] == 1 && l.rules[chainHook][0] == strings.Join(jumpRule, " ")
}

// made reads what the comment on chainHit's last rule records.
func (l listing) made() string {
	rules := l.rules[chainHit]
	if len(rules) == 0 {
		return madeNothing
	}
	for _, made := range []string{madeTable, madeChain} {
		if strings.Contains(rules[len(rules)-1], made) {
			return made
		}
	}
	return madeNothing
}

func parseListing(out string) listing {
	l := listing{rules: map[string][]string{}, policy: map[string]string{}}
	for line := range strings.Lines(out) {
		what, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		chain, rest, _ := strings.Cut(rest, " ")
		if chain == "" || strings.ContainsFunc(chain, unicode.IsSpace) {
			continue // nothing that iptables prints
		}
		switch what {
		case "-P":
			l.rules[chain], l.policy[chain] = nil, rest
		case "-N":
			l.rules[chain] = nil
		case "-A":
			l.rules[chain] = append(l.rules[chain], canonicalRule(rest))
		}
	}
	return l
}

// canonicalRule writes a rule's source as netip does, which for some IPv6 addresses differs from what C libraries
// print.
func canonicalRule(rule string) string {
	source, ok := strings.CutPrefix(rule, "-s ")
	if !ok {
		return rule
	}
	source, rest, _ := strings.Cut(source, " ")
	p, err := netip.ParsePrefix(source)
	if err != nil {
		return rule
	}
	return "-s " + p.String() + " " + rest
}

// list reads a table. The legacy variant makes the kernel register the table.
func (f *xtFamily) list(ctx context.Context, table, wait string) (listing, error) {
	out, err := f.run(ctx, f.path, nil, "-t", table, "-w", wait, "-S")
	if err != nil {
		return listing{}, fmt.Errorf("list table %s: %w", table, err)
	}
	return parseListing(out), nil
}

// restore writes whole chains of a table in one step: packets meet the old rules or the new ones, nothing in between.
func (f *xtFamily) restore(ctx context.Context, table string, lines []string) error {
	path := commandName(f.path, false, true)
	input := "*" + table + "\n" + strings.Join(lines, "\n") + "\nCOMMIT\n"
	if _, err := f.run(ctx, path, []byte(input), "--noflush", "-w", f.wait); err != nil {
		return fmt.Errorf("write table %s: %w", table, err)
	}
	return nil
}

func (f *xtFamily) run(ctx context.Context, path string, stdin []byte, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", f.explain(err, stderr.String())
	}
	return stdout.String(), nil
}

// wrap explains an error of go-iptables, whose text ends with the command's complaint.
func (f *xtFamily) wrap(err error) error {
	if err == nil {
		return nil
	}
	var e *iptables.Error
	if errors.As(err, &e) {
		return f.explain(fmt.Errorf("exit status %d", e.ExitStatus()), err.Error())
	}
	return fmt.Errorf("%s: %w", f.name, err)
}

// explain adds the command's name to its error, and a sentinel error if the command reports one only in words.
func (f *xtFamily) explain(err error, complaint string) error {
	switch {
	case strings.Contains(complaint, "xtables lock"):
		return fmt.Errorf("%s: %w", f.name, ErrLocked)
	case strings.Contains(complaint, "Permission denied"), strings.Contains(complaint, "must be root"):
		return fmt.Errorf("%s: %w", f.name, ErrPermission)
	}
	const maxComplaint = 200
	complaint, _, _ = strings.Cut(strings.TrimSpace(complaint), "\n")
	return fmt.Errorf("%s: %w: %s", f.name, err, complaint[:min(len(complaint), maxComplaint)])
}

// xtTableExists reports whether the kernel has a table of the nf_tables or the legacy variant, without creating it.
func xtTableExists(nft, v6 bool, table string) (bool, error) {
	if nft {
		there, _, err := nftHas(v6, table, chainHook)
		if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.EOPNOTSUPP) {
			return false, nil // a kernel without nf_tables
		}
		return there, err
	}
	path := "/proc/thread-self/net/ip_tables_names"
	if v6 {
		path = "/proc/thread-self/net/ip6_tables_names"
	}
	names, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the kernel's tables: %w", err)
	}
	return slices.Contains(strings.Fields(string(names)), table), nil
}
