package volumetest

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/quorum"
)

var (
	seeds = flag.Int("seeds", 150, "runs of the simulator")
	seed  = flag.Uint64("seed", 0, "replay this run, with its trace in sim.trace")
)

// options are a function of the seed alone.
func options(seed uint64) Options {
	o := Options{Seed: seed, Replicas: 3, Level: quorum.Quorum, Duration: 20 * time.Second}
	switch seed % 8 {
	case 1:
		o.Replicas = 5
	case 2:
		o.Level = quorum.All
	case 3:
		o.Replicas = 2
	case 4:
		o.Replicas = 1
	case 5:
		o.PowerCuts = true
	}
	return o
}

func TestSimulation(t *testing.T) {
	if *seed != 0 {
		replay(t, *seed)
		return
	}
	start := time.Now()
	var sum Result
	for s := uint64(1); s <= uint64(*seeds); s++ {
		r, err := Run(options(s))
		sum.Ops += r.Ops
		sum.Targets += r.Targets
		sum.Crashes += r.Crashes
		sum.Rebuilds += r.Rebuilds
		if err != nil {
			t.Fatalf("%v\nreplay: go test ./pkg/volume/volumetest -run TestSimulation -seed %d", err, s)
		}
	}
	t.Logf("%d seeds, %.1f per second: %+v", *seeds, float64(*seeds)/time.Since(start).Seconds(), sum)
}

func replay(t *testing.T, s uint64) {
	f, err := os.Create("sim.trace")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	o := options(s)
	o.Trace = func(l string) { fmt.Fprintln(f, l) }
	if _, err := Run(o); err != nil {
		t.Fatalf("%v\ntrace: %s", err, f.Name())
	}
}
