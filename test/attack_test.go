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

	"github.com/meshban/meshban/test/rig"
)

const (
	// metricsAddr is where every node of a siege tells its figures.
	metricsAddr = "127.0.0.1:9464"
	// attackLasts is for how long each attack goes on, attackBans how many bans are measured meanwhile, calmBans before.
	attackLasts          = 1500 * time.Millisecond
	attackBans, calmBans = 16, 60
	// banEvery is the time between two measured bans.
	banEvery = 50 * time.Millisecond
	// Under attack a ban may take twice as long as before, and this much more, for the machine may be busy: what is starved
	// takes seconds. The README has figures of a machine that does nothing else.
	medianFloor, worstFloor = 10 * time.Millisecond, 250 * time.Millisecond
	// measureLimit is when a ban that is measured counts as lost.
	measureLimit = 10 * time.Second
	// attackedRSS bounds what an honest agent has resident at its worst, in KiB: 24 MiB idle, and 72.
	attackedRSS = (24 + 72) << 10
	// afterwards bounds how long the honest nodes may take to agree again, and to let go of what an attack took.
	afterwards = 10 * time.Second
	// hostilePath is the hostile program in its host.
	hostilePath = "/root/hostile"
)

// siege is a mesh of honest nodes, and the host of a hostile member; perhaps beside another mesh, which nobody attacks.
type siege struct {
	*mesh
	honest     []*node
	host       *node
	bystanders []*node
	token      string
	calm       figures
}

// figures are how long bans took from the line of one honest node to the kernels of the others.
type figures struct{ median, p99 time.Duration }

func (f figures) String() string {
	return fmt.Sprintf("median %.1f ms, p99 %.1f ms", ms(f.median), ms(f.p99))
}

func figuresOf(times []time.Duration) figures {
	slices.Sort(times)
	return figures{times[len(times)/2], times[min(len(times)-1, len(times)*99/100)]}
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

// besiege sets up n honest nodes and one host with nothing but the hostile program.
func besiege(t *testing.T, n int) *siege { return besiegeBeside(t, n, 0) }

// besiegeBeside does that beside a mesh of bystanders.
func besiegeBeside(t *testing.T, n, bystanders int) *siege {
	t.Helper()
	built := must(hostileProgram())(t)
	m := newFleet(t, n+1+bystanders)
	s := &siege{mesh: m, honest: m.nodes[:n], host: m.nodes[n], bystanders: m.nodes[n+1:]}
	check(t, os.WriteFile(s.host.Path(hostilePath), must(os.ReadFile(built))(t), 0o755))
	m.nodes = s.honest
	m.join(t, setup{nodes: n, config: "metrics: " + metricsAddr})
	s.token = strings.TrimSpace(s.honest[0].run(t, "invite", "--uses", "1000"))
	if bystanders > 0 {
		(&mesh{Fleet: m.Fleet, prober: m.prober, nodes: s.bystanders}).join(t, setup{nodes: bystanders})
	}
	return s
}

// attack starts an attack of a new member, certified by the token, against all honest nodes, and returns once it has begun.
func (s *siege) attack(t *testing.T, name string, args ...string) *rig.Proc {
	t.Helper()
	return s.attackAs(t, name, append([]string{"-token", s.token}, args...)...)
}

func (s *siege) attackAs(t *testing.T, name string, args ...string) *rig.Proc {
	t.Helper()
	var targets []string
	for _, n := range s.honest {
		targets = append(targets, s.bind(n))
	}
	argv := append([]string{"nice", "-n", "10", hostilePath, "-attack", name, "-bind", s.bind(s.host), "-targets", strings.Join(targets, ","),
		"-for", attackLasts.String()}, args...)
	return must(s.host.StartDaemon(rig.Cmd{Argv: argv}, startLimit, func(p *rig.Proc) error {
		if !strings.HasPrefix(p.Stdout(), "ready") {
			return fmt.Errorf("not ready: %s", p.Stderr())
		}
		return nil
	}))(t)
}

// measure bans n addresses by lines of the second honest node and returns how long each took to the last of the other
// kernels.
func (s *siege) measure(t *testing.T, n int) figures {
	t.Helper()
	f, err := s.measureOn(s.honest, n)
	check(t, err)
	return f
}

// measureBeside does that among the bystanders too, in turns.
func (s *siege) measureBeside(t *testing.T, n int) (attacked, beside figures) {
	t.Helper()
	var err, besideErr error
	var both sync.WaitGroup
	both.Go(func() {
		during(banEvery / 2)
		beside, besideErr = s.measureOn(s.bystanders, n)
	})
	attacked, err = s.measureOn(s.honest, n)
	both.Wait()
	check(t, errors.Join(err, besideErr))
	return attacked, beside
}

func (s *siege) measureOn(nodes []*node, n int) (figures, error) {
	by, others := nodes[1], append(slices.Clone(nodes[:1]), nodes[2:]...)
	times, errs := make([]time.Duration, n), make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			src := fresh()
			var pairs rig.Pairs
			for _, o := range others {
				pairs = append(pairs, s.prober.Watch(src, o.Node, rig.ClosedPort))
			}
			defer pairs.Stop()
			if errs[i] = pairs.Control(); errs[i] != nil {
				return
			}
			begin, err := by.AppendFile(lineFile, fmt.Sprintf("HOST %v PORT 22\n", src))
			if err == nil {
				var at []time.Time
				at, err = pairs.Enforced(measureLimit) // the figures tell what was too late
				times[i] = rig.Last(at).Sub(begin)
			}
			errs[i] = err
		})
		during(banEvery)
	}
	wg.Wait()
	return figuresOf(times), errors.Join(errs...)
}

// slower says what is wrong with figures under attack.
func (s *siege) slower(f figures) error {
	if f.median > 2*s.calm.median+medianFloor || f.p99 > 2*s.calm.p99+worstFloor {
		return fmt.Errorf("bans under attack: %v; before: %v", f, s.calm)
	}
	return nil
}

// agree waits until the honest nodes hold the same.
func (s *siege) agree(t *testing.T) {
	t.Helper()
	eventually(t, afterwards, func() error {
		digests := map[string]string{}
		for _, n := range s.honest {
			digests[n.status(t).Mesh.Digest] = n.Name
		}
		if len(digests) != 1 {
			return fmt.Errorf("digests differ: %v", digests)
		}
		return nil
	})
}

// metrics reads a node's figures.
func (n *node) metrics(t testing.TB) map[string]float64 {
	t.Helper()
	var conn net.Conn
	check(t, n.InNet(func() (err error) {
		conn, err = net.Dial("tcp", metricsAddr)
		return err
	}))
	defer conn.Close()
	check(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	must(io.WriteString(conn, "GET /metrics HTTP/1.0\r\n\r\n"))(t)
	resp := must(http.ReadResponse(bufio.NewReader(conn), nil))(t)
	all := map[string]float64{}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		at := strings.LastIndexByte(lines.Text(), ' ')
		if v, err := strconv.ParseFloat(lines.Text()[at+1:], 64); err == nil && at > 0 {
			all[lines.Text()[:at]] = v
		}
	}
	return all
}

// spared says that no honest node drops an address.
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
