package hostinfo

import (
	"bufio"
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestSessionUser(t *testing.T) {
	for title, want := range map[string]string{
		"sshd: root@pts/0":              "root",
		"sshd: root@pts/0,pts/1":        "root",
		"sshd: alice@notty":             "alice",
		"sshd: alice":                   "alice",
		"sshd-session: alice@notty":     "alice",
		"sshd: DOMAIN\\alice@notty":     "DOMAIN\\alice",
		"sshd: [accepted]":              "",
		"sshd: root [priv]":             "",
		"sshd: root [net]":              "",
		"sshd: unknown [net]":           "",
		"sshd-session: root [priv]":     "",
		"sshd-session: root [postauth]": "",
		"sshd-auth: root [net]":         "",
		"sshd-auth: root":               "",
		"/usr/sbin/sshd\x00-D\x00-R":    "",
		"sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups": "",
		"sshd: ":    "",
		"bash":      "",
		"":          "",
		"sshd: @no": "",
	} {
		if got := sessionUser(title); got != want {
			t.Errorf("title %q: user %q, want %q", title, got, want)
		}
	}
}

// fakeProc is a folder like /proc.
type fakeProc struct {
	t   *testing.T
	dir string
}

// fakeSessions returns a Sessions that reads an empty fakeProc.
func fakeSessions(t *testing.T) (*Sessions, fakeProc) {
	s := NewSessions()
	s.procDir, s.logindDir = t.TempDir(), t.TempDir()
	return s, fakeProc{t, s.procDir}
}

// process adds a process. sockets are inodes, in the order of their descriptors.
func (f fakeProc) process(pid, parent int, comm, title, uid string, sockets ...int) {
	f.t.Helper()
	f.file(fmt.Sprintf("%d/comm", pid), comm+"\n")
	f.file(fmt.Sprintf("%d/cmdline", pid), title+"\x00")
	f.file(fmt.Sprintf("%d/status", pid), fmt.Sprintf("Name:\t%s\nPPid:\t%d\nUid:\t%s\n", comm, parent, strings.Repeat(uid+"\t", 4)))
	f.file(fmt.Sprintf("%d/net/tcp", pid), table)
	f.file(fmt.Sprintf("%d/net/tcp6", pid), table6)
	fd := filepath.Join(f.dir, fmt.Sprint(pid), "fd")
	if err := os.MkdirAll(fd, 0o755); err != nil {
		f.t.Fatal(err)
	}
	links := []string{"/dev/null", "pipe:[7]", "socket:[9000]"} // standard error may be journald's socket
	for _, inode := range sockets {
		links = append(links, fmt.Sprintf("socket:[%d]", inode))
	}
	for i, link := range links {
		if err := os.Symlink(link, filepath.Join(fd, fmt.Sprint(i))); err != nil {
			f.t.Fatal(err)
		}
	}
}

func (f fakeProc) file(name, text string) {
	f.t.Helper()
	path := filepath.Join(f.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

// From a little-endian machine: 192.0.2.1, .2 and .3 (the last in TIME_WAIT), and 2001:db8::4 and ::ffff:192.0.2.5.
const (
	table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100000A:0016 010200C0:D431 01 00000000:00000000 02:000A7214 00000000     0        0 101 4 0000000000000000 20 4 29 10 -1
   1: 0100000A:0016 020200C0:D432 01 00000000:00000000 02:000A7214 00000000     0        0 102 4 0000000000000000 20 4 29 10 -1
   2: 0100000A:0016 030200C0:D433 06 00000000:00000000 02:000A7214 00000000     0        0 103 4 0000000000000000 20 4 29 10 -1
`
	table6 = `  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:0016 B80D0120000000000000000004000000:D434 01 00000000:00000000 02:000A7214 00000000     0        0 104 4 0 20 4 29 10 -1
   1: 0000000000000000FFFF00000100000A:0016 0000000000000000FFFF0000050200C0:D435 01 00000000:00000000 02:000A7214 00000000     0        0 105 4 0 20 4 29 10 -1
`
)

func TestFindSessions(t *testing.T) {
	for _, c := range []struct {
		name  string
		build func(fakeProc)
		want  []string
	}{
		{"ok: root", func(f fakeProc) { f.process(10, 1, "sshd", "sshd: root@pts/0", "0", 101) }, []string{"192.0.2.1"}},
		{"ok: user", func(f fakeProc) {
			f.process(10, 1, "sshd", "sshd: alice [priv]", "0", 101)
			f.process(11, 10, "sshd", "sshd: alice@notty", "4200", 101)
		}, []string{"192.0.2.1"}},
		{"ok: user of a newer sshd, IPv6", func(f fakeProc) {
			f.process(10, 1, "sshd-session", "sshd-session: alice [priv]", "0", 104)
			f.process(11, 10, "sshd-session", "sshd-session: alice@notty", "4200", 104)
		}, []string{"2001:db8::4"}},
		{"ok: IPv4 in IPv6", func(f fakeProc) { f.process(10, 1, "sshd", "sshd: root", "0", 105) }, []string{"192.0.2.5"}},
		// Connections that the session forwards come after its own; their other ends are strangers.
		{"ok: only the connection, not what it forwards", func(f fakeProc) { f.process(10, 1, "sshd", "sshd: root@notty", "0", 101, 102, 104) }, []string{"192.0.2.1"}},
		{"ok: nor what a user forwards", func(f fakeProc) {
			f.process(10, 1, "sshd", "sshd: alice [priv]", "0", 101)
			f.process(11, 10, "sshd", "sshd: alice@notty", "4200", 102, 101, 104)
		}, []string{"192.0.2.1"}},
		{"bad: being authenticated", func(f fakeProc) {
			f.process(10, 1, "sshd", "sshd: root [priv]", "0", 101)
			f.process(11, 10, "sshd", "sshd: root [net]", "102", 101)
			f.process(12, 1, "sshd", "sshd: [accepted]", "0", 102)
			f.process(13, 1, "sshd-auth", "sshd-auth: root [net]", "102", 102)
		}, nil},
		{"bad: a user's process that looks like root's session", func(f fakeProc) {
			f.process(10, 1, "sshd", "sshd: root@pts/0", "4200", 101)
		}, nil},
		{"bad: a user's process that looks like a session, below one that looks like its monitor", func(f fakeProc) {
			f.process(10, 1, "sshd", "sshd: root [priv]", "4200", 101)
			f.process(11, 10, "sshd", "sshd: root@pts/0", "4200", 101)
		}, nil},
		{"bad: a user's connection that the monitor does not hold", func(f fakeProc) {
			f.process(10, 1, "sshd", "sshd: alice [priv]", "0", 9001)
			f.process(11, 10, "sshd", "sshd: alice@notty", "4200", 101)
		}, nil},
		{"bad: another program of root", func(f fakeProc) { f.process(10, 1, "nginx", "sshd: root", "0", 101) }, nil},
		{"bad: connection is over", func(f fakeProc) { f.process(10, 1, "sshd", "sshd: root@pts/0", "0", 103) }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, f := fakeSessions(t)
			c.build(f)
			for range 2 { // the second look already knows the sockets
				got, err := s.Read(time.Now())
				if err != nil {
					t.Fatal(err)
				}
				if got := addrsOf(got); !slices.Equal(got, c.want) {
					t.Errorf("found %v, want %v", got, c.want)
				}
			}
		})
	}
}

func addrsOf(entries []Entry) []string {
	var out []string
	for _, e := range entries {
		out = append(out, e.Prefix.Addr().String())
	}
	return out
}

// A connection that was missing from one reading of the kernel's table is found by the next one.
func TestSessionLeftOutOfATable(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	s, f := fakeSessions(t)
	f.process(10, 1, "sshd", "sshd: root@notty", "0", 101)
	f.file("10/net/tcp", "")
	for _, c := range []struct {
		after time.Duration
		want  []string
	}{{0, nil}, {time.Second, []string{"192.0.2.1"}}} {
		got, err := s.Read(now.Add(c.after))
		if err != nil {
			t.Fatal(err)
		}
		if got := addrsOf(got); !slices.Equal(got, c.want) {
			t.Errorf("after %v: found %v, want %v", c.after, got, c.want)
		}
		f.file("10/net/tcp", table)
	}
}

func TestSessionsEndAndAreBounded(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	s, f := fakeSessions(t)
	f.process(10, 1, "sshd", "sshd: root@pts/0", "0", 101)
	read := func(at time.Time) []string {
		t.Helper()
		got, err := s.Read(at)
		if err != nil {
			t.Fatal(err)
		}
		return addrsOf(got)
	}
	read(now)
	if err := os.RemoveAll(filepath.Join(s.procDir, "10")); err != nil {
		t.Fatal(err)
	}
	if got := read(now.Add(SessionLinger)); !slices.Equal(got, []string{"192.0.2.1"}) {
		t.Errorf("the session has just ended: %v", got)
	}
	if got := read(now.Add(SessionLinger + 1)); got != nil {
		t.Errorf("the session ended long ago: %v", got)
	}
	// Live sessions keep their place; one that has ended gives it up.
	for i := range MaxSessions {
		s.covered[netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})] = cover{"alice", now}
	}
	f.process(12, 1, "sshd", "sshd: root@pts/0", "0", 102)
	if got := read(now); len(got) != MaxSessions || slices.Contains(got, "192.0.2.2") {
		t.Errorf("%d addresses with all places taken", len(got))
	}
	if got := read(now.Add(time.Second)); len(got) != MaxSessions || !slices.Contains(got, "192.0.2.2") {
		t.Errorf("%d addresses; connections without a login crowded out a logged-in user", len(got))
	}
}

// Looking at every process each second would be most of an idle agent's work, so a look is repeated only if a session
// may have begun since.
func TestSessionsAreLookedForAgain(t *testing.T) {
	const quiet, listener = "0.00 0.01 0.05 1/80 99\n", "sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups"
	for _, c := range []struct {
		name     string
		before   func(fakeProc) // beside a listener and bash
		loadavg  string         // at the second look
		after    time.Duration
		want     bool   // the second look sees the session that has begun
		self     string // link in /proc
		noKernel bool   // there is no loadavg
	}{
		{name: "ok: nothing started"},
		{name: "ok: a user is logged in, nothing started", before: func(f fakeProc) {
			f.process(50, 1, "sshd", "sshd: alice [priv]", "0", 101)
			f.process(51, 50, "sshd", "sshd: alice@notty", "4200", 101)
		}},
		{name: "ok: a process started", loadavg: "0.00 0.01 0.05 1/80 100\n", want: true},
		{name: "ok: long ago", after: lookAgain + time.Second, want: true},
		{name: "ok: a login is under way", before: func(f fakeProc) { f.process(50, 1, "sshd", "sshd: root [priv]", "0") }, want: true},
		{name: "ok: a connection is new", before: func(f fakeProc) { f.process(50, 1, "sshd-session", "sshd-session: [accepted]", "0") }, want: true},
		{name: "ok: a session without a connection yet", before: func(f fakeProc) { f.process(50, 1, "sshd", "sshd: root", "0") }, want: true},
		{name: "ok: /proc of another namespace", self: "1", want: true},
		{name: "ok: no loadavg", noKernel: true, want: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, f := fakeSessions(t)
			f.process(10, 1, "sshd", listener, "0")
			f.process(20, 1, "bash", "bash", "4200")
			if c.before != nil {
				c.before(f)
			}
			if !c.noKernel {
				f.file("loadavg", quiet)
			}
			if err := os.Symlink(cmp.Or(c.self, fmt.Sprint(os.Getpid())), filepath.Join(s.procDir, "self")); err != nil {
				t.Fatal(err)
			}
			now := time.Now()
			if _, err := s.Read(now); err != nil {
				t.Fatal(err)
			}
			f.process(60, 1, "sshd", "sshd: root@pts/0", "0", 102)
			if c.loadavg != "" {
				f.file("loadavg", c.loadavg)
			}
			got, err := s.Read(now.Add(max(c.after, time.Second)))
			if err != nil {
				t.Fatal(err)
			}
			if found := slices.Contains(addrsOf(got), "192.0.2.2"); found != c.want {
				t.Errorf("the second look found %v", addrsOf(got))
			}
		})
	}
}

// In a sandbox the agent cannot look into other processes and relies on logind.
func TestSessionsOfLogind(t *testing.T) {
	const good = "# This is private data. Do not parse.\nUID=4200\nUSER=alice\nACTIVE=1\nSTATE=active\nREMOTE=1\nTYPE=tty\nCLASS=user\n" +
		"REMOTE_HOST=192.0.2.77\nSERVICE=sshd\nLEADER=10\n"
	for _, c := range []struct {
		name, text, want string
	}{
		{"ok: session", good, "192.0.2.77"},
		{"ok: IPv6", strings.Replace(good, "192.0.2.77", "2001:db8::7", 1), "2001:db8::7"},
		{"bad: name of a host", strings.Replace(good, "192.0.2.77", "host.example", 1), ""},
		{"bad: leader is gone", strings.Replace(good, "LEADER=10", "LEADER=4711", 1), ""},
		{"bad: leader is no sshd", strings.Replace(good, "LEADER=10", "LEADER=20", 1), ""},
		{"bad: over", strings.Replace(good, "STATE=active", "STATE=closing", 1), ""},
		{"bad: not from afar", strings.Replace(good, "REMOTE=1", "REMOTE=0", 1), ""},
		{"bad: another service", strings.Replace(good, "SERVICE=sshd", "SERVICE=su", 1), ""},
		{"bad: empty", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, f := fakeSessions(t)
			f.process(10, 1, "sshd", "sshd: alice [priv]", "0")
			f.process(20, 1, "bash", "bash", "4200")
			if err := os.WriteFile(filepath.Join(s.logindDir, "c1"), []byte(c.text), 0o644); err != nil {
				t.Fatal(err)
			}
			got, err := s.Read(time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(addrsOf(got), " "); got != c.want {
				t.Errorf("found %q, want %q", got, c.want)
			}
		})
	}
}

func FuzzLogindSession(f *testing.F) {
	f.Add("USER=alice\nSTATE=active\nREMOTE=1\nREMOTE_HOST=192.0.2.77\nSERVICE=sshd\nLEADER=10\n")
	f.Fuzz(func(t *testing.T, text string) {
		found, leader, ok := logindSession(text)
		if !ok {
			return
		}
		again := fmt.Sprintf("USER=%s\nREMOTE=1\nREMOTE_HOST=%v\nSERVICE=sshd\nLEADER=%d\n", found.user, found.addr, leader)
		if found2, leader2, ok := logindSession(again); !ok || found2 != found || leader2 != leader {
			t.Errorf("%q gives %+v, and that gives %+v", text, found, found2)
		}
	})
}

func FuzzRemoteIn(f *testing.F) {
	f.Add(table, uint64(101))
	f.Add(table6, uint64(105))
	f.Fuzz(func(t *testing.T, text string, inode uint64) {
		addr := remoteIn(bufio.NewScanner(strings.NewReader(text)), inode)
		if addr.Is4In6() {
			t.Errorf("%v is IPv4 in IPv6", addr)
		}
		if addr.IsValid() && !strings.Contains(text, fmt.Sprint(inode)) {
			t.Errorf("%v for an inode that is not there", addr)
		}
	})
}
