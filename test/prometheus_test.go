//go:build linux && netns

package test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/meshban/meshban/test/rig"
)

const prometheusAt = "127.0.0.1:9090"

// answer is what Prometheus's HTTP API says.
type answer struct {
	Status, Error string
	Data          struct {
		Result []struct {
			Metric map[string]string
			Value  [2]any
		}
		Groups []struct {
			Rules []struct{ Name, Query, Health, LastError string }
		}
	}
}

// ask asks the Prometheus of a node.
func (n *node) ask(path string) (a answer, err error) {
	client := http.Client{Timeout: startLimit, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (c net.Conn, err error) {
		err = n.InNet(func() error {
			c, err = new(net.Dialer).DialContext(ctx, network, addr)
			return err
		})
		return c, err
	}}}
	r, err := client.Get("http://" + prometheusAt + "/api/v1/" + path)
	if err != nil {
		return a, err
	}
	defer r.Body.Close()
	if err := json.NewDecoder(r.Body).Decode(&a); err != nil || a.Status != "success" {
		return a, fmt.Errorf("%s: %v %+v", path, err, a)
	}
	return a, nil
}

func (n *node) query(expr string) (answer, error) {
	return n.ask("query?query=" + url.QueryEscape(expr))
}

// ourMetric is a metric in an expression.
var ourMetric = regexp.MustCompile(`\b(meshban_[a-z0-9_]+|up|process_[a-z_]+)\b`)

// Debian's Prometheus scrapes three nodes and takes the alert rules; each expression of rules and board is answered, and each
// metric in them is there. promtool finds no fault with what nodes expose.
func TestPrometheus(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 3, before: func(n *node) {
		n.configure(t, fmt.Sprintf("metrics: %s:9946\nhooks: [{name: alive, on: [alive], webhook: {url_file: /etc/no.such.file}}]\n", n.Mesh))
	}})
	banned := fresh().String()
	m.nodes[1].run(t, "ban", banned, "--for", "1h")
	for _, n := range m.nodes { // before the first scrape: bans are counted once a minute
		eventually(t, banLimit, func() error {
			if _, ok := n.entry(t, banned); !ok {
				return fmt.Errorf("%s does not have the ban", n.Name)
			}
			return nil
		})
	}
	server, config := m.nodes[0], strings.Builder{}
	config.WriteString("global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [meshban.rules.yml]\n" +
		"scrape_configs:\n- job_name: meshban\n  static_configs:\n  - targets:\n")
	for _, n := range m.nodes {
		fmt.Fprintf(&config, "    - %s:9946\n", n.Mesh)
		exposed := must(n.Do("busybox", "wget", "-q", "-O", "-", fmt.Sprintf("http://%s:9946/metrics", n.Mesh)))(t)
		if r := must(n.RunCmd(rig.Cmd{Argv: []string{"promtool", "check", "metrics"}, Stdin: exposed}))(t); r.Code != 0 || r.Stdout+r.Stderr != "" {
			t.Errorf("%s: promtool check metrics: exit code %d\n%s%s", n.Name, r.Code, r.Stdout, r.Stderr)
		}
	}
	must(server.Do("mkdir", "/root/prometheus"))(t)
	check(t, server.WriteFile("/root/prometheus/prometheus.yml", config.String()))
	check(t, server.WriteFile("/root/prometheus/meshban.rules.yml", server.run(t, "setup", "prometheus", "--print")))
	must(server.StartDaemon(rig.Cmd{Argv: []string{
		"prometheus", "--config.file=/root/prometheus/prometheus.yml", "--storage.tsdb.path=/root/prometheus/data", "--web.listen-address=" + prometheusAt,
	}}, startLimit, func(*rig.Proc) error {
		a, err := server.query(`up{job="meshban"} == 1`)
		if err == nil && len(a.Data.Result) != 3 {
			err = fmt.Errorf("%d nodes answer", len(a.Data.Result))
		}
		return err
	}))(t)
	a := must(server.ask("rules"))(t)
	exprs := map[string]string{} // by where it stands
	for _, g := range a.Data.Groups {
		for _, r := range g.Rules {
			exprs["alert "+r.Name] = r.Query
		}
	}
	if len(exprs) != 11 {
		t.Errorf("Prometheus has %d rules: %v", len(exprs), exprs)
	}
	maps.Copy(exprs, boardExprs(t, server))
	metrics := map[string]bool{}
	for where, expr := range exprs {
		if _, err := server.query(expr); err != nil {
			t.Errorf("%s: %v", where, err)
		}
		for _, name := range ourMetric.FindAllString(expr, -1) {
			metrics[name] = true
		}
	}
	eventually(t, startLimit, func() error {
		a, err := server.query(`count by (__name__) ({job="meshban"})`)
		for _, r := range a.Data.Result {
			delete(metrics, r.Metric["__name__"])
		}
		if err == nil && len(metrics) > 0 {
			err = fmt.Errorf("no series of %v", slices.Sorted(maps.Keys(metrics)))
		}
		return err
	})
	eventually(t, startLimit, func() error {
		a, err := server.query(`ALERTS{alertname="MeshbanProblem", kind="hook alive"}`)
		if err == nil && len(a.Data.Result) != 3 {
			err = fmt.Errorf("alerts of the hooks that cannot send: %v", a.Data.Result)
		}
		return err
	})
	a = must(server.ask("rules"))(t)
	for _, g := range a.Data.Groups {
		for _, r := range g.Rules {
			if r.Health == "err" {
				t.Errorf("%s: %s", r.Name, r.LastError)
			}
		}
	}
}

// boardExprs returns the expressions of the board, as Grafana would ask them.
func boardExprs(t *testing.T, n *node) map[string]string {
	t.Helper()
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr, RefID string }
		}
	}
	check(t, json.Unmarshal([]byte(n.run(t, "setup", "grafana", "--print")), &board))
	exprs := map[string]string{}
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			exprs["panel "+p.Title+" "+target.RefID] = strings.NewReplacer("$instance", ".*", "$__rate_interval", "1m").Replace(target.Expr)
		}
	}
	if len(board.Panels) < 15 || len(exprs) < len(board.Panels) {
		t.Errorf("%d panels, %d expressions", len(board.Panels), len(exprs))
	}
	return exprs
}
