package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/meshban/meshban/ban"
	"github.com/meshban/meshban/cmd/meshban/internal/config"
	"github.com/meshban/meshban/cmd/meshban/internal/control"
	"github.com/meshban/meshban/cmd/meshban/internal/store"
	"github.com/meshban/meshban/logsrc"
)

const (
	// valuePosition names the line file's position in the store.
	valuePosition = "line position"
	// valueLinesRead prefixes the names under which the store remembers lines that were read.
	valueLinesRead = "lines read/"
)

// lineIO reads the line file and writes to it.
type lineIO struct {
	follower *logsrc.Follower
	emitter  *logsrc.Emitter
	emit     *emitQueue
	echoes   *echoes
	lines    lineCounts
}

// lineMemory stores what the follower remembers of the lines it has read.
type lineMemory struct{ store *store.Store }

func (m lineMemory) Load(slot int) []byte {
	return m.store.Value(valueLinesRead + strconv.Itoa(slot))
}

func (m lineMemory) Save(slot int, block []byte) {
	m.store.Set(valueLinesRead+strconv.Itoa(slot), block)
}

// lineCounts are the line file's counters of this run.
type lineCounts struct {
	banned, known, refused, echoes, emitted, unemitted atomic.Uint64
	allPorts                                           atomic.Uint64 // lines that named more ports than a ban may have
}

// handleLines turns accepted lines into bans and records how far the file was read. It runs on the follower's
// goroutine.
func (d *Daemon) handleLines(batch []logsrc.Line, pos logsrc.Position) {
	if len(batch) > 0 {
		now := time.Now()
		ops, own := d.sightings(now, batch)
		if err := d.publish(now, own); err != nil {
			d.problems.set("lines", "bans of the line file could not be made: "+err.Error(), "ban what it names by hand: `meshban ban ADDR`")
			d.log.Error("could not publish the bans of the line file", "err", err)
		} else {
			d.problems.clear("lines")
			d.recordOps(d.bySelf(now, control.ViaLines), ops)
		}
	}
	// The position is stored after the frames: a crash in between rereads lines but never skips one.
	if value, err := json.Marshal(pos); err == nil {
		d.store.Set(valuePosition, value)
	}
}

const (
	// ownFileRemedy is what to do about a line file that two nodes share.
	ownFileRemedy = "two nodes that read one file take each other's lines for their own: give each its own, `meshban help migrate` tells how"
	// formerLines is how long after a start the lines of an earlier run may still be read.
	formerLines = time.Minute
)

// writer returns the other node that a line names as its origin, or "". This node's own lines, which name others, are not read,
// except for those that an earlier run wrote before it ended.
func (d *Daemon) writer(now time.Time, line logsrc.Line) string {
	if line.Origin == "" || line.Origin == d.hostName || line.Origin == d.names.plain(d.self) || now.Sub(d.started) < formerLines {
		return ""
	}
	if line.Emitted || d.names.taken(line.Origin) {
		return line.Origin
	}
	return ""
}

// sightings returns the bans that the lines ask for, except echoes of the mesh, duplicates, bans that would shorten an
// existing one, and bans that policy refuses. own is what this node must publish for them.
func (d *Daemon) sightings(now time.Time, batch []logsrc.Line) (ops, own []ban.Op) {
	type key struct {
		prefix netip.Prefix
		ports  ban.Ports
	}
	at := map[key]int{} // place in ops
	d.state.View(func(t *ban.Table) {
		for _, line := range batch {
			if other := d.writer(now, line); other != "" {
				what := fmt.Sprintf("%s has lines that %s wrote, or that another node wrote about it", d.cfg.Lines.File, other)
				d.problems.set("shared line file", what, ownFileRemedy)
			}
			if d.echoLocked(now, t, line) {
				d.lines.echoes.Add(1)
				continue
			}
			op := d.sightingLocked(now, line)
			if own, ok := t.OwnBan(op.Prefix, op.Ports); ok && !op.Until.After(own.Until) {
				d.lines.known.Add(1)
				continue
			}
			if err := t.CheckLocal(now, op); err != nil {
				d.lines.refused.Add(1)
				d.log.Info("refused a line", "prefix", op.Prefix, "err", err)
				continue
			}
			k := key{op.Prefix, op.Ports}
			if i, ok := at[k]; ok {
				if op.Until.After(ops[i].Until) {
					ops[i] = op
				}
				continue
			}
			at[k] = len(ops)
			ops = append(ops, op)
		}
		own = t.OwnOps(ops...)
	})
	d.lines.banned.Add(uint64(len(ops)))
	return ops, own
}

