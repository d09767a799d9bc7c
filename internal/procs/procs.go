// Package procs gives a Go program as many processors (GOMAXPROCS) as it fills.
//
// Go's default is all that the machine, or the container's limit, has. A program
// that mostly waits pays for them: each goroutine that becomes ready wakes a thread to
// look for more work, which finds none and sleeps again. Target and replicas
// at low load spent up to a third of their time so (measured in
// pkg/store/dmu/DESIGN.md).
package procs

import (
	"context"
	"math"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cask-storage/cask/internal/slack"
)

const (
	every = 500 * time.Millisecond // how often the number is looked at
	full  = 0.7                    // of a processor: more load than that for each, and there are more
	spare = 0.5                    // less than that for each of one fewer, and there is one fewer

	// How many looks pass between two trials of one fewer.
	firstTrial = 8
	lastTrial  = 128
)

// Fit keeps the number of processors as small as the load allows until ctx ends,
// between 1 and the number that the program began with. Each of used is the time of
// processors that was used so far, by what it counts; the largest load counts.
// A GOMAXPROCS in the environment stands.
func Fit(ctx context.Context, used ...func() time.Duration) {
	if os.Getenv("GOMAXPROCS") != "" {
		return
	}
	most := runtime.GOMAXPROCS(0)
	c := count{n: 1, most: most, pause: firstTrial}
	runtime.GOMAXPROCS(c.n)
	defer runtime.GOMAXPROCS(most)
	t := time.NewTicker(every)
	defer t.Stop()
	before, at := make([]time.Duration, len(used)), time.Now()
	for i, f := range used {
		before[i] = f()
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		took, load := time.Since(at), 0.0
		at = at.Add(took)
		for i, f := range used {
			now := f()
			load = max(load, float64(now-before[i])/float64(took))
			before[i] = now
		}
		if c.next(load) {
			runtime.GOMAXPROCS(c.n)
		}
	}
}

// count is the number of processors, at most most. That a load is more than one
// fewer can carry does not show that it would be: with more of them there is more to
// wake, and calls into C take longer. So one fewer is tried now and then, less
// often each time that it turns out to be too few.
type count struct {
	n, most int
	pause   int  // looks from a trial that failed to the next
	since   int  // looks since n changed
	trial   bool // n is one fewer than was known to do
}

// next follows a look that showed load, in processors. It reports whether n changed.
func (c *count) next(load float64) bool {
	was := c.n
	c.since++
	switch {
	case load > full*float64(c.n):
		c.n = min(c.most, int(math.Ceil(load/full)))
		if !c.trial {
			c.pause = firstTrial
		} else {
			c.pause = min(2*c.pause, lastTrial)
		}
		c.trial = false
	case load < spare*float64(c.n-1):
		c.n, c.trial = c.n-1, false
	case c.n > 1 && load < spare*float64(c.n) && c.since >= c.pause:
		c.n, c.trial = c.n-1, true
	case c.trial && c.since >= c.pause:
		c.trial = false // it does
	}
	if c.n == was {
		return false
	}
	c.since = 0
	return true
}

// CPU is the processor time of this process so far.
func CPU() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// hold is how long a call into C keeps its processor before Go's runtime gives
// it to another goroutine: what its monitor sleeps. When it had nothing to do for a
// while, that is up to 10 ms more.
const hold = slack.Cgo

var held atomic.Int64

// Hold runs call, which keeps a processor of Go's while it waits: it is in C, or
// in a system call that Go's poller knows nothing of.
func Hold(call func()) {
	began := time.Now()
	call()
	held.Add(int64(min(time.Since(began), hold)))
}

// Held is for how long calls of Hold in this process have kept processors so far.
func Held() time.Duration { return time.Duration(held.Load()) }
