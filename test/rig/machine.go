//go:build linux && netns

package rig

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

const (
	// DebianRoot is the folder where `bash test/run debian` keeps the Debian tree that Boot starts.
	DebianRoot = "/var/cache/meshban-test/debian"
	// bootLimit bounds a boot, from the start of nspawn until systemd has started every service.
	bootLimit = 3 * time.Minute
	// cgroupPrefix starts the name of every machine's control group.
	cgroupPrefix = "meshban-test-"
)

// boot runs in the host; its arguments are the machine's name and control group. The machine's tree is an overlay, so
// DebianRoot stays unchanged. The control group is always of cgroup2, which exists whatever the real machine uses. Each
// machine has its own, because two in one group would end each other's services.
const boot = `set -e
mkdir /run/machine
mount -t tmpfs tmpfs /run/machine
mkdir /run/machine/up /run/machine/work /run/machine/root
mount -t overlay overlay -o lowerdir=` + DebianRoot + `,upperdir=/run/machine/up,workdir=/run/machine/work /run/machine/root
cd /run/machine/root
echo $1 >etc/hostname
echo 127.0.0.1 localhost $1 >etc/hosts
: >etc/machine-id
: >var/log/auth.log # as an earlier boot leaves it: the sshd jail does not start without
ln -s /dev/null etc/systemd/system/systemd-networkd-wait-online.service
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir /sys/fs/cgroup/$2
echo $$ >/sys/fs/cgroup/$2/cgroup.procs
exec systemd-nspawn --quiet --directory=/run/machine/root --machine=$1 --register=no --keep-unit \
	--network-namespace-path=/proc/1/ns/net --capability=CAP_NET_ADMIN,CAP_NET_RAW --boot --link-journal=no \
	--resolv-conf=off --timezone=off --console=pipe`

// Boot turns the host into a machine: a Debian booted by systemd that shares the host's network and nothing else. From then
// on, methods that run commands or access files do so in the machine. It may be called once, before any of them.
func (h *Host) Boot() error {
	if _, err := os.Stat(DebianRoot); err != nil {
		return fmt.Errorf("a Debian to boot, made by `bash test/run debian`: %w", err)
	}
	group := fmt.Sprintf("%s%d-%s", cgroupPrefix, os.Getpid(), h.Name)
	var nspawn *Proc
	_, err := h.StartDaemon(Cmd{Argv: []string{"sh", "-c", boot, "sh", h.Name, group}}, bootLimit, func(p *Proc) error {
		if nspawn == nil {
			nspawn = p
			h.fleet.onClose(func() error { return h.halt(nspawn, group) })
		}
		return h.enterMachine(p)
	})
	if err != nil {
		return fmt.Errorf("boot %s: %w", h.Name, err)
	}
	if failed, err := h.Do("systemctl", "--failed", "--plain", "--no-legend"); err != nil || failed != "" {
		return errors.Join(err, fmt.Errorf("boot %s: these failed: %s", h.Name, failed))
	}
	return nil
}

// enterMachine makes the host's commands run in the machine once systemd has finished its start.
func (h *Host) enterMachine(nspawn *Proc) error {
	children, err := os.ReadFile(h.outer(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", nspawn.PID)))
	if err != nil {
		return err
	}
	init := strings.TrimSpace(string(children))
	comm, err := os.ReadFile(h.outer("/proc/" + init + "/comm"))
	if err != nil || strings.TrimSpace(string(comm)) != "systemd" {
		return fmt.Errorf("systemd has not begun: %q, %w", comm, err)
	}
	enter := []string{"nsenter", "--all", "--target", init, "--wdns=/root", "--"}
	r, err := h.Run(append(enter, "systemctl", "is-system-running", "--wait")...)
	if state := strings.TrimSpace(r.Stdout); err != nil || state != "running" && state != "degraded" {
		return fmt.Errorf("systemd is %q: %s, %w", state, r.Stderr, err)
	}
	h.enter, h.top = enter, "/proc/"+init+"/root"
	return nil
}

// halt ends the machine at once and removes its control group.
func (h *Host) halt(nspawn *Proc, group string) error {
	init := h.enter
	h.enter, h.top = nil, ""
	if init != nil { // ending nspawn alone would leave the machine running
		if _, err := h.Do("kill", "-KILL", init[3]); err != nil {
			return err
		}
	}
	if err := nspawn.Kill(true); err != nil {
		return err
	}
	// The kernel removes processes from their groups a little after they end.
	return Within(stopLimit, func() error {
		_, err := h.Shell("find /sys/fs/cgroup/" + group + " -depth -type d -exec rmdir {} +")
		return err
	})
}
