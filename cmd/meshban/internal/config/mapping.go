package config

import (
	"cmp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// mapping reads a value that has keys of its own, such as {name: a.conf, format: nginx}.
type mapping[T any] struct {
	what   string // "a file"
	form   string // the remedy, "write {name: nginx.conf, format: nginx}"
	begin  T      // with the defaults
	fields func(*T) []field
	check  func(T) error // nil = whatever the fields accept
}

// at returns the mapping as the value of a key.
func (m mapping[T]) at(place *T) value { return setting[T]{place, m.read, m.format} }

// read sets the fields that n has and refuses other keys. The Key of an error is relative to the mapping.
func (m mapping[T]) read(n *yaml.Node) (T, error) {
	v := m.begin
	if n.Kind != yaml.MappingNode || n.Anchor != "" || n.Style&yaml.TaggedStyle != 0 {
		return v, bad("is "+describe(n)+", not "+m.what, m.form)
	}
	fields, seen := m.fields(&v), map[string]bool{}
	var keys []string
	for _, f := range fields {
		keys = append(keys, f.key)
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, in := n.Content[i], n.Content[i+1]
		at := slices.IndexFunc(fields, func(f field) bool { return k.Kind == yaml.ScalarNode && f.key == k.Value })
		var e *Error
		switch {
		case at < 0:
			e = bad("has the unknown key "+describe(k), "write one of "+strings.Join(keys, ", "))
		case seen[k.Value]:
			e = bad("has "+k.Value+" twice", "write it once")
		case in.Kind == yaml.AliasNode || in.Anchor != "" || in.Style&yaml.TaggedStyle != 0 || isNull(in):
			e = bad("has no plain value", "write one or delete the key")
			e.Key = k.Value
		default:
			for _, err := range unjoin(fields[at].UnmarshalYAML(in)) {
				e = new(*asError(err))
				e.Key = strings.TrimSuffix(k.Value+"."+e.Key, ".")
				break
			}
		}
		if e != nil {
			e.Line = cmp.Or(e.Line, k.Line)
			return v, e
		}
		seen[k.Value] = true
	}
	if m.check != nil {
		return v, m.check(v)
	}
	return v, nil
}

// format returns v on one line, without what is as it begins.
func (m mapping[T]) format(v T) string {
	begin := m.begin
	defaults := m.fields(&begin)
	var parts []string
	for i, f := range m.fields(&v) {
		if text := f.String(); text != defaults[i].String() {
			parts = append(parts, f.key+": "+text)
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}
