package hostinfo

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// How to tell an authenticated session from an attempt to log in.
//
// OpenSSH names its processes (setproctitle). While a client is being authenticated, they are "[accepted]", "NAME
// [priv]" and "NAME [net]". Only do_authenticated (session.c) names one "NAME", or with a session "NAME@pts/0" or
// "NAME@notty". The process is called sshd up to 9.7, and sshd-session since. That process holds the connection's
// socket; unless NAME is root, so does its parent, the monitor, which runs as root. Both are required: a process that a
// user names "sshd: root" covers nobody, because its parent is not a root sshd that holds the same socket.

const (
	// lookAgain is how long a process that was found not to be sshd is not examined again. The same holds for a
	// socket without another end if its session has a connection. A session without one is examined each time: the
	// kernel may leave a connection out of one reading of its table while others in the same bucket end.
	lookAgain = 30 * time.Second
	// maxFDs bounds how many descriptors of one process are examined.
	maxFDs = 1024
	// maxLogind bounds how much of one of logind's files is read, in bytes.
	maxLogind = 16 << 10
)

// sshd is one process of the OpenSSH server.
type sshd struct {
	pid, parent int
	root        bool   // all its user ids are 0
	user        string // whose authenticated session it is; "" if it is none
	begins      bool   // it serves a connection, and nobody is logged in yet
}

// find returns the present sessions. If no process has started since the last look and nobody was logging in, no
// session can have begun, so the last result still holds. The look is repeated every lookAgain in any case.
func (s *Sessions) find(now time.Time) ([]session, error) {
	newest := s.newestProcess()
	if newest != "" && newest == s.last.newest && !now.After(s.allAgain) {
		return s.last.sessions, s.last.err
	}
	processes, err := s.sshds(now)
	if err != nil {
		return nil, err
	}
	found, settled, err := s.sessionsOf(processes)
	if !settled {
		newest = ""
	}
	s.last = look{newest, found, err}
	return found, err
}

// sessionsOf returns the sessions that processes serve. settled reports whether nobody is about to be logged in.
func (s *Sessions) sessionsOf(processes map[int]sshd) (found []session, settled bool, err error) {
	found, settled = s.logind(processes), !beginning(processes)
	peers := map[socket]netip.Addr{}
	var errs []error
	for _, p := range processes {
		if p.user == "" {
			continue
		}
		addr, err := s.peerOf(p, processes, peers)
		switch {
		case err == nil && !addr.IsLoopback():
			found = append(found, session{addr, p.user})
		case errors.Is(err, errNoConnection):
			settled = false
		case errors.Is(err, fs.ErrPermission) && !slices.ContainsFunc(found, func(f session) bool { return f.user == p.user }):
			errs = append(errs, fmt.Errorf("the ssh session of %s is not protected from bans: its address cannot be read: %w", p.user, err))
		}
	}
	s.peers = peers
	return found, settled, errors.Join(errs...)
}

// newestProcess returns the number of the process that started last, or "" if it is unknown.
func (s *Sessions) newestProcess() string {
	if s.load == nil {
		if self, _ := os.Readlink(filepath.Join(s.procDir, "self")); self != strconv.Itoa(os.Getpid()) {
			return "" // /proc belongs to another PID namespace, whose processes loadavg does not count
		}
		f, err := os.Open(filepath.Join(s.procDir, "loadavg"))
		if err != nil {
			return ""
		}
		s.load = f
	}
	text := make([]byte, 128)
	n, _ := s.load.ReadAt(text, 0)
	words := strings.Fields(string(text[:n]))
	if len(words) == 0 {
		return ""
	}
	return words[len(words)-1]
}

// beginning reports whether someone may be logging in. A process of root's that serves a connection has finished the
// login once it has a child of the user's.
func beginning(all map[int]sshd) bool {
	begun := map[int]bool{}
	for _, p := range all {
		begun[p.parent] = begun[p.parent] || p.user != ""
	}
	for pid, p := range all {
		if p.begins && !begun[pid] {
			return true
		}
	}
	return false
}

