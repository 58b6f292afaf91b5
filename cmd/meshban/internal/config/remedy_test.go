package config

import (
	"errors"
	"regexp"
	"strings"
	"testing"
)

// wrongValues are values that people write; each is wrong for nearly every key.
var wrongValues = []string{
	"", `""`, "x", "two words", "-1", "0", "1.5", "30", "1.2.3", "99999999999", "99999999999999999999", "true", "yes", `"24"`, "/24", "1ms", "0s", "-5m",
	"31d", "99999d", "1y", "300.1.1.1", "192.0.2.1/24", "0.0.0.0", "192.0.2.1:99999", "192.0.2.1:0", ":80", "224.0.0.1:7", "fe80::1%eth0", "ssh",
	"[]", "[x, x]", "['']", "[auto, ipset]", "[none, ipset]", "['::/0']", "[192.0.2.0/255.255.255.0]", "['-x']", "{}", "{a: 1}", "{origins: 99}", "a/b", "-g",
}

var (
	bounds = regexp.MustCompile(`^write (\S+) to (\S+)$`)
	forms  = regexp.MustCompile(`^write (?:.* such as )?((?:[{[].*[]}])|(?:\S+(?:(?:, | or )\S+)*))(?:, without quotes)?$`)
)

// suggested returns the values that a remedy suggests.
func suggested(remedy string) []string {
	if m := bounds.FindStringSubmatch(remedy); m != nil {
		return m[1:]
	}
	m := forms.FindStringSubmatch(remedy)
	if m == nil {
		return nil
	}
	if strings.ContainsAny(m[1][:1], "{[") && strings.ContainsAny(m[1], " \"") {
		return m[1:]
	}
	return strings.Split(strings.ReplaceAll(m[1], " or ", ", "), ", ")
}

// Some remedies led to the next error: 3650d for a ban, 0s for 0, a list of items that no list accepts.
func TestRemediesAreTaken(t *testing.T) {
	c := Default(dir)
	for _, f := range c.fields() {
		tried := 0
		for _, wrong := range wrongValues {
			for _, bad := range errorsOf(t, f.key, wrong) {
				if bad.Remedy == "" {
					t.Errorf("%s: %s: %v has no remedy", f.key, wrong, bad)
				}
				for _, value := range suggested(bad.Remedy) {
					tried++
					if f.String() == emptyList && strings.HasPrefix(value, "{") {
						value = "[" + value + "]"
					} else if f.String() == emptyList && !strings.HasPrefix(value, "[{") && !strings.HasPrefix(value, "[\"") {
						value = "['" + value + "']"
					} else if strings.HasPrefix(value, "[2001") || strings.HasPrefix(value, "[::1") {
						value = "'" + value + "'"
					}
					for _, still := range errorsOf(t, f.key, value) {
						if still.Key == f.key {
							t.Errorf("%s: %s: %v; following it, %s: %v", f.key, wrong, bad, value, still)
						}
					}
				}
			}
		}
		switch f.key {
		case "name", "control.read_group", "control.write_group", "firewall.backends": // described in words
			continue
		}
		if tried == 0 {
			t.Errorf("%s: no remedy was tried", f.key)
		}
	}
}

// errorsOf returns the errors of a file in which key has this value.
func errorsOf(t *testing.T, key, value string) (all []*Error) {
	t.Helper()
	text := key + ": " + value + "\n"
	if section, leaf, ok := strings.Cut(key, "."); ok {
		text = section + ":\n  " + leaf + ": " + value + "\n"
	}
	_, err := Parse("f.yaml", []byte(text), "/var/lib/meshban")
	for _, err := range unjoin(err) {
		var e *Error
		if !errors.As(err, &e) {
			t.Fatalf("%s: %s: %v", key, value, err)
		}
		all = append(all, e)
	}
	return all
}
