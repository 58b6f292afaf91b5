//go:build linux && netns

package browser

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meshban/meshban/test/rig"
)

const (
	stateDir = "/var/lib/meshban"
	meshPort = 7946
	// limit bounds whatever only the speed of the machine decides.
	limit = time.Minute
	// scriptLimit bounds all that the script does. It takes a minute on two idle processors.
	scriptLimit = 8 * time.Minute
	// nobody may look, as a member of the group lookers.
	nobody, lookers = 65534, 4101
	// shotsDir is where the script makes pictures, in its host.
	shotsDir = "/root/shots"
)

var shots = flag.String("browser.shots", "", "an existing folder for pictures of every screen")

// checks are all that checks.js does. One that is missing has not passed.
var checks = []string{
	"the address opens the page once", "empty screens say what to do", "search", "why", "unban opens every kernel", "an unban is taken back",
	"allow for a day", "ban for longer", "actions ask or can be undone", "a reason is text", "live tail", "a ban's way through the mesh", "drill",
	"a page of another site changes nothing", "a foreign host is refused", "who may look sees no buttons", "a forwarded socket only shows",
	"a key opens it on the api listener", "without JavaScript", "keyboard only", "phone width", "times are the reader's", "light and dark", "everybody can use it", "pictures", "no CSP reports",
}

// given is what the script is told.
type given struct {
	Rig    string // URL at which the test answers
	Admin  string // one-time address for root
	Reader string // the same for a user who may only look
	Socket string
	Shots  string // folder for pictures; "" = none
	Checks []string
}

// result is what became of a check.
type result struct {
	Name, Error string
	Seconds     float64
}

func TestBrowser(t *testing.T) {
	m := newMesh(t)
	n := m.Nodes[0]
	l := must(n.Listen("tcp", "127.0.0.1:0"))(t)
	server := &http.Server{Handler: m.routes(), ReadHeaderTimeout: limit}
	served := make(chan error, 1) // one send, by the goroutine below
	go func() { served <- server.Serve(l) }()
	defer func() { <-served }()
	defer server.Close()
	for _, name := range []string{"checks.js", "people.js"} {
		check(t, n.WriteFile("/root/"+name, string(must(os.ReadFile(name))(t))))
	}
	g := given{
		Rig: "http://" + l.Addr().String(), Socket: stateDir + "/control.sock", Checks: checks,
		Admin:  m.dashboard(t, n, "meshban", "dashboard", "--json", "--no-browser"),
		Reader: m.dashboard(t, n, "setpriv", fmt.Sprintf("--reuid=%d", nobody), fmt.Sprintf("--regid=%d", nobody), fmt.Sprintf("--groups=%d", lookers), "--inh-caps=-all", "meshban", "dashboard", "--dir", stateDir, "--json", "--no-browser"),
	}
	if *shots != "" {
		g.Shots = shotsDir
		defer func() { check(t, os.CopyFS(*shots, os.DirFS(n.Path(shotsDir)))) }()
	}
	p := must(n.Start(rig.Cmd{Argv: []string{"node", "checks.js", string(must(json.Marshal(g))(t))}, Env: []string{"NODE_PATH=" + modules}}))(t)
	e, err := p.Wait(scriptLimit)
	if err != nil {
		err = errors.Join(err, p.Kill(true))
	}
	if err != nil || e.Code != 0 {
		t.Errorf("the script ended with %+v, %v\n%s", e, err, p.Stderr())
	}
	results := must(decode[result](p.Stdout()))(t)
	for _, name := range checks {
		t.Run(name, func(t *testing.T) {
			i := slices.IndexFunc(results, func(r result) bool { return r.Name == name })
			if i < 0 {
				t.Fatal("was not done")
			}
			if t.Logf("%.1f s", results[i].Seconds); results[i].Error != "" {
				t.Error(results[i].Error)
			}
		})
	}
}

// mesh is three nodes whose kernels are watched.
type mesh struct {
	*rig.Fleet
	t      *testing.T
	prober *rig.Prober
}

