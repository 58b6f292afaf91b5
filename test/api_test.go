//go:build linux && netns

package test

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"text/template"

	"go.yaml.in/yaml/v3"

	"github.com/meshban/meshban/test/rig"
)

// Scripts and CrowdSec's http notification plugin ban on all nodes, with the examples of `meshban help api` and `meshban
// help crowdsec`.
func TestOthersBanByTheAPI(t *testing.T) {
	t.Parallel()
	m := newMesh(t, setup{nodes: 2, config: `api: {listen: "127.0.0.1:8080"}`})
	other, n := m.nodes[0], m.nodes[1]
	banned := func(source string, addrs ...netip.Addr) {
		t.Helper()
		for _, addr := range addrs {
			eventually(t, banLimit, func() error {
				if e, ok := other.entry(t, addr.String()); !ok || e.State != "enforced" || e.Source != source {
					return fmt.Errorf("%v: %+v, %v", addr, e, ok)
				}
				return nil
			})
		}
	}

	key := strings.TrimSpace(n.run(t, "key", "add", "shop", "--may", "ban"))
	src := fresh()
	said := must(n.Shell(replaced(t, example(t, n, "api", "curl"), "KEY", key, "192.0.2.66", src.String())))(t)
	if !strings.Contains(said, fmt.Sprintf(`"prefix":"%v"`, src)) || !strings.Contains(said, `"state":"enforced"`) {
		t.Errorf("the answer is %s", said)
	}
	banned("api:shop", src)

	// What CrowdSec makes of its file.
	key = strings.TrimSpace(n.run(t, "key", "add", "crowdsec", "--may", "ban"))
	var plugin struct {
		Type, Name, URL, Method, Format string
		LogLevel                        string `yaml:"log_level"`
		Headers                         map[string]string
	}
	check(t, yaml.Unmarshal([]byte(replaced(t, example(t, n, "crowdsec", "type: http"), "THE_KEY", key)), &plugin))
	type decision struct{ Value *string }
	type alert struct{ Decisions []*decision }
	one, two, three := fresh(), fresh6(), fresh()
	decided := func(addr netip.Addr) *decision { text := addr.String(); return &decision{&text} }
	var body bytes.Buffer
	check(t, must(template.New("").Parse(plugin.Format))(t).Execute(&body, []*alert{{[]*decision{decided(one)}}, {}, {[]*decision{decided(two), decided(three)}}}))
	argv := []string{"curl", "-fsS", "-X", plugin.Method, "-d", "@-", plugin.URL}
	for name, value := range plugin.Headers {
		argv = append(argv, "-H", name+": "+value)
	}
	if r := must(n.RunCmd(rig.Cmd{Argv: argv, Stdin: body.String()}))(t); r.Code != exitDone {
		t.Fatalf("%s: %s%s", body.String(), r.Stdout, r.Stderr)
	}
	banned("api:crowdsec", one, two, three)
}
