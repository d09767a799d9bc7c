package target

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/gate"
	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/reservation"
)

// namespace is a Namespace being served.
type namespace struct {
	Namespace
	sub *subsystem
	// gate is passed by every command that changes the device; whoever
	// changes what such a command may do passes it alone.
	gate         gate.Gate
	ana          atomic.Uint32 // nvme.ANAState
	reservations atomic.Pointer[reservation.State]
}

func newNamespace(s *subsystem, n Namespace) (*namespace, error) {
	state, err := reservation.Decode(n.Reservations.State)
	if err != nil {
		return nil, fmt.Errorf("namespace %d: %w", n.ID, err)
	}
	ns := &namespace{Namespace: n, sub: s}
	ns.reservations.Store(state)
	ns.ana.Store(uint32(n.ANAState))
	return ns, nil
}

func (n *namespace) anaState() nvme.ANAState { return nvme.ANAState(n.ana.Load()) }

// allows reports whether reservations let a host's command be executed.
func (n *namespace) allows(host nvme.UUID, a reservation.Access) bool {
	return n.reservations.Load().Allows(host, a)
}

// Enter is the gate's: a drain's turn has come.
func (d drain) Enter() { close(d) }

// drain waits at a gate for all that passed it before.
type drain chan struct{}

// drained waits until what passed the gate before has left it, or ctx is done.
func (n *namespace) drained(ctx context.Context) error {
	d := make(drain)
	if n.gate.Exclusive(d) {
		n.gate.Leave()
		return nil
	}
	select {
	case <-d:
		n.gate.Leave()
		return nil
	case <-ctx.Done():
	}
	go func() { // owner: the gate, which opens when the device has completed what is in it
		<-d
		n.gate.Leave()
	}()
	return ctx.Err()
}

// anaGroup is a group of namespaces that change state together.
type anaGroup struct {
	state   nvme.ANAState
	changes uint64
}

// SetANA changes how this target reaches the namespaces of an ANA group of a
// subsystem, and tells the connected hosts. When the new state refuses commands,
// SetANA waits until the devices have completed what had been submitted before:
// after a nil return nothing of this target is written any more, and another one
// may take over.
func (t *Target) SetANA(ctx context.Context, nqn string, group uint32, state nvme.ANAState) error {
	if !state.Valid() {
		return fmt.Errorf("nvme target: ANA state %d is none: use one of nvme.ANA…", state)
	}
	s := t.lookup(nqn)
	if s == nil || s.isDiscovery {
		return fmt.Errorf("nvme target: subsystem %q is not served here: add it first", nqn)
	}
	members, err := s.setGroup(group, state)
	if err != nil || state.Status().OK() {
		return err
	}
	for _, n := range members {
		if err := n.drained(ctx); err != nil {
			return fmt.Errorf("nvme target: %s namespace %d: commands submitted before its ANA state became %v have not completed: %w", nqn, n.ID, state, err)
		}
	}
	return nil
}

func (s *subsystem) setGroup(group uint32, state nvme.ANAState) ([]*namespace, error) {
	s.mu.Lock()
	g := s.groups[group]
	if g == nil {
		s.mu.Unlock()
		return nil, fmt.Errorf("nvme target: %s has no ANA group %d", s.NQN, group)
	}
	var members []*namespace
	if g.state != state {
		g.state = state
		s.anaChanges++
		g.changes = s.anaChanges
	}
	for _, n := range s.namespaces {
		if n.ANAGroup == group {
			n.ana.Store(uint32(state))
			members = append(members, n)
		}
	}
	s.mu.Unlock()
	for _, c := range s.controllersMatching(nil) {
		c.happened(eventANA)
	}
	return members, nil
}

// anaPage is the ANA log page; brief leaves the namespaces out.
func (s *subsystem) anaPage(brief bool) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := nvme.ANALog{Changes: s.anaChanges}
	for _, id := range s.groupIDs() {
		g := s.groups[id]
		out := nvme.ANAGroup{ID: id, State: g.state, Changes: g.changes}
		for _, n := range s.namespaces {
			if n.ANAGroup == id && !brief {
				out.NSIDs = append(out.NSIDs, n.ID)
			}
		}
		l.Groups = append(l.Groups, out)
	}
	return l.Append(nil)
}

