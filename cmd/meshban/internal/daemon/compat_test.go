package daemon

import (
	"context"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/hostinfo"
	"github.com/meshban/meshban/cmd/meshban/internal/statedir"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/pki"
)

// The files below testdata/v0.1.0 were written by agents of that version: the state folders of web1, where the mesh
// began, and of web2; the export of the authority's key; the request and the answer of web4, which was never started; a
// token; and what the version showed of all that. The keys in them are used nowhere else.
const (
	released   = "testdata/v0.1.0"
	recordedAt = released + "/recorded"
)

var record = flag.Bool("record", false, "have agents write "+released+" anew")

// broken says what to do if the version that is being written does not read what v0.1.0 wrote.
const broken = `nodes of v0.1.0 are in use: an upgrade would lose this, and the two versions would not work in one mesh.
Have the new code read the old form too, and write a new one only where v0.1.0 does not look.
As long as v0.1.0 is not released, the form may change: go test ./cmd/meshban/internal/daemon -run 'TestReadsV010$' -record`

// What v0.1.0 has on disk means the same to this version.
func TestReadsV010(t *testing.T) {
	t.Parallel()
	if *record {
		recordRelease(t)
	}
	at, err := time.Parse(time.RFC3339, strings.TrimSpace(text(t, recordedAt)))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"web1", "web2"} {
		t.Run(name, func(t *testing.T) {
			dir := copyFolder(t, filepath.Join(released, name))
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(time.Until(at)) // its bans and certificates have long ended today
				compare(t, name+".txt", showFolder(t, statedir.Dir(dir)))
			})
		})
	}
	t.Run("enrolment", func(t *testing.T) { compare(t, "enrolment.txt", showEnrolment(t)) })
}

