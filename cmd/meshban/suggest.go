package main

// maxSuggest is the longest word in bytes that is compared: a longer one is no slip of the finger.
const maxSuggest = 32

// synonyms are words that other tools use for our verbs.
var synonyms = map[string]string{
	"add": "ban", "block": "ban", "deny": "ban", "drop": "ban",
	"del": "unban", "delete": "unban", "remove": "unban", "rm": "unban", "unblock": "unban", "lift": "unban",
	"whitelist": "allow", "allowlist": "allow", "ignore": "allow",
	"start": "agent", "run": "agent", "daemon": "agent", "serve": "agent", "server": "agent",
	"ls": "list", "show": "list", "bans": "list", "banned": "list", "dump": "export",
	"nodes": "members", "peers": "members", "info": "status", "stats": "status",
	"explain": "why", "check": "why", "test": "why", "query": "why",
	"events": "watch", "follow": "watch", "monitor": "watch", "tail": "watch", "log": "watch",
	"load": "import", "restore": "import", "save": "export", "new": "init", "create": "init", "token": "invite",
	"enroll": "join", "enrol": "join", "install": "setup", "uninstall": "teardown", "flush": "teardown",
}

// nearest returns the word of list that was most likely meant, or "".
func nearest(word string, list []string) string {
	if len(word) > maxSuggest {
		return ""
	}
	best, least := "", 3 // a slip is at most two letters, and less than half of the word
	for _, w := range list {
		if n := distance(word, w); n < least && 2*n < max(len(w), 3) {
			best, least = w, n
		}
	}
	return best
}

// distance is the number of letters to insert, delete, replace or swap with their neighbour to make b of a (optimal
// string alignment).
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
