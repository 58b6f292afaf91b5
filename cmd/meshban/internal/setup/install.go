package setup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/meshban/meshban/cmd/meshban/internal/fail2ban"
)

// Report is what Install or Remove did.
type Report struct {
	Written   []string // paths of new and replaced files
	Unchanged []string // paths of files that were already right
	Removed   []string // paths
	Kept      []string // paths of files that were not removed, each with the reason
	Notes     []string // what the user should know
	Next      []string // commands to run, in order
}

// Install writes all files or none. It is an error if an existing file is not ours, or is ours but was changed. For
// fail2ban it also creates a missing line file, and undoes everything if a jail would be worse off.
func Install(ctx context.Context, files []File, opts Options) (Report, error) {
	o, err := opts.complete()
	if err != nil {
		return Report{}, err
	}
	before, err := o.inspect(files)
	if err != nil {
		return Report{}, fmt.Errorf("nothing installed: %w", err)
	}
	for _, need := range []struct{ dir, what string }{{fail2banDir, "fail2ban"}, {"/etc/systemd", "systemd"}, {prometheusDir, "Prometheus"}} {
		if _, err := os.Stat(o.Root + need.dir); err != nil && touches(files, need.dir) {
			return Report{}, fmt.Errorf("nothing installed: %s is not on this machine: %w", need.what, err)
		}
	}
	if touches(files, systemdDir) {
		if err := o.checkPersistent(); err != nil {
			return Report{}, fmt.Errorf("nothing installed: %w", err)
		}
	}
	r, err := o.atomically(ctx, touches(files, fail2banDir), func(c *change) (Report, error) { return c.install(o, files, before) })
	if err != nil {
		return Report{}, fmt.Errorf("nothing installed: %w", err)
	}
	i := slices.IndexFunc(files, func(f File) bool { return f.Path == unitFile })
	r.Next = nextAfterInstall(r.Written, i >= 0 && before[i].status == ours)
	if i >= 0 && files[i].Content == nil {
		r.Notes = append(r.Notes, "the package brings the unit: "+packageUnit)
		r.Next = unique(append(o.nextWithPackage(ctx, r), r.Next...))
	}
	if touches(files, prometheusDir) {
		r.Notes = append(r.Notes, "prometheus.yml has to name the file: `rule_files: ["+filepath.Base(rulesFile)+"]`")
	}
	return r, nil
}

// inspect returns what stands in the places of files, or why some of it must stay.
func (o Options) inspect(files []File) ([]found, error) {
	before := make([]found, len(files))
	var refused []error
	for i, f := range files {
		at, err := inspect(o.Root + f.Path)
		switch {
		case err != nil:
			refused = append(refused, err)
		case at.status == foreign:
			refused = append(refused, fmt.Errorf("%q is not from meshban: move it away first", f.Path))
		case at.status == edited:
			refused = append(refused, fmt.Errorf("%q was edited since meshban installed it: move your changes to %s, delete the file, and try again", f.Path, overrideOf(f.Path)))
		}
		before[i] = at
	}
	return before, errors.Join(refused...)
}

// install writes files, and removes those without content.
func (c *change) install(o Options, files []File, before []found) (r Report, err error) {
	for i, f := range files {
		if f.Content == nil {
			if before[i].status == absent {
				continue
			}
			if err := c.remove(o.Root+f.Path, before[i]); err != nil {
				return r, err
			}
			r.Removed = append(r.Removed, f.Path)
			continue
		}
		if bytes.Equal(before[i].data, f.Content) {
			r.Unchanged = append(r.Unchanged, f.Path)
			continue
		}
		if err := c.folder(filepath.Dir(o.Root+f.Path), 0o755); err != nil {
			return r, err
		}
		if err := c.write(o.Root+f.Path, f.Content, f.Mode, before[i]); err != nil {
			return r, err
		}
		r.Written = append(r.Written, f.Path)
	}
	if touches(files, fail2banDir) {
		return r, c.lineFile(o)
	}
	return r, nil
}

// nextWithPackage returns the commands that put the package's unit into effect.
func (o Options) nextWithPackage(ctx context.Context, r Report) (next []string) {
	if len(r.Removed) > 0 || slices.Contains(r.Written, dropInFile) {
		next = append(next, "systemctl daemon-reload")
	}
	if slices.Contains(r.Removed, unitFile) || slices.Contains(r.Removed, setsFile) {
		next = append(next, "systemctl reenable meshban") // links point to the removed files
	}
	switch {
	case !o.unitRuns(ctx, "meshban.service"):
		next = append(next, "systemctl enable --now meshban")
	case len(next) > 0:
		next = append(next, "systemctl restart meshban")
	}
	return next
}

