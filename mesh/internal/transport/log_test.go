package transport

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/meshtest"
	"github.com/meshban/meshban/mesh/internal/wire"
)

// memberlist's texts used to reach the log, and anybody could fill it with them.
func TestLogAdapter(t *testing.T) {
	var out strings.Builder
	var suspected []frame.ID
	id, self := meshtest.Signers[0].ID(), meshtest.Signers[1].ID()
	logger := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	suspect := func(id frame.ID) { suspected = append(suspected, id) }
	const debug = "level=DEBUG msg=membership text="
	for _, tt := range []struct{ line, want string }{
		{"[ERR] memberlist: Failed to send gossip to 10.0.0.1:7946: write udp: sendto: network is unreachable", `level=INFO msg="could not send to another node" err="network is unreachable"`},
		{"[ERR] memberlist: Push/Pull with " + id.String() + " failed: dial tcp 10.0.0.1:7946: connect: connection refused", `level=INFO msg="could not compare the list of members with another node" id=` + id.Short() + ` err="connection refused"`},
		{"[ERR] memberlist: Decrypt packet failed: no installed keys could decrypt the message from=10.0.0.1:7946", `level=INFO msg="ignored a message in the key of another mesh, or in one that was rotated away" from=10.0.0.1:7946` + "\n"},
		{"[ERR] memberlist: failed to receive: EOF from=10.0.0.1:7946", `level=INFO msg="a connection of another node broke off" from=10.0.0.1:7946 err=EOF`},
		{"[ERR] memberlist: msg type (99) not supported from=\x1b[2J\nlevel=ERROR", `level=INFO msg="ignored a message that cannot be read" from="\\x1b[2J\\nlevel=ERROR"`},
		{"[WARN] memberlist: Refuting a suspect message (from: " + id.String() + ")", `level=INFO msg="another node took this one for unreachable; told it otherwise" id=` + id.Short() + "\n"},
		{"[WARN] memberlist: Refuting a suspect message (from: " + self.String() + ")", debug},
		{"[WARN] memberlist: handler queue full, dropping message (3) from=10.0.0.1:7946", "level=WARN msg=\"news of members come faster"},
		{"[ERR] memberlist: Failed fallback TCP ping: timeout 2s: read tcp: i/o timeout", debug},
		{"[WARN] memberlist: Was able to connect to " + id.String() + " over TCP but UDP probes failed, network may be misconfigured", debug + `"Was able to connect to ` + id.Short()},
		{"[DEBUG] memberlist: Stream connection", debug + `"Stream connection"`},
		{"no level", debug + `"no level"`},
		{"[WARN] memberlist: ping for '\x1b[2J\nlevel=ERROR'", debug + `"ping for '\\x1b[2J\\nlevel=ERROR'"`},
		{"[INFO] memberlist: Suspect " + id.String() + " has failed, no acks received", debug + `"Suspect ` + id.Short()},
		{"[INFO] memberlist: Suspect ../../x has failed, no acks received", debug},
		{"[ERR] memberlist: " + strings.Repeat("x", 5000), debug},
	} {
		out.Reset()
		a := NewLog(logger, self)
		a.Suspected = suspect
		if _, err := a.Write([]byte(tt.line + "\n")); err != nil {
			t.Fatal(err)
		}
		if got := out.String(); !strings.Contains(got, tt.want) || strings.Count(got, "\n") != 1 || len(got) > 2*wire.MaxLogText || strings.Contains(got, id.String()) {
			t.Errorf("%q logged as %q, want %q", tt.line, got, tt.want)
		}
	}
	if !slices.Equal(suspected, []frame.ID{id}) {
		t.Errorf("suspected %v", suspected)
	}
}

// Each event is logged once a minute, with the number of repeats left out before.
func TestLogAdapterIsQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		a := NewLog(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})), frame.ID{})
		for range 1000 {
			for _, line := range []string{"[ERR] memberlist: failed to receive: EOF from=10.0.0.1:1", "[ERR] memberlist: Failed to send ack: x", "[ERR] memberlist: y"} {
				_, _ = a.Write([]byte(line + "\n"))
			}
		}
		if n := strings.Count(out.String(), "level=INFO"); n != 2 {
			t.Errorf("%d events, want 2", n)
		}
		if n := strings.Count(out.String(), "level=DEBUG"); n != logBurst {
			t.Errorf("%d other lines, want %d", n, logBurst)
		}
		<-time.After(eventEvery)
		out.Reset()
		_, _ = a.Write([]byte("[ERR] memberlist: failed to receive: EOF from=10.0.0.1:1\n"))
		if !strings.Contains(out.String(), "muted=999") {
			t.Errorf("after a minute: %q", out.String())
		}
	})
}
