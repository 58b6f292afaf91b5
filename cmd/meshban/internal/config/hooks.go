package config

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// Bounds of a hook.
const (
	MaxHooks       = 16
	MaxHookEvery   = 7 * 24 * time.Hour
	MinDigest      = time.Hour // from here on, every makes a hook a digest
	MaxAtMost      = 100
	MaxHookTimeout = time.Minute
	MaxTries       = 10
	MaxBody        = 4096 // bytes of webhook.body
	MaxArgs        = 64   // of exec
)

// HookAlive is the event of a heartbeat.
const HookAlive = "alive"

// HookEvents returns what hooks can tell of.
func HookEvents() []string {
	return []string{"ban", "unban", "held", "problem", "solved", "leave", "join", "revoke", HookAlive}
}

// Hook says whom to tell of what.
type Hook struct {
	Name    string        // name: 1..MaxName of [A-Za-z0-9._-]
	On      []string      // on: of HookEvents
	Sources []string      // sources: of bans, as in bans.quorum_by_source; empty = all
	Whose   Whose         // whose:
	Every   time.Duration // every: between two messages; MinDigest or longer = a digest
	AtMost  int           // at_most: events in a message; the rest is counted
	Webhook Webhook       // webhook: without a URLFile, Exec is run
	Exec    []string      // exec: the program's absolute path and its arguments
}

// Whose says of which nodes' doings a hook tells.
type Whose string

// The values of whose.
const (
	WhoseOwn Whose = "own" // what begins on this node, so that a mesh with this hook on each node says it once
	WhoseAll Whose = "all"
)

// Webhook is an HTTP receiver.
type Webhook struct {
	URLFile string        // url_file: absolute; holds the URL and header lines
	Preset  Preset        // preset: the form of the body
	Body    string        // body: instead of the preset's
	Timeout time.Duration // timeout: of one try
	Tries   int           // tries:
}

// Preset is the form in which a service takes messages.
type Preset string

// The presets.
const (
	PresetJSON      Preset = "json"
	PresetSlack     Preset = "slack"
	PresetDiscord   Preset = "discord"
	PresetNtfy      Preset = "ntfy"
	PresetGotify    Preset = "gotify"
	PresetTelegram  Preset = "telegram"
	PresetAbuseIPDB Preset = "abuseipdb"
)

// Digest reports whether the hook sums up instead of telling each event.
func (h Hook) Digest() bool {
	return h.Every >= MinDigest && h.Webhook.Preset != PresetAbuseIPDB && !h.Heartbeat()
}

// Heartbeat reports whether the hook only says that the agent runs.
func (h Hook) Heartbeat() bool { return slices.Equal(h.On, []string{HookAlive}) }

func defaultHook() Hook {
	return Hook{Whose: WhoseOwn, Every: time.Minute, AtMost: 20, Webhook: Webhook{Preset: PresetJSON, Timeout: 10 * time.Second, Tries: 3}}
}

const formHook = `write {name: ops, on: [problem, solved], webhook: {url_file: /etc/meshban/ops.url, preset: slack}}`

// fields returns the keys of a hook; those of webhook are dotted.
func (h *Hook) fields() []field {
	return []field{
		{"name", "", text(&h.Name, validName)},
		{"on", "", inline{list(&h.On, len(HookEvents()), item(parseHookEvent), asIs, validWord(parseHookEvent), "write [ban, problem]")}},
		{"sources", "", inline{list(&h.Sources, MaxSources, item(asWritten), yamlString, validSource, `write ["line:*"]`)}},
		{"whose", "", choice(&h.Whose, WhoseOwn, WhoseAll)},
		{"every", "", length(&h.Every, MinFor, MaxHookEvery)},
		{"at_most", "", number(&h.AtMost, 1, MaxAtMost)},
		{"webhook.url_file", "", path(&h.Webhook.URLFile)},
		{"webhook.preset", "", choice(&h.Webhook.Preset, PresetJSON, PresetSlack, PresetDiscord, PresetNtfy, PresetGotify, PresetTelegram, PresetAbuseIPDB)},
		{"webhook.body", "", setting[string]{&h.Webhook.Body, optional(asWritten), strconv.Quote, validBody}},
		{"webhook.timeout", "", length(&h.Webhook.Timeout, MinFor, MaxHookTimeout)},
		{"webhook.tries", "", number(&h.Webhook.Tries, 1, MaxTries)},
		{"exec", "", argv(&h.Exec)},
	}
}

