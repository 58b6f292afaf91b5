package fail2ban

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// fake puts a fail2ban-client into PATH that answers like the real one. It bans what the file "bans" in its folder
// lists, one "jail address" per line, and logs each command to the file "log". If a file "down" exists it exits at once,
// if "denied" exists it may not use the socket, if "hangs" exists it never answers, and if "slow" exists an unban takes
// longer than sessionLimit.
func fake(t *testing.T, bans ...string) string {
	t.Helper()
	dir := t.TempDir()
	const script = `#!/bin/sh
cd "$(dirname "$0")"
echo call >>log
[ -e down ] && exit 255
[ -e hangs ] && exec sleep 600
echo "Fail2Ban reads log files"; echo
while printf 'fail2ban> '; read -r line; do
	echo "$line" >>log
	set -- $line
	[ -e denied ] && echo "Permission denied to socket: x, (you must be root)" >&2 && continue
	case $line in
	ping) echo "Server replied: pong";;
	status) printf 'Status\n|- Number of jail:\t3\n` + "`" + `- Jail list:\tmeshban, nginx, sshd\n';;
	"get sshd actions") printf 'The jail sshd has the following actions:\nmeshban-default, iptables-multiport\n';;
	"get sshd action meshban-default file") echo /line;;
	"get meshban logpath") printf 'Current monitored log file(s):\n|- /x\n` + "`" + `- /line\n';;
	get*) echo "Sorry but there is no such thing";;
	banned) awk 'BEGIN{printf "["} {printf "%s{\x27%s\x27: [\x27%s\x27]}", s, $1, $2; s=", "} END{print "]"}' bans;;
	unban*) [ -e slow ] && sleep 17; shift; echo "$*" | tr ' ' '\n' >gone; awk 'NR==FNR{gone[$1]; next} !($2 in gone)' gone bans >new; mv new bans; echo $#;;
	esac
done
`
	if err := os.WriteFile(filepath.Join(dir, program), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "bans", strings.Join(bans, "\n")+"\n")
	put(t, dir, "log", "")
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return dir
}

func put(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.TrimLeft(text, "\n")), 0o644); err != nil {
		t.Fatal(err)
	}
}

