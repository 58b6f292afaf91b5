package setup

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// packaged returns a machine on which a package has brought the units.
func packaged(t *testing.T) Options {
	t.Helper()
	o := machine(t)
	mkdir(t, o.Root+packageDir)
	units, err := PackageUnits()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range units {
		put(t, o.Root+f.Path, string(f.Content))
	}
	return o
}

// A package has the units of setup, but for the marker, which says that setup takes them away.
func TestPackageUnits(t *testing.T) {
	units := files(t, func(Options) ([]File, error) { return PackageUnits() }, node)
	o := node
	o.Binary = packageBinary
	for i, f := range files(t, Systemd, o) {
		if got := string(seal(units[i].Content)); got != string(f.Content) || filepath.Base(units[i].Path) != filepath.Base(f.Path) || units[i].Mode != 0o644 {
			t.Errorf("%s:\n%s\nwant:\n%s", units[i].Path, got, f.Content)
		}
		if !under(units[i].Path, packageDir) || strings.Contains(string(units[i].Content), "setup --remove") {
			t.Errorf("%s:\n%s", units[i].Path, units[i].Content)
		}
	}
	if len(units) != 2 {
		t.Errorf("%d units", len(units))
	}
}

// Where a package brings the unit, setup writes none, and takes away the one that would hide it.
func TestPackageBringsTheUnit(t *testing.T) {
	bare := machine(t)
	old := files(t, Systemd, bare)

	o := packaged(t)
	was := tree(t, o.Root)
	for _, f := range old {
		put(t, o.Root+f.Path, string(f.Content))
	}
	state, runs := "active\n", error(nil)
	o.Run = func(context.Context, string, ...string) ([]byte, error) { return []byte(state), runs }
	set := func() Report {
		t.Helper()
		r, err := Install(t.Context(), files(t, Systemd, o), o)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := set()
	if want := []string{"systemctl daemon-reload", "systemctl reenable meshban", "systemctl restart meshban"}; !slices.Equal(r.Next, want) {
		t.Errorf("next is %q, want %q", r.Next, want)
	}
	if want := []string{unitFile, setsFile}; !slices.Equal(r.Removed, want) || len(r.Written) > 0 || len(r.Notes) != 1 || !strings.Contains(r.Notes[0], packageUnit) {
		t.Errorf("report:\n%s", r)
	}
	same(t, o.Root, was)
	if r := set(); len(r.Next)+len(r.Removed)+len(r.Written) > 0 || len(r.Notes) != 1 {
		t.Errorf("report of the second time:\n%s", r)
	}
	state, runs = "inactive\n", errors.New("exit status 3")
	if r := set(); !slices.Equal(r.Next, []string{"systemctl enable --now meshban"}) {
		t.Errorf("while it does not run: report:\n%s", r)
	}

	// A unit that was edited is not taken away.
	put(t, o.Root+unitFile, string(old[0].Content)+"# mine\n")
	if _, err := Install(t.Context(), files(t, Systemd, o), o); err == nil || !strings.Contains(err.Error(), "a drop-in (systemctl edit meshban)") {
		t.Errorf("an edited unit: %v", err)
	}
}

// The package's unit knows neither a line file elsewhere nor another state folder.
func TestPackagedUnitIsCompleted(t *testing.T) {
	o := packaged(t)
	was := tree(t, o.Root)
	o.LineFile = "/home/web/newbans.log"
	r, err := Install(t.Context(), files(t, Systemd, o), o)
	if err != nil || !slices.Equal(r.Written, []string{dropInFile}) || !slices.Equal(r.Next, []string{"systemctl daemon-reload", "systemctl enable --now meshban"}) {
		t.Fatalf("%v, report:\n%s", err, r)
	}
	text := tree(t, o.Root)[o.Root+dropInFile]
	for _, want := range []string{"\nReadWritePaths=/home/web\n", "\nRequiresMountsFor=/home/web\n", "\nProtectHome=read-only\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("lacks %q:\n%s", want, text)
		}
	}
	was[filepath.Dir(o.Root+dropInFile)] = "folder"
	removed, err := Remove(t.Context(), o)
	if err != nil || !slices.Equal(removed.Removed, []string{dropInFile}) || !slices.Equal(removed.Next, []string{"systemctl daemon-reload"}) {
		t.Errorf("%v, report:\n%s", err, removed)
	}
	same(t, o.Root, was)

	// The line file is in the state folder again: so is the drop-in gone.
	if _, err = Install(t.Context(), files(t, Systemd, o), o); err != nil {
		t.Fatal(err)
	}
	o.LineFile = ""
	if _, err = Install(t.Context(), files(t, Systemd, o), o); err != nil {
		t.Fatal(err)
	}
	same(t, o.Root, was)

	o.Dir = "/srv/meshban"
	if r, err = Install(t.Context(), files(t, Systemd, o), o); err != nil || !slices.Equal(r.Written, []string{unitFile, setsFile}) {
		t.Errorf("another state folder: %v, report:\n%s", err, r)
	}
}

// systemd accepts what completes the package's unit.
func TestDropInIsAUnit(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Log("left out: no systemd-analyze")
		return
	}
	o := packaged(t)
	o.LineFile = "/var/log/newbans.log"
	dir := t.TempDir()
	for _, f := range files(t, func(Options) ([]File, error) { return PackageUnits() }, o) {
		put(t, filepath.Join(dir, filepath.Base(f.Path)), strings.ReplaceAll(string(f.Content), packageBinary, "/bin/true"))
	}
	mkdir(t, filepath.Join(dir, "meshban.service.d"))
	put(t, filepath.Join(dir, "meshban.service.d", filepath.Base(dropInFile)), content(t, files(t, Systemd, o), dropInFile))
	if out, err := exec.Command("systemd-analyze", "verify", "--man=no", filepath.Join(dir, "meshban.service")).CombinedOutput(); err != nil || strings.Contains(string(out), "meshban") {
		t.Errorf("%v\n%s", err, out)
	}
}
