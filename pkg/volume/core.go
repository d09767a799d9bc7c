// Package volume is the replication core of a volume's target: a pure state
// machine that acquires an epoch, recovers the history from the replicas,
// orders the operations of the frontends, decides when they are acknowledged,
// and brings replicas that fell behind up to date. DESIGN.md beside this file
// states its rules, states and failures.
//
// # Concurrency
//
// A Core has no goroutine, clock, socket or file. One goroutine (package
// target, or the simulator) feeds it events through its methods and carries
// out the Actions that Take returns, in order.
package volume

import (
	"errors"
	"fmt"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/buffer"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/internal/mutant"
	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/replication"
	"github.com/cask-storage/cask/pkg/store"
)

// Time is a reading of a monotonic clock.
type Time time.Duration

const (
	copyDepth  = 4  // chunks of a rebuild in flight
	tailDepth  = 64 // operations of a tail in flight
	flushDepth = 4  // flush rounds in flight
)

// Bounds are what a target holds. The backlog must be smaller than a replica's
// tail (replica.TailBytes, TailOps), the window smaller than the backlog.
type Bounds struct {
	WindowBytes  int // operations issued and not yet acknowledged
	WindowOps    int
	BacklogBytes int // operations kept for replicas that are behind
	BacklogOps   int
	CopyChunk    uint64 // bytes that a rebuild moves at once
	CopyNote     uint64 // bytes that a rebuild broken off may have to move again
	CopyLeast    uint64 // bytes per second of a rebuild, however slow the host's writes are
	CopyMost     uint64 // at most that
	VerifyRegion uint64 // bytes of each digest that a verification asks for first,
	VerifyPiece  uint64 // and of those where these differ; multiples of store.DigestUnit
}

// DefaultBounds are those of every target outside the simulator.
func DefaultBounds() Bounds {
	return Bounds{WindowBytes: 8 << 20, WindowOps: 1024, BacklogBytes: 16 << 20, BacklogOps: 4096, CopyChunk: 256 << 10, CopyNote: 128 << 20,
		CopyLeast: 8 << 20, CopyMost: 2 << 30, VerifyRegion: 32 << 20, VerifyPiece: 512 << 10}
}

// Config is what does not change while a target runs.
type Config struct {
	Instance string             // unique to this run of the target
	Level    quorum.Level       // without a Layout
	Replicas []quorum.ReplicaID // without a Layout: the one to read from first
	// Layout has the target change the record's level and voters; nil leaves
	// both alone. The Authority must then keep all of a Record.
	Layout *Layout
	Size   uint64 // bytes: what Resize would tell
	Volume string
	// AlwaysDurable makes every write wait for stable storage.
	AlwaysDurable bool
	// VerifyEvery is how long after one verification the next begins, VerifyFirst
	// how long after the start the first does; 0: only when asked for.
	VerifyEvery, VerifyFirst Time
	Timing                   Timing
	Bounds                   Bounds // DefaultBounds when zero
}

// Timing holds the intervals. Lease must be the same in all targets of a
// volume, ever.
type Timing struct {
	Lease        Time // how long a confirmation allows reads
	LeaseWait    Time // how long a new target waits for an old one's lease: Lease plus clock drift
	Ping         Time // between confirmations
	Dead         Time // a replica silent for this long is disconnected
	Grace        Time // recovery waits this long for replicas it could do without
	UncleanGrace Time // the same before a recovery that may lose unflushed writes
	Retry        Time // between attempts at what failed
	Pull         Time // a replica that fetches a chunk from another for this long is cut off
	Evict        Time // a voter that holds I/O up is kept this long
}

// DefaultTiming suits a cluster on one site.
func DefaultTiming() Timing {
	const ms = Time(time.Millisecond)
	return Timing{Lease: 1500 * ms, LeaseWait: 1650 * ms, Ping: 400 * ms, Dead: 4000 * ms,
		Grace: 300 * ms, UncleanGrace: 8000 * ms, Retry: 1000 * ms, Evict: 2000 * ms, Pull: 3000 * ms}
}

// Phase is where a target is on its way to serving.
type Phase uint8

