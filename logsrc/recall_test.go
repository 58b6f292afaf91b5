package logsrc

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// edit passes the lines of the file to change and writes back what it returns: in place, or to a new file that
// replaces the old one, as sed -i, rsync and most editors do.
func edit(t tb, path string, inPlace bool, change func([]string) []string) {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	out := strings.Join(change(strings.SplitAfter(string(text), "\n")), "")
	if inPlace {
		must(t, os.WriteFile(path, []byte(out), 0o640))
		return
	}
	must(t, os.WriteFile(path+"~new", []byte(out), 0o640))
	must(t, os.Rename(path+"~new", path))
}

// without drops the lines about 192.0.2.n.
func without(numbers ...int) func([]string) []string {
	return func(all []string) []string {
		return slices.DeleteFunc(all, func(s string) bool {
			return slices.ContainsFunc(numbers, func(n int) bool { return strings.Contains(s, fmt.Sprintf("192.0.2.%d ", n)) })
		})
	}
}

func replace(old, new string) func([]string) []string {
	return func(all []string) []string {
		return strings.SplitAfter(strings.ReplaceAll(strings.Join(all, ""), old, new), "\n")
	}
}

// bare returns a line without a time, as our fail2ban action writes it.
func bare(n int) string {
	return fmt.Sprintf("HOST 192.0.2.%d PORT 22 bantime=600 jail=sshd failures=5\n", n)
}

// Lines 1 to 20 were read; then the file is rewritten, and lines 21 and 22 are appended. Only these two are new,
// however the file was rewritten: in place or replaced, while the follower runs or is down, with lines appended
// before or after the next poll.
func TestRewritten(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func([]string) []string
	}{
		{"untouched", func(all []string) []string { return all }},
		{"the first line deleted", without(1)},
		{"the last line deleted", without(20)},
		{"lines here and there deleted", without(3, 7, 18, 20)},
		{"all but one deleted", func(all []string) []string { return all[6:7] }},
		{"trimmed to the last lines", func(all []string) []string { return all[12:] }},
		{"trimmed to the first lines", func(all []string) []string { return all[:8] }},
		{"a comment at the beginning", func(all []string) []string { return append([]string{"# mine\n"}, all...) }},
		{"a comment at the end", func(all []string) []string { return append(all, "# mine\n") }},
		{"another port in every line", replace("PORT 22", "PORT 80")},
		{"another time in every line", replace("11:00", "12:00")},
		{"the priority taken off", replace("<13>", "")},
		{"CRLF", replace("\n", "\r\n")},
		{"blanks at line ends", replace("\n", "  \n")},
		{"the last two lines edited", func(all []string) []string {
			return append(all[:18], replace("PORT 22", "PORT 80")(all[18:])...)
		}},
		{"the last line edited, the first deleted", func(all []string) []string {
			return append(all[1:19], replace("PORT 22", "PORT 80")(all[19:])...)
		}},
		{"sorted backwards", func(all []string) []string {
			all = slices.DeleteFunc(all, func(s string) bool { return s == "" })
			slices.SortFunc(all, func(a, b string) int { return strings.Compare(b, a) })
			return all
		}},
		{"every line twice", func(all []string) []string {
			var twice []string
			for _, s := range all {
				twice = append(twice, s, s)
			}
			return twice
		}},
		{"emptied", func([]string) []string { return nil }},
	}
	for _, tt := range tests {
		for _, form := range []func(int) string{line, bare} {
			for _, bits := range []int{0, 1, 2, 3, 4, 5, 6, 7} {
				inPlace, down, late := bits&1 != 0, bits&2 != 0, bits&4 != 0
				t.Run(fmt.Sprintf("%s, %.4s, in place=%v, down=%v, late=%v", tt.name, form(1), inPlace, down, late), func(t *testing.T) {
					path := logPath(t)
					add(t, path, "")
					x := newTail(t, path).poll()
					for n := 1; n <= 20; n++ {
						add(t, path, form(n))
					}
					x.poll()
					x.got = nil
					if down {
						x.f.close()
					}
					edit(t, path, inPlace, tt.change)
					if down {
						x.restart()
					}
					if late {
						x.poll().want()
						x.now = x.now.Add(time.Minute)
					}
					add(t, path, form(21))
					add(t, path, form(22))
					x.poll().want(21, 22)
					x.now = x.now.Add(time.Minute)
					x.poll().want().restart().poll().want()
					add(t, path, form(5)) // again, much later
					x.poll().want(5).restart().poll().want()
				})
			}
		}
	}
}

