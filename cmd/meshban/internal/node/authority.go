package node

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/daemon"
	"github.com/meshban/meshban/cmd/meshban/internal/statedir"
	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/pki"
)

// UseAuthority signs with the authority's key, or moves it.
func UseAuthority(_ context.Context, opts CAOptions) (CAResult, error) {
	dir := statedir.Dir(opts.Dir)
	if opts.Do == "sign" {
		q, e, err := dir.Sign(opts.Request, opts.Key, daemon.CertificateCaps(opts.Caps), time.Now())
		if err != nil {
			return CAResult{}, caHint(dir, opts.Key == "", err)
		}
		return CAResult{
			Text: e.Text(),
			Said: fmt.Sprintf("certified %s (%s) until %s", q.Name, frame.IDOf(q.Node).Short(), control.FormatTime(e.Certificate.NotAfter)),
			Next: "on the new machine: meshban join --certificate FILE --join HOST",
		}, nil
	}
	if opts.Do == "import" || opts.Move {
		release, err := dir.Lock()
		if err != nil {
			return CAResult{}, lockHint(dir, err)
		}
		defer func() { _ = release() }()
	}
	switch {
	case opts.Do == "import":
		if err := dir.Import(opts.File); err != nil {
			return CAResult{}, caHint(dir, false, err)
		}
		return CAResult{Said: "the authority's key is on this node", Next: "start the agent"}, nil
	case opts.Move:
		if err := dir.Export(opts.File, true); err != nil {
			return CAResult{}, caHint(dir, true, err)
		}
		return CAResult{
			Said: fmt.Sprintf("the authority's key is in %s and no longer on this node", opts.File),
			Next: fmt.Sprintf("start the agent; put the key back with `meshban ca import %s` for a while before certificates end (`meshban members --json` shows when)", opts.File),
		}, nil
	}
	if err := dir.Export(opts.File, false); err != nil {
		return CAResult{}, caHint(dir, true, err)
	}
	return CAResult{Said: fmt.Sprintf("the authority's key is copied to %s", opts.File)}, nil
}

// caHint adds a hint to an error of the authority's verbs, which take the key from the folder or from a file.
func caHint(dir statedir.Dir, fromFolder bool, err error) error {
	fix := func(code control.Code, hint string) error {
		return &control.Error{Code: code, Message: err.Error(), Hint: hint}
	}
	switch {
	case errors.Is(err, pki.ErrNoAuthority):
		return fix(control.CodeFailed, fmt.Sprintf("run it on the node that has ca.key in its state folder (here it would be %s), or name an exported key with --key", dir.Authority()))
	case errors.Is(err, pki.ErrBadRequest):
		return fix(control.CodeUsage, "meshban join --request prints one, on the new machine")
	case errors.Is(err, pki.ErrOtherMesh):
		return fix(control.CodePolicy, "use the key and the request of one and the same mesh")
	case errors.Is(err, fs.ErrExist):
		return fix(control.CodeFailed, "name a file that does not exist yet: nothing was overwritten")
	case errors.Is(err, fs.ErrNotExist):
		if has, err := dir.SetUp(); err == nil && !has && fromFolder {
			return noMesh(dir, control.CodeFailed)
		}
		return fix(control.CodeFailed, "name a file in a folder that is there")
	}
	return err
}

// Request creates this machine's key and a certificate request for it.
func Request(_ context.Context, opts JoinOptions) (CAResult, error) {
	j, err := openJoiner(opts)
	if err != nil {
		return CAResult{}, err
	}
	defer j.release()
	q, err := j.dir.Request(j.cfg.Name, j.alone)
	if err != nil {
		return CAResult{}, meshHint(j.dir, err)
	}
	return CAResult{
		Text: q.Text(), Said: fmt.Sprintf("request of %s (%s)", q.Name, frame.IDOf(q.Node).Short()),
		Next: "next: `meshban ca sign FILE`, where the authority's key is",
	}, nil
}

// adoptCertificate enrols this machine with the answer to its request.
func adoptCertificate(_ context.Context, opts JoinOptions) (JoinResult, error) {
	j, err := openJoiner(opts)
	if err != nil {
		return JoinResult{}, err
	}
	defer j.release()
	id, e, err := j.dir.Adopt(opts.Certificate, j.cfg, opts.Name != "", j.alone)
	if errors.Is(err, fs.ErrNotExist) {
		return JoinResult{}, &control.Error{Code: control.CodeFailed, Message: "this machine has made no request", Hint: "begin with `meshban join --request`; the key that it makes is what gets certified"}
	}
	if err != nil {
		return JoinResult{}, meshHint(j.dir, err)
	}
	return JoinResult{
		Name: cmp.Or(opts.Name, e.Certificate.Name), ID: id.ID().String(), Mesh: hex.EncodeToString(e.Secrets.MeshID[:]), Join: e.Join, Config: j.dir.Config(),
	}, nil
}
