// Package setup installs and removes the files that a machine needs besides the meshban binary: systemd units,
// fail2ban's action, filter and jail, and Prometheus's alert rules; it also has a board for Grafana.
//
// It writes only its own files. Each starts with a marker and a digest of the rest, so it never overwrites a file
// that is not its own, and neither overwrites nor removes one that was edited. Install and Remove do everything or
// nothing. With fail2ban, both compare its parsed configuration before and after, and undo everything if a jail would
// lose an action.
package setup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/meshban/meshban/fw"
)

//go:embed files
var embedded embed.FS

// Marker is the first line of every file that Install writes.
const Marker = "# installed by meshban; `meshban setup --remove` takes it away"

// digestPrefix starts the second line; the SHA-256 of everything after that line follows it.
const digestPrefix = "# sha256 of what follows: "

// Where the files go.
const (
	fail2banDir = "/etc/fail2ban"
	jailFile    = fail2banDir + "/jail.d/meshban.conf"
	systemdDir  = "/etc/systemd/system"
	unitFile    = systemdDir + "/meshban.service"
	setsFile    = systemdDir + "/meshban-sets.service"
	dropInFile  = unitFile + ".d/meshban-line-file.conf"

	// A package has the program and its units here.
	packageBinary = "/usr/sbin/meshban"
	packageDir    = "/usr/lib/systemd/system"
	packageUnit   = packageDir + "/meshban.service"

	prometheusDir = "/etc/prometheus"
	rulesFile     = prometheusDir + "/meshban.rules.yml"
)

// wantsLinks are the links that `systemctl enable` makes, by unit.
var wantsLinks = map[string]string{
	unitFile: systemdDir + "/multi-user.target.wants/meshban.service",
	setsFile: systemdDir + "/sysinit.target.wants/meshban-sets.service",
}

// readers are the programs, by the format of the lists that they read at a reload.
var readers = map[string]string{"nginx": "nginx", "haproxy": "haproxy", "postfix-cidr": "postfix"}

// reloadFile returns the path of a unit that reloads a program when a list of its changes.
func reloadFile(program, ext string) string { return systemdDir + "/meshban-" + program + ext }

// linkOf returns the link that `systemctl enable` makes for a unit; "" = none.
func linkOf(unit string) string {
	if filepath.Ext(unit) == ".path" {
		return systemdDir + "/paths.target.wants/" + filepath.Base(unit)
	}
	return wantsLinks[unit]
}

// fail2banFiles has the jail last, since it needs the others.
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
	Content []byte // including marker and digest; nil = if it is there, it is removed
}

// Options say which node the files are for and where they go. The zero value is this program on this machine, with
// its state in /var/lib/meshban.
type Options struct {
	Root     string        // prefix of every path that is read or written; "" and "/" are the machine itself
	Binary   string        // the agent's program; "" = this one
	Dir      string        // the agent's state folder; "" = /var/lib/meshban
	LineFile string        // the agent's lines.file; "" = newbans.log in Dir
	Only     string        // of Remove: "fail2ban", "systemd" or "prometheus"; "" = all
	Lists    []List        // the agent's files
	Shown    time.Duration // how long fail2ban shows a ban of the mesh, in whole seconds; 0 = 30 min

	// Run runs a program and returns its stdout; an error includes what it wrote to stderr. nil = really run it.
	Run func(ctx context.Context, name string, args ...string) ([]byte, error)
}

// List is a list that the agent writes.
type List struct{ Name, Format string }

const (
	defaultDir   = "/var/lib/meshban"
	defaultShown = 30 * time.Minute // the default duration of a ban
	maxPath      = 1000             // bytes of a path in the files
)

// plainPath reports whether path may appear in the files: fail2ban, the shell and systemd treat blanks, quotes, %, $
// and the like specially.
func plainPath(path string) bool {
	return len(path) > 1 && len(path) <= maxPath && path[0] == '/' && !strings.ContainsFunc(path, func(r rune) bool {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		return !letter && !strings.ContainsRune("._/+@-", r)
	})
}

// complete fills in the defaults of o and checks the rest.
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
			return o, fmt.Errorf("the path of the %s, %q, cannot be used in these files: choose an absolute one of letters, digits and ._/+@-", p.what, p.path)
		}
	}
	return o, nil
}

// Fail2banInstalled reports whether Install has connected this machine's fail2ban.
func Fail2banInstalled() bool {
	_, err := os.Stat(jailFile)
	return err == nil
}

// Fail2ban returns the files with which fail2ban reports its bans to meshban and shows those of the mesh.
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

// Systemd returns the unit that runs the agent, one that creates its empty sets at boot, before saved rules are loaded, and
// those that reload the programs that read its lists. Install refuses them if the program or the state folder does not
// survive a reboot. Where a package has brought the first two, they are not wanted, since they would hide the package's.
func Systemd(o Options) ([]File, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	packaged := o.Dir == defaultDir && o.has(packageUnit)
	if packaged {
		o.Binary = packageBinary
	}
	v, err := o.unitValues()
	if err != nil {
		return nil, err
	}
	list := []File{{Path: unitFile}, {Path: setsFile}, {Path: dropInFile}}
	switch {
	case !packaged:
		list, err = o.units(v)
	case v.LineDir != "":
		list[2], err = render(dropInFile, "files/systemd/line-file.conf", v)
	}
	if err != nil {
		return nil, err
	}
	reload, err := reloads(o)
	return append(list, reload...), err
}

