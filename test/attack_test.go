//go:build linux && netns

package test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshban/meshban/test/rig"
)

const (
	// metricsAddr is where every node of a siege serves its metrics.
	metricsAddr = "127.0.0.1:9464"
	// attackLasts is how long each attack goes on; attackBans is how many bans are measured during it, calmBans before it.
	attackLasts          = 1500 * time.Millisecond
	attackBans, calmBans = 16, 60
	// banEvery is the time between two measured bans.
	banEvery = 50 * time.Millisecond
	// Under attack a ban may take twice as long as before, plus this much. The tests allow loose times that, because
	// the machine may be busy; a starved ban takes seconds. SECURITY.md has the figures of an otherwise idle machine.
	medianFloor, worstFloor = 100 * time.Millisecond, 500 * time.Millisecond
	loose                   = 5
	// measureLimit is after how long a measured ban counts as lost.
	measureLimit = 30 * time.Second
	// attackedRSS bounds the peak resident memory of an honest agent, in KiB: 24 MiB idle, plus 72 MiB.
	attackedRSS = (24 + 72) << 10
	// afterwards bounds how long the honest nodes may take to agree again and to release what an attack took.
	afterwards = time.Minute
	// untilEnded is the length of an attack that the test ends with finish.
	untilEnded = "10m"
	// hostilePath is the hostile program in its host.
	hostilePath = "/root/hostile"
)

// siege is a mesh of honest nodes and the host of a hostile member. There may also be a mesh of bystanders, which
// nobody attacks.
type siege struct {
	*mesh
	honest     []*node
	host       *node
	bystanders []*node
	token      string
	attacks    int // so far
	calm       figures
	look       *lookout
	rows       []string // the results of every attack
}

// figures are the times of bans from a line on one honest node to the kernels of the others, and to its own.
type figures struct{ median, p99, own time.Duration }

func (f figures) String() string {
	return fmt.Sprintf("median %.1f ms, p99 %.1f ms, own %.1f ms", ms(f.median), ms(f.p99), ms(f.own))
}

func figuresOf(times, own []time.Duration) figures {
	slices.Sort(times)
	slices.Sort(own)
	return figures{times[len(times)/2], times[min(len(times)-1, len(times)*99/100)], own[len(own)/2]}
}

// hostileProgram builds the hostile program, once for a run.
var hostileProgram = sync.OnceValues(func() (string, error) {
	built := filepath.Join(filepath.Dir(program), "hostile")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", built, "./hostile")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the hostile member: %w\n%s", err, out)
	}
	return built, nil
})

// siegeBreaker keeps one attack from using up the breaker for the next. Each attack comes from another certified
// member; together they would open the breaker, so that bans of honest nodes would wait too.
const siegeBreaker = "\nbreaker: {rate: 1000000, burst: 1000000}"

// besiege sets up n honest nodes and one host with nothing but the hostile program.
func besiege(t *testing.T, n int) *siege { return besiegeBeside(t, n, 0) }

// besiegeBeside is besiege beside a mesh of bystanders.
func besiegeBeside(t *testing.T, n, bystanders int) *siege {
	t.Helper()
	return besiegeWith(t, bystanders, setup{nodes: n})
}

// besiegeWith is besiegeBeside with another setup of the honest nodes.
func besiegeWith(t *testing.T, bystanders int, honest setup) *siege {
	t.Helper()
	n := honest.nodes
	honest.config += "\nmetrics: " + metricsAddr + siegeBreaker
	built := must(hostileProgram())(t)
	m := newFleet(t, n+1+bystanders)
	s := &siege{mesh: m, honest: m.nodes[:n], host: m.nodes[n], bystanders: m.nodes[n+1:]}
	check(t, os.WriteFile(s.host.Path(hostilePath), must(os.ReadFile(built))(t), 0o755))
	m.nodes = s.honest
	m.join(t, honest)
	s.token = strings.TrimSpace(s.honest[0].run(t, "invite", "--uses", "1000"))
	if bystanders > 0 {
		(&mesh{Fleet: m.Fleet, prober: m.prober, nodes: s.bystanders}).join(t, setup{nodes: bystanders})
	}
	return s
}

