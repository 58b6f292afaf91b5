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
// is one *Error or several joined, without File; Key is "" or that of a key inside the value.
type value interface {
	yaml.Unmarshaler
	String() string // as YAML; `""` if the default depends on the machine or on another key
}

// setting is the value at a place in a Config.
type setting[T any] struct {
	at     *T
	read   func(*yaml.Node) (T, error) // refuses what is out of bounds
	format func(T) string
}

func (s setting[T]) UnmarshalYAML(n *yaml.Node) error {
	v, err := s.read(n)
	if err == nil {
		*s.at = v
	}
	return err
}

func (s setting[T]) String() string { return s.format(*s.at) }

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
func text(at *string, parse func(string) (string, error)) value {
	return setting[string]{at, func(n *yaml.Node) (string, error) {
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" {
			return "", bad("is "+kind(n)+", not text", "write text, in quotes where it looks like something else")
		}
		if n.Value == "" {
			return *at, nil
		}
		return parse(n.Value)
	}, yamlString}
}

// optionalText reads a scalar as text; "" is none.
func optionalText(at *string, parse func(string) (string, error)) value {
	return setting[string]{at, optional(parse), yamlString}
}

func boolean(at *bool) value {
	return setting[bool]{at, func(n *yaml.Node) (bool, error) {
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" {
			return false, bad("is "+describe(n), "write true or false, without quotes")
		}
		return strings.EqualFold(n.Value, "true"), nil
	}, strconv.FormatBool}
}

func number(at *int, low, high int) value {
	return setting[int]{at, func(n *yaml.Node) (int, error) {
		v, err := strconv.Atoi(n.Value)
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" || err != nil {
			return 0, bad("is "+describe(n)+", not a whole number", "write digits without quotes")
		}
		if v < low || v > high {
			return 0, bad(fmt.Sprintf("%d is out of bounds", v), fmt.Sprintf("write %d to %d", low, high))
		}
		return v, nil
	}, strconv.Itoa}
}

func length(at *time.Duration, low, high time.Duration) value {
	return setting[time.Duration]{at, word(within(low, high)), FormatDuration}
}

// within is ParseDuration with narrower bounds.
func within(low, high time.Duration) func(string) (time.Duration, error) {
	bounds := "write " + FormatDuration(low) + " to " + FormatDuration(high)
	return func(s string) (time.Duration, error) {
		d, err := ParseDuration(s)
		switch {
		case err != nil && high < 12*time.Hour: // the lengths that ParseDuration suggests are too long here
			err = bad(asError(err).Problem, bounds)
		case err == nil && (d < low || d > high):
			err = bad(FormatDuration(d)+" is out of bounds", bounds)
		}
		return d, err
	}
}

// choice accepts one of words.
func choice[T any](at *T, words ...T) value {
	format := func(v T) string { return strings.ToLower(fmt.Sprint(v)) }
	return setting[T]{at, word(func(s string) (v T, err error) {
		var all []string
		for _, w := range words {
			if all = append(all, format(w)); format(w) == s {
				return w, nil
			}
		}
		return v, bad(quote(s)+" is not known", "write "+strings.Join(all, " or "))
	}), format}
}

func formatAddrPort(ap netip.AddrPort) string {
	if !ap.IsValid() {
		return `""`
	}
	return yamlString(ap.String())
}

// list accepts at most most items and drops duplicates. remedy says what to write instead of a value that is not a
// list.
func list[T any](at *[]T, most int, item func(*yaml.Node) (T, error), format func(T) string, remedy string) value {
	return setting[[]T]{at, func(n *yaml.Node) ([]T, error) {
		if n.Kind != yaml.SequenceNode {
			if _, err := item(n); err == nil && n.Kind == yaml.ScalarNode && len(n.Value) <= maxQuoted {
				remedy = "write [" + strconv.Quote(n.Value) + "]"
			}
			return nil, bad("is "+describe(n)+", not a list", remedy)
		}
		if len(n.Content) > most {
			return nil, bad(fmt.Sprintf("has %d items", len(n.Content)), fmt.Sprintf("write at most %d", most))
		}
		var all []T
		var errs []error
		seen := make(map[string]bool, len(n.Content))
		for _, in := range n.Content {
			v, err := item(in)
			if err != nil {
				e := *asError(err)
				e.Line = max(e.Line, in.Line)
				errs = append(errs, &e)
			} else if text := format(v); !seen[text] {
				seen[text], all = true, append(all, v)
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
func formatAllow(a Allowed) string {
	p := a.Prefix
	if a.Name != "" {
		return yamlString(a.Name)
	}
	if p.IsSingleIP() {
		return yamlString(p.Addr().String())
	}
	return yamlString(p.String())
}
