package lun

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/scsi"
)

// Unit is one logical unit: a disk.
type Unit struct {
	cfg   Config
	id    scsi.Identity
	dev   block.Device
	order order
	mode  atomic.Pointer[scsi.ModeValues]
	size  atomic.Uint64 // bytes, as last told to initiators
	// guarded says that a reservation of any kind is held.
	guarded atomic.Bool

	mu  sync.Mutex
	m   *Map
	at  int // in the Map
	res reservations
}

// New makes a Unit. It reads the reservations its Keeper has.
func New(cfg Config) (*Unit, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	u := &Unit{cfg: cfg, id: cfg.identity(), dev: cfg.Device}
	mode := scsi.ModeDefaults
	u.mode.Store(&mode)
	u.size.Store(u.dev.Geometry().Size)
	if cfg.Keeper != nil {
		b, err := cfg.Keeper.Load()
		if err == nil {
			err = u.res.decode(b)
		}
		if err != nil {
			return nil, fmt.Errorf("SCSI unit %s: its reservations: %w", u.id.Serial, err)
		}
		u.guarded.Store(u.res.kind != scsi.NoReservation)
	}
	return u, nil
}

// geometry of the device; a size not seen before is announced to all.
func (u *Unit) geometry() block.Geometry {
	g := u.dev.Geometry()
	if old := u.size.Load(); old != g.Size && u.size.CompareAndSwap(old, g.Size) {
		u.attention(nil, attnCapacity)
	}
	return g
}

func (u *Unit) capacity() scsi.Capacity {
	g := u.geometry()
	c := scsi.Capacity{Blocks: g.Size / uint64(g.BlockSize), BlockSize: g.BlockSize}
	for n := g.PhysicalBlock / g.BlockSize; n > 1; n /= 2 {
		c.Exponent++
	}
	return c
}

// limits of the block commands.
func (u *Unit) limits() scsi.Limits {
	g := u.dev.Geometry()
	grain := max(g.PhysicalBlock/g.BlockSize, 1)
	return scsi.Limits{
		CompareAndWrite: uint8(u.maxCompare(g)), Granularity: uint16(grain),
		MaxTransfer: g.MaxTransfer / g.BlockSize, OptTransfer: g.MaxTransfer / g.BlockSize,
		UnmapBlocks: maxUnmapBlocks, UnmapRanges: maxUnmapRanges, UnmapGrain: grain,
		WriteSame: maxWriteSame / uint64(g.BlockSize),
	}
}

func (u *Unit) maxCompare(g block.Geometry) uint32 {
	return min(maxCompareBlocks, g.MaxTransfer/g.BlockSize)
}

// attention raises a unit attention for every nexus but one, which may be nil.
func (u *Unit) attention(but *Nexus, a attention) {
	u.mu.Lock()
	m, at := u.m, u.at
	u.mu.Unlock()
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for n := range m.nexuses {
		if n != but {
			n.raise(at, a)
		}
	}
}

// reset puts the unit into the state it has after a power on, except for
// persistent reservations.
func (u *Unit) reset() {
	mode := scsi.ModeDefaults
	u.mode.Store(&mode)
	u.mu.Lock()
	u.res.legacy = nil
	u.guarded.Store(u.res.kind != scsi.NoReservation)
	u.mu.Unlock()
	u.attention(nil, attnReset)
}

// Map is a SCSI target device: its units by number, reached by one port.
type Map struct {
	port  scsi.Port
	units []Mapping
	luns  []scsi.LUN
	state atomic.Uint32 // scsi.AccessState

	mu      sync.Mutex
	nexuses map[*Nexus]struct{}
}

// NewMap makes a Map. A Unit belongs to one Map only.
func NewMap(cfg MapConfig) (*Map, error) {
	if err := cfg.prepare(); err != nil {
		return nil, err
	}
	m := &Map{port: cfg.Port, units: cfg.Units, nexuses: map[*Nexus]struct{}{}}
	for i, mp := range cfg.Units {
		u := mp.Unit
		u.mu.Lock()
		taken := u.m != nil
		u.m, u.at = m, i
		u.mu.Unlock()
		if taken {
			return nil, fmt.Errorf("SCSI target %s: the unit of LUN %d is served already", cfg.Port.Device, mp.LUN)
		}
		m.luns = append(m.luns, mp.LUN)
	}
	return m, nil
}

// find is the position of a LUN, or -1.
func (m *Map) find(l scsi.LUN) int {
	if len(m.luns) == 1 && m.luns[0] == l {
		return 0
	}
	if i, ok := slices.BinarySearch(m.luns, l); ok {
		return i
	}
	return -1
}

// Has reports whether there is a unit of that number.
func (m *Map) Has(l scsi.LUN) bool { return m.find(l) >= 0 }

// Access is the asymmetric access state of the port.
func (m *Map) Access() scsi.AccessState { return scsi.AccessState(m.state.Load()) }

// SetAccess changes the asymmetric access state of the port and tells every
// nexus. In a state that is not active, commands that reach for the medium are
// refused as NOT READY.
func (m *Map) SetAccess(s scsi.AccessState) {
	if scsi.AccessState(m.state.Swap(uint32(s))) != s {
		m.attentionAll(attnAccess)
	}
}

// Resized tells initiators of new sizes at once; without it they learn of them
// with their next command.
func (m *Map) Resized() {
	for _, u := range m.units {
		u.Unit.geometry()
	}
}

// Reset puts one unit into its state after a power on; the transport has
// aborted its tasks.
func (m *Map) Reset(l scsi.LUN) {
	if i := m.find(l); i >= 0 {
		m.units[i].Unit.reset()
	}
}

// ResetAll is Reset of every unit.
func (m *Map) ResetAll() {
	for _, u := range m.units {
		u.Unit.reset()
	}
}

func (m *Map) attentionAll(a attention) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for n := range m.nexuses {
		for i := range n.pending {
			n.raise(i, a)
		}
	}
}

// Nexus is one initiator port's session with a Map.
type Nexus struct {
	m       *Map
	name    string          // of the initiator port
	pending []atomic.Uint32 // unit attentions, by unit: bits
}

// Attach begins a nexus of the initiator port of that name, which identifies
// it in reservations. Its first command on each unit gets a unit attention.
func (m *Map) Attach(port string) *Nexus {
	n := &Nexus{m: m, name: port, pending: make([]atomic.Uint32, len(m.units))}
	for i := range n.pending {
		n.raise(i, attnPowerOn)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.nexuses[n] = struct{}{}
	return n
}

// Detach ends the nexus: what it reserved with RESERVE(6) is released. Its
// tasks must have completed.
func (n *Nexus) Detach() {
	n.m.mu.Lock()
	delete(n.m.nexuses, n)
	n.m.mu.Unlock()
	for _, mp := range n.m.units {
		u := mp.Unit
		u.mu.Lock()
		if u.res.legacy == n {
			u.res.legacy = nil
			u.guarded.Store(u.res.kind != scsi.NoReservation)
		}
		u.mu.Unlock()
	}
}

// Name of the initiator port.
func (n *Nexus) Name() string { return n.name }
