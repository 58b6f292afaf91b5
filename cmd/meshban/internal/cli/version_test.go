package cli

import "testing"

func TestShortVersion(t *testing.T) {
	for v, want := range map[string]string{
		"":                                   "dev",
		"(devel)":                            "dev",
		"v0.1.0":                             "v0.1.0",
		"v0.0.0-20261128010137-344074076a0a": "dev-344074076a0a",
		"v0.0.0-20261128010137-344074076a0a+dirty":    "dev-344074076a0a+dirty",
		"v0.1.1-0.20261128010137-344074076a0a":        "dev-344074076a0a",
		"v0.1.0-rc.1.0.20261128010137-344074076a0a":   "dev-344074076a0a",
		"v0.1.0-a.prerelease.with.a.very.long.name.1": "dev",
	} {
		if got := shortVersion(v); got != want {
			t.Errorf("%q: %q, want %q", v, got, want)
		}
	}
}