// inline formats a list for a flow mapping.
type inline struct{ value }

func (v inline) String() string {
	items, ok := strings.CutPrefix(v.value.String(), "\n- ")
	if !ok {
		return emptyList
	}
	return "[" + strings.ReplaceAll(items, "\n- ", ", ") + "]"
}

func asIs(s string) string { return s }

func validWord(parse func(string) (string, error)) func(string) error {
	return func(s string) error { _, err := parse(s); return err }
}

func parseHookEvent(s string) (string, error) {
	if !slices.Contains(HookEvents(), s) {
		return "", bad(quote(s)+" is not an event of hooks", "write one of "+strings.Join(HookEvents(), ", "))
	}
	return s, nil
}

func unprintable(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

func validBody(s string) error {
	if len(s) > MaxBody || unprintable(strings.NewReplacer("\n", "", "\t", "").Replace(s)) {
		return bad("is not a text", fmt.Sprintf("write at most %d bytes of printable text", MaxBody))
	}
	return nil
}

// argv accepts a program and its arguments.
func argv(at *[]string) value {
	const form = "write [/usr/local/bin/tell, --an-argument]"
	return setting[[]string]{at, func(n *yaml.Node) ([]string, error) {
		if n.Kind != yaml.SequenceNode {
			return nil, bad("is "+describe(n)+", not a list", form)
		}
		var words []string
		for _, in := range n.Content {
			s, err := item(asWritten)(in)
			if err != nil {
				return nil, err
			}
			words = append(words, s)
		}
		return words, nil
	}, func(words []string) string {
		var quoted []string
		for _, w := range words {
			quoted = append(quoted, yamlString(w))
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	}, func(words []string) error {
		if len(words) > MaxArgs || slices.ContainsFunc(words, func(s string) bool { return len(s) > MaxPath || unprintable(s) }) {
			return bad("is not a command", fmt.Sprintf("write at most %d words of printable text", MaxArgs))
		}
		if len(words) > 0 && !filepath.IsAbs(words[0]) {
			return bad(quote(words[0])+" is not an absolute path", form)
		}
		return nil
	}}
}

func hooks(at *[]Hook) value {
	return setting[[]Hook]{at, func(n *yaml.Node) (all []Hook, err error) {
		if n.Kind != yaml.SequenceNode {
			return nil, bad("is "+describe(n)+", not a list", "write ["+strings.TrimPrefix(formHook, "write ")+"]")
		}
		for _, in := range n.Content {
			h := defaultHook()
			err := readMapping(in, "a hook", formHook, "", h.fields())
			if err == nil {
				err = h.check()
			}
			if err != nil {
				e := *asError(err)
				e.Line = cmp.Or(e.Line, in.Line)
				return nil, &e
			}
			all = append(all, h)
		}
		return all, nil
	}, func(all []Hook) string {
		if len(all) == 0 {
			return emptyList
		}
		var b strings.Builder
		for _, h := range all {
			b.WriteString("\n- " + h.format())
		}
		return b.String()
	}, checkHooks}
}

// readMapping sets those of fields that a mapping has and refuses other keys. prefix is that of the mapping's keys.
func readMapping(n *yaml.Node, what, form, prefix string, fields []field) error {
	if n.Kind != yaml.MappingNode || n.Anchor != "" || n.Style&yaml.TaggedStyle != 0 {
		return bad("has "+describe(n)+", not "+what, form)
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		key := prefix + k.Value
		at := func(err error) error {
			e := *asError(err)
			e.Line = cmp.Or(e.Line, k.Line)
			return &e
		}
		if seen[key] {
			return at(bad("has "+printable(key)+" twice", "write it once"))
		}
		seen[key] = true
		j := slices.IndexFunc(fields, func(f field) bool { return f.key == key || strings.HasPrefix(f.key, key+".") })
		switch {
		case k.Kind != yaml.ScalarNode || j < 0 || k.Value == "":
			return at(bad("has the unknown key "+quote(key), "write one of "+strings.Join(keysBelow(fields, prefix), ", ")))
		case fields[j].key != key:
			if err := readMapping(v, "keys of "+key, form, key+".", fields); err != nil {
				return at(err)
			}
			continue
		case v.Anchor != "" || v.Kind == yaml.AliasNode || v.Style&yaml.TaggedStyle != 0 || isNull(v):
			return at(bad(key+" has no plain value", "write one or delete the key"))
		}
		for _, err := range unjoin(fields[j].UnmarshalYAML(v)) {
			e := *asError(err)
			e.Problem = key + " " + e.Problem
			return at(&e)
		}
	}
	return nil
}

// keysBelow returns the keys that a mapping with the prefix may have.
func keysBelow(fields []field, prefix string) (keys []string) {
	for _, f := range fields {
		if rest, ok := strings.CutPrefix(f.key, prefix); ok {
			first, _, _ := strings.Cut(rest, ".")
			keys = append(keys, first)
		}
	}
	return slices.Compact(keys)
}

// format returns h as a flow mapping of what differs from the default.
func (h Hook) format() string {
	d := defaultHook()
	defaults := d.fields()
	var own, webhook []string
	for i, f := range h.fields() {
		if f.String() == defaults[i].String() {
			continue
		}
		if key, ok := strings.CutPrefix(f.key, "webhook."); ok {
			webhook = append(webhook, key+": "+f.String())
		} else {
			own = append(own, f.key+": "+f.String())
		}
	}
	if len(webhook) > 0 {
		own = append(own, "webhook: {"+strings.Join(webhook, ", ")+"}")
	}
	return "{" + strings.Join(own, ", ") + "}"
}

func (h Hook) check() error {
	for _, f := range h.fields() {
		if f.key == "name" && h.Name == "" {
			return bad("has no name", formHook)
		}
		if err := f.check(); err != nil {
			e := *asError(err)
			e.Problem = f.key + " " + e.Problem
			return &e
		}
	}
	w := h.Webhook
	fail := func(problem, remedy string) error { return bad(quote(h.Name)+" "+problem, remedy) }
	switch abuse := w.Preset == PresetAbuseIPDB; {
	case len(h.On) == 0:
		return fail("has no event", "write `on:` and a list of "+strings.Join(HookEvents(), ", "))
	case slices.Contains(h.On, HookAlive) && (len(h.On) > 1 || len(h.Sources) > 0):
		return fail("has alive beside others", "give the heartbeat a hook of its own")
	case (w.URLFile == "") == (len(h.Exec) == 0):
		return fail("has not exactly one of webhook.url_file and exec", formHook)
	case len(h.Exec) > 0 && w != defaultHook().Webhook:
		return fail("has both webhook and exec", "delete one of them")
	case w.Body != "" && w.Preset != PresetJSON:
		return fail("has a body beside a preset", "delete one of them")
	case abuse && (!slices.Equal(h.On, []string{"ban"}) || h.Whose != WhoseOwn):
		return fail("reports to AbuseIPDB what this node has not seen", "write `on: [ban]` and `whose: own`")
	}
	return nil
}

func checkHooks(all []Hook) error {
	if len(all) > MaxHooks {
		return bad(fmt.Sprintf("has %d items", len(all)), fmt.Sprintf("write at most %d", MaxHooks))
	}
	for i, h := range all {
		if err := h.check(); err != nil {
			return err
		}
		if slices.ContainsFunc(all[:i], func(o Hook) bool { return o.Name == h.Name }) {
			return bad(quote(h.Name)+" is the name of two hooks", "write another name")
		}
	}
	return nil
}
