package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/daemon"
	"github.com/meshban/meshban/cmd/meshban/internal/processors"
	"github.com/meshban/meshban/cmd/meshban/internal/statedir"
	"github.com/meshban/meshban/fw"
	"github.com/meshban/meshban/mesh"
	"github.com/meshban/meshban/mesh/pki"
)

// gcPercent lets the heap grow by half before it is collected: at a million bans the node then takes 230 MB instead of
// 300, at no measurable cost in processor time, because nearly all of the heap holds no pointers.
const gcPercent = 50

const (
	// stopLimit bounds how long the agent takes to stop. A second signal, or systemd, would end it anyway.
	stopLimit = 4500 * time.Millisecond
	// lockWait is how long the agent waits for the folder: a killed agent holds it until the kernel has cleared its memory.
	lockWait = 3 * time.Second
	// minFiles is how many files the agent must be able to open. Each client of the socket takes one, and so does each
	// stream of a peer.
	minFiles = 256
)

// Run runs this node until ctx ends, and at most stopLimit longer, whatever a file system, the kernel or a peer does.
// If nothing is set up it creates a mesh of one.
func Run(ctx context.Context, opts AgentOptions) error {
	if err := enoughFiles(); err != nil {
		return err
	}
	return within(ctx, func() error { return serve(ctx, opts) })
}

// within returns f's error, or an error of its own if f has not returned within stopLimit after ctx is done.
func within(ctx context.Context, f func() error) error {
	if ended, err := daemon.Await(ctx, stopLimit, f); ended {
		return err
	}
	return fmt.Errorf("the agent did not stop within %v and was ended", stopLimit)
}

// enoughFiles refuses a limit on open files that the agent would soon reach. Go has already raised the soft limit to
// the hard one.
func enoughFiles() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	if uint64(limit.Cur) >= minFiles {
		return nil
	}
	return WrongConfig(&control.Error{
		Code:    control.CodeFailed,
		Message: fmt.Sprintf("this process may open %d files, and the agent needs at least %d", limit.Cur, minFiles),
		Hint:    "raise the limit: LimitNOFILE=1024 in the unit (systemctl edit meshban), or `ulimit -n 1024` in the shell",
	})
}

