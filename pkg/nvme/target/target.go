// Package target serves block devices as namespaces of NVM subsystems over
// NVMe/TCP: discovery, associations, admin and I/O queues, digests,
// keep-alive, asynchronous events. It knows block.Device and nothing of what
// is behind it.
//
//	t, err := target.New(target.Config{Admit: admit})
//	err = t.AddSubsystem(target.Subsystem{NQN: nqn, Namespaces: ns})
//	err = t.Serve(ctx, listener)
//
// # Associations
//
// A host that connects its admin queue anew (same host NQN and host
// identifier) displaces its older associations with that subsystem: their
// connections are closed and what they had submitted to the device is waited
// for before the new Connect is answered. So a write that was delayed in a
// broken connection cannot be executed after its repetition. Discovery displaces
// none: a host may ask beside its persistent connection.
//
// A host that shuts down (CC.SHN) is told that this is complete when its I/O
// queues have ended and the devices were flushed.
//
// A device that answers block.ErrFenced or block.ErrClosed is not the place to
// be: the association is closed without an answer, and the host repeats the
// command elsewhere.
//
// # Concurrency
//
// Each connection has two goroutines, owned by the Serve that accepted it: the
// reader takes PDUs and submits, the writer sends what completed, in batches.
// Serve also owns one goroutine that watches the clock, and one that takes the
// next step of commands that have several or had to wait at the gate. Commands have none:
// they are slots of their connection, and Device completions only queue them
// for the writer. Serve returns when all of its goroutines have ended and all
// that was submitted has completed; a Device that completes nothing delays
// that, so close a stalled Device first.
//
// Lock order: Target.mu, subsystem.mu, controller.mu, pair.mu, conn.mu. None is held
// while a Device or Config.Admit is called.
//
// # Atomicity
//
// Commands that change a device pass their namespace's gate (pkg/block/gate)
// together; a compare-and-write and a change of reservations pass it alone. So
// nothing is written between a fused Compare and its Write, and a preempted
// host's writes have completed when the preempting command has. That holds
// among the hosts of one Target, not for whoever else writes to the Device.
//
// # Bounds
//
// See Limits. Data buffers are allocated after a command's length was checked,
// and only while the connection holds less than Limits.InflightBytes and all of
// them less than Limits.TotalBytes; commands beyond that wait as 64 bytes each.
// So that nobody can starve another, a connection may always hold the data of
// one command. In-capsule data (at most 16 KiB) and what Fabrics commands carry
// (at most 4 KiB) come on top, once per queue entry. A new connection takes the
// place of the oldest one that has not connected its queue yet when there are
// Limits.Connections.
//
// DESIGN.md says what is not here, and how another transport would fit.
package target

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cask-storage/cask/pkg/accept"
	"github.com/cask-storage/cask/pkg/nvme"
)

var (
	// ErrClosed is returned by methods of a Target that was closed.
	ErrClosed = errors.New("nvme target is closed")
	// ErrNotAdmitted is what Config.Admit returns, wrapped, for a host that
	// may not use the subsystems. Any other error says that nobody knows.
	ErrNotAdmitted = errors.New("host is not admitted")
	// ErrReplaced is what Config.Locate returns, wrapped, for a subsystem
	// whose place another one has taken.
	ErrReplaced = errors.New("subsystem was replaced")
)

// Target is an NVMe/TCP target.
type Target struct {
	cfg       Config
	discovery *subsystem
	conns     *accept.Group[*conn]
	clock     accept.Clock
	now       atomic.Int64 // clock, advanced by Target.enforce
	held      atomic.Int64 // bytes of data held for all connections

	mu         sync.Mutex
	subsystems map[string]*subsystem
	generation uint64 // of the discovery log
}

// New makes a Target that serves nothing yet.
func New(cfg Config) (*Target, error) {
	cfg.Limits.setDefaults()
	if err := cfg.Limits.check(); err != nil {
		return nil, err
	}
	if cfg.Advertise != "" {
		if _, _, err := net.SplitHostPort(cfg.Advertise); err != nil {
			return nil, fmt.Errorf("nvme target: advertised address %q, must be host:port: %w", cfg.Advertise, err)
		}
	}
	if cfg.Logf == nil {
		cfg.Logf = func(string, ...any) {}
	}
	if cfg.PortID == 0 {
		cfg.PortID = 1
	}
	if cfg.Admit == nil {
		cfg.Admit = func(context.Context, string) error { return nil }
	}
	t := &Target{
		cfg: cfg, clock: accept.NewClock(), subsystems: map[string]*subsystem{},
		conns: accept.NewGroup[*conn](accept.Config{Name: "nvme target", Logf: cfg.Logf,
			Most: cfg.Limits.Connections, Closed: ErrClosed, Interval: tickInterval}),
	}
	t.now.Store(t.clock.At(time.Now()))
	var err error
	t.discovery, err = newSubsystem(t, Subsystem{
		NQN: nvme.DiscoveryNQN, Serial: "discovery", Model: "Cask discovery", Firmware: "1",
		Controllers: ControllerRange{1, maxControllerID},
	})
	return t, err
}