// groupIDs does not change while the subsystem is served.
func (s *subsystem) groupIDs() []uint32 {
	var ids []uint32
	for id := range s.groups {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// prepareNamespaces makes the subsystem's namespaces and their groups.
func (s *subsystem) prepareNamespaces() error {
	s.byID, s.groups, s.anaChanges = map[nvme.NSID]*namespace{}, map[uint32]*anaGroup{}, 1
	s.transfer = uint32(s.t.cfg.Limits.MaxTransfer)
	for _, n := range s.Namespaces {
		if n.ANAGroup == 0 {
			n.ANAGroup = 1
		}
		if n.ANAState == 0 {
			n.ANAState = nvme.ANAOptimized
		}
		if g := s.groups[n.ANAGroup]; g != nil && g.state != n.ANAState {
			return fmt.Errorf("namespace %d: ANA group %d has namespaces in two states", n.ID, n.ANAGroup)
		}
		if s.byID[n.ID] != nil {
			return fmt.Errorf("namespace %d: given twice", n.ID)
		}
		ns, err := newNamespace(s, n)
		if err != nil {
			return err
		}
		s.groups[n.ANAGroup] = &anaGroup{state: n.ANAState, changes: s.anaChanges}
		s.byID[n.ID] = ns
		s.namespaces = append(s.namespaces, ns)
		s.transfer = min(s.transfer, n.Device.Geometry().MaxTransfer)
	}
	slices.SortFunc(s.namespaces, func(a, b *namespace) int { return int(a.ID) - int(b.ID) })
	s.transfer = nvme.PageSize << nvme.MDTSFor(s.transfer)
	return nil
}

// namespace finds a namespace by its identifier.
func (s *subsystem) namespace(id nvme.NSID) *namespace { return s.byID[id] }

// maxTransfer is what every namespace takes, and the limits allow.
func (s *subsystem) maxTransfer() uint32 { return s.transfer }

// errNotKept says that Reservations.Keep failed.
var errNotKept = errors.New("the change of reservations was not kept")

// changeReservation runs a Reservation Register, Acquire or Release. It is past
// the gate alone, so what preempted hosts had submitted has completed.
func (cmd *command) changeReservation() {
	state := cmd.ns.reservations.Load().Clone()
	keep := cmd.ns.Reservations.Keep
	run := state.Register
	switch cmd.sqe.Opcode() {
	case nvme.OpReservationAcquire:
		run = state.Acquire
	case nvme.OpReservationRelease:
		run = state.Release
	}
	keys, err := nvme.DecodeReservationKeys(cmd.data())
	if err != nil {
		cmd.end(nvme.InvalidField | nvme.DNR) // the length was checked
		return
	}
	was := state.Persist
	notices, s := run(reservation.Command{
		Host: cmd.conn.ctrl.hostID, Params: cmd.sqe.Reservation(), Keys: keys, CanPersist: keep != nil,
	})
	switch {
	case !s.OK():
		cmd.end(s)
	case keep == nil || !was && !state.Persist:
		cmd.publish(state, notices)
	default:
		go func() { // owner: the connection, which waits for cmd in submitted
			ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.conn.ctx), keepTime)
			defer cancel()
			if err := keep(ctx, state.Encode()); err != nil {
				cmd.conn.t.cfg.Logf("nvme target: %s namespace %d: %v: %v", cmd.ns.sub.NQN, cmd.ns.ID, errNotKept, err)
				cmd.end(nvme.InternalError)
				return
			}
			cmd.publish(state, notices)
		}()
	}
}

// publish makes a state the one in force.
func (cmd *command) publish(state *reservation.State, notices []reservation.Notice) {
	ns := cmd.ns
	ns.reservations.Store(state)
	for _, n := range notices {
		for _, c := range ns.sub.controllersMatching(func(c *controller) bool { return c.hostID == n.Host }) {
			c.reservationNotice(ns.ID, n.What)
		}
	}
	cmd.end(nvme.Success)
}

// classifyReport decides the data of a Reservation Report.
func (cmd *command) classifyReport() nvme.Status {
	n := (uint64(cmd.sqe.DW(10)) + 1) * 4
	switch {
	case cmd.sqe.DW(11)&1 == 0: // hosts have 128-bit identifiers here
		return nvme.HostIDInconsistent | nvme.DNR
	case n > uint64(cmd.ns.sub.maxTransfer()):
		return nvme.InvalidField | nvme.DNR
	}
	cmd.dir, cmd.length = toHost, uint32(n)
	return nvme.Success
}

// reservationReport fills the command's buffer.
func (ctrl *controller) reservationReport(cmd *command) nvme.Status {
	r := cmd.ns.reservations.Load().Report(func(host nvme.UUID) (ids []nvme.CNTLID) {
		for _, c := range ctrl.sub.controllersMatching(func(c *controller) bool { return c.hostID == host }) {
			ids = append(ids, c.id)
		}
		slices.Sort(ids)
		return ids
	})
	clear(cmd.data())
	copy(cmd.data(), r.Append(nil))
	return nvme.Success
}

// count notes a successful transfer for the health log.
func (cmd *command) count(r *block.Request) {
	s := cmd.ns.sub
	switch {
	case r.Op == block.OpRead && cmd.sqe.Opcode() == nvme.OpRead:
		s.reads.Add(1)
		s.bytesRead.Add(r.Extent.Len)
	case r.Op == block.OpWrite:
		s.writes.Add(1)
		s.bytesWritten.Add(r.Extent.Len)
	}
}