// serve runs this node until ctx ends.
func serve(ctx context.Context, opts AgentOptions) error {
	dir := statedir.Dir(opts.Dir)
	if err := dir.Make(); err != nil {
		return err
	}
	release, err := dir.LockWithin(ctx, lockWait)
	if err != nil {
		return lockHint(dir, err)
	}
	defer func() { _ = release() }()
	cfg, err := opts.config()
	if err != nil {
		return err
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	level := new(slog.LevelVar)
	level.Set(cfg.Log.Level)
	log := newLogger(opts, cfg, level)

	if made, err := setUp(ctx, dir, cfg); err != nil {
		return err
	} else if made {
		log.Info("nothing was set up here: made a mesh of one", "dir", opts.Dir)
	}
	d, err := daemon.New(ctx, daemon.Config{
		Home: dir, Config: cfg, Version: opts.Version, Logger: log, Level: level,
		Reload: opts.Reload, Reread: opts.config,
	})
	if err != nil {
		return err
	}
	if slices.Equal(cfg.Firewall.Backends, []string{fw.NameNone}) {
		clearKernel(ctx, log)
	}
	scaling, stop := context.WithCancel(ctx)
	var scaled sync.WaitGroup
	scaled.Go(func() { processors.Run(scaling) })
	defer scaled.Wait()
	defer stop()
	return d.Run(ctx)
}

// clearKernel removes what an earlier run left, which would keep dropping packets, unless another agent put it there.
func clearKernel(ctx context.Context, log *slog.Logger) {
	release, _, err := fw.Claim()
	if err != nil || os.Geteuid() != 0 {
		return
	}
	defer func() { _ = release() }()
	removed, err := fw.Teardown(ctx, fw.Options{})
	if len(removed) > 0 {
		log.Info("removed an earlier run's bans from the kernel, because the backend is none", "removed", removed)
	}
	if err != nil {
		log.Warn("could not check the kernel for an earlier run's bans; `meshban teardown` removes them", "err", err)
	}
}

// setUp creates a mesh of one if there is none, and reports whether it did. The flags of this run stay out of the
// file. It refuses if there is a join list: its nodes would not let a mesh of one in, so that is not what the
// operator wants. It also refuses on a machine that has been a node: its folder is not mounted, or has lost its key.
func setUp(ctx context.Context, dir statedir.Dir, cfg config.Config) (bool, error) {
	has, err := dir.SetUp()
	if err != nil {
		return false, err
	}
	if has {
		return false, hasKey(dir)
	}
	left, err := dir.Left()
	if err != nil {
		return false, err
	}
	if len(cfg.Join) > 0 && (len(left) == 0 || slices.Equal(left, []string{"node.key"})) { // a join that fails leaves node.key
		return false, WrongConfig(&control.Error{
			Code:    control.CodeUsage,
			Message: fmt.Sprintf("this machine belongs to no mesh yet, so it cannot join %s: it has no key of that mesh", cfg.Join[0]),
			Hint:    "run `meshban invite` on a member, then here: meshban join TOKEN",
		})
	}
	if err := neverANode(ctx, dir); err != nil {
		return false, err
	}
	_, _, err = dir.Init(config.Default(string(dir)))
	return err == nil, err
}

// hasKey refuses a node's folder that has lost the node's key.
func hasKey(dir statedir.Dir) error {
	if _, err := os.Lstat(dir.Identity()); !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return WrongConfig(&control.Error{
		Code:    control.CodeFailed,
		Message: fmt.Sprintf("%s is missing: without it this machine is no longer the node that it was", dir.Identity()),
		Hint:    fmt.Sprintf("put node.key back from a copy; to come back as a new node, move %s away, then `meshban join TOKEN`", dir),
	})
}

// neverANode refuses a machine on which traces of a node are left.
func neverANode(ctx context.Context, dir statedir.Dir) error {
	left, err := dir.Left()
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return WrongConfig(&control.Error{
			Code:    control.CodeFailed,
			Message: fmt.Sprintf("%s is missing, but %s was a node's folder: it has %s", dir.Secrets(), dir, strings.Join(left, ", ")),
			Hint: fmt.Sprintf("put mesh.key back from a copy; to begin anew, move %s away, then `meshban join TOKEN`, or `meshban init` for a new mesh",
				dir),
		})
	}
	release, _, err := fw.Claim()
	if err != nil || os.Geteuid() != 0 {
		return nil // another agent's, which reports it; or nothing can be seen or changed
	}
	defer func() { _ = release() }()
	found, err := fw.Found(ctx, fw.Options{})
	if err != nil || len(found) == 0 {
		return err
	}
	return WrongConfig(&control.Error{
		Code:    control.CodeFailed,
		Message: fmt.Sprintf("%s is missing, though an agent has run on this machine: the kernel has %s", dir.Secrets(), strings.Join(found, ", ")),
		Hint: fmt.Sprintf("if %s is not mounted, mount it; to begin anew, `meshban join TOKEN`, `meshban init` for a new mesh, or `meshban teardown` and this again",
			dir),
	})
}

// config returns what the file says, overridden by the flags.
func (o AgentOptions) config() (config.Config, error) {
	if err := statedir.Dir(o.Dir).Check(); err != nil {
		return config.Config{}, err
	}
	path := o.Config
	if path == "" {
		path = filepath.Join(o.Dir, config.FileName)
	}
	cfg, err := config.Load(path, o.Dir)
	if o.Config == "" && errors.Is(err, fs.ErrNotExist) {
		cfg, err = config.Default(o.Dir), nil
	}
	if err != nil {
		return config.Config{}, err
	}
	set(&cfg.Name, o.Name)
	set(&cfg.Bind, o.Bind)
	set(&cfg.Advertise, o.Advertise)
	set(&cfg.Lines.File, o.LineFile)
	set(&cfg.Metrics, o.Metrics)
	set(&cfg.Log.Format, o.LogFormat)
	if len(o.Join) > 0 {
		cfg.Join = o.Join
	}
	if len(o.Firewall) > 0 {
		cfg.Firewall.Backends = o.Firewall
	}
	return cfg, cfg.Validate()
}