// The phases.
const (
	Loading      Phase = iota // waits for the record
	Acquiring                 // waits for its epoch
	Fencing                   // waits for promises
	Breaking                  // records that hosts' sessions are over
	Tailing                   // fetches what the others miss from the best replica
	Joining                   // waits for a write quorum that has it all
	Initializing              // records that operations may exist
	Leasing                   // waits until an older target cannot serve reads
	Serving                   //
	Stopped                   // superseded, or the record makes no sense
)

var phaseNames = [...]string{"Loading", "Acquiring", "Fencing", "Breaking", "Tailing", "Joining", "Initializing", "Leasing", "Serving", "Stopped"}

func (p Phase) String() string { return phaseNames[p] }

// ActionKind says what the driver is to do.
type ActionKind uint8

// The actions.
const (
	ActSend     ActionKind = iota + 1 // Msg to replica To on connection Conn
	ActReset                          // close connection Conn of replica To and connect anew
	ActLoad                           // Authority.Load, then Loaded
	ActSwap                           // Authority.CompareAndSwap(Old, Next), then Swapped
	ActComplete                       // Req is done, with Err
	ActStop                           // the target must end; Err says why
)

// Action is something the core wants done.
type Action struct {
	Kind      ActionKind
	To        quorum.ReplicaID
	Conn      uint64
	Msg       replication.Message
	Old, Next Record
	Req       *Request
	Err       error
}

// Request is one operation of a frontend.
type Request struct {
	Op     block.Op // of package block, or OpSnapshot and those after it
	Extent block.Extent
	FUA    bool
	Bufs   [][]byte       // OpWrite: the content; OpRead: set on completion
	Own    *buffer.Buffer // OpRead: the memory of Bufs, which the driver may free; may be nil
	Owner  any            // the driver's own
	// Session is what Core.Session said when the session that asks began.
	Session history.Epoch

	Name      string               // OpSnapshot
	Base      history.Seq          // OpRead: of this snapshot, 0: of the volume; OpDropSnapshot: of which
	Snapshots []store.SnapshotInfo // OpListSnapshots: set on completion

	seq      history.Seq // when issued
	asked    []ask       // for a read, and not answered yet: two when it is hedged
	hedged   bool
	bad      map[quorum.ReplicaID]bool
	answered history.Seq // a read waits for this to be committed
	at       Time        // when submitted
}

// Core is the state machine.
type Core struct {
	cfg   Config
	now   Time
	phase Phase
	out   []Action
	ids   uint64

	rec     Record
	sys     quorum.System
	all     []*peer // every replica known
	peers   []*peer // those that are kept up to date, the preferred first
	voters  []*peer // of them
	change  *change // of the record
	noAdd   Time    // no voter is added before: the authority denied one
	calling bool    // the Authority has not answered yet

	confirming bool // it was asked for the sake of blank replicas
	confirmAt  Time // ask it then
	sole       bool // no older target can get anything accepted: requests are taken
	released   bool // the epoch before ended in good order
	unclean    string
	stop       error
	retryAt    Time
	chooseAt   Time // when recovery may choose; 0: not yet possible
	fencedAt   Time

	hist   history.History
	last   history.Seq
	commit history.Seq
	log    backlog
	tail   tailing

	size    sizes
	snapped history.Seq // the last snapshot, or drop of one, numbered by this target
	waiting []*Request  // writes not issued
	uncom   window
	slack   slack
	reads   reads
	hedges  uint64 // reads that were hedged
	flushes flushes
	rebuild *rebuild
	pace    pace
	repairs []*repair

	verify      *verify
	verified    Verification // the last one
	verifyAsked string
	verifyAt    Time // the next begins then; 0: not known, or never
}

// New makes a core; Start begins its work.
func New(cfg Config) *Core {
	if cfg.Bounds == (Bounds{}) {
		cfg.Bounds = DefaultBounds()
	}
	c := &Core{cfg: cfg, reads: newReads(), size: sizes{want: cfg.Size}}
	for _, id := range cfg.Replicas {
		c.all = append(c.all, &peer{id: id})
	}
	return c
}

// Start asks for the record.
func (c *Core) Start(now Time) {
	c.now = now
	c.load()
}

// Take returns the actions since the last Take, to be done in order.
func (c *Core) Take() []Action {
	out := c.out
	c.out = nil
	return out
}

// Phase is the current phase.
func (c *Core) Phase() Phase { return c.phase }

// Epoch is the epoch acquired, or being acquired.
func (c *Core) Epoch() history.Epoch { return c.rec.Epoch }

