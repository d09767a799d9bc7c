// Package replica is the replica's side of replication: it keeps one copy of
// one volume in a store.Store and does what the target of the highest epoch
// says, and nothing that a superseded one says.
//
// Core holds the rules, without goroutine, clock or socket: messages in,
// replies out, a Store below; the simulator runs it on a store in memory.
// Server runs a Core behind TCP connections. The rules themselves are written
// down in pkg/volume/DESIGN.md.
//
// # Concurrency
//
// Core.Handle is called by one goroutine at a time. Work that only reads, or
// only waits, is handed to Core's Run, which may call it on other goroutines. What
// is acknowledged before the store has it is applied by CatchUp, on any (ahead.go).
package replica

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/internal/mutant"
	"github.com/cask-storage/cask/pkg/replication"
	"github.com/cask-storage/cask/pkg/store"
)

// Identity says which copy of which volume a replica is.
type Identity struct {
	Volume  string
	Replica string
}

// Backing makes and opens the store. Open fails with store.ErrNotFound when
// the store was never made, and ErrMissing when it was and is gone.
type Backing interface {
	Open() (store.Store, error)
	Create(size uint64) (store.Store, error)
}

// ErrMissing is the class of an extent that was made and is not there.
var ErrMissing = errors.New("extent is gone")

// Turns bounds the rebuilds of a host. Take does not block; release may be
// called once.
type Turns interface {
	Take() (release func(), ok bool, err error)
}

// ConnID names a connection; it is never used twice.
type ConnID uint64

// Config is what a Core needs.
type Config struct {
	Identity
	Backing Backing
	// Run carries out work that may block; it may return before or after.
	Run func(func())
	// Soon is told that operations were acknowledged which CatchUp is to
	// apply on another goroutine: soon, or now, for a flush is likely to follow.
	// nil: none is before it is applied.
	Soon func(now bool)
	// Peers may be nil: rebuilds then go through the target.
	Peers Peers
	// Turns may be nil: no bound.
	Turns Turns
	// Grow makes the store's extent large enough for a volume of size bytes;
	// nil: it always is.
	Grow  func(s store.Store, size uint64) error
	Scrub ScrubConfig
	// Logf may be nil.
	Logf func(format string, args ...any)
	// TailBytes and TailOps bound the tail; the constants when 0.
	TailBytes, TailOps int
}

// Core is a replica's state and rules.
type Core struct {
	cfg    Config
	store  store.Store // nil when Blank or Failed
	rec    record
	tail   tail
	prefix *keptPrefix // what a rebuild could be given up for; nil: nothing
	back   *back       // the return to it, under way
	pulls  int         // under way
	turn   func()      // gives back the turn to be rebuilt; nil: none is held
	fail   replication.Code
	text   string

	mu      sync.Mutex // guards what work outside Handle looks at
	current ConnID     // the one connection that is obeyed
	room    uint64     // the volume may have that many bytes, as far as is known
	applied history.Seq
	taken   history.Seq // reads may show operations up to it: at least applied
	ahead   ahead
	broken  error     // of work outside Handle
	reply   Reply     // of current
	lost    block.Set // as rec.Lost
	losses  int       // how often lost grew
	damage  block.Set // known not to be readable, lost among it
	untold  block.Set // lost by the batch being applied
	lostIn  []lostIn  // as rec.LostIn
	frozen  *frozen   // nil: nothing is
}

// Open opens the replica's store. It succeeds even when that fails: the
// replica then tells each target why.
func Open(cfg Config) *Core {
	if cfg.Logf == nil {
		cfg.Logf = func(string, ...any) {}
	}
	c := &Core{cfg: cfg, tail: newTail(cfg)}
	c.rec = record{Volume: cfg.Volume, Replica: cfg.Replica}
	s, err := cfg.Backing.Open()
	if errors.Is(err, store.ErrNotFound) {
		return c
	}
	if err == nil {
		err = c.resume(s)
	}
	if err != nil {
		c.setFailed(err)
	}
	return c
}

