// Package setup knows the files that a machine needs beside the meshban binary, a systemd unit and
// fail2ban's action, filters and jail, and puts them there and takes them away.
//
// It writes only files of its own: each begins with a marker and the digest of what follows, so that a
// file that is not ours is never overwritten, and one that was edited neither overwritten nor removed.
// Install and Remove do all of it or nothing. Where fail2ban is, both hold what it makes of its
// configuration before and after against each other, and undo everything if a jail would lose an action.
package setup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"github.com/meshban/meshban/fw"
)

//go:embed files
var embedded embed.FS

// Marker is the first line of every file that Install writes.
const Marker = "# installed by meshban; `meshban setup --remove` takes it away"

// digestPrefix begins the second line; the SHA-256 of all that follows stands behind it.
const digestPrefix = "# sha256 of what follows: "

// Where the files go.
const (
	fail2banDir = "/etc/fail2ban"
	jailFile    = fail2banDir + "/jail.d/meshban.conf"
	systemdDir  = "/etc/systemd/system"
	unitFile    = systemdDir + "/meshban.service"
	setsFile    = systemdDir + "/meshban-sets.service"
)

// wantsLinks are made by `systemctl enable`, each to a unit.
var wantsLinks = map[string]string{
	unitFile: systemdDir + "/multi-user.target.wants/meshban.service",
	setsFile: systemdDir + "/sysinit.target.wants/meshban-sets.service",
}

// fail2banFiles, the jail last: it needs the others.
var fail2banFiles = []string{
	fail2banDir + "/action.d/meshban.conf",
	fail2banDir + "/action.d/meshban-show.conf",
	fail2banDir + "/filter.d/meshban.conf",
	jailFile,
}

// File is one file to install.
type File struct {
	Path    string // absolute, without Options.Root
	Mode    fs.FileMode
	Content []byte // marker and digest included
}

// Options say for which node the files are, and where they go. The zero value is this program, with its
// state in /var/lib/meshban, on this machine.
type Options struct {
	Root     string        // in front of every path that is read or written; "" and "/" are the machine itself
	Binary   string        // the agent's program; "" = this one
	Dir      string        // the agent's state folder; "" = /var/lib/meshban
	LineFile string        // the agent's lines.file; "" = newbans.log in Dir
	Only     string        // of Remove: "fail2ban" or "systemd"; "" = both
	Shown    time.Duration // for how long fail2ban shows a ban of the mesh; 0 = 30 min; whole seconds

	// Run runs a program and returns its stdout; an error tells what it wrote to stderr. nil = for real.
	Run func(ctx context.Context, name string, args ...string) ([]byte, error)
}

const (
	defaultDir   = "/var/lib/meshban"
	defaultShown = 30 * time.Minute // as long as a ban for which nobody says a length
	maxPath      = 1000             // bytes of a path that stands in the files
)

// plainPath tells which paths may stand in the files: fail2ban, the shell and systemd each give a meaning
// of their own to blanks, quotes, %, $ and the like.
func plainPath(path string) bool {
	return len(path) > 1 && len(path) <= maxPath && path[0] == '/' && !strings.ContainsFunc(path, func(r rune) bool {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		return !letter && !strings.ContainsRune("._/+@-", r)
	})
}

// complete fills in what o leaves out, and checks the rest.
func (o Options) complete() (Options, error) {
	if o.Binary == "" {
		exe, err := os.Executable()
		if err != nil {
			return o, fmt.Errorf("find the path of this program: %w", err)
		}
		o.Binary = exe
	}
	if o.Dir == "" {
		o.Dir = defaultDir
	}
	if o.LineFile == "" {
		o.LineFile = filepath.Join(o.Dir, "newbans.log")
	}
	if o.Shown == 0 {
		o.Shown = defaultShown
	}
	if o.Shown < time.Second {
		return o, fmt.Errorf("fail2ban counts in seconds: %s is too short", o.Shown)
	}
	if o.Root == "/" {
		o.Root = ""
	}
	if o.Run == nil {
		o.Run = run
	}
	for _, p := range []struct{ what, path string }{{"program", o.Binary}, {"state folder", o.Dir}, {"line file", o.LineFile}} {
		if !plainPath(p.path) || filepath.Clean(p.path) != p.path {
			return o, fmt.Errorf("the path of the %s, %q, cannot stand in these files: use an absolute one of letters, digits and ._/+@-", p.what, p.path)
		}
	}
	return o, nil
}

