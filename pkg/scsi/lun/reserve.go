package lun

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/cask-storage/cask/pkg/scsi"
)

// registration is one registered initiator port. It outlives its nexus.
type registration struct {
	Port string `json:"port"`
	Key  uint64 `json:"key"`
}

// reservations of a unit: a value that is replaced whole, so that a change
// that cannot be kept is not made.
type reservations struct {
	generation uint32
	regs       []registration
	kind       scsi.ReserveType
	holder     string // initiator port; empty for the all registrants types
	persist    bool   // APTPL
	legacy     *Nexus // holder of a RESERVE(6)
}

func (r *reservations) find(port string) *registration {
	for i := range r.regs {
		if r.regs[i].Port == port {
			return &r.regs[i]
		}
	}
	return nil
}

func (r *reservations) holds(port string) bool {
	if r.kind == scsi.NoReservation {
		return false
	}
	return r.kind.AllRegistrants() && r.find(port) != nil || r.holder == port
}

func (r reservations) clone() reservations {
	r.regs = slices.Clone(r.regs)
	return r
}

// unreserve drops the reservation, keeping registrations.
func (r *reservations) unreserve() { r.kind, r.holder = scsi.NoReservation, "" }

// remove unregisters a port; the reservation falls with its last holder.
func (r *reservations) remove(port string) {
	r.regs = slices.DeleteFunc(r.regs, func(g registration) bool { return g.Port == port })
	if r.holder == port && !r.kind.AllRegistrants() || len(r.regs) == 0 {
		r.unreserve()
	}
}

// kept is what a Keeper keeps. Version ratchets one way.
type kept struct {
	Version       int              `json:"version"`
	Generation    uint32           `json:"generation"`
	Registrations []registration   `json:"registrations"`
	Type          scsi.ReserveType `json:"type"`
	Holder        string           `json:"holder,omitempty"`
}

const keptVersion = 1

// encode is what the Keeper is to keep: nothing, unless APTPL is active.
func (r *reservations) encode() ([]byte, error) {
	if !r.persist {
		return nil, nil
	}
	return json.Marshal(kept{Version: keptVersion, Generation: r.generation, Registrations: r.regs, Type: r.kind, Holder: r.holder})
}

var errKept = errors.New("kept reservations are not acceptable")

// decode reads what encode wrote.
func (r *reservations) decode(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	var k kept
	if err := json.Unmarshal(b, &k); err != nil {
		return fmt.Errorf("%w: %w", errKept, err)
	}
	switch {
	case k.Version != keptVersion:
		return fmt.Errorf("%w: version %d, this program knows %d", errKept, k.Version, keptVersion)
	case len(k.Registrations) > maxRegistrations:
		return fmt.Errorf("%w: %d registrations, at most %d", errKept, len(k.Registrations), maxRegistrations)
	case k.Type != scsi.NoReservation && !k.Type.Known():
		return fmt.Errorf("%w: type %d", errKept, k.Type)
	}
	*r = reservations{generation: k.Generation, regs: k.Registrations, kind: k.Type, holder: k.Holder, persist: len(k.Registrations) > 0}
	return nil
}

// conflicts reports whether a reservation of another keeps the task out.
func (u *Unit) conflicts(t *Task) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	r := &u.res
	op := t.desc.Opcode
	if r.legacy != nil && r.legacy != t.n {
		return op != scsi.Release6
	}
	if r.kind == scsi.NoReservation || r.holds(t.n.name) {
		return false
	}
	registered := r.find(t.n.name) != nil
	switch {
	case op == scsi.Reserve6 || op == scsi.Release6:
		return !registered
	case op == scsi.StartStopUnit && t.CDB[4]&0xf1 == 0x01: // a start
		return false
	case t.desc.Access == scsi.AccessFree, registered && r.kind.RegistrantsMay():
		return false
	case t.desc.Access == scsi.AccessRead:
		return !r.kind.ReadsMay()
	}
	return true
}

