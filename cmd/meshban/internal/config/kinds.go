package config

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// value is the value of a key; compare flag.Value. UnmarshalYAML is not called for a key without a value. Its error
// is one *Error or several joined, without File and Key.
type value interface {
	yaml.Unmarshaler
	String() string // as YAML; `""` if the default depends on the machine or on another key
	check() error   // an *Error without File, Line and Key if the value is out of bounds
}

// setting is the value at a place in a Config.
type setting[T any] struct {
	at     *T
	read   func(*yaml.Node) (T, error)
	format func(T) string
	valid  func(T) error // nil = each value that read returns
}

func (s setting[T]) UnmarshalYAML(n *yaml.Node) error {
	v, err := s.read(n)
	if err == nil {
		*s.at = v
	}
	return err
}

func (s setting[T]) String() string { return s.format(*s.at) }

func (s setting[T]) check() error {
	if s.valid == nil {
		return nil
	}
	return s.valid(*s.at)
}

// word reads a scalar's text, whatever type YAML gives it: `for: 30` must fail as a duration without a unit.
func word[T any](parse func(string) (T, error)) func(*yaml.Node) (T, error) {
	return func(n *yaml.Node) (v T, err error) {
		if n.Kind != yaml.ScalarNode {
			return v, bad("is "+kind(n), "write a single value")
		}
		if n.Value == "" {
			return v, bad("is empty", "write a value or delete the line")
		}
		return parse(n.Value)
	}
}

// optional is word, except that "" is the zero value.
func optional[T any](parse func(string) (T, error)) func(*yaml.Node) (T, error) {
	return func(n *yaml.Node) (v T, err error) {
		if n.Kind == yaml.ScalarNode && n.Value == "" {
			return v, nil
		}
		return word(parse)(n)
	}
}

func asWritten(s string) (string, error) { return s, nil }

// text reads a string; "" keeps the default.
func text(at *string, valid func(string) error) value {
	return setting[string]{at, func(n *yaml.Node) (string, error) {
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" {
			return "", bad("is "+kind(n)+", not text", "write text, in quotes where it looks like something else")
		}
		if n.Value == "" {
			return *at, nil
		}
		return n.Value, nil
	}, yamlString, valid}
}

// path reads an absolute path of a file; "" is none.
func path(at *string) value {
	return setting[string]{at, optional(asWritten), yamlString, func(s string) error {
		if s == "" {
			return nil
		}
		return validPath(s)
	}}
}

func boolean(at *bool) value {
	return setting[bool]{at, func(n *yaml.Node) (bool, error) {
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" {
			return false, bad("is "+describe(n), "write true or false, without quotes")
		}
		return strings.EqualFold(n.Value, "true"), nil
	}, strconv.FormatBool, nil}
}

func number(at *int, low, high int) value {
	return setting[int]{at, func(n *yaml.Node) (int, error) {
		v, err := strconv.Atoi(n.Value)
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" || err != nil {
			return 0, bad("is "+describe(n)+", not a whole number", "write digits without quotes")
		}
		return v, nil
	}, strconv.Itoa, func(v int) error {
		if v < low || v > high {
			return bad(fmt.Sprintf("%d is out of bounds", v), fmt.Sprintf("write %d to %d", low, high))
		}
		return nil
	}}
}

func length(at *time.Duration, low, high time.Duration) value {
	bounds := "write " + FormatDuration(low) + " to " + FormatDuration(high)
	return setting[time.Duration]{at, word(func(s string) (time.Duration, error) {
		d, err := ParseDuration(s)
		if err != nil && high < 12*time.Hour { // the lengths that ParseDuration suggests are too long here
			err = bad(asError(err).Problem, bounds)
		}
		return d, err
	}), FormatDuration, func(d time.Duration) error {
		if d < low || d > high {
			return bad(FormatDuration(d)+" is out of bounds", bounds)
		}
		return nil
	}}
}

