package target

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/bits"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/dhchap"
)

// Config of a Target. The zero value serves anyone.
type Config struct {
	// Admit is asked whether a host may use the subsystems; nil admits all.
	// ErrNotAdmitted refuses the Connect with status Connect Invalid Host, for
	// good; any other error with Controller Busy, and the host tries again.
	Admit func(ctx context.Context, hostNQN string) error
	// Locate is asked before a subsystem is looked up that a host connects to;
	// it may wait until that is known. ErrReplaced refuses the Connect with
	// Restart Discovery, for good; any other error with Controller Busy, and
	// the host tries again. Nil: whatever was added is served.
	Locate func(ctx context.Context, subNQN string) error
	// Advertise is the host:port in the discovery log; empty is the local
	// address of the connection that asks.
	Advertise string
	// Authenticate returns the secrets of a host, both empty when it need
	// not authenticate; nil asks nobody to. Errors are as Admit's.
	Authenticate func(ctx context.Context, hostNQN string) (dhchap.Secrets, error)
	PortID       uint16 // in the discovery log: 1
	// Logf takes one line for each connection event worth telling; nil
	// drops them.
	Logf   func(format string, args ...any)
	Limits Limits
}

// Limits bound what peers can make a Target hold. Zero fields get defaults.
type Limits struct {
	Connections    int           // open connections, all subsystems: 128
	Controllers    int           // associations of one subsystem, without those that have yet to authenticate: 32
	Queues         int           // I/O queues of one controller: 16
	QueueDepth     int           // commands outstanding on one queue: 128
	InflightBytes  int           // data held for one connection: 8 MiB
	TotalBytes     int           // data held for all, but for one command of each: 256 MiB
	MaxTransfer    int           // data of one command: 1 MiB
	Handshake      time.Duration // from accept to a complete Connect: 10 s
	Displace       time.Duration // waiting for a displaced association: 10 s
	WriteStall     time.Duration // a peer that does not read: 30 s
	IdleController time.Duration // without keep-alive, discovery or not enabled: 2 min
}

// Fixed bounds.
const (
	adminDepth    = 32       // entries of the admin queue
	maxInCapsule  = 16 << 10 // in-capsule data of an I/O queue
	adminCapsule  = 8 << 10  // in-capsule data of an admin queue, set by the specification
	maxH2CData    = 1 << 20  // data of one H2CData PDU
	asyncEvents   = 4        // Asynchronous Event Requests held
	maxNamespaces = 1024     // of one subsystem
	maxSubsystems = 256
	maxKeepAlive  = time.Hour
	lingerTime    = time.Second // for a peer to read our TermReq
	tickInterval  = 250 * time.Millisecond
	readBuffer    = 32 << 10
	keepTime      = 10 * time.Second // for Reservations.Keep
	anaTransition = 30               // ANATT, seconds: as long as hosts wait for a change to end
)