// AddSubsystem begins to serve s.
func (t *Target) AddSubsystem(s Subsystem) error {
	if err := s.prepare(); err != nil {
		return err
	}
	sub, err := newSubsystem(t, s)
	if err != nil {
		return fmt.Errorf("nvme target: subsystem %q: %w", s.NQN, err)
	}
	if err := t.add(sub); err != nil {
		return err
	}
	t.discoveryChanged()
	return nil
}

func (t *Target) add(s *subsystem) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.conns.Closed():
		return ErrClosed
	case t.subsystems[s.NQN] != nil:
		return fmt.Errorf("nvme target: subsystem %q is served already", s.NQN)
	case len(t.subsystems) >= maxSubsystems:
		return fmt.Errorf("nvme target: subsystem %q: more than %d subsystems", s.NQN, maxSubsystems)
	}
	t.subsystems[s.NQN] = s
	t.generation++
	return nil
}

// discoveryChanged tells the hosts with a persistent discovery connection.
func (t *Target) discoveryChanged() {
	for _, c := range t.discovery.controllersMatching(nil) {
		c.happened(eventDiscovery)
	}
}

// RemoveSubsystem ends the associations of a subsystem and waits until what
// they submitted has completed, or ctx is done.
func (t *Target) RemoveSubsystem(ctx context.Context, nqn string) error {
	t.mu.Lock()
	s := t.subsystems[nqn]
	delete(t.subsystems, nqn)
	if s != nil {
		t.generation++
	}
	t.mu.Unlock()
	if s == nil {
		return nil
	}
	t.discoveryChanged()
	return dropAll(ctx, s.controllersMatching(nil), errors.New("the subsystem was removed"))
}

// NamespaceChanged tells the hosts connected to a subsystem that a namespace's
// attributes, such as its size, have changed.
func (t *Target) NamespaceChanged(nqn string, id nvme.NSID) {
	t.mu.Lock()
	s := t.subsystems[nqn]
	t.mu.Unlock()
	if s == nil {
		return
	}
	for _, c := range s.controllersMatching(nil) {
		c.namespaceChanged(id)
	}
}

// Recheck asks Config.Admit again about every association, drops those no
// longer admitted, and waits until what they submitted has completed. An
// association about which nobody knows stays, and is an error. A nil return
// says that no host refused by Admit is connected or will be, as long as
// Admit's answers stay.
func (t *Target) Recheck(ctx context.Context) error {
	t.mu.Lock()
	var all []*controller
	for _, s := range t.subsystems {
		all = append(all, s.controllersMatching(nil)...)
	}
	t.mu.Unlock()
	answers := map[string]error{}
	var refused []*controller
	var unknown []error
	for _, c := range all {
		err, asked := answers[c.hostNQN]
		if !asked {
			err = t.cfg.Admit(ctx, c.hostNQN)
			answers[c.hostNQN] = err
		}
		switch {
		case errors.Is(err, ErrNotAdmitted):
			c.kill(fmt.Errorf("no longer admitted: %w", err))
			refused = append(refused, c)
		case err != nil && !asked:
			unknown = append(unknown, fmt.Errorf("nvme target: host %s stays connected, ask again: %w", c.hostNQN, err))
		}
	}
	return errors.Join(dropAll(ctx, refused, nil), errors.Join(unknown...))
}

// dropAll closes associations and waits for them.
func dropAll(ctx context.Context, cs []*controller, why error) error {
	for _, c := range cs {
		c.kill(why)
	}
	for _, c := range cs {
		select {
		case <-c.drained:
		case <-ctx.Done():
			return fmt.Errorf("nvme target: host %s: its commands have not completed yet: %w", c.hostNQN, ctx.Err())
		}
	}
	return nil
}

// Association describes one host's connection to a subsystem.
type Association struct {
	Subsystem string
	HostNQN   string
	Remote    string
	Queues    int // I/O queues
}

// Associations lists who is connected, discovery excepted.
func (t *Target) Associations() []Association {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []Association
	for _, s := range t.subsystems {
		for _, c := range s.controllersMatching(nil) {
			out = append(out, c.describe())
		}
	}
	return out
}

// Close ends all Serve calls and waits for them. See the package
// documentation about stalled Devices.
func (t *Target) Close() error {
	t.conns.Close()
	return nil
}

// lookup finds a subsystem by name.
func (t *Target) lookup(nqn string) *subsystem {
	if nqn == nvme.DiscoveryNQN {
		return t.discovery
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.subsystems[nqn]
}
