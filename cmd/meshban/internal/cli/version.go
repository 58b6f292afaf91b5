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