// newMesh starts three agents as a user does. The first holds back what a node says beyond 80 bans.
func newMesh(t *testing.T) *mesh {
	t.Helper()
	f := rig.New(t, rig.Options{Nodes: 3, Binds: map[string]string{"/usr/local/bin/meshban": program}})
	m := &mesh{Fleet: f, t: t, prober: f.SparseProber(t, 10)}
	var token string
	for i, n := range f.Nodes {
		bind := netip.AddrPortFrom(n.Mesh, meshPort).String()
		if i == 0 {
			must(n.Do("meshban", "init", "--dir", stateDir, "--name", n.Name, "--bind", bind))(t)
			must(n.AppendFile(stateDir+"/meshban.yaml", `
peers: {rate: 1, burst: 80}
control: {read_group: lookers}
api: {listen: "127.0.0.1:8080"}
hooks: [{name: pager, on: [problem], exec: [/bin/true]}]
`))(t)
			must(n.Shell(fmt.Sprintf("chmod 711 %s; echo lookers:x:%d: >>/etc/group", stateDir, lookers)))(t)
		} else {
			must(n.Do("meshban", "join", token, "--name", n.Name, "--bind", bind))(t)
		}
		must(n.StartDaemon(rig.Cmd{Argv: []string{"meshban", "agent"}}, limit, func(*rig.Proc) error {
			_, err := n.Do("meshban", "status")
			return err
		}))(t)
		if i == 0 {
			token = strings.TrimSpace(must(n.Do("meshban", "invite", "--uses", strconv.Itoa(len(f.Nodes)-1)))(t))
		}
	}
	check(t, rig.Within(limit, m.inSync))
	return m
}

// inSync returns an error unless every node sees all alive and in sync.
func (m *mesh) inSync() error {
	for _, n := range m.Nodes {
		out, err := n.Do("meshban", "members", "--json")
		if err != nil {
			return err
		}
		members, err := decode[struct {
			State  string
			InSync bool `json:"in_sync"`
		}](out)
		if err != nil {
			return err
		}
		for _, other := range members {
			if other.State != "alive" || !other.InSync {
				return fmt.Errorf("%s sees %+v", n.Name, members)
			}
		}
		if len(members) != len(m.Nodes) {
			return fmt.Errorf("%s sees %d members", n.Name, len(members))
		}
	}
	return nil
}

// dashboard starts `meshban dashboard` and returns the address that it prints.
func (m *mesh) dashboard(t *testing.T, n *rig.Node, argv ...string) string {
	t.Helper()
	var said struct{ URL string }
	must(n.StartDaemon(rig.Cmd{Argv: argv}, limit, func(p *rig.Proc) error { return json.Unmarshal([]byte(p.Stdout()), &said) }))(t)
	return said.URL
}

// routes answers the script: it runs the program on any node and asks the prober.
func (m *mesh) routes() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, f func(r *http.Request) (string, error)) {
		mux.HandleFunc("POST "+pattern, func(w http.ResponseWriter, r *http.Request) {
			text, err := f(r)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			_, _ = io.WriteString(w, text)
		})
	}
	handle("/run/{node}", func(r *http.Request) (string, error) {
		var args []string
		i, err := strconv.Atoi(r.PathValue("node"))
		if err = errors.Join(err, json.NewDecoder(r.Body).Decode(&args)); err != nil {
			return "", err
		}
		return m.Nodes[i-1].Do(append([]string{"meshban"}, args...)...)
	})
	// watch begins to probe every node from an address that is open. The others wait until all drop it, or let it through.
	pairs := map[string]rig.Pairs{} // the script asks for one thing at a time
	handle("/watch/{addr}", func(r *http.Request) (string, error) {
		addr, err := netip.ParseAddr(r.PathValue("addr"))
		if err == nil {
			pairs[addr.String()], err = m.prober.WatchAll(addr)
		}
		return "", err
	})
	handle("/dropped/{addr}", func(r *http.Request) (string, error) {
		_, err := pairs[r.PathValue("addr")].Enforced(limit)
		return "", err
	})
	handle("/open/{addr}", func(r *http.Request) (string, error) { return "", pairs[r.PathValue("addr")].Control() })
	return mux
}

// decode returns the JSON objects of a text.
func decode[T any](text string) (all []T, err error) {
	for dec := json.NewDecoder(strings.NewReader(text)); ; {
		var v T
		if err := dec.Decode(&v); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return all, fmt.Errorf("%w in %q", err, text)
		}
		all = append(all, v)
	}
}

// must ends the test on an error; otherwise it passes the value through.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// check ends the test on an error.
func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