// attack starts an attack by a new member, certified by the token, against all honest nodes. It returns once the attack has
// begun: when all of them know the member, or at once for an attack that does not join.
func (s *siege) attack(t *testing.T, name string, args ...string) *rig.Proc {
	t.Helper()
	s.attacks++
	p := s.attackAs(t, name, append([]string{"-token", s.token, "-name", s.attacker()}, args...)...)
	if name != "elsewhere" {
		s.hostileID(t)
	}
	check(t, p.Signal(unix.SIGUSR1))
	return p
}

// attacker returns the name in the last attacker's certificate. The attacker itself claims another name.
func (s *siege) attacker() string { return fmt.Sprint(hostileName, s.attacks) }

// yields starts a program that gets only the processor time that the others leave, as if it had a machine of its own.
// On a machine that does nothing else, that is enough for every attack. Where the kernel groups processes by session
// (sched(7), autogroup), nice alone has no effect on other sessions.
const yields = `echo 19 >/proc/self/autogroup; exec nice -n 19 "$0" "$@"`

func (s *siege) attackAs(t *testing.T, name string, args ...string) *rig.Proc {
	t.Helper()
	var targets []string
	for _, n := range s.honest {
		targets = append(targets, s.bind(n))
	}
	argv := []string{"nice", "-n", "10", hostilePath}
	if *apart {
		argv = []string{"sh", "-c", yields, hostilePath}
	}
	argv = append(append(argv, "-attack", name, "-bind", s.bind(s.host), "-targets", strings.Join(targets, ","),
		"-for", attackLasts.String()), args...)
	return must(s.host.StartDaemon(rig.Cmd{Argv: argv}, startLimit, func(p *rig.Proc) error {
		if !strings.HasPrefix(p.Stdout(), "ready") {
			return fmt.Errorf("not ready: %s", p.Stderr())
		}
		return nil
	}))(t)
}

// finish ends a running attack, which must exit cleanly.
func finish(t *testing.T, p *rig.Proc) {
	t.Helper()
	check(t, p.Signal(unix.SIGTERM))
	if e := must(p.Wait(afterwards))(t); e.Code != exitDone {
		t.Errorf("the attack ended with %+v: %s", e, p.Stderr())
	}
}

// idOf returns the id of the member that made an attack, once it has ended.
func (s *siege) idOf(t *testing.T, p *rig.Proc) string {
	t.Helper()
	said := must(jsonLines[struct{ ID string }](strings.TrimPrefix(p.Stdout(), "ready\n")))(t)
	if len(said) != 1 || said[0].ID == "" {
		t.Fatalf("the attack printed %q", p.Stdout())
	}
	return said[0].ID
}

// measure bans n addresses by lines on the second honest node and returns how long they took to reach the last of the
// other kernels, and its own.
func (s *siege) measure(t *testing.T, n int) figures {
	t.Helper()
	f, err := s.measureOn(s.honest, n)
	check(t, err)
	return f
}

// measureBeside is measure that also measures among the bystanders, half a step later. Lost bans are an error.
func (s *siege) measureBeside(n int) (attacked, beside figures, err error) {
	var besideErr error
	var both sync.WaitGroup
	if len(s.bystanders) > 0 {
		both.Go(func() {
			during(banEvery / 2)
			beside, besideErr = s.measureOn(s.bystanders, n)
		})
	}
	attacked, err = s.measureOn(s.honest, n)
	both.Wait()
	return attacked, beside, errors.Join(err, besideErr)
}

func (s *siege) measureOn(nodes []*node, n int) (figures, error) {
	by, all := nodes[1], slices.Concat(nodes[:1], nodes[2:], nodes[1:2])
	times, own, errs := make([]time.Duration, n), make([]time.Duration, n), make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			src := fresh()
			var pairs rig.Pairs
			for _, n := range all {
				pairs = append(pairs, s.prober.Watch(src, n.Node, rig.ClosedPort))
			}
			defer pairs.Stop()
			if errs[i] = pairs.Control(); errs[i] != nil {
				return
			}
			begin, err := by.AppendFile(lineFile, fmt.Sprintf("HOST %v PORT 22\n", src))
			if err == nil {
				var at []time.Time
				at, err = pairs.Enforced(measureLimit) // the figures show what was too late
				last := len(at) - 1
				times[i], own[i] = rig.Last(at[:last]).Sub(begin), at[last].Sub(begin)
			}
			if errs[i] = err; err != nil {
				times[i], own[i] = measureLimit, measureLimit
			}
		})
		during(banEvery)
	}
	wg.Wait()
	return figuresOf(times, own), firstOf("bans were not enforced everywhere", errs)
}

