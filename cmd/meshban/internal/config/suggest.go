package config

import (
	"strings"
)

// keysOf returns the keys of the section prefix, in file order.
func keysOf(prefix string) []string {
	var keys []string
	for _, f := range fields {
		rest, ok := strings.CutPrefix(f.key, prefix)
		if prefix != "" {
			rest, ok = strings.CutPrefix(f.key, prefix+".")
		}
		if !ok {
			continue
		}
		first, _, _ := strings.Cut(rest, ".")
		if len(keys) == 0 || keys[len(keys)-1] != first {
			keys = append(keys, first)
		}
	}
	return keys
}

func isSection(key string) bool {
	for _, f := range fields {
		if strings.HasPrefix(f.key, key+".") {
			return true
		}
	}
	return false
}

// suggest returns what to write instead of an unknown key in the section prefix.
func suggest(prefix, key string) string {
	word := strings.ReplaceAll(strings.ToLower(key), "-", "_")
	if best := Nearest(word, keysOf(prefix)); best != "" {
		return `did you mean "` + best + `"?`
	}
	var elsewhere []string
	for _, f := range fields {
		section, leaf, ok := strings.Cut(f.key, ".")
		if !ok {
			section, leaf = "", f.key
		}
		if section != prefix && (leaf == word || f.key == word) {
			elsewhere = append(elsewhere, keyPath(section, leaf))
		}
	}
	if len(elsewhere) > 0 {
		return "write " + strings.Join(elsewhere, ", or ")
	}
	return "write one of " + strings.Join(keysOf(prefix), ", ")
}

func keyPath(section, leaf string) string {
	if section == "" {
		return `"` + leaf + `" at the left margin`
	}
	return `"` + leaf + `" under "` + section + `:"`
}

// maxSlip is the longest word, in bytes, that Nearest compares: a longer one is not a slip of the finger.
const maxSlip = 32

// Nearest returns the word of list that was most likely meant, or "". A slip is at most two edits and less than half of
// the word.
func Nearest(word string, list []string) string {
	if len(word) > maxSlip {
		return ""
	}
	best, least := "", 3
	for _, w := range list {
		if n := distance(word, w); n < least && 2*n < max(len(w), 3) {
			best, least = w, n
		}
	}
	return best
}

// distance is the number of letters to insert, delete, replace or swap with a neighbour to turn a into b (optimal string
// alignment).
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			replace := rows[i-1][j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			rows[i][j] = min(replace, rows[i-1][j]+1, rows[i][j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
