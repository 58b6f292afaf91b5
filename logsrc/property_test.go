package logsrc

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestRestartAtEveryOffset cuts a text at every byte, restarts there, and restarts again at the end.
func TestRestartAtEveryOffset(t *testing.T) {
	t.Parallel()
	text := line(1) + "noise\n\n" + strings.TrimSuffix(line(2), "\n") + "\r\n\x00\x00" + line(3) +
		strings.Repeat("long", MaxLine/4+1) + " HOST 192.0.2.9 PORT 22\n" + "HOST 192.0.2.4 PORT 22\n" + line(5)
	for cut := range len(text) + 1 {
		// All places inside the long line are alike.
		if at := strings.Index(text, "longlong"); cut > at+50 && cut < at+MaxLine-10 {
			continue
		}
		path := logPath(t)
		add(t, path, "")
		x := newTail(t, path).poll()
		add(t, path, text[:cut])
		x.poll().restart().poll()
		add(t, path, text[cut:])
		x.poll().restart().poll()
		if t.Run(fmt.Sprint(cut), func(t *testing.T) { x.t = t; x.want(1, 2, 3, 4, 5) }); t.Failed() {
			return
		}
	}
}

// model predicts what a Follower must report, whatever happens to the file.
type model struct {
	t       *rapid.T
	x       *tail
	emitter *Emitter
	path    string
	number  int      // of the next address
	open    string   // the partial line at the end of the file
	rest    string   // what will complete it
	want    []string // addresses, in the order of the file
	emitted []string
}

func (m *model) address() string {
	m.number++
	return fmt.Sprintf("10.%d.%d.%d", m.number>>16, m.number>>8&255, m.number&255)
}

// expect adds a completed line to the prediction.
func (m *model) expect(line string) {
	if l, err := Parse([]byte(line)); err == nil {
		m.want = append(m.want, l.Addr.String())
	}
}

func (m *model) write(text string) {
	m.open += text
	for {
		line, rest, ok := strings.Cut(m.open, "\n")
		if !ok {
			break
		}
		m.expect(line)
		m.open = rest
	}
	add(m.t, m.path, text)
}

// header starts a new generation with a unique text.
func (m *model) header() {
	m.number++
	m.write(fmt.Sprintf("this is generation %d of the file, and it is like no other\n", m.number))
}

// newGeneration ends the partial line of a file that is no longer written.
func (m *model) newGeneration() {
	m.expect(m.open)
	m.open, m.rest = "", ""
}

func (m *model) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"line": func(t *rapid.T) {
			m.write(m.rest + fmt.Sprintf("<13>Nov 22 11:02:11 root[7]: HOST %s PORT 22\n", m.address()))
			m.rest = ""
		},
		"burst": func(t *rapid.T) {
			text := m.rest
			for range rapid.IntRange(1, 3000).Draw(t, "lines") {
				text += fmt.Sprintf("HOST %s PORT ssh jail=x\n", m.address())
			}
			m.rest = ""
			m.write(text)
		},
		"noise": func(t *rapid.T) {
			// Long lines are unique: if two generations hold the same text, longer than a fingerprint, at the same
			// place, a change between them cannot be noticed.
			m.number++
			long := strings.Repeat(fmt.Sprintf("y%d ", m.number), MaxLine)[:MaxLine+1] + "\n"
			kind := []string{"noise\n", "\n", "HOST nowhere PORT 22\n", long, "\x00\x00\n"}
			m.write(m.rest + rapid.SampledFrom(kind).Draw(t, "noise"))
			m.rest = ""
		},
		"part": func(t *rapid.T) {
			if m.rest == "" {
				m.rest = fmt.Sprintf("Nov 22 11:02:11 vm root: HOST %s PORT 22\n", m.address())
			}
			n := rapid.IntRange(1, len(m.rest)).Draw(t, "bytes")
			text := m.rest[:n]
			m.rest = m.rest[n:]
			m.write(text)
		},
		"emit": func(t *rapid.T) {
			var batch []Emission
			for range rapid.IntRange(1, 3).Draw(t, "lines") {
				addr := m.address()
				m.emitted = append(m.emitted, addr)
				batch = append(batch, Emission{Origin: "web2", Addr: netip.MustParseAddr(addr), Port: 22})
			}
			if m.open != "" { // the emitter ends the partial line of another writer
				m.newGeneration()
			}
			if err := m.emitter.Emit(m.x.now, batch); err != nil {
				t.Fatal(err)
			}
		},
		"rename": func(t *rapid.T) {
			m.newGeneration()
			rotate(t, m.path)
			m.header()
		},
		"copytruncate": func(t *rapid.T) {
			m.newGeneration()
			copyTruncate(t, m.path)
			m.header()
		},
		"edit": func(t *rapid.T) {
			if m.open != "" { // an editor ends the last line
				m.write("\n")
				m.rest = ""
			}
			m.x.poll() // a line that was deleted unread is never reported
			down := rapid.Bool().Draw(t, "down")
			if down {
				m.x.f.close()
			}
			edit(m.t, m.path, rapid.Bool().Draw(t, "in place"), func(all []string) []string {
				keep := rapid.SliceOfN(rapid.Bool(), 1, 16).Draw(t, "keep")
				return slices.DeleteFunc(all, func(s string) bool {
					whole := strings.HasSuffix(s, "\n") && !strings.HasPrefix(s, "this is generation")
					keep = append(keep[1:], keep[0])
					return whole && !keep[0]
				})
			})
			if down {
				m.restart()
			}
			m.x.poll()
		},
		"poll": func(t *rapid.T) { m.x.poll() },
		"poll, stopped": func(t *rapid.T) {
			ctx, cancel := context.WithCancel(context.Background())
			left := rapid.IntRange(0, 3).Draw(t, "batches")
			m.x.stop = func() {
				if left--; left < 0 {
					cancel()
				}
			}
			m.x.f.poll(ctx, m.x.now)
			m.x.stop = nil
			cancel()
			m.restart()
		},
		"restart": func(t *rapid.T) { m.restart() },
		"": func(t *rapid.T) {
			if n := len(m.x.got); n > len(m.want) || !slices.Equal(m.x.got, m.want[:n]) {
				t.Fatalf("got %v\nwant %v", tailOf(m.x.got), tailOf(m.want))
			}
		},
	}
}

func (m *model) restart() {
	m.x.restart()
	if m.emitter != nil {
		must(m.t, m.emitter.Close())
	}
	m.emitter, _ = NewEmitter(EmitterConfig{Path: m.path, Own: m.x.own})
}

func tailOf(s []string) []string { return s[max(0, len(s)-20):] }

// TestFollowerAgainstModel checks that any sequence of appends, rotations, truncations, edits, emissions and
// restarts, with or without polls in between, yields every line once and in order.
func TestFollowerAgainstModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		path := logPath(t)
		m := &model{t: rt, path: path}
		add(rt, path, "")
		m.x = newTail(t, path)
		m.restart()
		m.x.poll()
		m.header()
		m.x.poll() // a copy of a file is recognised only if some of it was read
		rt.Repeat(m.actions())
		m.x.poll()
		if !slices.Equal(m.x.got, m.want) {
			rt.Fatalf("got %d: %v\nwant %d: %v", len(m.x.got), tailOf(m.x.got), len(m.want), tailOf(m.want))
		}
		for _, addr := range m.x.echo {
			if !slices.Contains(m.emitted, addr) {
				rt.Fatalf("%s was not emitted", addr)
			}
		}
		m.x.f.close()
		must(rt, m.emitter.Close())
		must(rt, os.RemoveAll(path))
	})
}