// nextAfterInstall returns the commands that put written files into effect. upgraded says that an earlier unit of ours was
// replaced.
func nextAfterInstall(written []string, upgraded bool) (next []string) {
	if slices.ContainsFunc(written, func(p string) bool { return under(p, fail2banDir) }) {
		next = append(next, "fail2ban-client reload --restart")
	}
	if slices.Contains(written, rulesFile) {
		next = append(next, "systemctl reload prometheus")
	}
	if slices.Contains(written, unitFile) {
		next = append(next, "systemctl daemon-reload", "systemctl enable --now meshban")
		if upgraded {
			next = append(next, "systemctl restart meshban")
		}
	}
	for _, path := range written {
		if filepath.Ext(path) == ".path" {
			next = append(next, "systemctl daemon-reload", "systemctl enable --now "+filepath.Base(path))
		}
	}
	return unique(next)
}

// unique drops commands that are there already.
func unique(commands []string) (kept []string) {
	for _, c := range commands {
		if !slices.Contains(kept, c) {
			kept = append(kept, c)
		}
	}
	return kept
}

// overrideOf returns where an administrator's changes to the file at path belong.
func overrideOf(path string) string {
	if path == dropInFile {
		return "another drop-in (systemctl edit meshban)"
	}
	if under(path, systemdDir) {
		return "a drop-in (systemctl edit " + strings.TrimSuffix(filepath.Base(path), ".service") + ")"
	}
	if path == rulesFile {
		return "another file of rules"
	}
	return strings.TrimSuffix(path, ".conf") + ".local"
}

func touches(files []File, dir string) bool {
	return slices.ContainsFunc(files, func(f File) bool { return under(f.Path, dir) })
}

// lineFile creates the line file, so that fail2ban can watch it from its next start.
func (c *change) lineFile(o Options) error {
	if err := c.folder(o.Root+filepath.Dir(o.LineFile), 0o700); err != nil {
		return err
	}
	return c.touch(o.Root+o.LineFile, 0o640)
}

// atomically does all of do or nothing. If check is set, fail2ban's configuration must be no worse afterwards.
func (o Options) atomically(ctx context.Context, check bool, do func(*change) (Report, error)) (Report, error) {
	var before dump
	var beforeErr error
	if check {
		before, beforeErr = o.dump(ctx)
	}
	var c change
	r, err := do(&c)
	if err == nil && check {
		err = o.compare(ctx, before, beforeErr, &r)
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return Report{}, errors.Join(err, c.rollback())
	}
	return r, nil
}

// compare returns an error if fail2ban's configuration is worse than before, and adds notes to r.
func (o Options) compare(ctx context.Context, before dump, beforeErr error, r *Report) error {
	if errors.Is(beforeErr, fail2ban.ErrNotInstalled) {
		r.Notes = append(r.Notes, "fail2ban-client is not installed, so fail2ban's jails were not checked")
		return nil
	}
	after, err := o.dump(ctx)
	if beforeErr != nil {
		// It was broken before: there is nothing to compare with.
		if err != nil {
			r.Notes = append(r.Notes, fmt.Sprintf("fail2ban's jails were not checked, because its configuration already had an error: %v", beforeErr))
		}
		return nil
	}
	if err != nil {
		return err
	}
	if err := before.worse(after); err != nil {
		return fmt.Errorf("%w: %w", errWorse, err)
	}
	if !slices.Contains(after.jails, fail2ban.OwnJail) {
		return nil // removed
	}
	if silent := after.silent(); len(silent) > 0 {
		const line = `meshban[port="%(port)s"]`
		names := strings.Join(silent, ", ")
		if file := o.hidesAction(); file != "" {
			r.Notes = append(r.Notes, fmt.Sprintf("these jails do not report their bans to meshban: %s. %q sets action_ for all jails: "+
				"make this the first line of action_ there, and of a jail's own action, if it has one: %s", names, file, line))
		} else {
			r.Notes = append(r.Notes, fmt.Sprintf("these jails set their own actions and do not report their bans to meshban: %s. "+
				"Add this line to each, above its other actions: %s", names, line))
		}
	}
	if twice := after.twice(); len(twice) > 0 {
		r.Notes = append(r.Notes, "these jails write two lines for each ban, because they name meshban themselves: "+strings.Join(twice, ", "))
	}
	return nil
}

// actionSetting matches the line that sets the action which our jail file extends.
var actionSetting = regexp.MustCompile(`(?m)^action_\s*[=:]`)

