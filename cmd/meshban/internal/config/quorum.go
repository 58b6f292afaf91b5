package config

import (
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	formQuorum   = "write {origins: 2, within: 30m}"
	formBySource = `write {source: "line:*", origins: 2, within: 30m}`
)

func (q *Quorum) fields() []field {
	return []field{
		{"origins", "", number(&q.Origins, MinQuorum, MaxQuorum)},
		{"within", "", length(&q.Within, MinFor, MaxMaxFor)},
	}
}

var quorumKeys = mapping[Quorum]{"a quorum", formQuorum, Quorum{}, (*Quorum).fields, func(q Quorum) error {
	if q.Origins == 0 {
		return bad("is incomplete", formQuorum)
	}
	return nil
}}

// quorum accepts {origins: 2, within: 30m}, or the number of origins alone.
func quorum(at *Quorum) value {
	return setting[Quorum]{at, func(n *yaml.Node) (q Quorum, err error) {
		if n.Kind == yaml.MappingNode {
			return quorumKeys.read(n)
		}
		err = number(&q.Origins, MinQuorum, MaxQuorum).UnmarshalYAML(n)
		return q, err
	}, func(q Quorum) string {
		if q.Within == 0 {
			return strconv.Itoa(q.Origins)
		}
		return quorumKeys.format(q)
	}}
}

var quorumByKeys = mapping[QuorumBy]{"a quorum", formBySource, QuorumBy{}, func(q *QuorumBy) []field {
	return append([]field{{"source", "", setting[string]{&q.Source, word(parseSource), yamlString}}}, q.Quorum.fields()...)
}, func(q QuorumBy) error {
	if q.Source == "" || q.Origins == 0 {
		return bad("is incomplete", formBySource)
	}
	return nil
}}

func parseSource(s string) (string, error) {
	if len(s) > MaxSource || strings.Contains(strings.TrimSuffix(s, "*"), "*") {
		return "", bad(quote(s)+" is not a source", "write cli, import, line, line:sshd, or the beginning of one and a *, such as line:*")
	}
	return s, nil
}
