package daemon

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/feed"
	"github.com/meshban/meshban/cmd/meshban/internal/ownfile"
)

var _ feed.Source = (*Daemon)(nil)

// Entries implements feed.Source: what the table says should be dropped, whatever the kernel does. A prefix comes as
// several if the never-ban list, or one of this machine's networks, lies inside it.
func (d *Daemon) Entries(ctx context.Context, yield func(feed.Entry) error) error {
	except := d.state.Exceptions()
	never := feed.NewExceptions(slices.Concat(except.Never, except.Allow))
	var failed error
	d.state.Entries(func(e ban.Entry) bool {
		if failed = ctx.Err(); failed != nil || e.State != ban.StateEnforced {
			return failed == nil
		}
		out := feed.Entry{
			Prefix: e.Prefix, Ports: e.Ports.String(), Issued: e.Issued, Until: e.Until,
			Origins: make([]string, len(e.Origins)), Source: e.Source, Reason: e.Reason,
		}
		for i, id := range e.Origins {
			out.Origins[i] = d.names.of(id)
		}
		if e.Prefix.IsSingleIP() {
			failed = yield(out)
			return failed == nil
		}
		networks := feed.NewExceptions(d.fw.LeftOut(e.Prefix))
		for part := range never.Without(e.Prefix) {
			for out.Prefix = range networks.Without(part) {
				if failed = yield(out); failed != nil {
					return false
				}
			}
		}
		return true
	})
	return failed
}

// listChanged says that lists may have changed.
func (d *Daemon) listChanged() {
	d.listVersion.Add(1)
	wake(d.listWake)
}

const (
	listMode, listsMode = 0o644, 0o755 // other users' programs read them
	// listShare bounds the share of one processor that writing long lists takes: after each, a pause of so many times
	// what it took.
	listShare = 10
	// listGather is how long changes are gathered: an import makes thousands a second.
	listGather = 50 * time.Millisecond
)

// listFile is a file of the config's files.
type listFile struct {
	config.File
	written bool
	version uint64            // listVersion before it was last written
	next    time.Time         // not before
	sum     [sha256.Size]byte // of its content
}

// errUnchanged ends the writing of a file that is as it should be.
var errUnchanged = errors.New("unchanged")

// writeLists keeps the files of the configuration up to date until ctx ends. A file that the configuration no longer names
// stays, because a program may not start without it.
func (d *Daemon) writeLists(ctx context.Context) error {
	files := map[string]*listFile{}
	for {
		wanted := d.config().Files
		for name := range files {
			if !slices.ContainsFunc(wanted, func(f config.File) bool { return f.Name == name }) {
				delete(files, name)
				d.problems.clear(listProblem(name))
				d.log.Warn("this list is no longer written", "file", d.listPath(name), "remedy", "take it out of the program that reads it and delete it")
			}
		}
		var pause <-chan time.Time
		soonest := time.Duration(-1)
		for _, f := range wanted {
			at := files[f.Name]
			if at == nil || at.File != f {
				at = &listFile{File: f}
				files[f.Name] = at
			}
			if wait := d.writeIfDue(ctx, at); wait > 0 && (soonest < 0 || wait < soonest) {
				soonest = wait
				pause = time.After(wait)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.listWake:
			gather := time.NewTimer(listGather)
			select {
			case <-ctx.Done():
				return nil
			case <-gather.C:
			}
		case <-pause:
		}
	}
}

func (d *Daemon) listPath(name string) string { return filepath.Join(d.home.Feeds(), name) }

func listProblem(name string) string { return "file " + name }

// writeIfDue writes a file unless nothing has changed, or returns how long it has to wait.
func (d *Daemon) writeIfDue(ctx context.Context, f *listFile) (wait time.Duration) {
	version := d.listVersion.Load()
	if f.written && f.version == version {
		return 0
	}
	began := time.Now()
	if wait = f.next.Sub(began); wait > 0 {
		return wait
	}
	n, err := d.writeList(ctx, f)
	took := time.Since(began)
	f.next = began.Add(max(f.Every, took*listShare))
	if err != nil && ctx.Err() == nil {
		d.problems.set(listProblem(f.Name), "the list is not up to date: "+err.Error(), fileRemedy(d.listPath(f.Name), err))
		return max(time.Until(f.next), time.Millisecond)
	}
	f.written, f.version = true, version
	d.listLooked.Store(version)
	d.problems.clear(listProblem(f.Name))
	d.metrics.listEntries.WithLabelValues(f.Name).Set(float64(n.Written))
	d.metrics.listLeftOut.WithLabelValues(f.Name).Set(float64(n.LeftOut))
	return 0
}

// writeList writes a file if its content has changed.
func (d *Daemon) writeList(ctx context.Context, f *listFile) (n feed.Count, err error) {
	dir := d.home.Feeds()
	if err := os.MkdirAll(dir, listsMode); err != nil {
		return n, err
	}
	if err := ownfile.CheckDir(dir); err != nil {
		return n, err
	}
	if err := os.Chmod(dir, listsMode); err != nil { // the umask may be 077
		return n, err
	}
	path := d.listPath(f.Name)
	if !f.written {
		f.sum = sumOf(path)
	}
	sum := sha256.New()
	err = ownfile.ReplaceBy(path, listMode, func(out io.Writer) (err error) {
		if n, err = feed.Write(ctx, io.MultiWriter(sum, out), f.Format, feed.Query{}, d); err == nil && [sha256.Size]byte(sum.Sum(nil)) == f.sum {
			err = errUnchanged
		}
		return err
	})
	if errors.Is(err, errUnchanged) {
		return n, nil
	}
	if err == nil {
		f.sum = [sha256.Size]byte(sum.Sum(nil))
	}
	return n, err
}

// sumOf returns the hash of a file, or something else if it cannot be read.
func sumOf(path string) (sum [sha256.Size]byte) {
	in, err := ownfile.Open(path, os.O_RDONLY, 0)
	if err != nil {
		return sum
	}
	defer in.Close()
	h := sha256.New()
	if _, err := io.Copy(h, in); err != nil {
		return sum
	}
	return [sha256.Size]byte(h.Sum(nil))
}
