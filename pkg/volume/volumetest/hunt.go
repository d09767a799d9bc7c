package volumetest

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Hunt runs a range of seeds on every processor.
type Hunt struct {
	From, To uint64 // inclusive
	Options  func(seed uint64) Options
	// Progress is called from time to time, by one goroutine; may be nil.
	Progress func(done uint64, elapsed time.Duration)
}

// Hunted is what a Hunt has found.
type Hunted struct {
	Seeds   uint64
	Elapsed time.Duration
	Sum     Result
	Broken  *Broken // of the lowest seed that broke a rule
}

// PerSecond is the speed in seeds per second.
func (h Hunted) PerSecond() float64 { return float64(h.Seeds) / h.Elapsed.Seconds() }

// Run runs the seeds in ascending order until one breaks a rule.
func (h Hunt) Run() Hunted {
	start := time.Now()
	var (
		out        Hunted
		mu         sync.Mutex // guards out
		next, stop atomic.Uint64
		wg         sync.WaitGroup
	)
	next.Store(h.From)
	stop.Store(h.To + 1)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() { // ends when no seed is left
			for s := next.Add(1) - 1; s < stop.Load(); s = next.Add(1) - 1 {
				res, broken := Run(h.Options(s))
				mu.Lock()
				out.Seeds++
				out.Sum.Add(res)
				if broken != nil && (out.Broken == nil || s < out.Broken.Seed) {
					out.Broken = broken
					stop.Store(s)
				}
				if h.Progress != nil {
					h.Progress(out.Seeds, time.Since(start))
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	out.Elapsed = time.Since(start)
	return out
}