func (l *Limits) setDefaults() {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	def(&l.Connections, 128)
	def(&l.Controllers, 32)
	def(&l.Queues, 16)
	def(&l.QueueDepth, 128)
	def(&l.InflightBytes, 8<<20)
	def(&l.TotalBytes, 256<<20)
	def(&l.MaxTransfer, 1<<20)
	defTime := func(p *time.Duration, v time.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	defTime(&l.Handshake, 10*time.Second)
	defTime(&l.Displace, 10*time.Second)
	defTime(&l.WriteStall, 30*time.Second)
	defTime(&l.IdleController, 2*time.Minute)
}

func (l *Limits) check() error {
	switch {
	case l.Connections < 1, l.Controllers < 1, l.Queues < 1 || l.Queues > 1024:
		return errors.New("nvme target: limits: connections, controllers and queues must be at least 1, queues at most 1024")
	case l.QueueDepth < 2 || l.QueueDepth > 4096:
		return fmt.Errorf("nvme target: limits: queue depth %d, must be 2 to 4096", l.QueueDepth)
	case l.MaxTransfer < 2*nvme.PageSize || l.MaxTransfer > 1<<30:
		return fmt.Errorf("nvme target: limits: largest transfer %d, must be 8 KiB to 1 GiB", l.MaxTransfer)
	case l.TotalBytes < 0:
		return fmt.Errorf("nvme target: limits: %d bytes for all connections", l.TotalBytes)
	case l.InflightBytes < l.MaxTransfer:
		return fmt.Errorf("nvme target: limits: %d bytes in flight are less than one transfer of %d", l.InflightBytes, l.MaxTransfer)
	}
	return nil
}

// Subsystem is an NVM subsystem as its owner describes it.
type Subsystem struct {
	NQN string
	// Serial must not change over the life of the subsystem; empty derives
	// it from the NQN.
	Serial     string
	Model      string // empty is "Cask volume"
	Firmware   string // at most 8 characters; empty is "1"
	Namespaces []Namespace
	// Controllers are the controller identifiers to give out. Targets that
	// serve the same subsystem at once must have disjoint ones. Zero is all.
	Controllers ControllerRange
}

// ControllerRange is a range of controller identifiers, both included.
type ControllerRange struct{ First, Last nvme.CNTLID }

// Namespace is one block device of a Subsystem. The Device stays its owner's:
// the Target never closes it.
type Namespace struct {
	ID     nvme.NSID
	Device block.Device
	UUID   nvme.UUID // identity of the content; NGUID and EUI64 follow from it
	// ANAGroup is the group that changes its ANA state together: 1.
	ANAGroup uint32
	ANAState nvme.ANAState // to begin with: optimized; the same in all of a group
	// Reservations keep the namespace's reservations over a restart of the
	// target, for hosts that ask for it (PTPL).
	Reservations Reservations
}

// Reservations is what is kept of a namespace's reservations.
type Reservations struct {
	// State is what Keep was last given; empty is none.
	State []byte
	// Keep stores the state for the next target of this namespace before it
	// takes effect; nil state is none. Nil refuses to persist.
	Keep func(ctx context.Context, state []byte) error
}

// SerialOf is the serial number of a subsystem that is given none.
func SerialOf(nqn string) string {
	h := sha256.Sum256([]byte(nqn))
	return hex.EncodeToString(h[:10])
}

func (s *Subsystem) prepare() error {
	if err := nvme.CheckNQN(s.NQN); err != nil {
		return fmt.Errorf("nvme target: subsystem %q: %w", s.NQN, err)
	}
	if s.NQN == nvme.DiscoveryNQN {
		return fmt.Errorf("nvme target: subsystem %q: the name belongs to discovery", s.NQN)
	}
	if len(s.Namespaces) > maxNamespaces {
		return fmt.Errorf("nvme target: subsystem %q: more than %d namespaces", s.NQN, maxNamespaces)
	}
	if s.Controllers == (ControllerRange{}) {
		s.Controllers = ControllerRange{1, maxControllerID}
	}
	if r := s.Controllers; r.First == 0 || r.First > r.Last || r.Last > maxControllerID {
		return fmt.Errorf("nvme target: subsystem %q: controller identifiers %d to %d, must be 1 to %d", s.NQN, r.First, r.Last, maxControllerID)
	}
	for _, n := range s.Namespaces {
		if err := n.check(); err != nil {
			return fmt.Errorf("nvme target: subsystem %q: %w", s.NQN, err)
		}
	}
	if s.Serial == "" {
		s.Serial = SerialOf(s.NQN)
	}
	if s.Model == "" {
		s.Model = "Cask volume"
	}
	if s.Firmware == "" {
		s.Firmware = "1"
	}
	return nil
}

func (n *Namespace) check() error {
	if n.ID == 0 || n.ID > 1<<20 || n.Device == nil || n.UUID.IsZero() {
		return fmt.Errorf("namespace %d: needs an ID from 1 to 2^20, a device and a UUID", n.ID)
	}
	if n.ANAState != 0 && !n.ANAState.Valid() {
		return fmt.Errorf("namespace %d: ANA state %d is none", n.ID, n.ANAState)
	}
	g := n.Device.Geometry()
	if g.BlockSize < 512 || bits.OnesCount32(g.BlockSize) != 1 || g.BlockSize > nvme.PageSize {
		return fmt.Errorf("namespace %d: block size %d, must be a power of two from 512 to 4096", n.ID, g.BlockSize)
	}
	if g.MaxTransfer < 2*nvme.PageSize {
		return fmt.Errorf("namespace %d: largest transfer %d, must be at least 8 KiB", n.ID, g.MaxTransfer)
	}
	return nil
}

// eui64 derives a locally administered EUI-64 from the UUID.
func (n *Namespace) eui64() (e [8]byte) {
	h := sha256.Sum256(n.UUID[:])
	copy(e[:], h[:])
	e[0] = e[0]&^1 | 2
	return e
}
