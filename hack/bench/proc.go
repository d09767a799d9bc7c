package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// userHZ is the unit of times in /proc, frozen by the kernel's interface.
const userHZ = 100

// usage is what processes have used so far. The counts vary less from run to
// run than the time does on a shared machine.
type usage struct {
	cpu      time.Duration // in user and kernel mode
	switches int64         // times that a thread went to sleep
	faults   int64         // of pages, without I/O
}

func (u usage) minus(v usage) usage {
	return usage{u.cpu - v.cpu, u.switches - v.switches, u.faults - v.faults}
}

func used(pids []int) usage {
	var u usage
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue // it has ended: its operations fail
		}
		_, rest, _ := strings.Cut(string(b), ") ") // the name may hold blanks
		f := strings.Fields(rest)
		u.faults += number(f[7])
		u.cpu += time.Duration(number(f[11])+number(f[12])) * time.Second / userHZ
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
		for _, t := range threads {
			b, _ := os.ReadFile(t)
			if _, n, ok := strings.Cut(string(b), "\nvoluntary_ctxt_switches:"); ok {
				n, _, _ = strings.Cut(n, "\n")
				u.switches += number(n)
			}
		}
	}
	return u
}

// number is 0 for what is none.
func number(s string) int64 {
	n, _ := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	return n
}

// rss is the memory that processes have resident, in MB.
func rss(pids []int) float64 {
	var pages int64
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if f := strings.Fields(string(b)); err == nil && len(f) > 1 {
			pages += number(f[1])
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
	for last := used(pids).cpu; calm < 2; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(step):
		}
		now := used(pids).cpu
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
