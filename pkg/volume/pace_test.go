package volume

import (
	"testing"
	"time"
)

const msec = Time(time.Millisecond)

var paced = Bounds{CopyLeast: 8 * mib, CopyMost: 1024 * mib}

func TestPaceOf(t *testing.T) {
	for name, x := range map[string]struct {
		rate uint64
		seen interval
		idle Time
		want uint64
	}{
		"nobody writes":          {64 * mib, interval{}, msec, 128 * mib},
		"as quick as before":     {64 * mib, interval{10, 10 * msec}, msec, 68*mib + 1},
		"within what is allowed": {64 * mib, interval{10, 25 * msec}, msec, 68*mib + 1},
		"slower":                 {64 * mib, interval{10, 26 * msec}, msec, 32 * mib},
		"slower than microseconds, which nobody sees": {64 * mib, interval{10, 7 * msec}, msec / 10, 68*mib + 1},
		"not known":       {64 * mib, interval{10, 900 * msec}, 0, 68*mib + 1},
		"never below":     {9 * mib, interval{10, 900 * msec}, msec, 8 * mib},
		"never above":     {1000 * mib, interval{}, msec, 1024 * mib},
		"from the bottom": {8 * mib, interval{1, msec}, msec, 8*mib + mib/2 + 1},
	} {
		if got := paceOf(x.rate, x.seen, x.idle, paced); got != x.want {
			t.Errorf("%s: %d, want %d", name, got, x.want)
		}
	}
}

func TestIdleOf(t *testing.T) {
	for name, x := range map[string]struct {
		idle       Time
		seen       interval
		rebuilding bool
		want       Time
	}{
		"the first":                  {0, interval{2, 4 * msec}, false, 2 * msec},
		"the first during a rebuild": {0, interval{2, 4 * msec}, true, 2 * msec},
		"an average":                 {8 * msec, interval{1, 16 * msec}, false, 9 * msec},
		"a rebuild is no measure":    {8 * msec, interval{1, 16 * msec}, true, 8 * msec},
		"lower even during one":      {8 * msec, interval{1, 4 * msec}, true, 4 * msec},
		"nobody writes":              {8 * msec, interval{}, false, 8 * msec},
	} {
		if got := idleOf(x.idle, x.seen, x.rebuilding); got != x.want {
			t.Errorf("%s: %v, want %v", name, time.Duration(got), time.Duration(x.want))
		}
	}
}

// TestPaceSettles: against a disk that writes share with the rebuild, the rate
// stays where their latency is about what is allowed, and a rebuild ends when
// the host's disk is hopeless.
func TestPaceSettles(t *testing.T) {
	p := pace{idle: msec}
	moved, slow := int64(0), 0
	for now := msec; now < 60*1000*msec; now += 20 * msec {
		took := msec + Time(p.rate/(40*mib))*msec // more than allowed from 80 MiB per second on
		p.wrote(took)
		p.tick(now, true, paced)
		if p.credit > 0 {
			moved += p.credit
			p.credit = 0
		}
		if took > 3*msec {
			slow++
		}
	}
	if rate := moved / 60 / mib; rate < 40 || rate > 100 {
		t.Errorf("%d MiB per second, want about 80", rate)
	}
	if slow > 300 {
		t.Errorf("writes were slow in %d of 3000 ticks", slow)
	}
	p, moved = pace{idle: msec}, 0
	for now := msec; now < 10*1000*msec; now += 20 * msec {
		p.wrote(1000 * msec)
		p.tick(now, true, paced)
		moved += max(p.credit, 0)
		p.credit = min(p.credit, 0)
	}
	if rate := moved / 10 / mib; rate < 7 || rate > 9 {
		t.Errorf("%d MiB per second, want the least, 8", rate)
	}
}
