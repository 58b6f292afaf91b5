//go:build long

package mesh

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// soundSeeds is the number of seeds that must pass without a planted fault; plantedSeeds is the number within which the
// simulator must notice one.
const soundSeeds, plantedSeeds = 400, 400

// plant is a deliberate fault: in file (a path below this package's), the text old, which occurs once, becomes new.
type plant struct{ file, old, new string }

// plantedSwitch is added to the copies of the packages that carry the faults. The environment selects the active one.
const plantedSwitch = `

import "os"

var plantedFault = os.Getenv("MESH_PLANTED_FAULT")

func planted(name string) bool { return plantedFault == name }
`

// plantedMarkSource is added for a fault of package mesh.
const plantedMarkSource = `package mesh

import (
	"sync"

	"github.com/meshban/meshban/mesh/frame"
	"github.com/meshban/meshban/mesh/internal/spread"
)

func plantedRelay(m *Mesh, f frame.Frame) { m.pusher.Put(spread.Job{Frames: []frame.Frame{f}, Relay: true}) }

var plantedMarks sync.Map

func plantedMark(m *Mesh, ref frame.Ref) bool {
	_, marked := plantedMarks.LoadOrStore([2]any{m, ref}, true)
	return marked
}
`

// TestPlantedFaults checks that the simulator notices each of these protocol faults. They are put into a copy of the
// package with go's overlay, so the shipped code knows nothing of them. The copy also has narrow bounds, so that the
// simulator reaches them, and must pass while no fault is active.
func TestPlantedFaults(t *testing.T) {
	binary := buildPlanted(t)
	if first, out := runPlanted(t, binary, "none", soundSeeds); first != 0 {
		t.Fatalf("without any fault seed %d fails:\n%s", first, out)
	}
	done := make(map[string]bool)
	for _, p := range plants() {
		name := plantName.FindStringSubmatch(p.new)[1]
		if done[name] { // it is planted in two places
			continue
		}
		done[name] = true
		t.Run("bad: "+name, func(t *testing.T) {
			first, out := runPlanted(t, binary, name, plantedSeeds)
			if first == 0 {
				t.Fatalf("not noticed in %d seeds", plantedSeeds)
			}
			why := regexp.MustCompile(`\): (.*)`).FindStringSubmatch(out)
			t.Logf("noticed by seed %d: %s", first, why[1])
		})
	}
}

var plantName = regexp.MustCompile(`planted\("([^"]*)"\)`)

// buildPlanted compiles the tests with all faults, each behind its switch.
func buildPlanted(t *testing.T) string {
	dir := t.TempDir()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{
		"planted.go": "package mesh" + plantedSwitch, "planted_mark.go": plantedMarkSource,
		"internal/replica/planted.go": "package replica" + plantedSwitch, "internal/spread/planted.go": "package spread" + plantedSwitch,
	}
	for _, p := range append(narrowBounds(), plants()...) {
		if texts[p.file] == "" {
			b, err := os.ReadFile(p.file)
			if err != nil {
				t.Fatal(err)
			}
			texts[p.file] = string(b)
		}
		if n := strings.Count(texts[p.file], p.old); n != 1 {
			t.Fatalf("%s: %q stands there %d times, want once: the planted fault has to follow the code", p.file, p.old, n)
		}
		texts[p.file] = strings.Replace(texts[p.file], p.old, p.new, 1)
	}
	overlay := struct{ Replace map[string]string }{make(map[string]string)}
	for file, text := range texts {
		copied := filepath.Join(dir, strings.ReplaceAll(file, "/", "_"))
		if err := os.WriteFile(copied, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		overlay.Replace[filepath.Join(here, file)] = copied
	}
	b, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "planted.test")
	if out, err := exec.Command("go", "test", "-c", "-overlay", filepath.Join(dir, "overlay.json"), "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("build the planted faults: %v\n%s", err, out)
	}
	return binary
}

var plantedSeed = regexp.MustCompile(`seed \d+ \((\d+) of`)

// runPlanted returns the number of the first seed that fails, or 0 if none does.
func runPlanted(t *testing.T, binary, name string, seeds int) (int, string) {
	cmd := exec.Command(binary, "-test.run=^TestSimulator$", "-test.timeout=20m", "-sim.most=1", "-sim.seeds="+strconv.Itoa(seeds))
	// A run that crashes leaves its temporary folders behind; they are removed with this test's.
	cmd.Env = append(os.Environ(), "MESH_PLANTED_FAULT="+name, "TMPDIR="+t.TempDir())
	out, err := cmd.CombinedOutput()
	m := plantedSeed.FindSubmatch(out)
	switch {
	case m == nil && err != nil && !strings.Contains(string(out), "and never this"):
		t.Fatalf("the simulator broke: %v\n%s", err, out)
	case m == nil:
		return 0, string(out)
	}
	n, _ := strconv.Atoi(string(m[1]))
	return n, string(out)
}

// Seeds that once found a fault, and what went wrong.
func TestKeptSeeds(t *testing.T) {
	for _, k := range []struct {
		seed uint64
		what string
	}{
		{15, "a node that restarted with its clock set back refused its own frames as early, and enforced its bans alone"},
		{184, "likewise"},
		{178, "of two frames of one name, one from the future took the place of the other and was then refused as a ban"},
		{301, "an epoch found in use within 10 s of another one was forgotten (see TestEpochIsRaisedAgain)"},
		{1717, "an unban lifted nothing where one of a node that was revoked since had reached as far (see TestUnbanAfterAVoidOne)"},
		{83, "what a clock that was ahead had ended stayed ended when the clock was set right"},
		{577, "likewise, of a ban that had been shortened"},
		{762, "likewise, as the clock was behind after it had been ahead"},
		{6551, "a ban that its origin had lost, and had said for less long since, went on where it came late"},
		{1628, "a node whose snapshot was two starts old went on with the second epoch for 10 s, and its numbers were taken"},
	} {
		if w := simulate(k.seed, nil); w.failure != nil {
			t.Errorf("%s: %v\n\t%s", k.what, w.failure, replay(k.seed))
		}
	}
}