func (c *Core) act(a Action) {
	if a.Kind == ActLoad || a.Kind == ActSwap {
		c.calling = true
	}
	c.out = append(c.out, a)
}

func (c *Core) id() uint64 {
	c.ids++
	return c.ids
}

func (c *Core) load() {
	c.phase, c.retryAt = Loading, 0
	c.act(Action{Kind: ActLoad})
}

// loadLater has Tick ask for the record, once what was asked before has been
// answered.
func (c *Core) loadLater() { c.phase, c.retryAt = Loading, c.now+c.cfg.Timing.Retry }

func (c *Core) halt(err error) {
	c.stop = err
	c.Close(block.ErrFenced)
	c.act(Action{Kind: ActStop, Err: err})
}

// Close ends the core: every request completes with err, and nothing is sent
// any more.
func (c *Core) Close(err error) {
	c.phase = Stopped
	c.reads.requeue()
	c.flushes.requeue()
	for i := range c.log.entries {
		if e := &c.log.entries[i]; e.req != nil {
			c.waiting = append(c.waiting, e.req)
			e.req = nil
		}
	}
	c.endWaiting(err)
}

// Idle reports whether no request is under way and every replica that counts
// has every operation: the time to stop.
func (c *Core) Idle() bool {
	if c.phase != Serving || len(c.waiting)+len(c.reads.waiting)+len(c.reads.sent)+len(c.reads.parked) > 0 ||
		len(c.flushes.waiting)+len(c.flushes.rounds) > 0 {
		return false
	}
	return c.every(func(p *peer) bool { return p.state == down || p.state == failed || p.acked == c.last })
}

// Record is the record of this core's epoch.
func (c *Core) Record() Record { return c.rec }

// Loaded is the answer to ActLoad.
func (c *Core) Loaded(now Time, rec Record, err error) {
	c.now, c.calling = now, false
	if c.confirming {
		c.confirmed(rec, err)
		c.advance()
		return
	}
	if c.change != nil && c.change.swapping {
		c.changeLoaded(rec, err)
		c.advance()
		return
	}
	if c.phase != Loading || c.retryAt != 0 {
		return
	}
	if err == nil {
		err = rec.Check()
	}
	if errors.Is(err, ErrRecord) {
		c.rec = rec
		c.halt(fmt.Errorf("volume %s: %w", c.cfg.Volume, err))
		return
	}
	if err != nil {
		c.loadLater()
		return
	}
	if c.sole && rec.Holder != c.cfg.Instance && !mutant.On(mutant.StaleHost) {
		// The hosts have gone on with another: what still waits here is
		// stale and must never be done.
		c.halt(fmt.Errorf("target %s of volume %s has taken over with epoch %d: %w", rec.Holder, c.cfg.Volume, rec.Epoch, ErrSuperseded))
		return
	}
	next := rec
	if c.cfg.Layout != nil {
		next = c.cfg.Layout.complete(rec)
	}
	conf := next.config()
	if conf.Level == "" {
		conf.Level = c.cfg.Level
	}
	sys, err := conf.System()
	if err != nil {
		c.halt(fmt.Errorf("record of volume %s: %w", c.cfg.Volume, err))
		return
	}
	next.Epoch, next.Holder = rec.Epoch+1, c.cfg.Instance
	c.released = rec.Holder == ""
	c.sys, c.phase = sys, Acquiring
	c.adopt(next)
	c.follow()
	c.act(Action{Kind: ActSwap, Old: rec, Next: next})
	if mutant.On(mutant.EpochUnswapped) {
		c.fence()
	}
}

// Swapped is the answer to ActSwap.
func (c *Core) Swapped(now Time, err error) {
	c.now, c.calling = now, false
	switch {
	case c.change != nil && c.change.swapping:
		c.changeSwapped(err)
	case c.phase != Acquiring && c.phase != Initializing && c.phase != Breaking: // of an epoch that was given up
	case err != nil && c.phase != Acquiring:
		c.reacquire(fmt.Sprintf("the volume's record could not be changed: %v", err))
	case err != nil:
		// Lost to another, or unknown: read what stands and go on from there.
		c.loadLater()
	case c.phase == Acquiring:
		c.fence()
	case c.phase == Breaking:
		c.sessionsEnded()
	default:
		c.phase = Leasing
	}
	c.advance()
}

