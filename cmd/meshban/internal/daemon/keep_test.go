package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/hostinfo"
	"github.com/meshban/meshban/mesh/frame"
)

// An import used to be answered while it still waited for the disk: a kill at that moment lost all of it.
func TestBulkIsOnDiskWhenItIsAnswered(t *testing.T) {
	n := first(t, "n")
	rep, err := n.Ban(t.Context(), control.BanRequest{Addrs: crowd(4*lockChunk, 1), For: control.Duration(time.Hour), Source: "import"})
	if err != nil {
		t.Fatal(err)
	}
	bans := 0
	if err := n.store.Frames(func(_ time.Time, raw []byte) error {
		f, err := frame.Decode(raw)
		if err != nil {
			return err
		}
		if ops, err := ban.DecodeOps(f.Payload); err == nil { // otherwise it is a certificate
			bans += len(ops)
		}
		return nil
	}); err != nil || bans != 4*lockChunk {
		t.Errorf("%d of %d bans are on disk (%v)", bans, 4*lockChunk, err)
	}
	for _, r := range rep.Results {
		if strings.Contains(r.Note, control.NotOnDisk) {
			t.Error(r.Note)
		}
	}
}

// A ban that cannot be written is still enforced; the answer and status say that it is not on disk.
func TestAnswerSaysThatItIsNotOnDisk(t *testing.T) {
	t.Parallel()
	n := first(t, "n")
	n.stop()
	d, err := New(t.Context(), Config{Home: n.home, Config: n.cfg, Version: "test", Logger: slog.New(slog.DiscardHandler), Host: func() ([]hostinfo.Entry, error) { return nil, nil }})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.store.Close(); err != nil { // every commit fails from now on
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done, others := make(chan error, 1), errgroup.Group{}
	go func() { done <- d.store.Run(ctx) }()
	others.Go(func() error { return d.audit.Run(ctx) })
	others.Go(func() error { return d.fw.Run(ctx) })
	for name, addrs := range map[string][]netip.Prefix{"one": crowd(1, 2), "many": crowd(2*lockChunk, 3)} {
		rep, err := d.Ban(t.Context(), control.BanRequest{Addrs: addrs, For: control.Duration(time.Hour), Source: "import"})
		if err != nil {
			t.Fatal(err)
		}
		said := 0
		for _, r := range rep.Results {
			if strings.HasPrefix(r.Note, control.NotOnDisk+": ") {
				said++
			}
		}
		if said != 1 {
			t.Errorf("%s: %d results say it, want 1", name, said)
		}
	}
	if !strings.Contains(fmt.Sprint(d.localStatus().Problems), "store: ") {
		t.Error("status has no problem")
	}
	cancel()
	if <-done == nil {
		t.Error("a commit into a closed file succeeded")
	}
	if err := others.Wait(); err != nil {
		t.Error(err)
	}
}
