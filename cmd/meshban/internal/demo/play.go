package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// play bans the attacker by a line on one node, asks why on another, and lifts the ban on the third.
func (d *demo) play(ctx context.Context) (Report, error) {
	r := Report{Packets: d.wires != nil, Nodes: make([]Node, nodes)}
	for i, s := range d.servers {
		r.Nodes[i].Name = s.name
	}
	if r.Packets {
		if _, err := d.each(ctx, time.Now(), true); err != nil {
			return r, err
		}
		fmt.Fprintf(d.out, "the attacker reaches all three: each answers its packets\n")
	}
	file := filepath.Join(d.servers[0].dir, "newbans.log")
	line := fmt.Sprintf("HOST %s PORT 22", attacker)
	fmt.Fprintf(d.out, "\nweb1# echo %q >> %s\n", line, file)
	begin, err := appendLine(file, line)
	if err != nil {
		return r, err
	}
	banned, err := d.each(ctx, begin, false)
	if err != nil {
		return r, fmt.Errorf("after the line: %w", err)
	}
	d.tell(banned, "no longer answers the attacker", "has the ban", "the line was written")
	if err := errors.Join(d.show(ctx, 1, "list"), d.show(ctx, 1, "why", attacker.String())); err != nil {
		return r, err
	}
	begin = time.Now()
	if err := d.show(ctx, 2, "unban", attacker.String()); err != nil {
		return r, err
	}
	unbanned, err := d.each(ctx, begin, true)
	if err != nil {
		return r, fmt.Errorf("after the unban: %w", err)
	}
	d.tell(unbanned, "answers again", "has lifted the ban", "unban was typed")
	for i := range r.Nodes {
		r.Nodes[i].Banned, r.Nodes[i].Unbanned = milliseconds(banned[i]), milliseconds(unbanned[i])
	}
	return r, nil
}

// tell says how long after an event each node did what was to be seen: by packets, or by asking it.
func (d *demo) tell(after []time.Duration, packets, asked, event string) {
	what := packets
	if d.wires == nil {
		what = asked
	}
	for i, s := range d.servers {
		fmt.Fprintf(d.out, "%s %s, %.1f ms after %s\n", s.name, what, milliseconds(after[i]), event)
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// each waits until every node lets the attacker in, or none does, and returns how long after begin that was.
func (d *demo) each(ctx context.Context, begin time.Time, open bool) ([]time.Duration, error) {
	after, errs := make([]time.Duration, nodes), make([]error, nodes)
	ctx, cancel := context.WithTimeout(ctx, banLimit)
	defer cancel()
	var all sync.WaitGroup
	for i := range nodes {
		all.Go(func() {
			watch := func() error {
				for ctx.Err() == nil {
					free, at, err := d.look(ctx, i, open)
					if err != nil {
						return err
					}
					if free == open {
						after[i] = at.Sub(begin)
						return nil
					}
					time.Sleep(time.Millisecond)
				}
				return fmt.Errorf("%s still does not: %w", d.servers[i].name, ctx.Err())
			}
			done := make(chan error, 1)
			d.wires.at(nodes, func() error { done <- watch(); return nil }, done)
			errs[i] = <-done
		})
	}
	all.Wait()
	return after, errors.Join(errs...)
}

// look reports whether a node lets the attacker in, and when: when the packet left, or the agent had answered.
func (d *demo) look(ctx context.Context, i int, open bool) (free bool, at time.Time, err error) {
	if d.wires == nil {
		free, err = d.isFree(ctx, i)
		return free, time.Now(), err
	}
	at = time.Now()
	free, err = knock(i, open)
	if err == nil && !free && !open {
		free, err = knock(i, open) // once more: a pause of the machine looks like a drop
	}
	return free, at, err
}

// isFree reports whether a node has no ban of the attacker.
func (d *demo) isFree(ctx context.Context, i int) (bool, error) {
	text, err := d.run(ctx, i, d.servers[i], "status", "--json")
	var status struct{ Bans struct{ Active int } }
	if err == nil {
		err = json.Unmarshal([]byte(text), &status)
	}
	return status.Bans.Active == 0, err
}

// appendLine appends a line to a file and returns when that was.
func appendLine(path, line string) (time.Time, error) {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o640)
	if err != nil {
		return time.Time{}, err
	}
	_, err = f.WriteString(line + "\n")
	return time.Now(), errors.Join(err, f.Close())
}
