package volumetest

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/quorum"
)

var (
	seeds = flag.Uint64("seeds", 150, "runs of the simulator")
	first = flag.Uint64("first", 1, "the first seed")
	seed  = flag.Uint64("seed", 0, "replay this run")
	dir   = flag.String("traces", "", "where to write the trace of a failing or replayed run; a temporary directory when empty")
)

// TestMain trades memory, of which a run needs little, for speed.
func TestMain(m *testing.M) {
	debug.SetGCPercent(800)
	m.Run()
}

// options are a function of the seed alone.
func options(seed uint64) Options { return plan(seed, seed%12) }

// plan is one of twelve ways to set up a run.
func plan(seed, kind uint64) Options {
	o := Options{Seed: seed, Replicas: 3, Level: quorum.Quorum, Duration: 20 * time.Second}
	switch kind {
	case 1:
		o.Replicas = 5
	case 2:
		o.Level = quorum.All
	case 3:
		o.Replicas = 2
	case 4:
		o.Replicas = 1
	case 5, 6:
		o.PowerCuts = true
	case 7:
		o.PowerCuts, o.Spares = true, 2
	case 8:
		o.Spares = 2
	case 9:
		o.Level, o.Spares = quorum.All, 1
	case 10:
		o.Level, o.Replicas, o.Zones = []quorum.Level{quorum.Local, quorum.Each}[seed/12%2], 5, 3
	case 11:
		o.Level, o.Replicas, o.Spares, o.Zones, o.PowerCuts = quorum.Local, 4, 1, 2, seed/12%2 == 0
	}
	return o
}

func TestSimulation(t *testing.T) {
	if *seed != 0 {
		replay(t, *seed)
		return
	}
	reported := time.Duration(0)
	h := Hunt{From: *first, To: *first + *seeds - 1, Options: options, Progress: func(done uint64, elapsed time.Duration) {
		if elapsed > reported+5*time.Second {
			reported = elapsed
			t.Logf("%d of %d seeds, %.1f per second", done, *seeds, float64(done)/elapsed.Seconds())
		}
	}}
	found := h.Run()
	t.Logf("%d seeds, %.1f per second: %+v", found.Seeds, found.PerSecond(), found.Sum)
	if found.Broken != nil {
		replay(t, found.Broken.Seed)
	}
}

// TestReplay: a run is a function of its options and nothing else, or a seed
// could not be looked at again.
func TestReplay(t *testing.T) {
	for s := uint64(101); s < 113; s++ {
		var lines []string
		o := options(s)
		o.Trace = func(l string) { lines = append(lines, l) }
		Run(o)
		n := 0
		o.Trace = func(l string) {
			if n < len(lines) && lines[n] != l {
				t.Fatalf("seed %d, line %d: %s\nthe run before: %s", s, n+1, l, lines[n])
			}
			n++
		}
		if Run(o); n != len(lines) {
			t.Fatalf("seed %d: %d lines, the run before %d", s, n, len(lines))
		}
	}
}

// replay runs a seed with its trace, and shows the end of it if it fails.
func replay(t *testing.T, s uint64) {
	d := *dir
	if d == "" {
		d = os.TempDir()
	}
	f, err := os.Create(filepath.Join(d, fmt.Sprintf("cask-sim-%d.trace", s)))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := bufio.NewWriter(f)
	o := options(s)
	fmt.Fprintf(out, "%+v\n", o)
	var last []string
	o.Trace = func(l string) {
		fmt.Fprintln(out, l)
		if last = append(last, l); len(last) > 40 {
			last = last[1:]
		}
	}
	res, broken := Run(o)
	if err := out.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Logf("seed %d: %+v, trace: %s", s, res, f.Name())
	if broken == nil {
		return
	}
	for _, l := range last {
		t.Log(l)
	}
	t.Fatalf("%v\ntrace:  %s\nreplay: make sim SEED=%d", broken, f.Name(), s)
}
