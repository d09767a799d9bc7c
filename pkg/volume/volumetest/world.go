// Package volumetest is the seeded simulator of replication: the real core of
// the target, the real rules of the replica and the real wire codec run
// against a simulated clock, network, authority and store, under faults. Each
// run is checked: every block is a linearizable register, replicas are
// identical once the faults have healed, and everything completes.
//
// A run is a pure function of its Options; a failing seed replays exactly.
//
// # Concurrency
//
// One goroutine per run; runs are independent.
package volumetest

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/volume"
)

// Options choose a run.
type Options struct {
	Seed     uint64
	Replicas int
	Level    quorum.Level
	// Duration of the faults, in simulated time.
	Duration time.Duration
	// PowerCuts lets all replicas lose their memory at once; then only
	// flushed writes must survive.
	PowerCuts bool
	// Trace receives a line for each event; nil for none.
	Trace func(string)
}

const (
	ms        = volume.Time(time.Millisecond)
	blockSize = 4096
	blocks    = 48
)

// event is something that happens at a time; order breaks ties.
type event struct {
	at    volume.Time
	order uint64
	do    func()
}

type agenda []event

func (a agenda) Len() int { return len(a) }
func (a agenda) Less(i, j int) bool {
	return a[i].at < a[j].at || (a[i].at == a[j].at && a[i].order < a[j].order)
}
func (a agenda) Swap(i, j int) { a[i], a[j] = a[j], a[i] }
func (a *agenda) Push(x any)   { *a = append(*a, x.(event)) }
func (a *agenda) Pop() any {
	old := *a
	e := old[len(old)-1]
	*a = old[:len(old)-1]
	return e
}

// world is one run.
type world struct {
	opt      Options
	rng      *rand.Rand
	now      volume.Time
	agenda   agenda
	order    uint64
	replicas []*node
	targets  []*target // all that ever were; the last is the newest
	conns    uint64
	record   volume.Record
	authDown bool
	healing  bool        // no more faults
	pace     volume.Time // of the clients: what few writes touch shows more
	clients  []*client
	ops      []op
	flushed  []span        // completed flushes
	cuts     []volume.Time // power cuts
	values   uint64
	err      error
}

// span is when something was asked for and when it was done.
type span struct{ call, ret volume.Time }

// Result is what a run was like.
type Result struct {
	Ops, Targets, Crashes, Rebuilds int
	Unclean                         int
}

// Run simulates once and returns the first rule broken.
func Run(opt Options) (Result, error) {
	w := &world{opt: opt, rng: rand.New(rand.NewPCG(opt.Seed, 1)), now: ms}
	w.pace = []volume.Time{12 * ms, 60 * ms, 300 * ms}[w.rng.IntN(3)]
	for i := range opt.Replicas {
		w.record.Voters = append(w.record.Voters, quorum.ReplicaID(fmt.Sprintf("r%d", i)))
	}
	for i := range opt.Replicas {
		w.replicas = append(w.replicas, newNode(w, i))
	}
	w.newTarget()
	for i := range 2 {
		w.clients = append(w.clients, newClient(w, i))
	}
	w.faults()
	end := volume.Time(opt.Duration)
	w.runUntil(end)
	w.heal()
	w.runUntil(end + 120_000*ms)
	return w.finish()
}

func (w *world) trace(format string, args ...any) {
	if w.opt.Trace != nil {
		w.opt.Trace(fmt.Sprintf("%9.3fms ", float64(w.now)/1e6) + fmt.Sprintf(format, args...))
	}
}

// after schedules do.
func (w *world) after(d volume.Time, do func()) {
	w.order++
	heap.Push(&w.agenda, event{w.now + d, w.order, do})
}

// between is a random time.
func (w *world) between(lo, hi volume.Time) volume.Time {
	return lo + volume.Time(w.rng.Int64N(int64(hi-lo)+1))
}

func (w *world) chance(p float64) bool { return w.rng.Float64() < p }

func (w *world) fail(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf("seed %d at %.3f ms: "+format, append([]any{w.opt.Seed, float64(w.now) / 1e6}, args...)...)
		w.trace("BROKEN %v", w.err)
	}
}

func (w *world) runUntil(end volume.Time) {
	for w.err == nil && len(w.agenda) > 0 && w.agenda[0].at <= end {
		if w.healing && w.quiet() {
			return
		}
		e := heap.Pop(&w.agenda).(event)
		w.now = e.at
		e.do()
	}
	w.now = max(w.now, end)
}
