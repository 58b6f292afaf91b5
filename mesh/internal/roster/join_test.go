package roster

import (
	"strings"
	"testing"
)

func TestJoinFault(t *testing.T) {
	many := []string{"a:1", "b:1", "c:1", "d:1", "e:1"}
	cases := []struct {
		name  string
		hosts []string
		tries map[string]string
		want  string // what the text contains; "": no fault
	}{
		{"ok: no list", nil, nil, ""},
		{"ok: not tried yet", []string{"a:1", "b:1"}, map[string]string{"a:1": "no answer"}, ""},
		{"ok: one was joined", []string{"a:1", "b:1"}, map[string]string{"a:1": "no answer", "b:1": TriedJoined}, ""},
		{"ok: only this node itself", []string{"a:1"}, map[string]string{"a:1": TriedSelf}, ""},
		{"ok: the others have left", []string{"a:1", "b:1"}, map[string]string{"a:1": TriedSelf, "b:1": TriedLeft}, ""},
		{"bad: beside this node nobody", []string{"a:1", "b:1"}, map[string]string{"a:1": TriedSelf, "b:1": "no answer"}, "answers: b:1 (no answer);"},
		{"bad: many", many, map[string]string{"a:1": "x", "b:1": "x", "c:1": "x", "d:1": "x", "e:1": "x"}, "c:1 (x), and 2 more;"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := JoinFault(c.hosts, c.tries)
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("%q", got)
			}
		})
	}
}