// A backup restores old lines, even those read long ago.
func TestRestoredFromABackup(t *testing.T) {
	for _, wait := range []time.Duration{0, time.Minute} {
		for _, down := range []bool{false, true} {
			t.Run(fmt.Sprintf("after %v, down=%v", wait, down), func(t *testing.T) {
				path := logPath(t)
				add(t, path, "")
				x := newTail(t, path).poll()
				add(t, path, lines(1, 8))
				x.poll().want(1, 2, 3, 4, 5, 6, 7, 8)
				backup, err := os.ReadFile(path)
				must(t, err)
				rotate(t, path)
				add(t, path, lines(9, 12))
				x.poll().want(9, 10, 11, 12)
				must(t, os.Truncate(path, 0))
				x.poll().want()
				x.now = x.now.Add(wait)
				if down {
					x.f.close()
				}
				must(t, os.WriteFile(path, backup, 0o640))
				if down {
					x.restart()
				}
				x.poll().want()
				add(t, path, line(13))
				x.poll().want(13).restart().poll().want()
			})
		}
	}
}

// The follower polls a file that is half rewritten.
func TestHalfRewritten(t *testing.T) {
	path := logPath(t)
	add(t, path, "")
	x := newTail(t, path).poll()
	add(t, path, lines(1, 20))
	x.poll()
	x.got = nil
	must(t, os.Truncate(path, 0))
	x.poll().want()
	for n := 2; n <= 20; n++ {
		text := strings.ReplaceAll(line(n), "PORT 22", "PORT 80")
		add(t, path, text[:30])
		x.poll().want()
		x.now = x.now.Add(time.Second)
		add(t, path, text[30:])
		x.poll().want()
	}
	add(t, path, line(21))
	x.poll().want(21)
}

// A ban that comes just after an edit counts, though its line reads like one that stood in the file before: at once if
// that line still stands there, else settle after the edit.
func TestALineAfterAnEditIsNew(t *testing.T) {
	for _, form := range []func(int) string{line, bare} {
		for _, bits := range []int{0, 1, 2, 3} {
			inPlace, down := bits&1 != 0, bits&2 != 0
			t.Run(fmt.Sprintf("%.4s, in place=%v, down=%v", form(1), inPlace, down), func(t *testing.T) {
				path := logPath(t)
				add(t, path, "")
				x := newTail(t, path).poll()
				for n := 1; n <= 20; n++ {
					add(t, path, form(n))
				}
				x.poll()
				x.got = nil
				if down {
					x.f.close()
				}
				edit(t, path, inPlace, without(5, 20))
				if down {
					x.restart()
				}
				x.poll().want()
				edited := x.now
				for n := 1; n <= 19; n++ { // attackers that come again
					if n == 5 {
						continue
					}
					x.now = edited.Add(time.Duration(n) * 200 * time.Millisecond)
					add(t, path, form(n))
					x.poll().want(n)
				}
				x.now = edited.Add(settle + time.Second)
				add(t, path, form(5)+form(20))
				x.poll().want(5, 20)
				add(t, path, form(5)+form(20)+form(19))
				x.poll().want(5, 20, 19).restart().poll().want()
			})
		}
	}
}

// Whatever lines follow an edit, none counts as read before once settleMost has passed.
func TestNoLineCountsAsReadForLong(t *testing.T) {
	path := logPath(t)
	add(t, path, "")
	x := newTail(t, path).poll()
	for n := 1; n <= 250; n++ {
		add(t, path, bare(n))
	}
	x.poll()
	x.got = nil
	edit(t, path, false, func(all []string) []string { return all[:1] })
	x.poll().want()
	edited := x.now
	for n := 2; x.now.Before(edited.Add(settleMost)); n++ {
		x.now = x.now.Add(time.Second)
		add(t, path, bare(n))
		x.poll()
	}
	x.got = nil
	x.now = x.now.Add(time.Second)
	add(t, path, bare(100))
	x.poll().want(100)
}

// Log rotation leaves the last lines in the file.
func TestRotationKeepsATail(t *testing.T) {
	for _, down := range []bool{false, true} {
		for _, renamed := range []bool{false, true} {
			t.Run(fmt.Sprintf("down=%v, renamed=%v", down, renamed), func(t *testing.T) {
				path := logPath(t)
				add(t, path, "")
				x := newTail(t, path).poll()
				add(t, path, lines(1, 20))
				x.poll()
				x.got = nil
				if down {
					x.f.close()
				}
				if renamed {
					rotate(t, path)
				} else {
					copyTruncate(t, path)
				}
				add(t, path, lines(16, 20)+line(21))
				if down {
					x.restart()
				}
				x.poll().want(21).restart().poll().want()
			})
		}
	}
}

