package ui

import (
	"fmt"
	"html/template"
	"reflect"
	"regexp"
	"strings"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
)

// funcs are the functions that the templates call.
func (h *Handler) funcs() template.FuncMap {
	return template.FuncMap{
		"when":     func(t any) template.HTML { return h.when(timeOf(t)) },
		"day":      func(t any) template.HTML { return day(timeOf(t)) },
		"left":     func(t any) string { return left(timeOf(t).Sub(h.now())) },
		"ago":      func(t any) string { return span(h.now().Sub(timeOf(t))) },
		"is":       func(t any) bool { return !timeOf(t).IsZero() },
		"count":    count,
		"plural":   plural,
		"ms":       milliseconds,
		"span":     func(seconds float64) string { return span(time.Duration(seconds * float64(time.Second))) },
		"join":     func(list []string) string { return strings.Join(list, ", ") },
		"tone":     tone,
		"yes":      func(b *bool) bool { return b != nil && *b },
		"short":    func(id string) string { return id[:min(len(id), control.MinNodeID)] },
		"kind":     kindOf,
		"prose":    h.prose,
		"caps":     caps,
		"sentence": sentence,
	}
}

// timeOf returns the time in one of the types that answers have.
func timeOf(t any) time.Time {
	switch t := t.(type) {
	case time.Time:
		return t
	case *time.Time:
		if t != nil {
			return *t
		}
	case control.Time:
		return t.Time
	}
	return time.Time{}
}

// when shows a time in UTC; the script shows it in the reader's zone. It has no text of others in it.
func (h *Handler) when(t time.Time) template.HTML {
	if t.IsZero() {
		return "never"
	}
	text := "Jan 2, 15:04 UTC"
	if t.UTC().Year() != h.now().UTC().Year() {
		text = "Jan 2, 2006, 15:04 UTC"
	}
	return timeElement(t, "", text)
}

// day shows the day of a time.
func day(t time.Time) template.HTML { return timeElement(t, " data-day", "Jan 2, 2006") }

func timeElement(t time.Time, attributes, text string) template.HTML {
	t = t.UTC()
	return template.HTML(fmt.Sprintf(`<time datetime="%s" title="%s"%s>%s</time>`,
		t.Format(time.RFC3339), t.Format("2006-01-02 15:04:05 UTC"), attributes, t.Format(text)))
}

// left shows how long something lasts from now on.
func left(d time.Duration) string {
	if d < time.Second {
		return "ends now"
	}
	return span(d)
}

// caps returns the caps of a certificate, or "" if it has none of its own.
func caps(c *control.Caps) string {
	if c == nil || *c == (control.Caps{}) {
		return ""
	}
	return c.String()
}

// span shows a duration by its two largest units.
func span(d time.Duration) string {
	switch {
	case d < time.Second:
		return "0s"
	case d >= 24*time.Hour:
		d = d.Truncate(time.Hour)
	case d >= time.Hour:
		d = d.Truncate(time.Minute)
	default:
		d = d.Truncate(time.Second)
	}
	return config.FormatDuration(d)
}

// count writes a number with a comma between thousands.
func count(n any) string {
	s := fmt.Sprint(reflect.Indirect(reflect.ValueOf(n)))
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return count(n) + " " + many
}

func milliseconds(ms *float64) string {
	if ms == nil {
		return "–"
	}
	return fmt.Sprintf("%.1f ms", *ms)
}

// tone returns the class of a state: good, warn, bad or plain.
func tone(state string) string {
	switch state {
	case control.StateEnforced, control.VerdictDropped, control.MemberAlive, control.CertValid:
		return "good"
	case control.StatePending, control.StateHeld, control.MemberSuspect, control.VerdictPorts, control.VerdictUnknown,
		control.DrillTooSoon, control.DrillNoFirewall:
		return "warn"
	case control.StateNotEnforced, control.VerdictWithheld, control.MemberDead, control.CertNone, control.CertRevoked:
		return "bad"
	}
	return "plain"
}

// kindOf splits the kind of a problem from its text.
func kindOf(problem string) (parts [2]string) {
	kind, text, ok := strings.Cut(problem, ": ")
	if !ok || strings.ContainsRune(kind, ' ') && len(kind) > 24 {
		return [2]string{"", problem}
	}
	return [2]string{kind, text}
}

// timePattern finds the times in a sentence.
var timePattern = regexp.MustCompile(`\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`)

// prose shows what stands between backquotes as code, and times as the page shows them.
func (h *Handler) prose(text string) template.HTML {
	var out strings.Builder
	parts := strings.Split(text, "`")
	for i, part := range parts {
		part = template.HTMLEscapeString(part)
		switch {
		case i%2 == 0:
			part = timePattern.ReplaceAllStringFunc(part, func(s string) string {
				t, err := time.Parse(time.RFC3339, s)
				if err != nil {
					return s
				}
				return string(h.when(t))
			})
		case i == len(parts)-1: // it has no end
			part = "`" + part
		default:
			part = "<code>" + part + "</code>"
		}
		out.WriteString(part)
	}
	return template.HTML(out.String())
}