// reserveIn answers PERSISTENT RESERVE IN.
func (u *Unit) reserveIn(b []byte, action uint8) []byte {
	u.mu.Lock()
	defer u.mu.Unlock()
	r := &u.res
	out := scsi.Reservations{Generation: r.generation, Type: r.kind, Persistent: r.persist, CanPersist: u.cfg.Keeper != nil}
	for _, g := range r.regs {
		holder := r.holds(g.Port)
		if holder && !r.kind.AllRegistrants() {
			out.HolderKey = g.Key
		}
		out.Registered = append(out.Registered, scsi.Registration{Key: g.Key, Holder: holder, Port: u.m.port.Relative, Name: g.Port})
	}
	switch action {
	case scsi.PRReadKeys:
		return out.AppendKeys(b)
	case scsi.PRReadReservation:
		return out.AppendReservation(b)
	case scsi.PRReportCapability:
		return out.AppendCapabilities(b)
	}
	return out.AppendFullStatus(b)
}

// reserve6 and release6 are the reservations of SPC-2. A registrant of
// persistent reservations gets them without effect (CRH).
func (t *Task) reserve6() {
	u := t.u
	u.mu.Lock()
	switch {
	case u.res.find(t.n.name) != nil:
	case len(u.res.regs) > 0:
		t.Status = scsi.ReservationConflict
	default:
		u.res.legacy = t.n
		u.guarded.Store(true)
	}
	u.mu.Unlock()
	t.finish()
}

func (t *Task) release6() {
	u := t.u
	u.mu.Lock()
	switch {
	case u.res.legacy == t.n:
		u.res.legacy = nil
		u.guarded.Store(u.res.kind != scsi.NoReservation)
	case len(u.res.regs) > 0 && u.res.find(t.n.name) == nil:
		t.Status = scsi.ReservationConflict
	}
	u.mu.Unlock()
	t.finish()
}

// change is one PERSISTENT RESERVE OUT: next is what it makes of the
// reservations, told is who gets which unit attention.
type change struct {
	t     *Task
	list  scsi.ReserveOutList
	next  reservations
	told  map[string]attention
	abort []string // ports whose tasks are aborted
}

// reserveOut runs alone on its unit.
func (t *Task) reserveOut() {
	list, err := scsi.DecodeReserveOut(t.whole())
	if err != nil {
		t.fail(scsi.Sense{Key: scsi.IllegalRequest, Code: scsi.ParameterListLength})
		t.finish()
		return
	}
	u := t.u
	u.mu.Lock()
	c := &change{t: t, list: list, next: u.res.clone(), told: map[string]attention{}}
	old := u.res.persist
	ok := c.check() && c.apply()
	u.mu.Unlock()
	if !ok {
		t.finish()
		return
	}
	if !old && !c.next.persist {
		c.commit(nil)
		return
	}
	b, err := c.next.encode()
	if err != nil {
		c.commit(err)
		return
	}
	u.cfg.Keeper.Save(b, c.commit)
}

// commit makes the change, once it is kept.
func (c *change) commit(err error) {
	t, u := c.t, c.t.u
	if err != nil {
		t.fail(scsi.Sense{Key: scsi.HardwareError, Code: scsi.InternalFailure})
		t.finish()
		return
	}
	u.mu.Lock()
	c.next.legacy = u.res.legacy
	u.res = c.next
	u.guarded.Store(u.res.kind != scsi.NoReservation || u.res.legacy != nil)
	m, at := u.m, u.at
	u.mu.Unlock()
	m.mu.Lock()
	for n := range m.nexuses {
		if a, ok := c.told[n.name]; ok && n != t.n {
			n.raise(at, a)
		}
		if n != t.n && slices.Contains(c.abort, n.name) {
			t.Preempted = append(t.Preempted, n)
		}
	}
	m.mu.Unlock()
	t.finish()
}

// refuse answers RESERVATION CONFLICT.
func (c *change) refuse() bool {
	c.t.Status = scsi.ReservationConflict
	return false
}

// check is what all service actions have in common.
func (c *change) check() bool {
	t, r := c.t, &c.next
	action := t.CDB.ServiceAction()
	registering := action == scsi.PRRegister || action == scsi.PRRegisterAndIgnore
	if !registering {
		if mine := r.find(t.n.name); mine == nil || mine.Key != c.list.Key {
			return c.refuse()
		}
	}
	switch {
	case r.legacy != nil:
		return c.refuse()
	case c.list.SpecIPT:
		return t.badList(20)
	case c.list.AllTgPt:
		return t.badList(20)
	case registering && c.list.APTPL && t.u.cfg.Keeper == nil:
		return t.badList(20)
	}
	return true
}