// sshds returns the sshd processes by pid.
func (s *Sessions) sshds(now time.Time) (map[int]sshd, error) {
	dir, err := os.Open(s.procDir)
	if err != nil {
		return nil, fmt.Errorf("look for ssh sessions: %w", err)
	}
	names, err := dir.Readdirnames(-1)
	_ = dir.Close()
	if err != nil {
		return nil, fmt.Errorf("look for ssh sessions: %w", err)
	}
	known := s.others
	if now.After(s.allAgain) {
		known, s.peers, s.allAgain = nil, nil, now.Add(lookAgain)
	}
	s.others = make(map[int]bool, len(names))
	out := map[int]sshd{}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if !known[pid] {
			if p, ok := s.process(pid); ok {
				out[pid] = p
				continue
			}
		}
		s.others[pid] = true
	}
	return out, nil
}

// process reads what a process is; ok is false if it is not sshd, or gone.
func (s *Sessions) process(pid int) (sshd, bool) {
	comm, err := os.ReadFile(s.proc(pid, "comm"))
	if err != nil {
		return sshd{}, false
	}
	if name := string(bytes.TrimSpace(comm)); name != "sshd" && name != "sshd-session" {
		return sshd{}, false
	}
	status, err := os.ReadFile(s.proc(pid, "status"))
	if err != nil {
		return sshd{}, false
	}
	title, err := os.ReadFile(s.proc(pid, "cmdline"))
	if err != nil {
		return sshd{}, false
	}
	text := string(bytes.TrimRight(title, "\x00"))
	p := sshd{pid: pid, user: sessionUser(text)}
	p.begins = p.user == "" && strings.HasPrefix(text, "sshd") && !strings.Contains(text, "[listener]")
	for line := range strings.Lines(string(status)) {
		key, rest, _ := strings.Cut(line, ":")
		words := strings.Fields(rest)
		switch {
		case key == "PPid" && len(words) == 1:
			p.parent, _ = strconv.Atoi(words[0]) // 0 is nobody's parent
		case key == "Uid":
			p.root = len(words) == 4 && !slices.ContainsFunc(words, func(id string) bool { return id != "0" })
		}
	}
	return p, true
}

func (s *Sessions) proc(pid int, name string) string {
	return filepath.Join(s.procDir, strconv.Itoa(pid), name)
}

// sessionUser returns the user whose session a process title names, or "" if it names none.
func sessionUser(title string) string {
	rest, ok := strings.CutPrefix(title, "sshd: ")
	if !ok {
		rest, ok = strings.CutPrefix(title, "sshd-session: ")
	}
	if !ok || strings.ContainsFunc(rest, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '[' || r == ']' }) {
		return ""
	}
	user, _, _ := strings.Cut(rest, "@")
	return user
}

// errNoConnection means that the session has no connection to identify it by: it is about to begin or to end.
var errNoConnection = errors.New("no connection")

// peerOf returns the other end of an authenticated session. It adds what it learns about each socket to peers.
func (s *Sessions) peerOf(p sshd, all map[int]sshd, peers map[socket]netip.Addr) (netip.Addr, error) {
	holder := p
	if !p.root {
		if holder = all[p.parent]; !holder.root {
			return netip.Addr{}, errNoConnection
		}
	}
	// The connection is the socket that sshd has had longest: forwarded ones came later and have higher numbers.
	sockets, err := s.sockets(holder.pid)
	if err != nil {
		return netip.Addr{}, err
	}
	mine := sockets
	if holder.pid != p.pid {
		if mine, err = s.sockets(p.pid); err != nil {
			return netip.Addr{}, err
		}
	}
	for _, inode := range sockets {
		if !slices.Contains(mine, inode) {
			continue
		}
		sock := socket{p.pid, inode}
		addr, known := s.peers[sock]
		if !known {
			addr = s.remote(p.pid, inode)
		}
		if peers[sock] = addr; addr.IsValid() {
			return addr, nil
		}
	}
	for _, inode := range sockets {
		delete(peers, socket{p.pid, inode}) // ask again at the next reading: nobody may be left out for long
	}
	return netip.Addr{}, errNoConnection
}

