//go:build linux && netns

package test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const (
	heldBouncers = 200
	// heldMemory is what a held bouncer may cost the agent, in KiB. It is measured with manyHeld, so that what the agent
	// needs for other things at one moment and not at another does not matter: megabytes.
	heldMemory, manyHeld = 64, 500
	// heldBans are measured with and without the crowd, beside listedBans.
	heldBans, listedBans = 16, 2_000
)

// apiCrowd is what uses the listener of a node.
type apiCrowd struct {
	n     *node
	key   string
	tasks sync.WaitGroup
	held  [heldBouncers]heldBouncer
	asked atomic.Int64 // answers that were read by who asks without pause
	read  atomic.Int64 // bytes that were read by who reads one a second
}

// heldBouncer asks as CrowdSec's bouncers do.
type heldBouncer struct {
	mu   sync.Mutex // guards what follows
	told map[string]bool
	cut  error // an answer that did not come whole
}

var listenerAddr = netip.MustParseAddrPort("127.0.0.1:8080")

// get asks the listener.
func (c *apiCrowd) get(ctx context.Context, client *http.Client, query, agent string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+listenerAddr.String()+"/v1/decisions/stream"+query, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("X-Api-Key", c.key)
	r.Header.Set("User-Agent", agent)
	return client.Do(r)
}

// client returns a client with an address of its own on the node.
func (c *apiCrowd) client(i int) *http.Client {
	from := netip.AddrFrom4([4]byte{127, 0, 1, byte(i)})
	return &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return c.n.Dial(from, listenerAddr) }}}
}

