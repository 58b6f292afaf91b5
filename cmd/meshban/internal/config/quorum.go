package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// yaml returns q as the content of a flow mapping.
func (q Quorum) yaml() string {
	text := "origins: " + strconv.Itoa(q.Origins)
	if q.Within != 0 {
		text += ", within: " + FormatDuration(q.Within)
	}
	return text
}

// readQuorum reads {origins: 2, within: 30m}, which must have a source if bySource is set.
func readQuorum(n *yaml.Node, bySource bool) (q QuorumBy, err error) {
	form := "write {origins: 2, within: 30m}"
	if bySource {
		form = `write {source: "line:*", origins: 2, within: 30m}`
	}
	if n.Kind != yaml.MappingNode || n.Anchor != "" || n.Style&yaml.TaggedStyle != 0 {
		return q, bad("is "+describe(n)+", not a quorum", form)
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i].Value
		v, err := parseItem(n.Content[i+1], func(s string) (string, error) { return s, nil })
		if seen[key] && err == nil {
			err = bad(fmt.Sprintf("has %s twice", printable(key)), form)
		}
		seen[key] = true
		switch {
		case err != nil:
		case key == "origins":
			if q.Origins, err = strconv.Atoi(v); err != nil {
				err = bad("has "+quote(v)+" origins, not a whole number", form)
			}
		case key == "within":
			q.Within, err = ParseDuration(v)
		case key == "source" && bySource:
			q.Source = v
		default:
			err = bad("has the unknown key "+quote(key), form)
		}
		if err != nil {
			e := *asError(err)
			e.Line = n.Content[i].Line
			return q, &e
		}
	}
	if !seen["origins"] || bySource && !seen["source"] {
		return q, bad("is incomplete", form)
	}
	return q, nil
}

func readQuorums(n *yaml.Node, c *Config) error {
	if n.Kind != yaml.SequenceNode {
		return bad("is "+describe(n)+", not a list", `write [{source: "line:*", origins: 2, within: 30m}]`)
	}
	var errs []error
	for _, item := range n.Content {
		q, err := readQuorum(item, true)
		if err != nil {
			e := *asError(err)
			if e.Line == 0 {
				e.Line = item.Line
			}
			errs = append(errs, &e)
			continue
		}
		c.Bans.BySource = append(c.Bans.BySource, q)
	}
	return errors.Join(errs...)
}

func (c Config) checkQuorums(k *checker) {
	check := func(key string, q Quorum) {
		k.count(key, q.Origins, MinQuorum, MaxQuorum)
		if q.Within != 0 {
			k.length(key, q.Within, MinFor, MaxMaxFor)
		}
	}
	check("bans.quorum", c.Bans.Quorum)
	const key = "bans.quorum_by_source"
	if len(c.Bans.BySource) > MaxSources {
		k.fail(key, "", fmt.Sprintf("has %d items", len(c.Bans.BySource)), fmt.Sprintf("write at most %d", MaxSources))
	}
	for _, q := range c.Bans.BySource {
		check(key, q.Quorum)
		if q.Source == "" || len(q.Source) > MaxSource || strings.Contains(strings.TrimSuffix(q.Source, "*"), "*") {
			k.fail(key, "", quote(q.Source)+" is not a source", "write cli, import, line, line:sshd, or the beginning of one and a *, such as line:*")
		}
	}
}
