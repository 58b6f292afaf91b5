//go:build linux && netns

package rig

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

// daemonLimit bounds the start of a daemon; fail2ban, written in Python, is the slowest.
const daemonLimit = time.Minute

const (
	// loginLimit bounds a login that sshd should answer.
	loginLimit = 10 * time.Second
	// blockedLimit is how long a login must go unanswered to count as blocked.
	blockedLimit = 2 * time.Second
)

// AuthLog is where the rig's log daemons write the messages of sshd.
const AuthLog = "/var/log/auth.log"

// Require returns an error that names every command that is not installed. A
// missing command is never a reason to skip a test.
func Require(commands ...string) error {
	var errs []error
	for _, c := range commands {
		errs = append(errs, lookPath(c))
	}
	return errors.Join(errs...)
}

// socketReady returns a check that the host has a socket at path.
func (h *Host) socketReady(path string) func(*Proc) error {
	return func(*Proc) error {
		info, err := os.Stat(h.Path(path))
		if err == nil && info.Mode()&os.ModeSocket == 0 {
			err = fmt.Errorf("%s is no socket", path)
		}
		return err
	}
}

// Rsyslog runs rsyslogd on the host's /dev/log, writing AuthLog (auth) and
// /var/log/syslog (all).
func (h *Host) Rsyslog() (*Proc, error) {
	const conf = `module(load="imuxsock")
auth,authpriv.* action(type="omfile" file="` + AuthLog + `" template="RSYSLOG_TraditionalFileFormat")
*.* action(type="omfile" file="/var/log/syslog" template="RSYSLOG_TraditionalFileFormat")
`
	if err := h.WriteFile("/etc/rig/rsyslog.conf", conf); err != nil {
		return nil, err
	}
	return h.StartDaemon(Cmd{
		Argv: []string{"rsyslogd", "-n", "-f", "/etc/rig/rsyslog.conf", "-i", "/run/rsyslogd.pid"},
	}, daemonLimit, h.socketReady("/dev/log"))
}

// BusyboxSyslog runs busybox syslogd on the host's /dev/log, writing AuthLog.
func (h *Host) BusyboxSyslog() (*Proc, error) {
	return h.StartDaemon(Cmd{Argv: []string{"busybox", "syslogd", "-n", "-O", AuthLog}},
		daemonLimit, h.socketReady("/dev/log"))
}

// SSHD runs a real sshd on port 22 with a fresh key. It asks for passwords, none
// of which is right.
func (h *Host) SSHD() (*Proc, error) {
	const conf = `Port 22
HostKey /etc/rig/ssh_host_key
PidFile none
UsePAM no
UseDNS no
PasswordAuthentication yes
KbdInteractiveAuthentication no
PermitRootLogin yes
MaxStartups 100:30:200
MaxAuthTries 1
LogLevel VERBOSE
`
	if err := h.WriteFile("/etc/rig/sshd_config", conf); err != nil {
		return nil, err
	}
	if _, err := h.Do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/etc/rig/ssh_host_key"); err != nil {
		return nil, err
	}
	return h.StartDaemon(Cmd{Argv: []string{"/usr/sbin/sshd", "-D", "-f", "/etc/rig/sshd_config"}}, daemonLimit,
		func(*Proc) error {
			r, err := h.Run("ss", "-Hltn", "sport = :22")
			if err == nil && r.Stdout == "" {
				err = errors.New("nothing listens on port 22")
			}
			return err
		})
}

// FailLogin tries one ssh login with a wrong password from the attacker's
// address src. It returns nil if sshd refused the password, otherwise what ssh
// printed; a banned source gets a timeout.
func (f *Fleet) FailLogin(src, dst netip.Addr) error { return f.failLogin(src, dst, loginLimit) }

// LoginBlocked returns nil if a login from src does not get as far as the password within blockedLimit.
func (f *Fleet) LoginBlocked(src, dst netip.Addr) error {
	if err := f.failLogin(src, dst, blockedLimit); err != nil {
		return nil
	}
	return fmt.Errorf("%v still reaches sshd of %v", src, dst)
}