// hold lets a bouncer ask until the agent is gone.
func (c *apiCrowd) hold(ctx context.Context, i int) {
	client, b := c.client(i), &c.held[i]
	// What is in force already is left out, so that memory is that of held answers.
	for query := "?startup=true&scopes=country"; ; query = "?startup=false" {
		resp, err := c.get(ctx, client, query, "crowdsec-firewall-bouncer/v0.0.25")
		if err != nil {
			return
		}
		var s struct{ New []struct{ Value string } }
		err = json.NewDecoder(resp.Body).Decode(&s)
		_, _ = io.Copy(io.Discard, resp.Body) // its end, so that the connection is used again
		resp.Body.Close()
		b.mu.Lock()
		for _, d := range s.New {
			b.told[d.Value] = true
		}
		b.cut = err
		b.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// ask asks for everything again and again.
func (c *apiCrowd) ask(ctx context.Context) {
	for client := c.client(heldBouncers + 1); ; c.asked.Add(1) {
		resp, err := c.get(ctx, client, "?startup=true", "curl/8")
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
}

// crawl asks for everything and reads a byte a second.
func (c *apiCrowd) crawl(ctx context.Context) {
	client := c.client(heldBouncers + 2)
	for ctx.Err() == nil {
		resp, err := c.get(ctx, client, "?startup=true", "curl/8")
		if err != nil {
			return
		}
		for one := make([]byte, 1); err == nil; c.read.Add(1) {
			if _, err = resp.Body.Read(one); err == nil {
				select {
				case <-ctx.Done():
				case <-time.After(time.Second):
				}
			}
		}
		resp.Body.Close()
	}
}

// allHeld waits until the answers of all bouncers are held.
func (c *apiCrowd) allHeld(t *testing.T) {
	t.Helper()
	c.n.holds(t, heldBouncers)
}

// holds waits until so many answers are held.
func (n *node) holds(t *testing.T, count float64) {
	t.Helper()
	eventually(t, startLimit, func() error {
		if held := n.metrics(t)["meshban_api_answers_held"]; held != count {
			return fmt.Errorf("%v answers are held", held)
		}
		return nil
	})
}

// importMany has a node ban listedBans, and waits for another's kernel.
func (n *node) importMany(t *testing.T, other *node) {
	t.Helper()
	var list strings.Builder
	for i := range listedBans {
		fmt.Fprintf(&list, "20.0.%d.%d\n", i>>8, i&255)
	}
	check(t, n.WriteFile("/root/list", list.String()))
	must(n.Shell("meshban import /root/list --for 1h"))(t)
	eventually(t, crowdLimit, func() error {
		if st := other.status(t); st.Firewall.Enforced < listedBans {
			return fmt.Errorf("%d bans", st.Firewall.Enforced)
		}
		return nil
	})
}

// A bouncer whose answer is held costs the agent little memory.
func TestMemoryOfHeldAnswers(t *testing.T) {
	m := newMesh(t, setup{nodes: 1, config: "api: {listen: \"127.0.0.1:8080\"}\nmetrics: " + metricsAddr})
	n := m.nodes[0]
	n.importMany(t, n)
	key := strings.TrimSpace(n.run(t, "key", "add", "bouncers"))
	conns := make([]net.Conn, manyHeld)
	// ask lets bouncer i ask for what concerns no address.
	ask := func(i int, startup string) {
		t.Helper()
		_ = must(fmt.Fprintf(conns[i], "GET /v1/decisions/stream?scopes=country&startup=%s HTTP/1.1\r\nHost: %s\r\nUser-Agent: crowdsec-firewall-bouncer/v%d\r\nX-Api-Key: %s\r\nAccept-Encoding: gzip\r\n\r\n",
			startup, listenerAddr, i, key))(t)
	}
	all := func(first, end int) {
		t.Helper()
		for i := first; i < end; i++ {
			conns[i] = must(n.Dial(listenerAddr.Addr(), listenerAddr))(t)
			t.Cleanup(func() { conns[i].Close() })
			check(t, conns[i].SetDeadline(time.Now().Add(startLimit)))
			ask(i, "true")
			resp := must(http.ReadResponse(bufio.NewReaderSize(conns[i], 4096), nil))(t)
			_ = must(io.Copy(io.Discard, resp.Body))(t)
			if resp.StatusCode != http.StatusOK {
				t.Fatalf("bouncer %d: %s", i, resp.Status)
			}
			ask(i, "false")
		}
		n.holds(t, float64(end))
	}
	all(0, 1)
	before := n.forgetPeak(t)
	all(1, manyHeld)
	each := float64(n.forgetPeak(t)-before) / (manyHeld - 1)
	t.Logf("%.0f KiB for each of %d held bouncers", each, manyHeld)
	if each > heldMemory {
		t.Errorf("a held bouncer costs %.0f KiB", each)
	}
}

// allTold waits until every bouncer was told of some bans.
func (c *apiCrowd) allTold(t *testing.T, addrs []netip.Addr) {
	t.Helper()
	eventually(t, banLimit, func() error {
		for i := range c.held {
			b := &c.held[i]
			b.mu.Lock()
			miss := slices.IndexFunc(addrs, func(a netip.Addr) bool { return !b.told[a.String()] })
			b.mu.Unlock()
			if miss >= 0 {
				return fmt.Errorf("bouncer %d was not told of %v", i, addrs[miss])
			}
		}
		return nil
	})
}

// median bans addresses by lines, in turn on each of two nodes, and returns how long it takes to every kernel.
func (m *mesh) median(t *testing.T, one, other *node) (time.Duration, []netip.Addr) {
	t.Helper()
	var took []time.Duration
	var addrs []netip.Addr
	for i := range heldBans {
		src := fresh()
		pairs := m.watch(t, src)
		start := []*node{one, other}[i%2].write(t, src, "22")
		at := must(pairs.Enforced(banLimit))(t)
		pairs.Stop()
		took, addrs = append(took, slices.MaxFunc(at, time.Time.Compare).Sub(start)), append(addrs, src)
	}
	slices.Sort(took)
	return took[heldBans/2], addrs
}

// Whatever uses a node's listener, bans reach every kernel as before, and the held answers end with the agent.
func TestCrowdAtTheListener(t *testing.T) {
	m := newMesh(t, setup{nodes: 3, config: "metrics: " + metricsAddr, before: func(n *node) {
		if n.Index == 3 {
			n.configure(t, `api: {listen: "127.0.0.1:8080"}`)
		}
	}})
	first, n := m.nodes[0], m.nodes[2]
	first.importMany(t, n)
	// So that what is not read fits no buffer.
	must(n.Shell("for f in r w; do echo 4096 65536 65536 >/proc/sys/net/ipv4/tcp_${f}mem; done"))(t)
	calm, _ := m.median(t, first, n)

	c := &apiCrowd{n: n, key: strings.TrimSpace(n.run(t, "key", "add", "crowd"))}
	ctx, stop := context.WithCancel(t.Context())
	defer c.tasks.Wait()
	defer stop()
	for i := range c.held {
		c.held[i].told = map[string]bool{}
		c.tasks.Go(func() { c.hold(ctx, i) })
	}
	c.allHeld(t)
	others, enough := context.WithCancel(ctx)
	var loud sync.WaitGroup
	loud.Go(func() { c.ask(others) })
	loud.Go(func() { c.crawl(others) })
	eventually(t, startLimit, func() error {
		if c.asked.Load() < 3 || c.read.Load() < 1 {
			return errors.New("the crowd is not there yet")
		}
		return nil
	})
	var busy time.Duration
	for try := 1; ; try++ {
		asked, begin := c.asked.Load(), time.Now()
		var addrs []netip.Addr
		busy, addrs = m.median(t, first, n)
		asked = c.asked.Load() - asked
		t.Logf("a ban to every kernel: median %.1f ms, with the crowd %.1f ms (%.1f times), %d answers with all bans meanwhile, %.0f a second",
			ms(calm), ms(busy), ms(busy)/ms(calm), asked, float64(asked)/time.Since(begin).Seconds())
		c.allTold(t, addrs)
		if asked == 0 {
			t.Error("who asks without pause was not answered")
		}
		if busy <= loose*(2*calm+medianFloor) {
			break
		}
		if try == tries {
			t.Errorf("the median is %v, without the crowd %v", busy, calm)
			break
		}
	}
	enough()
	loud.Wait()
	c.allHeld(t)
	n.stop(t)
	c.tasks.Wait()
	for i := range c.held {
		if err := c.held[i].cut; err != nil {
			t.Errorf("bouncer %d: its answer was cut: %v", i, err)
		}
	}
}
