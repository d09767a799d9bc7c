package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/dhchap"
)

// Config of a Device. Zero fields that have a default get it.
type Config struct {
	Addr         string // host:port of the target
	SubsystemNQN string
	HostNQN      string
	HostID       nvme.UUID
	NSID         nvme.NSID // 1
	Queues       int       // I/O queues: 1, at most 64
	QueueDepth   int       // commands outstanding on each: 128, at most 1024
	// KATO is the keep-alive timeout: a target that stops answering is
	// given up after this long. 5 s.
	KATO time.Duration
	// ConnectTimeout bounds the wait for the answer to a Connect, which a
	// target delays while commands of the last association finish. 12 s.
	ConnectTimeout time.Duration
	// Secrets authenticate the host when the target asks for it, and, with a
	// Controller secret, the target, which must then have it.
	Secrets      dhchap.Secrets
	HeaderDigest bool
	DataDigest   bool
	MaxTransfer  uint32 // largest read or write of the Device: 1 MiB; larger than MDTS is split
	// Dial opens a connection; nil is net.Dialer's.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Logf takes one line for each change of state; nil drops them.
	Logf func(format string, args ...any)
}

const (
	maxQueues     = 64
	maxQueueDepth = 1024
	adminDepth    = 32
	maxR2T        = 4               // R2Ts outstanding for one command
	dialTimeout   = 3 * time.Second // TCP connect and ICResp
	adminTimeout  = 5 * time.Second // any admin command but Connect
	readyPoll     = 10 * time.Millisecond
	readBuffer    = 32 << 10
	maxC2HData    = 1 << 30 // data of one C2HData PDU; never allocated for
	maxCapsule    = 1 << 20 // in-capsule data we make use of, at most
	shutdownTime  = 500 * time.Millisecond
)

func (c *Config) setDefaults() {
	if c.NSID == 0 {
		c.NSID = 1
	}
	if c.Queues == 0 {
		c.Queues = 1
	}
	if c.QueueDepth == 0 {
		c.QueueDepth = 128
	}
	if c.KATO == 0 {
		c.KATO = 5 * time.Second
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = 12 * time.Second
	}
	if c.MaxTransfer == 0 {
		c.MaxTransfer = 1 << 20
	}
	if c.Dial == nil {
		c.Dial = (&net.Dialer{KeepAliveConfig: keepAliveProbes}).DialContext
	}
	if c.Logf == nil {
		c.Logf = func(string, ...any) {}
	}
}

// keepAliveProbes finds a dead peer on a connection that is idle: NVMe's
// keep-alive runs on the admin connection only.
var keepAliveProbes = net.KeepAliveConfig{Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3}

func (c *Config) check() error {
	if err := nvme.CheckNQN(c.SubsystemNQN); err != nil {
		return fmt.Errorf("nvme host: subsystem %q: %w", c.SubsystemNQN, err)
	}
	if err := nvme.CheckNQN(c.HostNQN); err != nil {
		return fmt.Errorf("nvme host: host %q: %w", c.HostNQN, err)
	}
	switch {
	case c.Addr == "":
		return errors.New("nvme host: no target address")
	case c.HostID.IsZero():
		return fmt.Errorf("nvme host: host %q: no host identifier", c.HostNQN)
	case c.Queues < 1 || c.Queues > maxQueues:
		return fmt.Errorf("nvme host: %d queues, must be 1 to %d", c.Queues, maxQueues)
	case c.QueueDepth < 2 || c.QueueDepth > maxQueueDepth:
		return fmt.Errorf("nvme host: queue depth %d, must be 2 to %d", c.QueueDepth, maxQueueDepth)
	case c.KATO < 100*time.Millisecond || c.KATO > time.Hour:
		return fmt.Errorf("nvme host: keep-alive timeout %v, must be 100ms to 1h", c.KATO)
	case c.MaxTransfer < nvme.PageSize || c.MaxTransfer > 1<<26:
		return fmt.Errorf("nvme host: largest transfer %d, must be 4 KiB to 64 MiB", c.MaxTransfer)
	}
	return nil
}