// A new generation begins with a known attacker: the same text counts again.
func TestANewGenerationIsNew(t *testing.T) {
	for _, down := range []bool{false, true} {
		t.Run(fmt.Sprintf("down=%v", down), func(t *testing.T) {
			path := logPath(t)
			add(t, path, "")
			x := newTail(t, path).poll()
			add(t, path, bare(1)+bare(2)+bare(3))
			x.poll().want(1, 2, 3)
			if down {
				x.f.close()
			}
			rotate(t, path)
			add(t, path, bare(2)+bare(4)+bare(1)+bare(5))
			if down {
				x.restart()
			}
			x.poll().want(2, 4, 1, 5)
		})
	}
}

// What was in the file at first contact stays unread.
func TestHistoryIsNotReadAfterARewrite(t *testing.T) {
	path := logPath(t)
	add(t, path, lines(1, 9))
	x := newTail(t, path).poll().want()
	edit(t, path, false, without(9))
	add(t, path, line(10))
	x.poll().want(10)
	if n := x.f.Stats().Ignored[ReadBefore]; n != 8 {
		t.Errorf("%d lines counted as read before", n)
	}
}

// A file without a ban was rewritten, so nothing tells its old lines from new ones. The follower continues at its end
// and stays there: a ban appended before or after a restart is read.
func TestRewrittenWithoutABan(t *testing.T) {
	changes := map[string]func([]string) []string{
		"the last line deleted": func(all []string) []string { return all[:1] },
		"emptied":               func([]string) []string { return nil },
	}
	for name, change := range changes {
		for _, inPlace := range []bool{false, true} {
			for _, down := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, in place=%v, down=%v", name, inPlace, down), func(t *testing.T) {
					path := logPath(t)
					add(t, path, "")
					x := newTail(t, path).poll()
					add(t, path, "this is the line file\nnoise\n")
					x.poll()
					if down {
						x.f.close()
					}
					edit(t, path, inPlace, change)
					if down {
						x.restart()
					}
					x.poll()
					add(t, path, line(1))
					x.restart().poll().want(1)
					add(t, path, line(2))
					x.poll().want(2).restart().poll().want()
				})
			}
		}
	}
}

// There are more lines than are remembered: those before the known ones are older still.
func TestRewrittenBeyondMemory(t *testing.T) {
	t.Parallel()
	address := func(n int) string { return fmt.Sprintf("HOST 10.%d.%d.%d PORT 22\n", n>>16, n>>8&255, n&255) }
	var text strings.Builder
	for n := range maxMarks + 3*memoryBlock {
		text.WriteString(address(n))
	}
	for _, down := range []bool{false, true} {
		for name, change := range map[string]func([]string) []string{
			"one deleted":           func(all []string) []string { return slices.Delete(all, 1000, 1001) },
			"trimmed to the oldest": func(all []string) []string { return all[:memoryBlock] },
			"the last one edited":   func(all []string) []string { n := len(all) - 2; all[n] = "x " + all[n]; return all },
		} {
			t.Run(fmt.Sprintf("%s, down=%v", name, down), func(t *testing.T) {
				path := logPath(t)
				add(t, path, "")
				x := newTail(t, path).poll()
				add(t, path, text.String())
				x.poll()
				x.got = nil
				if down {
					x.f.close()
				}
				edit(t, path, false, change)
				if down {
					x.restart()
				}
				x.poll().want()
				x.now = x.now.Add(time.Minute)
				add(t, path, line(1))
				x.poll().want(1)
				if n := len(x.f.marks.all); n > maxMarks {
					t.Errorf("%d lines are remembered", n)
				}
			})
		}
	}
}

func TestMarksOutliveARun(t *testing.T) {
	kept := slots{}
	m := loadMarks(kept)
	for n := range maxMarks + 5*memoryBlock/2 {
		m.add(mark{uint32(n), uint32(n)})
		if n%777 == 0 {
			m.save()
		}
	}
	m.save()
	again := loadMarks(kept)
	if !slices.Equal(m.all, again.all) || m.first != again.first || m.complete() || again.complete() {
		t.Fatalf("%d marks from %d came back as %d from %d", len(m.all), m.first, len(again.all), again.first)
	}
	for slot, block := range kept {
		if slot < 0 || slot >= MemorySlots || len(block) > 8+memoryBlock*markSize {
			t.Errorf("slot %d has %d bytes", slot, len(block))
		}
	}
	delete(kept, 3) // a lost block: only what came after it is certain
	if again = loadMarks(kept); again.complete() || len(again.all) >= len(m.all) || again.all[len(again.all)-1] != m.all[len(m.all)-1] {
		t.Errorf("%d marks without a block", len(again.all))
	}
}
