//go:build linux && netns

package test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/meshban/meshban/test/rig"
)

const (
	// crowdsecDir is where test/run unpacks Debian's package.
	crowdsecDir = "/var/cache/meshban-test/crowdsec"
	// crowdsecConfig is for CrowdSec's local API alone, with all files below /run.
	crowdsecConfig = `common: {daemonize: false, log_media: stdout, log_level: info, log_dir: /run/crowdsec/}
config_paths: {config_dir: /run/crowdsec/, data_dir: /run/crowdsec/, simulation_path: /run/crowdsec/simulation.yaml, hub_dir: /run/crowdsec/,
  index_path: /run/crowdsec/index.json, notification_dir: /run/crowdsec/notifications/, plugin_dir: /run/crowdsec/plugins/}
cscli: {output: human}
db_config: {log_level: info, type: sqlite, db_path: /run/crowdsec/crowdsec.db}
plugin_config: {user: nobody, group: nogroup}
api:
  client: {credentials_path: /run/crowdsec/local.yaml}
  server: {log_level: info, listen_uri: "127.0.0.1:8081", profiles_path: /run/crowdsec/profiles.yaml}
prometheus: {enabled: false}
`
	crowdsecProfile = `name: addresses
filters: ['Alert.GetScope() == "Ip"']
decisions:
- {type: ban, duration: 4h}
on_success: break
`
)

// What Debian's CrowdSec decides is banned on all nodes, by its own http plugin, with the examples of `meshban help
// crowdsec`.
func TestCrowdSecBansByItsPlugin(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat(crowdsecDir + "/usr/bin/crowdsec"); err != nil {
		t.Fatalf("%v: bash test/run system unpacks it", err)
	}
	m := newMesh(t, setup{nodes: 2, config: `api: {listen: "127.0.0.1:8080"}`})
	other, n := m.nodes[0], m.nodes[1]
	key := strings.TrimSpace(n.run(t, "key", "add", "crowdsec", "--may", "ban"))
	_, notifications, _ := strings.Cut(n.run(t, "help", "crowdsec"), "\n  notifications:\n")
	notifications, _, _ = strings.Cut(notifications, "\n\n")
	for name, text := range map[string]string{
		"config.yaml": crowdsecConfig, "simulation.yaml": "simulation: off\n", "index.json": "{}",
		"profiles.yaml":              crowdsecProfile + "notifications:\n" + notifications + "\n",
		"notifications/meshban.yaml": replaced(t, example(t, n, "crowdsec", "type: http"), "THE_KEY", key),
	} {
		check(t, n.WriteFile("/run/crowdsec/"+name, text))
	}
	must(n.Shell(replaced(t, example(t, n, "crowdsec", "install -D"), "/usr/lib/crowdsec/plugins", crowdsecDir+"/usr/lib/crowdsec/plugins",
		"/usr/local/lib/crowdsec", "/run/crowdsec/plugins")))(t)
	cscli := []string{crowdsecDir + "/usr/bin/cscli", "-c", "/run/crowdsec/config.yaml"}
	must(n.Do(append(cscli, "machines", "add", "-a", "-f", "/run/crowdsec/local.yaml")...))(t)
	must(n.StartDaemon(rig.Cmd{Argv: []string{crowdsecDir + "/usr/bin/crowdsec", "-c", "/run/crowdsec/config.yaml", "-no-cs"}}, startLimit, func(p *rig.Proc) error {
		if !strings.Contains(p.Tail(50), "Local API listening") {
			return errors.New("CrowdSec does not listen yet")
		}
		return nil
	}))(t)
	src := fresh()
	pairs := m.watch(t, src)
	must(n.Do(append(cscli, "decisions", "add", "--ip", src.String(), "--duration", "1h", "--reason", "test")...))(t)
	must(pairs.Enforced(startLimit))(t)
	if e, ok := other.entry(t, src.String()); !ok || e.Source != "api:crowdsec" {
		t.Errorf("the other node has %+v, %v", e, ok)
	}
}
