package config

import (
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

var hookKeys = mapping[Hook]{"a hook", formHook, defaultHook(), func(h *Hook) []field {
	return []field{
		{"name", "", text(&h.Name, ParseName)},
		{"on", "", inline{list(&h.On, len(HookEvents()), item(parseHookEvent), asIs, "write [ban, problem]")}},
		{"sources", "", inline{list(&h.Sources, MaxSources, item(parseSource), yamlString, `write ["line:*"]`)}},
		{"whose", "", choice(&h.Whose, WhoseOwn, WhoseAll)},
		{"every", "", length(&h.Every, MinFor, MaxHookEvery)},
		{"at_most", "", number(&h.AtMost, 1, MaxAtMost)},
		{"webhook", "", webhookKeys.at(&h.Webhook)},
		{"exec", "", argv(&h.Exec)},
	}
}, Hook.check}

var webhookKeys = mapping[Webhook]{"keys of a webhook", formHook, defaultHook().Webhook, func(w *Webhook) []field {
	return []field{
		{"url_file", "", optionalText(&w.URLFile, parsePath)},
		{"preset", "", choice(&w.Preset, PresetJSON, PresetSlack, PresetDiscord, PresetNtfy, PresetGotify, PresetTelegram, PresetAbuseIPDB)},
		{"body", "", setting[string]{&w.Body, optional(parseBody), strconv.Quote}},
		{"timeout", "", length(&w.Timeout, MinFor, MaxHookTimeout)},
		{"tries", "", number(&w.Tries, 1, MaxTries)},
	}
}, nil}

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

func parseHookEvent(s string) (string, error) {
	if !slices.Contains(HookEvents(), s) {
		return "", bad(quote(s)+" is not an event of hooks", "write one of "+strings.Join(HookEvents(), ", "))
	}
	return s, nil
}

func unprintable(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

func parseBody(s string) (string, error) {
	if len(s) > MaxBody || unprintable(strings.NewReplacer("\n", "", "\t", "").Replace(s)) {
		return "", bad("is not a text", fmt.Sprintf("write at most %d bytes of printable text", MaxBody))
	}
	return s, nil
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
		if len(words) > MaxArgs || slices.ContainsFunc(words, func(s string) bool { return len(s) > MaxPath || unprintable(s) }) {
			return nil, bad("is not a command", fmt.Sprintf("write at most %d words of printable text", MaxArgs))
		}
		if len(words) > 0 && !filepath.IsAbs(words[0]) {
			return nil, bad(quote(words[0])+" is not an absolute path", form)
		}
		return words, nil
	}, func(words []string) string {
		var quoted []string
		for _, w := range words {
			quoted = append(quoted, yamlString(w))
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	}}
}

func (h Hook) check() error {
	w := h.Webhook
	fail := func(problem, remedy string) error { return bad(quote(h.Name)+" "+problem, remedy) }
	switch abuse := w.Preset == PresetAbuseIPDB; {
	case h.Name == "":
		return bad("has no name", formHook)
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
