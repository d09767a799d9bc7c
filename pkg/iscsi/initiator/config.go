package initiator

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/cask-storage/cask/pkg/block/ride"
	"github.com/cask-storage/cask/pkg/iscsi"
	"github.com/cask-storage/cask/pkg/scsi"
)

// Config of a Device. Zero fields that have a default get it.
type Config struct {
	Addr      string // host:port of the target
	Target    string // name of the node
	Initiator string // our name
	LUN       scsi.LUN
	Depth     int // commands outstanding: 128, at most 1024
	// Silence is how long a target may say nothing, not even to a ping, before
	// its connection is given up. 5 s.
	Silence time.Duration
	// LoginTimeout bounds a login, whose answer a target delays while commands
	// of the last session finish. 12 s.
	LoginTimeout time.Duration
	// Secrets authenticate the initiator when the target asks for it, and, with
	// a MutualSecret, the target, which must then have it.
	Secrets                  Secrets
	HeaderDigest, DataDigest bool
	MaxTransfer              uint32 // largest read or write of the Device: 1 MiB; larger than the unit takes is split
	// Dial opens a connection; nil is net.Dialer's.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Logf takes one line for each change of state; nil drops them.
	Logf func(format string, args ...any)
}

// Secrets of CHAP.
type Secrets struct{ User, Secret, MutualUser, MutualSecret string }

const (
	maxDepth     = 1024
	ownCommands  = 4 // of the initiator's own, beside Depth
	dialTimeout  = 3 * time.Second
	adminTimeout = 5 * time.Second // of a command of the initiator's own
	logoutTime   = 500 * time.Millisecond
	readBuffer   = 32 << 10
	segmentSize  = 256 << 10 // MaxRecvDataSegmentLength that we declare
	burstSize    = 1 << 20   // MaxBurstLength and FirstBurstLength that we offer, at most
	maxText      = 64 << 10  // text of one answer of a login or to SendTargets
	maxSteps     = 16        // PDUs of a login
	maxPongs     = 16        // pings of the target not yet answered
	maxZeroes    = 1 << 30   // bytes of one WRITE SAME where the unit has no limit
)

func (c *Config) setDefaults() {
	if c.Depth == 0 {
		c.Depth = 128
	}
	if c.Silence == 0 {
		c.Silence = 5 * time.Second
	}
	if c.LoginTimeout == 0 {
		c.LoginTimeout = 12 * time.Second
	}
	if c.MaxTransfer == 0 {
		c.MaxTransfer = 1 << 20
	}
	if c.Dial == nil {
		c.Dial = (&net.Dialer{}).DialContext // pings find a dead peer
	}
	if c.Logf == nil {
		c.Logf = func(string, ...any) {}
	}
}

func (c *Config) check() error {
	switch {
	case c.Addr == "":
		return errors.New("iscsi initiator: no target address")
	case c.Target == "" || c.Initiator == "" || len(c.Target) > iscsi.MaxName || len(c.Initiator) > iscsi.MaxName:
		return fmt.Errorf("iscsi initiator: names %q and %q, must be 1 to %d bytes", c.Target, c.Initiator, iscsi.MaxName)
	case c.Depth < 1 || c.Depth > maxDepth:
		return fmt.Errorf("iscsi initiator: depth %d, must be 1 to %d", c.Depth, maxDepth)
	case c.Silence < 100*time.Millisecond || c.Silence > time.Hour:
		return fmt.Errorf("iscsi initiator: silence %v, must be 100ms to 1h", c.Silence)
	case c.MaxTransfer < 4096 || c.MaxTransfer > 1<<26:
		return fmt.Errorf("iscsi initiator: largest transfer %d, must be 4 KiB to 64 MiB", c.MaxTransfer)
	case c.Secrets.MutualSecret != "" && c.Secrets.Secret == "":
		return errors.New("iscsi initiator: a target proves itself only to who proves himself: give both secrets")
	case c.Secrets.MutualSecret != "" && c.Secrets.MutualSecret == c.Secrets.Secret:
		return errors.New("iscsi initiator: the secrets of both directions must differ: one would let who learns our answer pose as the target")
	}
	return nil
}

// isid is the one session identifier of an initiator's name, of the random
// format.
func (c *Config) isid() [6]byte {
	sum := sha256.Sum256([]byte(c.Initiator))
	return [6]byte{0x80, sum[0], sum[1], sum[2], sum[3], sum[4]}
}

// Device is a block device over a logical unit.
type Device = ride.Device

// Attach connects to a unit, trying until ctx is done. ctx does not bound the
// life of the Device: Close ends it.
func Attach(ctx context.Context, cfg Config) (*Device, error) {
	cfg.setDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	d, err := ride.Attach(ctx, ride.Config{
		Name:  fmt.Sprintf("LUN %d of %s at %s", cfg.LUN, cfg.Target, cfg.Addr),
		Tasks: cfg.Depth, NewWire: newCommand, Logf: cfg.Logf,
		Target: cfg.Target, Connect: cfg.connect,
		Resolve: func(ctx context.Context) (string, error) { return Resolve(ctx, cfg) },
	})
	if err != nil {
		return nil, fmt.Errorf("iscsi initiator: %w", err)
	}
	return d, nil
}

// LoginError is a refused login.
type LoginError struct {
	Target string
	Status iscsi.LoginStatus
}

func (e *LoginError) Error() string {
	if e.Status == iscsi.LoginAuthFailed {
		return fmt.Sprintf("login to %s refused with status %04xh: authentication failed; compare the secrets of both sides", e.Target, uint16(e.Status))
	}
	return fmt.Sprintf("login to %s refused with status %04xh", e.Target, uint16(e.Status))
}

func refusedWith(err error, s iscsi.LoginStatus) bool {
	var l *LoginError
	return errors.As(err, &l) && l.Status == s
}

// NotAdmitted says that err, such as State's LastError, is a target's refusal
// of this initiator: the target is there, and the volume is not this one's now.
func NotAdmitted(err error) bool { return refusedWith(err, iscsi.LoginNotAuthorized) }