func log(t *testing.T, dir string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

func prefixes(words ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, w := range words {
		p, err := parsePrefix(w)
		if err != nil {
			panic(err)
		}
		out = append(out, p)
	}
	return out
}

func TestJails(t *testing.T) {
	dir := fake(t)
	jails, err := Client{}.Jails(t.Context(), "/line")
	want := []Jail{{Name: "meshban", Reads: true}, {Name: "nginx"}, {Name: "sshd", Tells: true}}
	if err != nil || !slices.Equal(jails, want) {
		t.Fatalf("got %+v, %v, want %+v", jails, err, want)
	}
	for _, line := range log(t, dir) {
		if strings.Contains(line, " action ") && line != "get sshd action meshban-default file" {
			t.Errorf("fail2ban logs an error for %q", line)
		}
	}
	if tells, silent := Split(jails); fmt.Sprint(tells, silent) != "[sshd] [nginx]" {
		t.Errorf("%v tell, %v do not", tells, silent)
	}
	if jails, err = (Client{}).Jails(t.Context(), "/another"); err != nil || slices.ContainsFunc(jails, func(j Jail) bool { return j.Tells || j.Reads }) {
		t.Errorf("jails of another line file: %+v, %v", jails, err)
	}
}

func TestUnban(t *testing.T) {
	for _, tt := range []struct {
		name   string
		bans   []string
		unban  []string
		still  string // what Unban returns
		remain []string
	}{
		{"ok: nothing of it is banned", []string{"sshd 192.0.2.1"}, []string{"192.0.2.2"}, "[]", []string{"sshd 192.0.2.1"}},
		{"ok: in two jails", []string{"sshd 192.0.2.1", "own 192.0.2.1", "own 192.0.2.3"}, []string{"192.0.2.1"}, "[]", []string{"own 192.0.2.3"}},
		{"ok: all inside a prefix", []string{"sshd 192.0.2.1", "own 192.0.2.0/28", "own 198.51.100.1"}, []string{"192.0.2.0/24"}, "[]", []string{"own 198.51.100.1"}},
		{"ok: IPv6", []string{"sshd 2001:db8::1"}, []string{"2001:db8::/64"}, "[]", nil},
		{"bad: a prefix around it stays", []string{"own 192.0.2.0/28"}, []string{"192.0.2.1"}, "[{own 192.0.2.0/28}]", []string{"own 192.0.2.0/28"}},
		{"ok: the jail that shows does not count", []string{"meshban 192.0.2.0/28"}, []string{"192.0.2.1"}, "[]", []string{"meshban 192.0.2.0/28"}},
		{"ok: a user with an odd name", []string{"own it\\'s", "sshd 192.0.2.1"}, []string{"192.0.2.1"}, "[]", []string{"own it\\'s"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := fake(t, tt.bans...)
			still, more, err := Client{}.Unban(t.Context(), prefixes(tt.unban...))
			if fmt.Sprint(still) != tt.still || more || err != nil {
				t.Errorf("got %v, %v, %v", still, more, err)
			}
			left, _ := os.ReadFile(filepath.Join(dir, "bans"))
			if got := strings.TrimSpace(string(left)); got != strings.Join(tt.remain, "\n") {
				t.Errorf("left is %q, want %q", got, tt.remain)
			}
		})
	}
}

func TestNoServer(t *testing.T) {
	dir := fake(t)
	put(t, dir, "down", "")
	if err := (Client{}).Running(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("a server that is down: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "down")); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "denied", "")
	if err := (Client{}).Running(t.Context()); !errors.Is(err, ErrDenied) || Absent(err) {
		t.Errorf("a server of another user: %v", err)
	}
	put(t, dir, "hangs", "")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, _, err := (Client{}).Unban(ctx, prefixes("192.0.2.1")); !errors.Is(err, ErrSilent) || Absent(err) {
		t.Errorf("a server that hangs: %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	if err := (Client{}).Running(t.Context()); !errors.Is(err, ErrNotInstalled) {
		t.Errorf("no client: %v", err)
	}
}

// What was known before is not passed off as what is known now.
func TestStateOfAServerThatHangs(t *testing.T) {
	t.Parallel()
	a := New(Config{Installed: func() bool { return true }})
	a.state = State{At: time.Now().Add(-time.Hour), Tells: []string{"sshd"}}
	if s := a.State(t.Context()); !errors.Is(s.Err, ErrSilent) {
		t.Errorf("got %+v", s)
	}
}

func TestParseBannedRefuses(t *testing.T) {
	for _, s := range []string{"", "Sorry", "[{'sshd': ['192.0.2.1]", "{'sshd': []}", `[{"a`} {
		if bans, err := parseBanned(s); err == nil {
			t.Errorf("%q gives %v", s, bans)
		}
	}
}

// However much peers lift, there is one call per second, with at most 500 addresses, and none is forgotten.
func TestOneCallASecond(t *testing.T) {
	const addresses = 1200
	var bans []string
	for n := range addresses {
		bans = append(bans, fmt.Sprintf("sshd 10.0.%d.%d", n>>8, n&255))
	}
	dir := fake(t, bans...)
	problems := make(chan string, 100)
	a := New(Config{
		LineFile: "/line", Installed: func() bool { return true }, Unban: func() bool { return true },
		Problem: func(text string) { problems <- text },
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	for n := range addresses {
		a.Lift(prefixes(fmt.Sprintf("10.0.%d.%d", n>>8, n&255))[0])
	}
	begin := time.Now()
	for range (addresses + MaxAtOnce - 1) / MaxAtOnce {
		select {
		case text := <-problems:
			if text != "" {
				t.Error(text)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("no call was made")
		}
	}
	took := time.Since(begin)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	calls, unbanned := 0, 0
	for _, line := range log(t, dir) {
		words := strings.Fields(line)
		if line == "call" {
			calls++
		} else if words[0] == "unban" {
			unbanned += len(words) - 1
			if len(words)-1 > MaxAtOnce {
				t.Errorf("one call has %s addresses", strconv.Itoa(len(words)-1))
			}
		}
	}
	if unbanned != addresses || calls > 2+int(took/minInterval) { // one look at the start
		t.Errorf("%d calls for %d of %d addresses in %v", calls, unbanned, addresses, took)
	}
}

// Whatever peers ask, the client runs for them peerBurst times, then once every minInterval. The answer names a ban
// of each jail before a second ban of any, and nobody waits for a server that hangs.
func TestPeersAskCheaply(t *testing.T) {
	var bans []string
	for n := range 2 * maxPeerBans {
		bans = append(bans, fmt.Sprintf("sshd 192.0.2.%d", n))
	}
	dir := fake(t, append(bans, "own 192.0.2.1")...)
	a := New(Config{Installed: func() bool { return true }})
	got, err := a.BannedForPeer(t.Context(), prefixes("192.0.2.0/24")[0])
	if err != nil || len(got) != maxPeerBans || !slices.Equal(got[:2], []Ban{{"sshd", prefixes("192.0.2.0")[0]}, {"own", prefixes("192.0.2.1")[0]}}) {
		t.Errorf("got %v, %v", got, err)
	}
	put(t, dir, "hangs", "")
	begin := time.Now()
	if got, err := a.BannedForPeer(t.Context(), prefixes("192.0.2.1")[0]); err == nil || len(got) > 0 {
		t.Errorf("a server that hangs bans %v", got)
	}
	if took := time.Since(begin); took >= sessionLimit {
		t.Errorf("a server that hangs keeps a peer waiting for %v", took)
	}
	if err := os.Remove(filepath.Join(dir, "hangs")); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "down", "")
	begin = time.Now()
	busy := 0
	for range 50 {
		if _, err := a.BannedForPeer(t.Context(), prefixes("192.0.2.1")[0]); errors.Is(err, ErrBusy) {
			busy++
		} else if err != nil {
			t.Error(err)
		}
	}
	calls := 0
	for _, line := range log(t, dir) {
		if line == "call" {
			calls++
		}
	}
	if most := peerBurst + 2 + int(time.Since(begin)/minInterval); calls > most || busy == 0 {
		t.Errorf("50 questions ran the client %d times, more than %d; %d were refused", calls, most, busy)
	}
}
