//go:build linux && netns

package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshban/meshban/test/rig"
)

const (
	stateDir   = "/var/lib/meshban"
	metricsAt  = "127.0.0.1:9946"
	diskSize   = "16m"
	startLimit = time.Minute
	// commandLimit is after how many seconds a command counts as hanging.
	commandLimit = "60"
)

// Exit codes of the program.
const exitDone, exitPolicy = 0, 4

// node is a server of the mesh. Only its worker uses it, or the test between rounds.
type node struct {
	*rig.Node
	index   int
	addr    netip.Addr // of mesh0
	agent   *rig.Proc
	id      string // of its identity
	full    bool   // the disk
	flushed bool   // another program has changed the kernel since the last quiet point
	revoked bool
	args    []string // of the agent
}

// entry is a line of list --json.
type entry struct {
	Prefix    string
	Ports     string
	Until     time.Time
	State     string
	OriginIDs []string `json:"origin_ids"`
}

// status is what status --json prints.
type status struct {
	ID   string
	Mesh struct{ Digest string }
}

// prepare gives the node a disk of its own and takes its links away.
func (n *node) prepare() error {
	_, err := n.Shell(fmt.Sprintf("mount -t tmpfs -o size=%s,mode=700 tmpfs %s; ip link del mesh0; ip addr flush dev probe0", diskSize, stateDir))
	return err
}

// face gives the node a link on which it reaches only the attacker, so that traffic between nodes passes through the
// network with faults. It is called when the agent already has its address, which it keeps.
func (n *node) face() error {
	_, err := n.Shell(fmt.Sprintf(`ip addr add %v/32 dev probe0
ip addr add %v/128 dev probe0 nodad
ip route add 10.78.0.254 dev probe0
ip route add fd78::fe dev probe0
for net in 192.0.2.0/24 198.51.100.0/24 203.0.113.0/24 198.18.0.0/15; do ip route replace $net via 10.78.0.254 dev probe0 onlink; done
ip route replace 2001:db8::/32 via fd78::fe dev probe0 onlink`, n.Probe, n.Probe6))
	return err
}

// plug makes the node's mesh link and returns its other end.
func (n *node) plug() (tap *os.File, err error) {
	if err := n.InNet(func() (err error) { tap, err = openTAP(meshLink); return err }); err != nil {
		return nil, err
	}
	_, err = n.Shell(fmt.Sprintf(`ip link set %s address 02:6d:62:01:00:%02x up
echo 1 >/proc/sys/net/ipv4/conf/%[1]s/promote_secondaries
ip addr add %[3]v/24 dev %[1]s`, meshLink, n.index+1, n.addr))
	return tap, err
}

// meshban runs the program, which must not hang.
func (n *node) meshban(args ...string) (rig.Result, error) {
	return n.Run(append([]string{"timeout", "-s", "KILL", commandLimit, "meshban"}, args...)...)
}

// start starts the agent and waits until it answers.
func (n *node) start() error {
	p, err := n.Start(rig.Cmd{Argv: append([]string{"meshban", "agent"}, n.args...)})
	if err != nil {
		return err
	}
	n.agent = p
	return rig.Within(startLimit, func() error {
		if !p.Running() {
			return nil
		}
		_, err := n.status()
		return err
	})
}

// started is start for a healthy node: an agent that ends is an error.
func (n *node) started() error {
	err := n.start()
	if err == nil && !n.agent.Running() {
		err = errors.New("the agent has ended")
	}
	if err != nil {
		err = fmt.Errorf("%s: start: %w\n%s", n.Name, err, n.agent.Tail(20))
	}
	return err
}

func (n *node) status() (s status, err error) {
	r, err := n.meshban("status", "--json")
	if err == nil && r.Code != exitDone {
		err = fmt.Errorf("status: exit code %d: %s", r.Code, r.Stderr)
	}
	if err == nil {
		err = json.Unmarshal([]byte(r.Stdout), &s)
	}
	return s, err
}

// list returns the bans that the node lists.
func (n *node) list() (map[netip.Prefix]entry, error) {
	r, err := n.meshban("list", "--json")
	if err != nil || r.Code != exitDone {
		return nil, fmt.Errorf("list: exit code %d: %s: %w", r.Code, r.Stderr, err)
	}
	all := map[netip.Prefix]entry{}
	for dec := json.NewDecoder(strings.NewReader(r.Stdout)); ; {
		var e entry
		if err := dec.Decode(&e); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		slices.Sort(e.OriginIDs)
		p, err := prefix(e.Prefix)
		if err != nil {
			return nil, err
		}
		all[p] = e
	}
}

// prefix parses an address or a prefix.
func prefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	return netip.ParsePrefix(s)
}

