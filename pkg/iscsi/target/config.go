package target

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/iscsi"
	"github.com/cask-storage/cask/pkg/scsi"
	"github.com/cask-storage/cask/pkg/scsi/lun"
)

// Config of a Target. The zero value serves anyone.
type Config struct {
	// Admit is asked whether an initiator may use a node; nil admits all.
	// ErrNotAdmitted refuses the login for good (0202h), any other error for
	// now (0301h). Discovery is not asked.
	Admit func(ctx context.Context, initiator, node string) error
	// Locate is asked before a node is looked up that an initiator logs in to;
	// it may wait until that is known. ErrReplaced refuses the login for good
	// (0204h, target removed), any other error for now (0301h). Nil: whatever
	// was added is served.
	Locate func(ctx context.Context, node string) error
	// Auth returns the credentials an initiator has to prove for a node, nil
	// when there are none; node is empty for discovery. After an error, which
	// must hold no secret, the initiator may try again. A nil Auth asks nobody.
	Auth func(initiator, node string) (*Auth, error)
	// Advertise is the host:port in SendTargets; empty is the local address of
	// the connection that asks. AdvertiseNone leaves it out: initiators then
	// take the address that they asked, as behind a Service.
	Advertise     string
	AdvertiseNone bool
	// Logf takes one line for each connection event worth telling; nil drops
	// them.
	Logf   func(format string, args ...any)
	Limits Limits
}

// Auth are CHAP credentials.
type Auth struct {
	User, Secret string // the initiator proves that it has them
	// MutualUser and MutualSecret are what the target proves, when the
	// initiator asks; empty: it is refused when it does.
	MutualUser, MutualSecret string
}

// Limits bound what peers can make a Target hold. Zero fields get defaults.
type Limits struct {
	Connections   int           // open connections, all nodes: 128
	Sessions      int           // of one node: 64
	QueueDepth    int           // commands outstanding in one session: 128
	InflightBytes int           // data held for one connection: 8 MiB
	MaxBurst      int           // MaxBurstLength: 1 MiB
	FirstBurst    int           // FirstBurstLength: 64 KiB; on top of InflightBytes for each command
	Segment       int           // MaxRecvDataSegmentLength: 256 KiB
	Handshake     time.Duration // from accept to the full feature phase: 10 s
	Displace      time.Duration // waiting for a session that is reinstated: 10 s
	WriteStall    time.Duration // a peer that does not read: 30 s
	Ping          time.Duration // silence after which a NOP-In asks for a sign of life: 15 s
	PingAnswer    time.Duration // and how long it may take: 15 s
}

// Fixed bounds.
const (
	immediates    = 16       // immediate requests outstanding, beside QueueDepth
	loginData     = 8 << 10  // data of a login PDU (RFC 7143 13.12)
	maxText       = 32 << 10 // text of one negotiation, over all its PDUs
	maxLoginSteps = 64       // PDUs of one login
	maxPingData   = 4 << 10  // ping data that is sent back
	maxNodes      = 256
	lingerTime    = time.Second // for a peer to read what we say last
	tickInterval  = 250 * time.Millisecond
	readBuffer    = 32 << 10
	portalGroup   = 1
)

func (l *Limits) setDefaults() {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	def(&l.Connections, 128)
	def(&l.Sessions, 64)
	def(&l.QueueDepth, 128)
	def(&l.InflightBytes, 8<<20)
	def(&l.MaxBurst, 1<<20)
	def(&l.FirstBurst, 64<<10)
	def(&l.Segment, 256<<10)
	defTime := func(p *time.Duration, v time.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	defTime(&l.Handshake, 10*time.Second)
	defTime(&l.Displace, 10*time.Second)
	defTime(&l.WriteStall, 30*time.Second)
	defTime(&l.Ping, 15*time.Second)
	defTime(&l.PingAnswer, 15*time.Second)
}

func (l *Limits) check() error {
	switch {
	case l.Connections < 1 || l.Sessions < 1:
		return errors.New("iscsi target: limits: connections and sessions must be at least 1")
	case l.QueueDepth < 2 || l.QueueDepth > 4096:
		return fmt.Errorf("iscsi target: limits: queue depth %d, must be 2 to 4096", l.QueueDepth)
	case l.FirstBurst < 64<<10 || l.MaxBurst < 256<<10 || l.MaxBurst < l.FirstBurst || l.MaxBurst > 1<<24-1:
		// The defaults of RFC 7143 hold for who negotiates nothing.
		return fmt.Errorf("iscsi target: limits: bursts of %d and %d, must be at least 64 KiB and 256 KiB", l.FirstBurst, l.MaxBurst)
	case l.Segment < loginData || l.Segment > 1<<24-1:
		return fmt.Errorf("iscsi target: limits: segment %d, must be 8 KiB to 16 MiB", l.Segment)
	}
	return nil
}

// Node is an iSCSI target node as its owner describes it.
type Node struct {
	Name  string // IQN, EUI or NAA name
	Alias string
	Units []Unit
}

// Unit is one disk of a Node. The Device stays its owner's: the Target never
// closes it.
type Unit struct {
	LUN    scsi.LUN
	Device block.Device
	UUID   [16]byte   // identity of the content
	Keeper lun.Keeper // of persistent reservations; may be nil
}

// CheckName validates an iSCSI name's form (RFC 7143 4.2.7).
func CheckName(s string) error {
	if len(s) == 0 || len(s) > iscsi.MaxName {
		return fmt.Errorf("iSCSI name of %d bytes, must be 1 to %d", len(s), iscsi.MaxName)
	}
	if !strings.HasPrefix(s, "iqn.") && !strings.HasPrefix(s, "eui.") && !strings.HasPrefix(s, "naa.") {
		return errors.New("iSCSI name does not begin with \"iqn.\", \"eui.\" or \"naa.\"")
	}
	for _, c := range s {
		if c <= ' ' || c == ',' || c == 0x7f {
			return fmt.Errorf("iSCSI name has the character %q", c)
		}
	}
	return nil
}

// node is a Node being served.
type node struct {
	name  string
	alias string
	units *lun.Map
}

func newNode(n Node) (*node, error) {
	if err := CheckName(n.Name); err != nil {
		return nil, fmt.Errorf("iscsi target: node %q: %w", n.Name, err)
	}
	var list []lun.Mapping
	for _, u := range n.Units {
		unit, err := lun.New(lun.Config{Device: u.Device, UUID: u.UUID, Keeper: u.Keeper})
		if err != nil {
			return nil, fmt.Errorf("iscsi target: node %q: LUN %d: %w", n.Name, u.LUN, err)
		}
		list = append(list, lun.Mapping{LUN: u.LUN, Unit: unit})
	}
	m, err := lun.NewMap(lun.MapConfig{
		Port:  scsi.Port{Device: n.Name, Name: fmt.Sprintf("%s,t,0x%04x", n.Name, portalGroup), Relative: 1, Group: portalGroup},
		Units: list,
	})
	if err != nil {
		return nil, fmt.Errorf("iscsi target: node %q: %w", n.Name, err)
	}
	return &node{name: n.Name, alias: n.Alias, units: m}, nil
}

func (c *Config) check() error {
	if c.Advertise != "" {
		if _, _, err := net.SplitHostPort(c.Advertise); err != nil {
			return fmt.Errorf("iscsi target: advertised address %q, must be host:port: %w", c.Advertise, err)
		}
	}
	return c.Limits.check()
}
