package cli

// synonyms are words that other tools use for our verbs.
var synonyms = map[string]string{
	"add": "ban", "block": "ban", "deny": "ban", "drop": "ban",
	"del": "unban", "delete": "unban", "remove": "unban", "rm": "unban", "unblock": "unban", "lift": "unban",
	"whitelist": "allow", "allowlist": "allow", "ignore": "allow",
	"start": "agent", "run": "agent", "daemon": "agent", "serve": "agent", "server": "agent",
	"ls": "list", "show": "list", "bans": "list", "banned": "list", "dump": "export",
	"nodes": "members", "peers": "members", "info": "status", "stats": "status",
	"explain": "why", "check": "why", "test": "why", "query": "why",
	"resume": "pause", "unpause": "pause", "off": "pause", "disable": "pause", "suspend": "pause",
	"events": "watch", "follow": "watch", "monitor": "watch", "tail": "watch", "log": "watch",
	"load": "import", "restore": "import", "save": "export", "new": "init", "create": "init", "token": "invite",
	"enroll": "join", "enrol": "join", "install": "setup", "uninstall": "teardown", "flush": "teardown",
}