// firstOf returns an error with the number of errors that are not nil and the first of them, or nil.
func firstOf(what string, errs []error) error {
	found := slices.DeleteFunc(slices.Clone(errs), func(err error) bool { return err == nil })
	if len(found) == 0 {
		return nil
	}
	first, _, _ := strings.Cut(found[0].Error(), "\n")
	return fmt.Errorf("%d of %d %s: %s", len(found), len(errs), what, first)
}

// slower returns an error if bans under attack take much longer than both the bans before and the bystanders' bans at
// the same time. Without bystanders, beside is zero.
func (s *siege) slower(f, beside figures) error {
	calm := figures{max(s.calm.median, beside.median), max(s.calm.p99, beside.p99), max(s.calm.own, beside.own)}
	if f.median > loose*(2*calm.median+medianFloor) || f.own > loose*(2*calm.own+medianFloor) || f.p99 > loose*(2*calm.p99+worstFloor) {
		return fmt.Errorf("bans under attack: %v; beside: %v; before: %v", f, beside, s.calm)
	}
	return nil
}

// agree waits until the honest nodes have the same digest and returns "equal", or "differ" if they do not get there.
func (s *siege) agree(t *testing.T) string {
	t.Helper()
	err := rig.Within(afterwards, func() error {
		digests := map[string]string{}
		for _, n := range s.honest {
			digests[n.status(t).Mesh.Digest] = n.Name
		}
		if len(digests) != 1 {
			return fmt.Errorf("digests differ: %v", digests)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
		return "differ"
	}
	return "equal"
}

// metrics reads a node's metrics.
func (n *node) metrics(t testing.TB) map[string]float64 {
	t.Helper()
	var conn net.Conn
	check(t, n.InNet(func() (err error) {
		conn, err = net.Dial("tcp", metricsAddr)
		return err
	}))
	defer conn.Close()
	check(t, conn.SetDeadline(time.Now().Add(banLimit)))
	must(io.WriteString(conn, "GET /metrics HTTP/1.0\r\n\r\n"))(t)
	resp := must(http.ReadResponse(bufio.NewReader(conn), nil))(t)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: metrics: %s", n.Name, resp.Status)
	}
	all := map[string]float64{}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		at := strings.LastIndexByte(lines.Text(), ' ')
		if v, err := strconv.ParseFloat(lines.Text()[at+1:], 64); err == nil && at > 0 {
			all[lines.Text()[:at]] = v
		}
	}
	return all
}

// spared checks that no honest node drops an address.
func (s *siege) spared(t *testing.T, pairs rig.Pairs) {
	t.Helper()
	check(t, pairs.Control())
	for _, p := range pairs {
		w := p.Count(time.Now().Add(-attackLasts), time.Now().Add(-50*time.Millisecond))
		if w.Sent == 0 || w.Answered < w.Sent*9/10 {
			t.Errorf("%v: %d of %d probes were answered", p, w.Answered, w.Sent)
		}
	}
}

// watchHonest probes every honest node from src.
func (s *siege) watchHonest(t *testing.T, src netip.Addr) rig.Pairs {
	t.Helper()
	var pairs rig.Pairs
	for _, n := range s.honest {
		pairs = append(pairs, s.prober.Watch(src, n.Node, rig.ClosedPort))
	}
	check(t, pairs.Control())
	return pairs
}

// resources is what an agent holds besides memory.
type resources struct {
	goroutines float64
	files      int
}

func (n *node) resources(t testing.TB) resources {
	t.Helper()
	r := resources{n.metrics(t)["go_goroutines"], len(must(os.ReadDir(n.Path(fmt.Sprintf("/proc/%d/fd", n.agent.PID))))(t))}
	if r.goroutines == 0 || r.files == 0 {
		t.Fatalf("%s: %+v", n.Name, r)
	}
	return r
}