// failLogin is FailLogin with a limit: a login that is cut off halfway waits forever.
func (f *Fleet) failLogin(src, dst netip.Addr, limit time.Duration) error {
	seconds := strconv.Itoa(int(limit.Seconds()))
	r, err := f.Attacker.Run("timeout", seconds, "sshpass", "-p", "wrong", "ssh", "-b", src.String(),
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
		"-o", "PubkeyAuthentication=no", "-o", "NumberOfPasswordPrompts=1", "-o", "ConnectTimeout="+seconds,
		"root@"+dst.String(), "true")
	if err != nil {
		return err
	}
	said := strings.TrimSpace(r.Stderr)
	// sshpass ends with 5 on a wrong password. With MaxAuthTries 1, sshd may
	// hang up instead, which shows the same: it checked the password.
	if strings.Contains(said, "Permission denied") || strings.Contains(said, "Too many authentication failures") {
		return nil
	}
	return fmt.Errorf("ssh from %v: exit code %d: %s", src, r.Code, said)
}

// loginKey is the attacker's key for Login.
const loginKey = "/root/login"

// Authorize creates user on the host and allows the attacker's Login as root and as user. SSHD must be running.
func (f *Fleet) Authorize(h *Host, user string) error {
	if _, err := os.Stat(f.Attacker.Path(loginKey)); err != nil {
		if _, err := f.Attacker.Do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", loginKey); err != nil {
			return err
		}
	}
	key, err := f.Attacker.ReadFile(loginKey + ".pub")
	if err != nil {
		return err
	}
	_, err = h.Shell(fmt.Sprintf(`sed -i 's/^root:[^:]*:/root:*:/' /etc/shadow
echo '%[1]s:x:4200:4200::/home/%[1]s:/bin/sh' >>/etc/passwd
echo '%[1]s:x:4200:' >>/etc/group
echo '%[1]s:*:19000:0:99999:7:::' >>/etc/shadow
mkdir -p /root/.ssh /home/%[1]s/.ssh
echo '%[2]s' | tee /root/.ssh/authorized_keys >/home/%[1]s/.ssh/authorized_keys
chmod -R go= /root/.ssh /home/%[1]s
chown -R 4200:4200 /home/%[1]s`, user, strings.TrimSpace(key)))
	return err
}

// Login opens a real ssh session from the attacker's address src with the key of Authorize. args are ssh's options, the
// word HOST, which stands for USER@ADDRESS, and the command.
func (f *Fleet) Login(src netip.Addr, user string, dst netip.Addr, args ...string) (*Proc, error) {
	argv := []string{"ssh", "-b", src.String(), "-i", loginKey, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
		"-o", "LogLevel=ERROR", "-o", "ConnectTimeout=60", "-o", "ExitOnForwardFailure=yes", "-o", "BatchMode=yes"}
	for _, a := range args {
		if a == "HOST" {
			a = user + "@" + dst.String()
		}
		argv = append(argv, a)
	}
	return f.Attacker.Start(Cmd{Argv: argv})
}

// Fail2ban runs the host's fail2ban-server with the host's /etc/fail2ban, to
// which a test may add files first, and waits until it answers.
func (h *Host) Fail2ban() (*Proc, error) {
	return h.StartDaemon(Cmd{
		Argv: []string{"fail2ban-server", "-f", "-x", "--logtarget", "/var/log/fail2ban.log", "start"},
	}, daemonLimit, func(*Proc) error {
		_, err := h.Do("fail2ban-client", "ping")
		return err
	})
}

// Fail2banJails returns, for each jail of the host, the addresses it bans now.
func (h *Host) Fail2banJails() (map[string][]string, error) {
	out, err := h.Do("fail2ban-client", "status")
	if err != nil {
		return nil, err
	}
	_, list, _ := strings.Cut(out, "Jail list:")
	jails := map[string][]string{}
	for _, jail := range strings.FieldsFunc(list, func(r rune) bool { return strings.ContainsRune(", \t\n", r) }) {
		status, err := h.Do("fail2ban-client", "status", jail)
		if err != nil {
			return nil, err
		}
		_, banned, _ := strings.Cut(status, "Banned IP list:")
		jails[jail] = strings.Fields(banned)
	}
	return jails, nil
}
