// Package target serves block devices as logical units of iSCSI target nodes
// (RFC 7143, error recovery level 0): discovery, CHAP, digests, immediate and
// unsolicited data, task management, NOPs, asynchronous messages. What SCSI
// commands do is package lun's; it knows block.Device and nothing of what is
// behind it.
//
//	t, err := target.New(target.Config{Admit: admit})
//	err = t.AddNode(target.Node{Name: iqn, Units: units})
//	err = t.Serve(ctx, listener)
//
// # Sessions
//
// A session has one connection: MaxConnections is negotiated to 1, and a login
// that names an existing session is refused with status 0206h. An initiator
// that logs in anew (same name and ISID) reinstates its session: the old
// connection is closed and what it had submitted to the device is waited for
// before the login is answered. So a write that was delayed in a broken
// connection cannot be executed after its repetition.
//
// A device that answers block.ErrFenced or block.ErrClosed is not the place to
// be: the session is dropped without an answer, and the initiator repeats the
// command elsewhere.
//
// # Concurrency
//
// Each connection has two goroutines, owned by the Serve that accepted it: the
// reader takes PDUs and runs tasks, the writer sends what completed, in batches.
// Serve also owns one goroutine that watches the clock. Commands have none:
// they are slots of their connection, and completions only queue them for the
// writer. Serve returns when all of its goroutines have ended and all that was
// submitted has completed; a Device that completes nothing delays that, so
// close a stalled Device first.
//
// Lock order: Target.mu, conn.mu, then the locks of package lun. None is held
// while a Device, Config.Admit or Config.Auth is called.
//
// # Bounds
//
// See Limits. Data buffers are allocated after a command's length was checked,
// and only while the connection holds less than Limits.InflightBytes; commands
// beyond that wait without memory. Unsolicited data comes on top, at most
// Limits.FirstBurst for each of Limits.QueueDepth commands.
package target

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cask-storage/cask/pkg/accept"
	"github.com/cask-storage/cask/pkg/scsi"
)

var (
	// ErrClosed is returned by methods of a Target that was closed.
	ErrClosed = errors.New("iscsi target is closed")
	// ErrNotAdmitted is what Config.Admit returns, wrapped, for an initiator
	// that may not use the node.
	ErrNotAdmitted = errors.New("initiator is not admitted")
	// ErrReplaced is what Config.Locate returns, wrapped, for a node whose
	// place another one has taken.
	ErrReplaced = errors.New("node was replaced")
)

// errRemoved ends the sessions of a node that was removed.
var errRemoved = errors.New("the node was removed")

// Target is a network entity that serves nodes.
type Target struct {
	cfg   Config
	conns *accept.Group[*conn]
	clock accept.Clock
	now   atomic.Int64 // clock, advanced by Target.enforce

	mu       sync.Mutex
	nodes    map[string]*node
	sessions map[sessionKey]*session
	lastTSIH uint16
}

// New makes a Target that serves nothing yet.
func New(cfg Config) (*Target, error) {
	cfg.Limits.setDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if cfg.Logf == nil {
		cfg.Logf = func(string, ...any) {}
	}
	if cfg.Admit == nil {
		cfg.Admit = func(context.Context, string, string) error { return nil }
	}
	if cfg.Auth == nil {
		cfg.Auth = func(string, string) (*Auth, error) { return nil, nil }
	}
	t := &Target{cfg: cfg, clock: accept.NewClock(), nodes: map[string]*node{}, sessions: map[sessionKey]*session{},
		conns: accept.NewGroup[*conn](accept.Config{Name: "iscsi target", Logf: cfg.Logf,
			Most: cfg.Limits.Connections, Closed: ErrClosed, Interval: tickInterval})}
	t.now.Store(t.clock.At(time.Now()))
	return t, nil
}

// AddNode begins to serve n.
func (t *Target) AddNode(n Node) error {
	nd, err := newNode(n)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.conns.Closed():
		return ErrClosed
	case t.nodes[n.Name] != nil:
		return fmt.Errorf("iscsi target: node %q is served already", n.Name)
	case len(t.nodes) >= maxNodes:
		return fmt.Errorf("iscsi target: node %q: more than %d nodes", n.Name, maxNodes)
	}
	t.nodes[n.Name] = nd
	return nil
}

// RemoveNode ends the sessions of a node and waits until what they submitted
// has completed, or ctx is done.
func (t *Target) RemoveNode(ctx context.Context, name string) error {
	t.mu.Lock()
	nd := t.nodes[name]
	delete(t.nodes, name)
	t.mu.Unlock()
	if nd == nil {
		return nil
	}
	return dropAll(ctx, t.sessionsOf(nd), errRemoved)
}

// Resized tells initiators of a node about new sizes of its units at once.
func (t *Target) Resized(name string) {
	if nd := t.lookup(name); nd != nil {
		nd.units.Resized()
	}
}

// SetAccess changes the asymmetric access state of a node's port.
func (t *Target) SetAccess(name string, s scsi.AccessState) {
	if nd := t.lookup(name); nd != nil {
		nd.units.SetAccess(s)
	}
}

// Recheck asks Config.Admit again about every session, drops those no longer
// admitted, and waits until what they submitted has completed. A session about
// which nobody knows stays, and is an error. A nil return says that no
// initiator refused by Admit is connected or will be, as long as Admit's
// answers stay.
func (t *Target) Recheck(ctx context.Context) error {
	var refused []*session
	var unknown []error
	for _, s := range t.sessionsOf(nil) {
		switch err := t.cfg.Admit(ctx, s.key.initiator, s.key.node); {
		case errors.Is(err, ErrNotAdmitted):
			s.conn.leave(fmt.Errorf("no longer admitted: %w", err))
			refused = append(refused, s)
		case err != nil:
			unknown = append(unknown, fmt.Errorf("iscsi target: initiator %s stays connected, ask again: %w", s.key.initiator, err))
		}
	}
	return errors.Join(dropAll(ctx, refused, nil), errors.Join(unknown...))
}

// dropAll closes sessions and waits for them.
func dropAll(ctx context.Context, ss []*session, why error) error {
	for _, s := range ss {
		if why != nil {
			s.conn.leave(why)
		}
	}
	for _, s := range ss {
		select {
		case <-s.drained:
		case <-ctx.Done():
			return fmt.Errorf("iscsi target: initiator %s: its commands have not completed yet: %w", s.key.initiator, ctx.Err())
		}
	}
	return nil
}

// SessionInfo describes one initiator's session.
type SessionInfo struct {
	Node      string
	Initiator string
	Remote    string
}

// Sessions lists who is logged in, discovery excepted.
func (t *Target) Sessions() []SessionInfo {
	var out []SessionInfo
	for _, s := range t.sessionsOf(nil) {
		out = append(out, SessionInfo{Node: s.key.node, Initiator: s.key.initiator, Remote: s.conn.nc.RemoteAddr().String()})
	}
	return out
}

// Close ends all Serve calls and waits for them. See the package
// documentation about stalled Devices.
func (t *Target) Close() error {
	t.conns.Close()
	return nil
}

func (t *Target) lookup(name string) *node {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.nodes[name]
}

// names of the nodes, sorted.
func (t *Target) names() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []string
	for n := range t.nodes {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// advertised is the address SendTargets gives to the peer of nc.
func (t *Target) advertised(nc net.Conn) string {
	if t.cfg.Advertise != "" {
		return t.cfg.Advertise
	}
	return nc.LocalAddr().String()
}