// sightingLocked returns the ban that a line asks for.
func (d *Daemon) sightingLocked(now time.Time, line logsrc.Line) ban.Op {
	length := lineLength(&d.cfg, line)
	op := ban.Op{
		Kind:   ban.KindBan,
		Prefix: linePrefix(line),
		Until:  endOf(now, length),
		Reason: lineReason(line),
		Source: "line",
	}
	if line.Jail != "" {
		op.Source = "line:" + line.Jail
	}
	if d.cfg.Lines.Ports == config.PortsAsWritten {
		// The address is banned in any case: on all ports if the line names more than a ban may have.
		if ports, err := ban.ParsePorts(line.Ports); err == nil && ports.Elements() <= ban.MaxPortElements {
			op.Ports = ports
		} else {
			d.lines.allPorts.Add(1)
		}
	}
	d.escalateLocked(now, &op, length)
	return op
}

// escalateLocked lengthens a local ban of one address by its former offences.
func (d *Daemon) escalateLocked(now time.Time, op *ban.Op, length time.Duration) {
	d.state.Offences.Escalate(now, op, length, d.cfg.Bans.MaxFor, d.cfg.Escalation)
}

// lineLength returns the length of the ban that a line asks for.
func lineLength(cfg *config.Config, line logsrc.Line) time.Duration {
	switch {
	case line.BanTime < 0: // permanent; every ban of the mesh has an end
		return cfg.Bans.MaxFor
	case line.BanTime > 0:
		return min(line.BanTime, cfg.Bans.MaxFor)
	}
	return min(cfg.Lines.For, cfg.Bans.MaxFor)
}

// linePrefix returns the prefix that a line names.
func linePrefix(line logsrc.Line) netip.Prefix {
	return netip.PrefixFrom(line.Addr, cmp.Or(line.Net, line.Addr.BitLen()))
}

// lineReason returns what the line says besides the address.
func lineReason(line logsrc.Line) string {
	var words []string
	if line.Ports != "" {
		words = append(words, "port "+line.Ports)
	}
	if line.Failures > 0 {
		words = append(words, strconv.Itoa(line.Failures)+" failures")
	}
	return strings.Join(words, ", ")
}

// endOf returns when a ban of the given length ends, in whole milliseconds, as frames carry it.
func endOf(now time.Time, length time.Duration) time.Time {
	return now.Add(length).UTC().Truncate(time.Millisecond)
}

// emitLines writes the classic line for bans from the mesh. It runs apart from everything else: the file may be on a
// dead server.
func (d *Daemon) emitLines(ctx context.Context) error {
	for {
		batch, ok := d.emit.take(ctx)
		if !ok {
			return nil
		}
		if !d.config().Lines.Emit {
			continue
		}
		lines := make([]logsrc.Emission, 0, len(batch))
		for _, e := range batch {
			lines = append(lines, logsrc.Emission{Origin: d.names.word(e.origin), Addr: e.addr, Port: e.port})
		}
		if err := d.emitter.Emit(time.Now(), lines); err != nil {
			d.lines.unemitted.Add(uint64(len(lines)))
			what, remedy := d.lineFileProblem("cannot be written, so that others' bans are missing there", err)
			d.problems.set("emission", what, remedy)
			d.log.Warn("could not emit lines", "lines", len(lines), "err", err)
			continue
		}
		d.problems.clear("emission")
		d.lines.emitted.Add(uint64(len(lines)))
	}
}

// onlyPort returns the port of a ban on exactly one port, else 0: the classic line has room for one number, and 0 means
// all.
func onlyPort(ports ban.Ports) uint16 {
	if r := ports.Ranges(); len(r) == 1 && r[0].First == r[0].Last {
		return r[0].First
	}
	return 0
}

// misread converts the counts of malformed lines and of lines that named too many ports to the control socket's terms.
func misread(by map[logsrc.Reason]uint64, tooManyPorts uint64) map[string]uint64 {
	out := map[string]uint64{}
	if tooManyPorts > 0 {
		out[ban.RulePorts] = tooManyPorts
	}
	for reason, n := range by {
		if n > 0 {
			out[reason.String()] = n
		}
	}
	return out
}