// fence asks every replica for its promise.
func (c *Core) fence() {
	c.phase, c.chooseAt = Fencing, 0
	if mutant.On(mutant.EarlyRequests) {
		c.sole = true
	}
	for _, p := range c.peers {
		c.greet(p)
	}
}

// reacquire starts over with a new epoch. Requests stay and are done again.
func (c *Core) reacquire(why string) {
	c.phase = Loading
	for _, p := range c.peers {
		c.reset(p, why)
	}
	var again []*Request
	for i := range c.log.entries {
		if r := c.log.entries[i].req; r != nil && c.log.entries[i].seq > c.commit {
			again = append(again, r)
		}
	}
	c.waiting = append(again, c.waiting...)
	c.uncom = window{}
	c.log, c.tail, c.rebuild, c.change, c.verify = backlog{}, tailing{}, nil, nil, nil
	c.confirming = false // what was asked is answered to nobody
	c.reads.requeue()
	c.flushes.requeue()
	c.loadLater()
}

// Tick tells the time; call it every few tens of milliseconds.
func (c *Core) Tick(now Time) {
	c.now = now
	if c.phase == Loading && c.retryAt != 0 && now >= c.retryAt && (!c.calling || mutant.On(mutant.StaleAnswer)) {
		c.load()
	}
	if c.fenced() {
		for _, p := range c.peers {
			c.tickPeer(p)
		}
		c.tickPulls()
		c.tickRepairs()
	}
	c.noteSynced()
	c.hedge()
	c.pace.tick(now, c.rebuild != nil && c.rebuild.planned, c.cfg.Bounds)
	c.advance()
}

// Submit starts a request. Until enough replicas have promised it is refused
// with block.ErrFenced: its host could go to an older target that still gets
// writes accepted, and it would be done here again, later.
func (c *Core) Submit(now Time, r *Request) {
	c.now, r.at = now, now
	switch {
	case c.phase == Stopped, !c.sole:
		c.complete(r, block.ErrFenced)
	case r.Op < OpSnapshot && r.Session != c.rec.Lost && !mutant.On(mutant.SessionUnchecked):
		c.complete(r, block.ErrSessionOver)
	case r.Op == block.OpRead || r.Op == OpListSnapshots:
		c.reads.waiting = append(c.reads.waiting, r)
	case r.Op == block.OpFlush:
		c.flushes.waiting = append(c.flushes.waiting, r)
	default:
		c.waiting = append(c.waiting, r)
	}
	c.advance()
}

func (c *Core) complete(r *Request, err error) {
	c.act(Action{Kind: ActComplete, Req: r, Err: err})
}

// advance does whatever has become possible.
func (c *Core) advance() {
	if c.phase == Fencing {
		c.choose()
	}
	if c.phase == Tailing {
		c.fetchTail()
	}
	if c.phase >= Joining && c.phase < Stopped {
		c.joinAll()
		c.advanceRebuild()
		c.advanceRepairs()
		c.advanceChange()
	}
	if c.phase == Joining && c.sys.Write(c.synced) {
		c.barrier()
	}
	if c.phase == Leasing && (c.released || mutant.On(mutant.NoLeaseWait) || c.now >= c.fencedAt+c.cfg.Timing.LeaseWait) {
		c.phase, c.size.served = Serving, c.size.last
	}
	if c.phase == Serving {
		c.advanceResize()
		c.issue()
		c.pumpReads()
		c.pumpFlushes()
		c.advanceVerify()
	}
	c.askAboutBlanks()
}

// barrier is passed: a write quorum has the history and this epoch's start.
func (c *Core) barrier() {
	if c.rec.Initialized || mutant.On(mutant.NoInitialized) {
		c.phase = Leasing
		return
	}
	old := c.rec
	c.rec.Initialized = true
	c.phase = Initializing
	c.act(Action{Kind: ActSwap, Old: old, Next: c.rec})
}

// synced reports whether a voter counts: it has recorded this epoch's start
// and has every operation up to what it acknowledged.
func (c *Core) synced(id quorum.ReplicaID) bool { return c.peer(id).state == synced }

func (c *Core) peer(id quorum.ReplicaID) *peer {
	for _, p := range c.all {
		if p.id == id {
			return p
		}
	}
	p := &peer{id: id}
	c.all = append(c.all, p)
	return p
}