// sockets returns the inodes of a process's sockets, ordered by descriptor number.
func (s *Sessions) sockets(pid int) ([]uint64, error) {
	dir, err := os.Open(s.proc(pid, "fd"))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(maxFDs)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(len(a)-len(b), strings.Compare(a, b)) })
	var out []uint64
	for _, name := range names {
		link, err := os.Readlink(filepath.Join(s.proc(pid, "fd"), name))
		if errors.Is(err, fs.ErrPermission) {
			return nil, err // the folder can be readable when its links are not
		}
		if err != nil {
			continue // closed in the meantime
		}
		if text, ok := strings.CutPrefix(link, "socket:["); ok {
			if inode, err := strconv.ParseUint(strings.TrimSuffix(text, "]"), 10, 64); err == nil {
				out = append(out, inode)
			}
		}
	}
	return out, nil
}

// remote returns the other end of an established TCP connection in the network namespace of a process, or the zero Addr
// if the socket is not one.
func (s *Sessions) remote(pid int, inode uint64) netip.Addr {
	for _, table := range []string{"net/tcp", "net/tcp6"} {
		f, err := os.Open(s.proc(pid, table))
		if err != nil {
			continue // a kernel without IPv6
		}
		addr := remoteIn(bufio.NewScanner(f), inode)
		_ = f.Close()
		if addr.IsValid() {
			return addr
		}
	}
	return netip.Addr{}
}

// remoteIn reads the table of proc_net_tcp(5).
func remoteIn(lines *bufio.Scanner, inode uint64) netip.Addr {
	const (
		remoteColumn, stateColumn, inodeColumn = 2, 3, 9
		established                            = "01"
	)
	want := strconv.FormatUint(inode, 10)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) > inodeColumn && words[inodeColumn] == want && words[stateColumn] == established {
			text, _, _ := strings.Cut(words[remoteColumn], ":")
			return hexAddr(text)
		}
	}
	return netip.Addr{}
}

// hexAddr parses an address as the kernel prints it there: words of 32 bits, each in the machine's byte order.
func hexAddr(text string) netip.Addr {
	var raw []byte
	for ; len(text) >= 8; text = text[8:] {
		word, err := strconv.ParseUint(text[:8], 16, 32)
		if err != nil {
			return netip.Addr{}
		}
		raw = binary.NativeEndian.AppendUint32(raw, uint32(word))
	}
	addr, _ := netip.AddrFromSlice(raw)
	return addr.Unmap()
}

// logind returns the ssh sessions that systemd-logind knows: pam_systemd reports a user who has been authenticated. The
// agent can read them even in the systemd unit's sandbox, in which it cannot look into other processes. A missing file or
// folder is no error.
func (s *Sessions) logind(processes map[int]sshd) []session {
	names, err := filepath.Glob(filepath.Join(s.logindDir, "*"))
	if err != nil {
		return nil // a bad pattern, which this is not
	}
	var out []session
	for _, name := range names[:min(len(names), 4*MaxSessions)] {
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		text := make([]byte, maxLogind)
		n, _ := f.Read(text) // if nothing is read, there is no session
		_ = f.Close()
		if found, leader, ok := logindSession(string(text[:n])); ok && processes[leader].pid == leader {
			out = append(out, found)
		}
	}
	return out
}

// logindSession parses one file of logind.
func logindSession(text string) (found session, leader int, ok bool) {
	values := map[string]string{}
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		values[key] = strings.Trim(value, `"`)
	}
	addr, err := netip.ParseAddr(values["REMOTE_HOST"]) // names are never resolved
	leader, pidErr := strconv.Atoi(values["LEADER"])
	if err != nil || pidErr != nil || addr.IsLoopback() || values["REMOTE"] != "1" || values["SERVICE"] != "sshd" || values["STATE"] == "closing" {
		return session{}, 0, false
	}
	return session{addr.Unmap().WithZone(""), values["USER"]}, leader, true
}