// resume takes over an existing store.
func (c *Core) resume(s store.Store) error {
	meta := s.Meta()
	if meta == nil {
		// Formatting was cut short before the first record: it never
		// held anything.
		c.store, c.rec.Membership = s, replication.Fresh
		return c.persist()
	}
	rec, err := unmarshalRecord(meta, c.cfg.Identity)
	if err != nil {
		return errors.Join(err, s.Close())
	}
	c.store, c.rec, c.lost, c.damage, c.lostIn = s, rec, rec.Lost, rec.Lost, rec.LostIn
	c.setApplied(s.Info().Mark)
	c.forgetSnapshots()
	if err := c.openKept(); err != nil {
		return fmt.Errorf("what was kept during a rebuild: %w", err)
	}
	if rec.Running && rec.Membership == replication.Member && !mutant.On(mutant.UncleanUnseen) {
		c.rec.Suspect = true
	}
	return c.persist()
}

// persist makes the record stable, and with it all that was applied.
func (c *Core) persist() error {
	if c.store == nil {
		return nil
	}
	c.rec.Running = true
	b, err := c.rec.marshal()
	if err != nil {
		return err
	}
	return c.store.SetMeta(b)
}

// Close ends the replica cleanly: what it has applied is stable and nothing
// is lost.
func (c *Core) Close() error {
	if !mutant.On(mutant.AheadDropped) {
		c.caughtUp()
	}
	c.endTurn()
	if c.store == nil {
		return nil
	}
	s := c.store // its Close gives up what is frozen
	c.store = nil
	c.rec.Running = false
	b, err := c.rec.marshal()
	if err == nil && c.fail == replication.OK {
		err = s.SetMeta(b)
	}
	c.mu.Lock()
	err = errors.Join(c.ahead.err, err)
	c.mu.Unlock()
	return errors.Join(err, s.Close())
}

// Err is why the replica has failed and must be restarted, nil while it works
// or never had a store.
func (c *Core) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.broken
}

// Current reports whether conn is the one that is obeyed.
func (c *Core) Current(conn ConnID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current == conn
}

// setFailed records why the store cannot be used.
func (c *Core) setFailed(err error) {
	c.giveWay(err)
	c.rec.Membership = replication.Failed
	c.fail, c.text = codeOf(err), err.Error()
	c.mu.Lock()
	c.broken = err
	c.mu.Unlock()
	c.cfg.Logf("replica %s of volume %s failed: %v", c.cfg.Replica, c.cfg.Volume, err)
}

// codeOf maps the store's error classes, once.
func codeOf(err error) replication.Code {
	for _, x := range []struct {
		err  error
		code replication.Code
	}{
		{ErrMissing, replication.ErrMissing},
		{errForeign, replication.ErrForeign},
		{store.ErrFormat, replication.ErrForeign},
		{store.ErrTruncated, replication.ErrShort},
		{store.ErrInUse, replication.ErrBusy},
		{store.ErrNoSpace, replication.ErrNoSpace},
		{store.ErrCorrupt, replication.ErrMedium},
	} {
		if errors.Is(err, x.err) {
			return x.code
		}
	}
	return replication.ErrIO
}

// state describes the replica in full.
func (c *Core) state() replication.Message {
	m := replication.Message{
		Type: replication.State, Kind: uint8(c.rec.Membership), Code: c.fail, Text: c.text,
		Volume: c.cfg.Volume, Replica: c.cfg.Replica,
		Promised: c.rec.Promised, Seq: c.applied, Base: c.rec.Base,
		Tail: c.tail.first(c.applied + 1),
	}
	if c.rec.Suspect {
		m.Flags |= replication.FlagSuspect
	}
	m.History = c.rec.History.At(m.Seq)
	switch c.rec.Membership {
	case replication.Member:
		m.Epoch = c.rec.Begun
		if mutant.On(mutant.BegunAdopted) {
			m.Epoch = c.rec.History.Last()
		}
	case replication.Rebuilding:
		c.rebuildState(&m)
	}
	if c.store != nil {
		m.Size = c.store.Info().Size
	}
	return m
}

func (c *Core) String() string {
	return fmt.Sprintf("%s/%s %v seq=%d promised=%d", c.cfg.Volume, c.cfg.Replica, c.rec.Membership, c.lastTaken(), c.rec.Promised)
}

// Describe is what the replica would tell a target.
func (c *Core) Describe() replication.Message { return c.state() }
