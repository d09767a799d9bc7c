// Package volumetest is the seeded simulator of replication: the real core of
// the target, the real rules of the replica and the real wire codec run
// against a simulated clock, network, authority and store, under faults. Each
// run is checked (see Check). Package mutant breaks the rules one by one to
// show that the checks notice.
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
	"runtime/debug"
	"time"

	"github.com/cask-storage/cask/pkg/block/historytest"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/volume"
)

// Options choose a run.
type Options struct {
	Seed     uint64
	Replicas int
	Level    quorum.Level
	// Spares are nodes that do not vote at first. With them, levels and
	// voters change during the run.
	Spares int
	// Zones is how many zones the nodes are in; 0: they do not matter.
	Zones int
	// Duration of the faults, in simulated time.
	Duration time.Duration
	// PowerCuts lets all replicas lose their memory at once; then only
	// flushed writes must survive.
	PowerCuts bool
	// Focus names the faults that happen (see faultKinds, and what favours is
	// asked for); a random choice when nil.
	Focus []string
	// Trace receives a line for each event; nil for none.
	Trace func(string)
}

// Check names what a run is checked for.
type Check string

// The checks.
const (
	Linearizable Check = "linearizable" // each block is a register (without power cuts)
	Durable      Check = "durable"      // no read is older than what was flushed before it
	Prefix       Check = "prefix"       // a member's content is a prefix of the history that it says
	Snapshots    Check = "snapshots"    // one that was acknowledged is there, and what it holds was the content then
	Identical    Check = "identical"    // replicas are the same once all has healed
	Live         Check = "live"         // everything completes once the faults end
	Protocol     Check = "protocol"     // no request fails, nobody panics, nothing is undecodable
)

// Broken is a rule that a run has found broken.
type Broken struct {
	Check Check
	Seed  uint64
	At    time.Duration // of simulated time
	Text  string
}

func (b *Broken) Error() string {
	return fmt.Sprintf("seed %d at %.3f ms: not %s: %s", b.Seed, float64(b.At)/1e6, b.Check, b.Text)
}

const (
	ms        = volume.Time(time.Millisecond)
	blockSize = 512
	// recordSize is what a store reads and checks at once.
	recordSize = 2 * blockSize
	blocks     = 48
	maxEvents  = 4 << 20 // of one run: more are a livelock
	liveness   = 120_000 * ms
)

// The bounds, small enough that runs pass them: window < backlog < tail.
var bounds = volume.Bounds{WindowOps: 24, WindowBytes: 24 * blockSize, BacklogOps: 60, BacklogBytes: 60 * blockSize, CopyChunk: 2 * blockSize, CopyNote: 4 * blockSize,
	CopyLeast: 40 * blockSize, CopyMost: 4000 * blockSize, VerifyRegion: 8 * blockSize, VerifyPiece: 4 * blockSize}

const tailOps = 100

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
	auth     authority
	layout   *volume.Layout // nil: without
	healing  bool           // no more faults
	ambushes bool           // rebuilds are ambushed
	alone    *node          // that has what was flushed last, see strengthen
	calm     volume.Time    // nobody writes until then
	peace    volume.Time    // no rebuild is ambushed until then
	pace     volume.Time    // of the clients: what few writes touch shows more
	clients  []*client
	ops      []op
	flushed  []historytest.Flush
	cuts     []volume.Time // power cuts
	snaps    []snapOp
	values   uint64
	starts   map[history.Epoch]history.Seq // first operation of each epoch
	numbered map[number]numbered
	rotted   int // blocks that have rotted
	unjudged int // blocks of whose history nothing is said

	asked    int  // verifications
	verified int  // of them, that came to an end
	planted  bool // a replica is not what it should be
	size     sizing

	sessionsOver int // sessions of clients that ended
	err          *Broken
}

// Result is what a run was like.
type Result struct {
	Ops, Targets, Crashes, Rebuilds, Resumed, Pulled, Returns, Events int
	SessionsOver                                                      int // because acknowledged writes may have been lost
	Verified                                                          int // comparisons of replicas that came to an end
	Rotted, Healed                                                    int // records that could not be read, and what was repaired
	Unjudged                                                          int // blocks whose history had too many explanations to try
}

// Add sums results.
func (r *Result) Add(o Result) {
	r.Ops += o.Ops
	r.Targets += o.Targets
	r.Crashes += o.Crashes
	r.Rebuilds += o.Rebuilds
	r.Resumed += o.Resumed
	r.Pulled += o.Pulled
	r.Returns += o.Returns
	r.Events += o.Events
	r.Verified += o.Verified
	r.Rotted += o.Rotted
	r.Healed += o.Healed
	r.Unjudged += o.Unjudged
	r.SessionsOver += o.SessionsOver
}

// Run simulates once and returns the first rule broken, nil if none was.
func Run(opt Options) (res Result, broken *Broken) {
	w := &world{opt: opt, rng: rand.New(rand.NewPCG(opt.Seed, 1)), now: ms,
		starts: map[history.Epoch]history.Seq{}, numbered: map[number]numbered{}}
	defer func() {
		if p := recover(); p != nil {
			w.fail(Protocol, "panic: %v\n%s", p, debug.Stack())
			res, broken = w.result(), w.err
		}
	}()
	w.setUp()
	end := volume.Time(opt.Duration)
	w.runUntil(end)
	w.heal()
	w.runUntil(end + liveness)
	return w.finish()
}

func (w *world) setUp() {
	w.pace = []volume.Time{12 * ms, 60 * ms, 300 * ms}[w.rng.IntN(3)]
	for i := range w.opt.Replicas + w.opt.Spares {
		n := newNode(w, quorum.ReplicaID(fmt.Sprintf("r%d", i)))
		w.replicas = append(w.replicas, n)
		if i < w.opt.Replicas {
			w.auth.record.Voters = append(w.auth.record.Voters, n.id)
		}
	}
	w.setUpLayout()
	w.setUpSize()
	w.newTarget()
	for i := range 3 {
		w.clients = append(w.clients, newClient(w, i))
	}
	w.faults()
	w.watchPrefixes()
	w.after(w.between(0, 2000*ms), w.verifyAlways)
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

func (w *world) fail(c Check, format string, args ...any) {
	if w.err == nil {
		w.err = &Broken{Check: c, Seed: w.opt.Seed, At: time.Duration(w.now), Text: fmt.Sprintf(format, args...)}
		w.trace("BROKEN %v", w.err)
	}
}

func (w *world) runUntil(end volume.Time) {
	for w.err == nil && len(w.agenda) > 0 && w.agenda[0].at <= end {
		if w.healing && !w.planted && w.quiet() {
			return
		}
		if w.order > maxEvents {
			w.fail(Live, "%d events: something repeats without end", w.order)
		}
		e := heap.Pop(&w.agenda).(event)
		w.now = e.at
		e.do()
	}
	w.now = max(w.now, end)
}
