package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// userHZ is the unit of times in /proc, frozen by the kernel's interface.
const userHZ = 100

// cpuTime is what processes have used so far, in user and kernel mode.
func cpuTime(pids []int) time.Duration {
	var ticks int64
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue // it has ended: its operations fail
		}
		_, rest, _ := strings.Cut(string(b), ") ") // the name may hold blanks
		f := strings.Fields(rest)
		for _, s := range f[11:13] { // utime, stime
			n, _ := strconv.ParseInt(s, 10, 64)
			ticks += n
		}
	}
	return time.Duration(ticks) * time.Second / userHZ
}

// rss is the memory that processes have resident, in MB.
func rss(pids []int) float64 {
	var pages int64
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if f := strings.Fields(string(b)); err == nil && len(f) > 1 {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			pages += n
		}
	}
	return float64(pages*int64(os.Getpagesize())) / 1e6
}

// settle waits until processes have written back what they held, at most a
// little longer than ZFS keeps an idle transaction group open.
func settle(ctx context.Context, pids []int) {
	const step, most, quiet = 300 * time.Millisecond, 7 * time.Second, 20 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	calm := 0
	for last := cpuTime(pids); calm < 2; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(step):
		}
		now := cpuTime(pids)
		if calm++; now-last > quiet {
			calm = 0
		}
		last = now
	}
}

// percentiles are the median, the 99th and the 99.9th, in µs. It sorts d.
func percentiles(d []time.Duration) (p50, p99, p999 float64) {
	if len(d) == 0 {
		return 0, 0, 0
	}
	slices.Sort(d)
	at := func(p float64) float64 { return float64(d[int(p*float64(len(d)-1))].Nanoseconds()) / 1e3 }
	return at(0.5), at(0.99), at(0.999)
}
