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
	if len(word) > 2*MaxName {
		word = word[:2*MaxName] // far from every key all the same
	}
	best, near := "", 3 // a slip is at most two letters, and less than half of the word
	for _, k := range keysOf(prefix) {
		if n := distance(word, k); n < near && 2*n < len(k) {
			best, near = k, n
		}
	}
	if best != "" {
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

// distance is the number of letters to insert, delete or replace to make b of a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