// PackageUnits returns the units that a package brings. Nobody is to remove them with setup, so they have no marker.
func PackageUnits() ([]File, error) {
	o, err := Options{Binary: packageBinary}.complete()
	if err != nil {
		return nil, err
	}
	v, err := o.unitValues()
	if err != nil {
		return nil, err
	}
	list, err := o.units(v)
	for i, f := range list {
		lines := bytes.SplitAfterN(f.Content, []byte("\n"), 3)
		list[i] = File{Path: packageDir + "/" + filepath.Base(f.Path), Mode: f.Mode, Content: lines[2]}
	}
	return list, err
}

// Packaged reports whether a package has brought the agent's unit to this machine, and which of setup's units hide it.
func Packaged() (packaged bool, hiding []string) {
	var o Options
	if !o.has(packageUnit) {
		return false, nil
	}
	for _, path := range []string{unitFile, setsFile} {
		if o.has(path) {
			hiding = append(hiding, path)
		}
	}
	return true, hiding
}

// has reports whether a file is there.
func (o Options) has(path string) bool {
	_, err := os.Stat(o.Root + path)
	return err == nil
}

// unitValues are what the templates of the units name.
type unitValues struct {
	Binary, Dir, LineDir, StateDirectory, ProtectHome string
	Writable                                          []string
}

func (o Options) unitValues() (unitValues, error) {
	v := unitValues{Binary: o.Binary, Dir: o.Dir, ProtectHome: "yes"}
	if rest, ok := strings.CutPrefix(o.Dir, "/var/lib/"); ok {
		v.StateDirectory = rest
	} else {
		v.Writable = append(v.Writable, o.Dir)
	}
	if !under(o.LineFile, o.Dir) {
		if v.LineDir = filepath.Dir(o.LineFile); v.LineDir == "/" {
			return v, fmt.Errorf("the line file is %q, so all of / would have to be writable: put it into a folder", o.LineFile)
		}
		v.Writable = append(v.Writable, v.LineDir)
	}
	if homes := []string{"/home", "/root"}; under(o.Binary, homes...) || under(o.Dir, homes...) || under(o.LineFile, homes...) {
		v.ProtectHome = "read-only"
	}
	return v, nil
}

// units returns the unit of the agent and that of its sets.
func (o Options) units(v unitValues) ([]File, error) {
	f, err := render(unitFile, "files/systemd/meshban.service", v)
	if err != nil {
		return nil, err
	}
	sets, err := render(setsFile, "files/systemd/meshban-sets.service", struct{ Sets []string }{fw.EmptySets()})
	return []File{f, sets}, err
}

// Prometheus returns the alert rules.
func Prometheus(Options) ([]File, error) {
	text, err := embedded.ReadFile("files/prometheus/meshban.rules.yml")
	return []File{{Path: rulesFile, Mode: 0o644, Content: seal(text)}}, err
}

// Grafana returns the board, which is imported by hand and is not for Install.
func Grafana(Options) ([]File, error) {
	text, err := embedded.ReadFile("files/grafana/meshban.json")
	return []File{{Content: text}}, err
}

// reloads returns two units for each program that reads lists: one that waits for a change, one that reloads.
func reloads(o Options) (files []File, err error) {
	lists := map[string][]string{} // by program
	for _, l := range o.Lists {
		if program := readers[l.Format]; program != "" {
			lists[program] = append(lists[program], filepath.Join(o.Dir, "feeds", l.Name))
		}
	}
	for _, program := range slices.Sorted(maps.Keys(lists)) {
		for _, ext := range []string{".path", ".service"} {
			f, err := render(reloadFile(program, ext), "files/systemd/reload"+ext, map[string]any{"Program": program, "Lists": lists[program]})
			if err != nil {
				return nil, err
			}
			files = append(files, f)
		}
	}
	return files, nil
}

// checkPersistent refuses places where a service cannot keep files: those that a reboot empties, and /tmp, which is
// private to each service.
func (o Options) checkPersistent() error {
	for _, p := range []struct{ what, path string }{{"program", o.Binary}, {"state folder", o.Dir}} {
		if under(p.path, "/tmp", "/var/tmp", "/dev", "/proc", "/sys", "/run") {
			return fmt.Errorf("the %s, %q, does not survive a reboot: put it elsewhere", p.what, p.path)
		}
	}
	if under(o.LineFile, "/tmp", "/var/tmp") {
		return fmt.Errorf("the line file is %q, but a service has its own /tmp: put it elsewhere", o.LineFile)
	}
	return nil
}

// under reports whether path is one of folders or below one.
func under(path string, folders ...string) bool {
	for _, f := range folders {
		if path == f || strings.HasPrefix(path, f+"/") {
			return true
		}
	}
	return false
}

// render returns the file at path, made from an embedded template.
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

// seal prepends marker and digest to body.
func seal(body []byte) []byte {
	sum := sha256.Sum256(body)
	return append([]byte(Marker+"\n"+digestPrefix+hex.EncodeToString(sum[:])+"\n"), body...)
}

// Print returns files as text: a single one as it is, several each after its path.
func Print(files []File) string {
	files = slices.DeleteFunc(slices.Clone(files), func(f File) bool { return f.Content == nil })
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