// choice accepts one of words.
func choice[T comparable](at *T, words ...T) value {
	format := func(v T) string { return strings.ToLower(fmt.Sprint(v)) }
	unknown := func(s string) error {
		var all []string
		for _, w := range words {
			all = append(all, format(w))
		}
		return bad(quote(s)+" is not known", "write "+strings.Join(all, " or "))
	}
	return setting[T]{at, word(func(s string) (v T, err error) {
		i := slices.IndexFunc(words, func(w T) bool { return format(w) == s })
		if i < 0 {
			return v, unknown(s)
		}
		return words[i], nil
	}), format, func(v T) error {
		if !slices.Contains(words, v) {
			return unknown(format(v))
		}
		return nil
	}}
}

func formatAddrPort(ap netip.AddrPort) string {
	if !ap.IsValid() {
		return `""`
	}
	return yamlString(ap.String())
}

// list accepts at most most items and drops duplicates. remedy says what to write instead of a value that is not a
// list.
func list[T comparable](at *[]T, most int, item func(*yaml.Node) (T, error), format func(T) string, valid func(T) error, remedy string) value {
	tooMany := func(n int) error { return bad(fmt.Sprintf("has %d items", n), fmt.Sprintf("write at most %d", most)) }
	return setting[[]T]{at, func(n *yaml.Node) ([]T, error) {
		if n.Kind != yaml.SequenceNode {
			if _, err := item(n); err == nil && n.Kind == yaml.ScalarNode && len(n.Value) <= maxQuoted {
				remedy = "write [" + strconv.Quote(n.Value) + "]"
			}
			return nil, bad("is "+describe(n)+", not a list", remedy)
		}
		if len(n.Content) > most {
			return nil, tooMany(len(n.Content))
		}
		var all []T
		var errs []error
		seen := make(map[T]bool, len(n.Content))
		for _, in := range n.Content {
			v, err := item(in)
			if err != nil {
				e := *asError(err)
				e.Line = max(e.Line, in.Line)
				errs = append(errs, &e)
			} else if !seen[v] {
				seen[v], all = true, append(all, v)
			}
		}
		return all, errors.Join(errs...)
	}, func(all []T) string {
		if len(all) == 0 {
			return emptyList
		}
		var b strings.Builder
		for _, v := range all {
			b.WriteString("\n- " + format(v))
		}
		return b.String()
	}, func(all []T) error {
		if len(all) > most {
			return tooMany(len(all))
		}
		for _, v := range all {
			if err := valid(v); err != nil {
				return err
			}
		}
		return nil
	}}
}

const (
	emptyList = "[]"
	dashes    = "write each item on its own line after a dash"
)

// item reads a list item that is one word.
func item[T any](parse func(string) (T, error)) func(*yaml.Node) (T, error) {
	return func(n *yaml.Node) (v T, err error) {
		if n.Kind != yaml.ScalarNode || n.Anchor != "" || n.Style&yaml.TaggedStyle != 0 {
			return v, bad("has "+kind(n)+" in the list", "write a plain value")
		}
		if n.Value == "" || isNull(n) {
			return v, bad("has an empty item", "write a value or delete it")
		}
		return parse(n.Value)
	}
}

// backends accepts a list of backends, or the text that the command line takes.
func backends(at *[]string) value {
	return setting[[]string]{at, func(n *yaml.Node) ([]string, error) {
		if n.Kind != yaml.SequenceNode {
			return word(ParseBackends)(n)
		}
		var names []string
		for _, in := range n.Content {
			s, err := item(asWritten)(in)
			if err != nil {
				return nil, err
			}
			names = append(names, s)
		}
		return checkBackends(names)
	}, func(names []string) string {
		if slices.Equal(names, Backends()) {
			return "auto"
		}
		return "[" + strings.Join(names, ", ") + "]"
	}, func(names []string) error {
		if slices.Equal(names, []string{"auto"}) {
			return bad(`"auto" is not expanded`, "write "+strings.Join(Backends(), ", "))
		}
		_, err := checkBackends(names)
		return err
	}}
}

// describe returns the value of a scalar, or else the kind of n.
func describe(n *yaml.Node) string {
	if n.Kind == yaml.ScalarNode {
		return quote(n.Value)
	}
	return kind(n)
}

// yamlString quotes printable text.
func yamlString(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// formatAllow formats a single address without its prefix length.
func formatAllow(p netip.Prefix) string {
	if p.IsSingleIP() {
		return yamlString(p.Addr().String())
	}
	return yamlString(p.String())
}