// set stores value unless it is zero.
func set[T comparable](at *T, value T) {
	var unsaid T
	if value != unsaid {
		*at = value
	}
}

// newLogger returns a logger to stderr in the configured format.
func newLogger(opts AgentOptions, cfg config.Config, level slog.Leveler) *slog.Logger {
	handler := &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Value.Kind() == slog.KindTime { // as everywhere else
			a.Value = slog.TimeValue(a.Value.Time().UTC())
		}
		return a
	}}
	if cfg.Log.Format == config.LogJSON {
		return slog.New(slog.NewJSONHandler(opts.Stderr, handler))
	}
	return slog.New(slog.NewTextHandler(opts.Stderr, handler))
}

// Init creates a new mesh in the state folder.
func Init(_ context.Context, opts JoinOptions) (JoinResult, error) {
	dir := statedir.Dir(opts.Dir)
	cfg, err := AgentOptions{Dir: opts.Dir, Name: opts.Name, Bind: opts.Bind}.config()
	if err != nil {
		return JoinResult{}, err
	}
	release, err := lock(dir)
	if err != nil {
		return JoinResult{}, err
	}
	defer func() { _ = release() }()
	identity, secrets, err := dir.Init(cfg)
	if err != nil {
		return JoinResult{}, meshHint(dir, err)
	}
	return JoinResult{
		Name: cfg.Name, ID: identity.ID().String(), Mesh: hex.EncodeToString(secrets.MeshID[:]), Config: dir.Config(),
	}, nil
}

// Join enrols this machine with a token or a certificate.
func Join(ctx context.Context, opts JoinOptions) (JoinResult, error) {
	if opts.Certificate != nil {
		return adoptCertificate(ctx, opts)
	}
	j, err := openJoiner(opts)
	if err != nil {
		return JoinResult{}, err
	}
	defer j.release()
	identity, enrolment, err := j.dir.Join(ctx, opts.Token, j.cfg, j.alone)
	if err != nil {
		return JoinResult{}, meshHint(j.dir, err)
	}
	return JoinResult{
		Name: j.cfg.Name, ID: identity.ID().String(), Mesh: hex.EncodeToString(enrolment.Secrets.MeshID[:]),
		Join: enrolment.Join, Config: j.dir.Config(), NameTaken: enrolment.NameTaken,
	}, nil
}

// Rekey gives this node a new key of its own. Without a token, the authority's key must be in the folder.
func Rekey(ctx context.Context, path, token string) (RekeyResult, error) {
	dir := statedir.Dir(path)
	cfg, err := AgentOptions{Dir: path}.config()
	if err != nil {
		return RekeyResult{}, err
	}
	if has, err := dir.SetUp(); err != nil {
		return RekeyResult{}, err
	} else if !has {
		return RekeyResult{}, noMesh(dir, control.CodeNotFound)
	}
	release, err := lock(dir)
	if err != nil {
		return RekeyResult{}, err
	}
	defer func() { _ = release() }()
	was, is, err := dir.Rekey(ctx, token, cfg.Name)
	if errors.Is(err, pki.ErrNoAuthority) && token == "" {
		return RekeyResult{}, &control.Error{
			Code: control.CodeUsage, Message: "a new key needs a certificate, and the authority's key (ca.key) is not on this node",
			Hint: "make a token with `meshban invite` where it is, then: meshban rotate node-key TOKEN",
		}
	}
	if errors.Is(err, pki.ErrOtherMesh) {
		return RekeyResult{}, &control.Error{
			Code: control.CodePolicy, Message: err.Error(), Hint: "make a token with `meshban invite` on a node of this node's mesh",
		}
	}
	if err != nil {
		return RekeyResult{}, meshHint(dir, err)
	}
	return RekeyResult{Name: cfg.Name, ID: is.String(), Former: was.String()}, nil
}