// hidesAction returns the last file of fail2ban's that is read after ours and sets action_ too, as every copy of
// jail.conf does; "" = none.
func (o Options) hidesAction() (last string) {
	dir := o.Root + fail2banDir
	for _, pattern := range []string{dir + "/jail.d/*.conf", dir + "/jail.local", dir + "/jail.d/*.local"} {
		paths, _ := filepath.Glob(pattern) // sorted; fails only on a bad pattern
		for _, path := range paths {
			text, err := os.ReadFile(path)
			path = strings.TrimPrefix(path, o.Root)
			if err == nil && actionSetting.Match(text) && (strings.HasSuffix(path, ".local") || path > jailFile) {
				last = path
			}
		}
	}
	return last
}

// Remove deletes what Install wrote, or Options.Only of it, all or nothing. It keeps the line
// file, and keeps and reports files that were edited or are not ours. It is an error if a jail names our action
// itself: without the action, fail2ban would skip the jail.
func Remove(ctx context.Context, opts Options) (Report, error) {
	o, err := opts.complete()
	if err != nil {
		return Report{}, err
	}
	paths := append([]string{rulesFile, dropInFile, setsFile, unitFile}, fail2banFiles...)
	for _, program := range slices.Sorted(maps.Values(readers)) {
		paths = append(paths, reloadFile(program, ".service"), reloadFile(program, ".path"))
	}
	slices.Reverse(paths) // the jail first, since it needs the others
	if o.Only != "" {
		folder := map[string]string{"fail2ban": fail2banDir, "systemd": systemdDir, "prometheus": prometheusDir}[o.Only]
		paths = slices.DeleteFunc(paths, func(path string) bool { return !under(path, folder) })
	}
	at := make(map[string]found)
	var kept []string
	for _, path := range paths {
		f, err := inspect(o.Root + path)
		if err != nil {
			return Report{}, fmt.Errorf("nothing removed: %w", err)
		}
		switch {
		case f.status == foreign:
			kept = append(kept, path+" (not from meshban)")
		case f.status == edited:
			kept = append(kept, path+" (edited since it was installed; delete it yourself)")
		case f.status == ours && under(path, fail2banDir) && at[jailFile].status == edited:
			f.status = edited
			kept = append(kept, path+" (needed by "+jailFile+")")
		}
		at[path] = f
	}
	remove := func(c *change) (Report, error) {
		r := Report{Kept: kept}
		for _, path := range paths {
			if at[path].status != ours {
				continue
			}
			if err := c.remove(o.Root+path, at[path]); err != nil {
				return r, err
			}
			r.Removed = append(r.Removed, path)
		}
		for _, unit := range paths {
			link := linkOf(unit)
			if target, err := os.Readlink(o.Root + link); err != nil || target != unit || at[unit].status != ours {
				continue
			}
			if err := c.unlink(o.Root + link); err != nil {
				return r, err
			}
			r.Removed = append(r.Removed, link)
		}
		return r, nil
	}
	check := slices.ContainsFunc(fail2banFiles, func(p string) bool { return at[p].status == ours })
	r, err := o.atomically(ctx, check, remove)
	if errors.Is(err, errWorse) {
		return Report{}, fmt.Errorf("nothing removed: %w; delete the lines that name meshban from these jails first", err)
	}
	if err != nil {
		return Report{}, fmt.Errorf("nothing removed: %w", err)
	}
	o.nextAfterRemove(ctx, &r, check)
	return r, nil
}

// nextAfterRemove adds the commands that put a removal into effect, and what stays.
func (o Options) nextAfterRemove(ctx context.Context, r *Report, fail2ban bool) {
	if fail2ban {
		r.Next = append(r.Next, "fail2ban-client reload --restart")
	}
	if slices.Contains(r.Removed, rulesFile) {
		r.Next = append(r.Next, "systemctl reload prometheus")
	}
	reload := false
	for _, path := range r.Removed {
		if unit := filepath.Base(path); filepath.Ext(path) == ".path" && filepath.Dir(path) == systemdDir && o.unitRuns(ctx, unit) {
			r.Next, reload = append(r.Next, "systemctl stop "+unit), true
		}
	}
	reload = reload || slices.Contains(r.Removed, dropInFile)
	if slices.Contains(r.Removed, unitFile) {
		if o.unitRuns(ctx, "meshban.service") {
			r.Next = append(r.Next, "systemctl stop meshban")
		}
		reload = true
		r.Notes = append(r.Notes, "bans that are still in the kernel stay there until they end; once the agent has stopped, `meshban teardown` removes them")
	}
	if reload {
		r.Next = append(r.Next, "systemctl daemon-reload")
	}
}

// unitRuns reports whether systemd runs a unit, or is about to.
func (o Options) unitRuns(ctx context.Context, unit string) bool {
	out, _ := o.Run(ctx, "systemctl", "is-active", unit) // fails unless it says active
	switch strings.TrimSpace(string(out)) {
	case "active", "activating", "reloading", "deactivating":
		return true
	}
	return false
}