// apply makes next.
func (c *change) apply() bool {
	switch c.t.CDB.ServiceAction() {
	case scsi.PRRegister:
		mine := c.next.find(c.t.n.name)
		if mine == nil && c.list.Key != 0 || mine != nil && mine.Key != c.list.Key {
			return c.refuse()
		}
		return c.register()
	case scsi.PRRegisterAndIgnore:
		return c.register()
	case scsi.PRReserve:
		return c.reserve()
	case scsi.PRRelease:
		return c.release()
	case scsi.PRClear:
		c.tell(attnPreempted)
		c.next.unreserve()
		c.next.regs = nil
		c.next.generation++
		return true
	}
	return c.preempt()
}

// tell gives every other registrant a unit attention.
func (c *change) tell(a attention) {
	for _, g := range c.next.regs {
		if g.Port != c.t.n.name {
			c.told[g.Port] = a
		}
	}
}

func (c *change) register() bool {
	r, name := &c.next, c.t.n.name
	mine := r.find(name)
	switch {
	case c.list.ActionKey == 0 && mine == nil:
		return true
	case c.list.ActionKey == 0:
		had := r.kind
		r.remove(name)
		if had.RegistrantsMay() && r.kind == scsi.NoReservation {
			c.tell(attnReleased)
		}
	case mine != nil:
		mine.Key = c.list.ActionKey
	case len(r.regs) >= maxRegistrations:
		return c.t.fail(scsi.Sense{Key: scsi.IllegalRequest, Code: scsi.InsufficientRegs})
	default:
		r.regs = append(r.regs, registration{Port: name, Key: c.list.ActionKey})
	}
	r.persist = c.list.APTPL
	r.generation++
	return true
}

// scopeAndType reads byte 2 of the CDB.
func (c *change) scopeAndType() (scsi.ReserveType, bool) {
	kind := scsi.ReserveType(c.t.CDB[2] & 0xf)
	if c.t.CDB[2]>>4 != 0 {
		return kind, c.t.badCDB(2, 7)
	}
	if !kind.Known() {
		return kind, c.t.badCDB(2, 3)
	}
	return kind, true
}

func (c *change) reserve() bool {
	kind, ok := c.scopeAndType()
	r, name := &c.next, c.t.n.name
	switch {
	case !ok:
		return false
	case r.kind == scsi.NoReservation:
		c.take(kind)
	case !r.holds(name) || r.kind != kind:
		return c.refuse()
	}
	return true
}

// take gives the reservation to the task's port.
func (c *change) take(kind scsi.ReserveType) {
	c.next.kind, c.next.holder = kind, c.t.n.name
	if kind.AllRegistrants() {
		c.next.holder = ""
	}
}

func (c *change) release() bool {
	kind, ok := c.scopeAndType()
	r := &c.next
	switch {
	case !r.holds(c.t.n.name):
		return true
	case !ok:
		return false
	case r.kind != kind:
		return c.t.fail(scsi.Sense{Key: scsi.IllegalRequest, Code: scsi.InvalidRelease})
	}
	if kind.RegistrantsMay() {
		c.tell(attnReleased)
	}
	r.unreserve()
	return true
}

// preempt removes the registrations with the given key and, when they hold the
// reservation, takes it (SPC-4 5.12.11.4).
func (c *change) preempt() bool {
	kind, ok := c.scopeAndType()
	if !ok {
		return false
	}
	r, name, key := &c.next, c.t.n.name, c.list.ActionKey
	all := r.kind.AllRegistrants()
	takes := all && key == 0
	if key == 0 && !all {
		return c.t.badList(8)
	}
	found := takes
	for _, g := range slices.Clone(r.regs) {
		if g.Key != key && !takes {
			continue
		}
		found = true
		if !all && r.holder == g.Port {
			takes = true
		}
	}
	if !found {
		return c.refuse()
	}
	had := r.kind
	for _, g := range slices.Clone(r.regs) {
		if (g.Key == key || all && key == 0) && g.Port != name {
			c.told[g.Port] = attnUnregistered
			c.abort = append(c.abort, g.Port)
			r.remove(g.Port)
		}
	}
	if c.t.CDB.ServiceAction() != scsi.PRPreemptAndAbort {
		c.abort = nil
	}
	if takes {
		if had.RegistrantsMay() && had != kind {
			for _, g := range r.regs {
				if g.Port != name {
					c.told[g.Port] = attnReleased
				}
			}
		}
		c.take(kind)
	}
	r.generation++
	return true
}