// noMesh returns the error of a command that needs the keys of a node.
func noMesh(dir statedir.Dir, code control.Code) error {
	return &control.Error{
		Code: code, Message: fmt.Sprintf("this folder belongs to no mesh: %s", dir),
		Hint: "name the node's folder with --dir, or enter a mesh with `meshban join TOKEN`",
	}
}

// joiner is a machine about to join: its folder, locked, and its config.
type joiner struct {
	dir     statedir.Dir
	cfg     config.Config
	alone   bool // the folder has no trace of another member
	release func()
}

// openJoiner locks the folder; the caller must call release.
func openJoiner(opts JoinOptions) (joiner, error) {
	dir := statedir.Dir(opts.Dir)
	cfg, err := AgentOptions{Dir: opts.Dir, Name: opts.Name, Bind: opts.Bind, Join: opts.Join}.config()
	if err != nil {
		return joiner{}, err
	}
	release, err := lock(dir)
	if err != nil {
		return joiner{}, err
	}
	alone, err := daemon.Alone(dir)
	if err != nil {
		return joiner{}, errors.Join(err, release())
	}
	return joiner{dir, cfg, alone, func() { _ = release() }}, nil
}

// lock creates and locks the folder.
func lock(dir statedir.Dir) (release func() error, err error) {
	if err := dir.Make(); err != nil {
		return nil, err
	}
	release, err = dir.Lock()
	return release, lockHint(dir, err)
}

// lockHint adds a hint to the error of a folder in use.
func lockHint(dir statedir.Dir, err error) error {
	if !errors.Is(err, statedir.ErrLocked) {
		return err
	}
	return &control.Error{
		Code:    control.CodeFailed,
		Message: fmt.Sprintf("another agent runs on this folder: %s", dir),
		Hint:    "stop it first (systemctl stop meshban), or choose another folder with --dir",
	}
}

// joinHints say what to do about a token that does not work.
var joinHints = []struct {
	err  error
	code control.Code
	hint string
}{
	{pki.ErrBadToken, control.CodeUsage, "copy the whole line that `meshban invite` prints"},
	{mesh.ErrInviteExpired, control.CodePolicy, "make a new one with `meshban invite` on a member"},
	{mesh.ErrInviteUsed, control.CodePolicy, "make a new one with `meshban invite`, or one for many with --uses"},
	{mesh.ErrInviteUnknown, control.CodePolicy, "make a new one with `meshban invite` on a member"},
	{pki.ErrNoAuthority, control.CodePolicy, "make a token with `meshban invite` on the node that has ca.key in its state folder"},
	{pki.ErrRevoked, control.CodePolicy, "its key counts never again: move the state folder away, and join with a new key"},
	{mesh.ErrNotInviter, control.CodePolicy, "another machine answers at the inviter's address: make a new token with `meshban invite`"},
	{mesh.ErrUnreachable, control.CodeFailed, "the member's agent must run, and its port must be open for TCP and UDP"},
}

// meshHint adds a hint to an error of Init or Join.
func meshHint(dir statedir.Dir, err error) error {
	if errors.Is(err, statedir.ErrHasMesh) {
		return &control.Error{
			Code:    control.CodeFailed,
			Message: fmt.Sprintf("%s: %s", err, dir),
			Hint:    fmt.Sprintf("to leave that mesh for good, move %s away and try again", dir),
		}
	}
	for _, h := range joinHints {
		if errors.Is(err, h.err) {
			return &control.Error{Code: h.code, Message: err.Error(), Hint: h.hint}
		}
	}
	return err
}