// compare checks that this version shows what v0.1.0 showed.
func compare(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join(released, name)
	if *record {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want := text(t, path); got != want {
		t.Errorf("%s: v0.1.0 showed\n%s\nthis version shows\n%s\n%s", name, want, got, broken)
	}
}

func text(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// copyFolder returns a copy of a folder that only its owner can read.
func copyFolder(t *testing.T, from string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		return os.Chmod(path, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// showFolder opens a state folder as an agent does, and returns what its commands would print.
func showFolder(t *testing.T, dir statedir.Dir) string {
	t.Helper()
	cfg, err := config.Load(dir.Config(), string(dir))
	if err != nil {
		t.Fatalf("%v\n%s", err, broken)
	}
	log := &logBuffer{}
	d, err := New(t.Context(), Config{
		Home: dir, Config: cfg, Version: "test", Level: new(slog.LevelVar), Logger: slog.New(slog.NewTextHandler(log, nil)),
		Reread: func() (config.Config, error) { return cfg, nil },
		Host:   func() ([]hostinfo.Entry, error) { return nil, nil },
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, broken)
	}
	var lines []string
	add := func(format string, args ...any) error {
		lines = append(lines, fmt.Sprintf(format, args...))
		return nil
	}
	check := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	audited := make(chan error, 1)
	go func() { audited <- d.audit.Run(ctx) }()
	check(d.List(ctx, false, func(e control.ListEntry) error {
		return add("ban %v %q until %v by %q (%q), %q from %s", e.Prefix, e.Ports, e.Until, e.Origins, e.OriginIDs, e.Reason, e.Source)
	}))
	check(d.Held(ctx, func(e control.HeldEntry) error {
		return add("held %s of %v %q until %v by %s (%s), %q from %s: %s", e.Kind, e.Prefix, e.Ports, e.Until, e.Origin, e.ID, e.Reason, e.Source, e.By)
	}))
	check(d.Audit(ctx, time.Time{}, func(e control.AuditEntry) error {
		return add("audit %v %s %v via %s by %s (%s), %q from %q", e.Time, e.What, e.Prefixes, e.Via, e.Node, e.NodeID, e.Reason, e.Source)
	}))
	allowed, err := d.Allowed(ctx)
	check(err)
	for _, a := range allowed {
		if a.Source == "mesh" || strings.Contains(a.Source, "member") {
			check(add("allowed %v until %v by %s, %q from %s", a.Prefix, a.Until, a.Origin, a.Reason, a.Source))
		}
	}
	keys, err := d.Keys(ctx)
	check(err)
	for _, k := range keys.Keys {
		check(add("key %s may %v, %d a minute", k.Name, k.May, k.Rate))
	}
	check(d.store.Frames(func(arrived time.Time, raw []byte) error { return add("%s", shownFrame(t, d, arrived, raw)) }))
	paused, all, on := d.pauses.at(time.Now())
	check(add("paused %t until %v, %q, all: %t", on, paused.Until, paused.Reason, all))
	for i := range byte(8) {
		addr := netip.AddrFrom4([4]byte{192, 0, 2, i})
		check(add("offences of %v: %d", addr, d.state.Offences.Count(time.Now(), addr, time.Hour)))
	}
	if text := log.String(); strings.Contains(text, "could not") || strings.Contains(text, "skipped") {
		t.Errorf("the log: %s\n%s", text, broken)
	}
	stop()
	check(<-audited)
	check(d.close())
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

// shownFrame returns what a stored frame says.
func shownFrame(t *testing.T, d *Daemon, arrived time.Time, raw []byte) string {
	f, err := frame.Decode(raw)
	if err == nil {
		err = f.Verify()
	}
	if err != nil {
		t.Errorf("%v\n%s", err, broken)
	}
	said := fmt.Sprintf("%q", f.Payload)
	if ops, err := ban.DecodeOps(f.Payload); err == nil {
		said = fmt.Sprint(ops)
	}
	switch r := pki.Record(f).(type) {
	case pki.Certificate:
		said = fmt.Sprintf("certificate of %s: %s, rate %d, import %t, until %v", r.ID(), r.Name, r.Caps.Rate, r.Caps.Import, r.NotAfter)
	case pki.Revocation:
		said = fmt.Sprintf("revocation of %s", r.Node)
	case pki.Grant:
		said = fmt.Sprintf("key %d for %v", r.Version.Generation(), r.Nodes())
	}
	return fmt.Sprintf("frame %d.%d of %s (trusted: %t) arrived %v: %s", f.Epoch, f.Seq, f.Origin, d.mesh.Trusts(f.Origin), arrived, said)
}

// showEnrolment returns what the token, the request, its answer and the exported key say.
func showEnrolment(t *testing.T) string {
	t.Helper()
	token, err := pki.ParseToken(text(t, released+"/token"))
	if err != nil {
		t.Errorf("%v\n%s", err, broken)
	}
	dir := copyFolder(t, filepath.Join(released, "web4"))
	request, err := pki.ParseRequest([]byte(text(t, filepath.Join(dir, "request"))))
	if err != nil {
		t.Errorf("%v\n%s", err, broken)
	}
	id, enrolment, err := statedir.Dir(dir).Adopt([]byte(text(t, filepath.Join(dir, "answer"))), testConfig(statedir.Dir(dir), ""), false, true)
	if err != nil {
		t.Fatalf("%v\n%s", err, broken)
	}
	keys, err := statedir.Dir(dir).Keys()
	if err != nil {
		t.Fatalf("%v\n%s", err, broken)
	}
	authority, secrets, err := pki.LoadExport(filepath.Join(copyFolder(t, released+"/export"), "ca.key"))
	if err != nil {
		t.Fatalf("%v\n%s", err, broken)
	}
	return fmt.Sprintf("token: %v, inviter %s, until %v\nrequest: %s of %s\nanswer: %s for %s, mesh %x, generation %d\nexport: %s, mesh %x\n",
		len(token.Addrs), token.Inviter, token.Expires, request.Name, frame.IDOf(request.Node), enrolment.Certificate.Name, id.ID(),
		keys.Secrets.MeshID, keys.Secrets.Generation, frame.IDOf(authority.Public()), secrets.MeshID)
}