// Fail2banInstalled reports whether Install has connected this machine's fail2ban.
func Fail2banInstalled() bool {
	_, err := os.Stat(jailFile)
	return err == nil
}

// Fail2ban returns the files with which fail2ban tells meshban of its bans and shows those of the mesh.
func Fail2ban(o Options) ([]File, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	var files []File
	for _, path := range fail2banFiles {
		f, err := render(path, strings.Replace(path, fail2banDir, "files/fail2ban", 1), map[string]any{
			"LineFile": o.LineFile,
			"JailFile": jailFile,
			"Shown":    int64(o.Shown / time.Second),
		})
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// Systemd returns the unit that runs the agent, and one that makes its empty sets at boot, before saved rules are loaded. Install
// refuses them for a program or a state folder that does not outlive a boot.
func Systemd(o Options) ([]File, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	v := struct {
		Binary, Dir, LineDir, StateDirectory, ProtectHome string
		Writable                                          []string
	}{Binary: o.Binary, Dir: o.Dir, ProtectHome: "yes"}
	if rest, ok := strings.CutPrefix(o.Dir, "/var/lib/"); ok {
		v.StateDirectory = rest
	} else {
		v.Writable = append(v.Writable, o.Dir)
	}
	if !under(o.LineFile, o.Dir) {
		if v.LineDir = filepath.Dir(o.LineFile); v.LineDir == "/" {
			return nil, fmt.Errorf("the line file is %q, so that all of / would have to be writable: put it into a folder", o.LineFile)
		}
		v.Writable = append(v.Writable, v.LineDir)
	}
	if homes := []string{"/home", "/root"}; under(o.Binary, homes...) || under(o.Dir, homes...) || under(o.LineFile, homes...) {
		v.ProtectHome = "read-only"
	}
	f, err := render(unitFile, "files/systemd/meshban.service", v)
	if err != nil {
		return nil, err
	}
	sets, err := render(setsFile, "files/systemd/meshban-sets.service", struct{ Sets []string }{fw.EmptySets()})
	if err != nil {
		return nil, err
	}
	return []File{f, sets}, nil
}

// lasting refuses places where a service cannot live: those that a boot empties, and /tmp, of which it sees one
// of its own.
func (o Options) lasting() error {
	for _, p := range []struct{ what, path string }{{"program", o.Binary}, {"state folder", o.Dir}} {
		if under(p.path, "/tmp", "/var/tmp", "/dev", "/proc", "/sys", "/run") {
			return fmt.Errorf("the %s, %q, does not outlive a boot: put it elsewhere", p.what, p.path)
		}
	}
	if under(o.LineFile, "/tmp", "/var/tmp") {
		return fmt.Errorf("the line file is %q, but a service sees a /tmp of its own: put it elsewhere", o.LineFile)
	}
	return nil
}

// under reports whether path is one of folders or inside one.
func under(path string, folders ...string) bool {
	for _, f := range folders {
		if path == f || strings.HasPrefix(path, f+"/") {
			return true
		}
	}
	return false
}

// render makes the file at path of an embedded template.
func render(path, name string, values any) (File, error) {
	t, err := template.New(filepath.Base(name)).Option("missingkey=error").ParseFS(embedded, name)
	if err != nil {
		return File{}, fmt.Errorf("read the template of %q: %w", path, err)
	}
	var b bytes.Buffer
	if err := t.Execute(&b, values); err != nil {
		return File{}, fmt.Errorf("fill in the template of %q: %w", path, err)
	}
	return File{Path: path, Mode: 0o644, Content: seal(b.Bytes())}, nil
}

// seal puts marker and digest in front of body.
func seal(body []byte) []byte {
	sum := sha256.Sum256(body)
	return append([]byte(Marker+"\n"+digestPrefix+hex.EncodeToString(sum[:])+"\n"), body...)
}

// Print returns files as text: one by itself as it is, several each below its path.
func Print(files []File) string {
	if len(files) == 1 {
		return string(files[0].Content)
	}
	var b strings.Builder
	for i, f := range files {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "==> %s <==\n%s", f.Path, f.Content)
	}
	return b.String()
}
