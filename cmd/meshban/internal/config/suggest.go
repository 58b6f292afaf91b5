package config

import (
	"slices"
	"strings"
)

// keys has every key, dotted, in file order.
var keys = func() (all []string) {
	for _, f := range new(Config).fields() {
		all = append(all, f.key)
	}
	return all
}()

// keysOf returns the keys of the section prefix, in file order.
func keysOf(prefix string) (names []string) {
	for _, key := range keys {
		rest, ok := key, prefix == ""
		if !ok {
			rest, ok = strings.CutPrefix(key, prefix+".")
		}
		if ok {
			first, _, _ := strings.Cut(rest, ".")
			names = append(names, first)
		}
	}
	return slices.Compact(names)
}

func isSection(key string) bool { return len(keysOf(key)) > 0 }

// suggest returns what to write instead of an unknown key in the section prefix.
func suggest(prefix, key string) string {
	word := strings.ReplaceAll(strings.ToLower(key), "-", "_")
	if best := Nearest(word, keysOf(prefix)); best != "" {
		return `did you mean "` + best + `"?`
	}
	var elsewhere []string
	for _, k := range keys {
		switch section, leaf, nested := strings.Cut(k, "."); {
		case nested && section != prefix && (leaf == word || k == word):
			elsewhere = append(elsewhere, `"`+leaf+`" under "`+section+`:"`)
		case !nested && prefix != "" && k == word:
			elsewhere = append(elsewhere, `"`+k+`" at the left margin`)
		}
	}
	if len(elsewhere) > 0 {
		return "write " + strings.Join(elsewhere, ", or ")
	}
	return "write one of " + strings.Join(keysOf(prefix), ", ")
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
