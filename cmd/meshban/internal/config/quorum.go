package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// quorum accepts {origins: 2, within: 30m}, or the number of origins alone.
func quorum(at *Quorum) value {
	return setting[Quorum]{at, func(n *yaml.Node) (q Quorum, err error) {
		if n.Kind != yaml.MappingNode {
			return q, number(&q.Origins, MinQuorum, MaxQuorum).UnmarshalYAML(n)
		}
		by, err := readQuorum(n, "write {origins: 2, within: 30m}", "origins", "within")
		return by.Quorum, err
	}, func(q Quorum) string {
		if q.Within == 0 {
			return strconv.Itoa(q.Origins)
		}
		return "{" + q.yaml() + "}"
	}, Quorum.check}
}

// yaml returns q as the content of a flow mapping.
func (q Quorum) yaml() string {
	text := "origins: " + strconv.Itoa(q.Origins)
	if q.Within != 0 {
		text += ", within: " + FormatDuration(q.Within)
	}
	return text
}

func (q Quorum) check() error {
	if err := number(&q.Origins, MinQuorum, MaxQuorum).check(); err != nil || q.Within == 0 {
		return err
	}
	return length(&q.Within, MinFor, MaxMaxFor).check()
}

const formBySource = `{source: "line:*", origins: 2, within: 30m}`

func readQuorumBy(n *yaml.Node) (QuorumBy, error) {
	return readQuorum(n, "write "+formBySource, "source", "origins", "within")
}

func (q QuorumBy) format() string { return "{source: " + yamlString(q.Source) + ", " + q.yaml() + "}" }

func (q QuorumBy) check() error {
	if err := validSource(q.Source); err != nil {
		return err
	}
	return q.Quorum.check()
}

func validSource(s string) error {
	if s == "" || len(s) > MaxSource || strings.Contains(strings.TrimSuffix(s, "*"), "*") {
		return bad(quote(s)+" is not a source", "write cli, import, line, line:sshd, or the beginning of one and a *, such as line:*")
	}
	return nil
}

// readQuorum reads a mapping of keys, of which only "within" may be missing, and refuses any other key. form is the
// remedy in its errors.
func readQuorum(n *yaml.Node, form string, keys ...string) (q QuorumBy, err error) {
	seen, err := readPairs(n, "a quorum", form, keys, func(key, v string) (err error) {
		switch key {
		case "origins":
			if q.Origins, err = strconv.Atoi(v); err != nil {
				err = bad("has "+quote(v)+" origins, not a whole number", form)
			}
		case "within":
			q.Within, err = ParseDuration(v)
		case "source":
			q.Source = v
		}
		return err
	})
	if err != nil {
		return q, err
	}
	delete(seen, "within")
	if len(seen) != len(keys)-1 {
		return q, bad("is incomplete", form)
	}
	return q, nil
}

// readPairs calls set for each pair of a mapping that is one of keys, and returns which there are. It refuses other keys.
// what names the value and form is the remedy in its errors.
func readPairs(n *yaml.Node, what, form string, keys []string, set func(key, value string) error) (seen map[string]bool, err error) {
	if n.Kind != yaml.MappingNode || n.Anchor != "" || n.Style&yaml.TaggedStyle != 0 {
		return nil, bad("is "+describe(n)+", not "+what, form)
	}
	seen = map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i].Value
		v, err := item(asWritten)(n.Content[i+1])
		switch {
		case err != nil:
		case seen[key]:
			err = bad(fmt.Sprintf("has %s twice", printable(key)), form)
		case !slices.Contains(keys, key):
			err = bad("has the unknown key "+quote(key), form)
		default:
			err = set(key, v)
		}
		if err != nil {
			e := *asError(err)
			e.Line = n.Content[i].Line
			return nil, &e
		}
		seen[key] = true
	}
	return seen, nil
}
