package cli

import (
	"regexp"
	"runtime/debug"
)

// version is the value given to Main.
var version string

// versionText returns the version shown to peers and people.
func versionText() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return shortVersion(info.Main.Version)
}

// commit returns the commit that was built and its date, or "" if the build does not know.
func commit() (revision, date string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "", ""
	}
	dirty := ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			revision = s.Value[:min(len(s.Value), 12)]
		case "vcs.time":
			date = s.Value
		case "vcs.modified":
			if s.Value == "true" {
				dirty = "+dirty"
			}
		}
	}
	if revision == "" {
		return "", ""
	}
	return revision + dirty, date
}

// maxVersion is the longest version that package mesh sends, in bytes.
const maxVersion = 32

// pseudoVersion matches what go writes for a commit that is no release: it ends in the time and the commit.
var pseudoVersion = regexp.MustCompile(`[-.]\d{14}-([0-9a-f]{12})(\+dirty)?$`)

// shortVersion shortens a module version to what members tell one another.
func shortVersion(v string) string {
	if commit := pseudoVersion.FindStringSubmatch(v); commit != nil {
		v = "dev-" + commit[1] + commit[2]
	}
	if v == "" || v == "(devel)" || len(v) > maxVersion {
		return "dev"
	}
	return v
}