// sentinels are the elements that every set of the product has; no packet comes from them.
var sentinels = []netip.Prefix{netip.MustParsePrefix("240.0.0.1/32"), netip.MustParsePrefix("100::f000:1/128")}

// kernel returns what the node's kernel drops on all ports.
func (n *node) kernel() (map[netip.Prefix]bool, error) {
	if n.index == nft {
		return n.nftElements()
	}
	text, err := n.Do("ipset", "save")
	if err != nil {
		return nil, err
	}
	all := map[netip.Prefix]bool{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 3 || f[0] != "add" || !slices.Contains([]string{"meshban4", "meshban4n", "meshban6", "meshban6n"}, f[1]) {
			continue
		}
		p, err := prefix(f[2])
		if err != nil {
			return nil, fmt.Errorf("ipset save: %q: %w", line, err)
		}
		if !slices.Contains(sentinels, p) {
			all[p] = true
		}
	}
	return all, nil
}

// banSet matches the name of a set of addresses or prefixes; a set has two generations, one of them marked by x.
var banSet = regexp.MustCompile(`^meshban[46]n?x?$`)

func (n *node) nftElements() (map[netip.Prefix]bool, error) {
	r, err := n.Run("nft", "-j", "list", "table", "inet", "meshban")
	all := map[netip.Prefix]bool{}
	if err != nil || r.Code != 0 { // another program has deleted the table
		return all, err
	}
	var doc struct {
		NFTables []struct {
			Set struct {
				Name string
				Elem []json.RawMessage
			}
		}
	}
	if err := json.Unmarshal([]byte(r.Stdout), &doc); err != nil {
		return nil, err
	}
	for _, o := range doc.NFTables {
		if !banSet.MatchString(o.Set.Name) {
			continue
		}
		for _, raw := range o.Set.Elem {
			p, err := nftElement(raw)
			if err != nil {
				return nil, fmt.Errorf("set %s: element %s: %w", o.Set.Name, raw, err)
			}
			if !slices.Contains(sentinels, p) {
				all[p] = true
			}
		}
	}
	return all, nil
}

// nftElement parses "ADDRESS", {"prefix": ...} or {"elem": {"val": either of them}}.
func nftElement(raw json.RawMessage) (netip.Prefix, error) {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return prefix(text)
	}
	var o struct {
		Elem   struct{ Val json.RawMessage }
		Prefix struct {
			Addr string
			Len  int
		}
	}
	if err := json.Unmarshal(raw, &o); err != nil {
		return netip.Prefix{}, err
	}
	if o.Elem.Val != nil {
		return nftElement(o.Elem.Val)
	}
	return prefix(o.Prefix.Addr + "/" + strconv.Itoa(o.Prefix.Len))
}

// usage is the resources that an agent holds.
type usage struct {
	files, goroutines int
	rss               int64 // bytes
}

func (n *node) usage() (u usage, err error) {
	files, err := os.ReadDir(n.Path(fmt.Sprintf("/proc/%d/fd", n.agent.PID)))
	if err != nil {
		return u, err
	}
	u.files = len(files)
	cost, err := n.agent.Usage()
	if err != nil {
		return u, err
	}
	u.rss = cost.RSS
	u.goroutines, err = n.goroutines()
	return u, err
}

var goroutinesLine = regexp.MustCompile(`(?m)^go_goroutines (\d+)$`)

// goroutines reads the agent's own count.
func (n *node) goroutines() (int, error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (c net.Conn, err error) {
		err = n.InNet(func() (err error) {
			c, err = net.DialTimeout(network, addr, 10*time.Second)
			return err
		})
		return c, err
	}}
	client := &http.Client{Transport: transport, Timeout: 20 * time.Second}
	r, err := client.Get("http://" + metricsAt + "/metrics")
	if err != nil {
		return 0, err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, err
	}
	m := goroutinesLine.FindSubmatch(text)
	if m == nil {
		return 0, errors.New("the metrics do not count goroutines")
	}
	return strconv.Atoi(string(m[1]))
}

// dropLimit is how long a packet must go unanswered to count as dropped.
const dropLimit = 2 * time.Second

// dropped reports whether the node's kernel drops packets from an address; otherwise a closed port answers with a reset.
func (w *world) dropped(src netip.Addr, n *node) (bool, error) {
	dst := n.Probe
	if src.Is6() {
		dst = n.Probe6
	}
	c, err := w.Attacker.DialWithin(src, netip.AddrPortFrom(dst, 9), dropLimit)
	var timeout net.Error
	switch {
	case err == nil:
		return false, errors.Join(fmt.Errorf("something listens on %v", dst), c.Close())
	case errors.Is(err, unix.ECONNREFUSED):
		return false, nil
	case errors.As(err, &timeout) && timeout.Timeout():
		return true, nil
	}
	return false, err
}
