//go:build linux && netns

package rig

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// hostSetup tells a new holder how to set up its namespaces.
type hostSetup struct {
	Name    string            // host name
	Scratch string            // empty folder on a real disk, for this host alone
	Binds   map[string]string // path in the host -> file or folder of the machine
	Sysctls map[string]string // below /proc/sys
	Tmpfs   []string          // more empty folders
}

// stateDir is on the real disk in every host.
const stateDir = "/var/lib/meshban"

// apply runs inside the holder, once.
func (s *hostSetup) apply() error {
	if err := unix.Sethostname([]byte(s.Name)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	if err := s.root(); err != nil {
		return err
	}
	for name, value := range s.Sysctls {
		if err := os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0); err != nil {
			return fmt.Errorf("sysctl %s=%s: %w", name, value, err)
		}
	}
	return s.files()
}

// root builds the host's own tree and moves into it.
func (s *hostSetup) root() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// The state folder must be opened before the tmpfs hides it.
	state, err := unix.Open(s.Scratch, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %q: %w", s.Scratch, err)
	}
	defer unix.Close(state)
	m := mounter{}
	m.mount("tmpfs", s.Scratch, "tmpfs", 0, "mode=755")
	up, work, root := s.Scratch+"/up", s.Scratch+"/work", s.Scratch+"/root"
	m.mkdir(up, work, root)
	m.mount("overlay", root, "overlay", 0, "lowerdir=/,upperdir="+up+",workdir="+work)
	for _, dir := range append([]string{"/run", "/tmp", "/dev", "/var/log"}, s.Tmpfs...) {
		m.mkdir(root + dir)
		m.mount("tmpfs", root+dir, "tmpfs", 0, "mode=755")
	}
	m.mount("proc", root+"/proc", "proc", 0, "")
	m.mount("sysfs", root+"/sys", "sysfs", 0, "")
	m.devices(root + "/dev")
	m.mkdir(root+"/run/lock", root+"/run/sshd", root+"/run/fail2ban", root+stateDir)
	m.bind(fmt.Sprintf("/proc/self/fd/%d", state), root+stateDir)
	for target, source := range s.Binds {
		m.bind(source, root+target)
	}
	if m.err != nil {
		return m.err
	}
	if err := os.Chmod(root+"/tmp", 0o777|os.ModeSticky); err != nil {
		return err
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	// This stacks the old root on the new one, where it is unmounted at once: pivot_root(2).
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change the root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the old root: %w", err)
	}
	return os.Chdir("/")
}

// files gives the host a name that resolves, and a resolver that refuses at once
// because nothing listens there.
func (s *hostSetup) files() error {
	for name, content := range map[string]string{
		"/etc/hosts":       "127.0.0.1 localhost " + s.Name + "\n::1 localhost\n",
		"/etc/resolv.conf": "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
		"/etc/hostname":    s.Name + "\n",
	} {
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// mounter keeps the first error, so that a list of mounts reads as a list.
type mounter struct{ err error }

func (m *mounter) mkdir(dirs ...string) {
	for _, dir := range dirs {
		if m.err == nil {
			m.err = os.MkdirAll(dir, 0o755)
		}
	}
}

func (m *mounter) mount(source, target, kind string, flags uintptr, data string) {
	if m.err != nil {
		return
	}
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		m.err = fmt.Errorf("mount %s on %q: %w", kind, target, err)
	}
}

// bind mounts the file or folder source at target.
func (m *mounter) bind(source, target string) {
	if m.err != nil {
		return
	}
	info, err := os.Stat(source)
	if err != nil {
		m.err = err
		return
	}
	if !info.IsDir() {
		m.mkdir(filepath.Dir(target))
		if m.err != nil {
			return
		}
		if m.err = os.WriteFile(target, nil, 0o755); m.err != nil {
			return
		}
	}
	m.mount(source, target, "", unix.MS_BIND, "")
}

// devices fills an empty /dev with what daemons need.
func (m *mounter) devices(dev string) {
	for name, minor := range map[string]uint32{"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9} {
		if m.err != nil {
			return
		}
		path := dev + "/" + name
		if m.err = unix.Mknod(path, unix.S_IFCHR, int(unix.Mkdev(1, minor))); m.err == nil {
			m.err = os.Chmod(path, 0o666) // mknod obeys the umask
		}
	}
	m.mkdir(dev+"/pts", dev+"/shm")
	m.mount("devpts", dev+"/pts", "devpts", 0, "newinstance,ptmxmode=0666,mode=620")
	m.mount("tmpfs", dev+"/shm", "tmpfs", 0, "")
	for name, target := range map[string]string{
		"ptmx": "pts/ptmx", "fd": "/proc/self/fd",
		"stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		if m.err == nil {
			m.err = os.Symlink(target, dev+"/"+name)
		}
	}
}

// forkExec starts a request's command in a session of its own.
func forkExec(path string, req request, files []uintptr) (int, error) {
	dir := req.Dir
	if dir == "" {
		dir = "/root"
	}
	return syscall.ForkExec(path, req.Argv, &syscall.ProcAttr{
		Dir: dir, Env: req.Env, Files: files, Sys: &syscall.SysProcAttr{Setsid: true},
	})
}

// lookPath returns an error unless a host would find the command.
func lookPath(name string) error {
	for _, dir := range strings.Split(hostPath, ":") {
		if _, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return nil
		}
	}
	return fmt.Errorf("%s is not installed", name)
}
